"""Runs as one page of HTML that needs nothing else: comparison, and of each run results, pictures, settings, data."""

from __future__ import annotations

import base64
import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ssm_core.plugin.errors import UserError
from ssm_core.run.folder import RunFolder
from ssm_eval.compare import compare_runs, flat
from ssm_eval.plots.curve import learning_curve

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 68em; padding: 0 1em; color: #111;
  background: #fff; }
h2 { font-size: 1.2em; margin: 2em 0 0.3em; border-top: 1px solid #ccc; padding-top: 1em; }
table { border-collapse: collapse; margin: 0.6em 0; }
th, td { text-align: left; padding: 0.15em 0.8em 0.15em 0; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
div.wide { overflow-x: auto; }
img { max-width: 100%; }
p.about, p.note { color: #555; margin: 0.2em 0; }
pre { background: #f5f5f5; padding: 0.6em; overflow-x: auto; font-size: 13px; }
"""


def html_report(runs: Sequence[Path | str | RunFolder]) -> str:
    """Return a page about some runs; pictures are inside it. A learning curve that is missing is drawn first.

    Args:
        runs: Run folders; those of one task are compared in one table.

    Raises:
        UserError: If there is none, or one is no run folder.
    """
    folders = list(dict.fromkeys((r if isinstance(r, RunFolder) else RunFolder.open(r)).path for r in runs))
    if not folders:
        raise UserError("there are no runs to report", "give run folders, as `ssm train` printed them")
    tasks: dict[str, list[RunFolder]] = {}
    for path in folders:
        run = RunFolder(path)
        tasks.setdefault(str(run.config_tree().get("task", {}).get("name", "own task")), []).append(run)
    body = [part for task, group in tasks.items() for part in (_comparison(task, group), *map(_run, group))]
    title = f"{len(folders)} run{'s' if len(folders) > 1 else ''}: {', '.join(tasks)}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _comparison(task: str, group: Sequence[RunFolder]) -> str:
    try:
        found = compare_runs(group)
    except (
        UserError
    ) as error:  # such as a plugin that is not installed here: the runs themselves are still shown
        return f"<h2>{escape(task)}</h2>\n<p class=note>not compared: {escape(error.what)}</p>"
    notes = "".join(f"<p class=note>{escape(note)}</p>\n" for note in found.notes)
    return (
        f"<h2>{escape(task)}</h2>\n<p>{escape(found.title)}</p>\n{_table(found.rows, found.columns)}\n{notes}"
    )


def _run(run: RunFolder) -> str:
    tree, status = run.config_tree(), run.status()
    rows = list(run.metrics())
    told = ", ".join(f"{key} {status[key]}" for key in ("state", "step", "total") if key in status)
    parts = [
        f"<h2>{escape(run.path.name)}</h2>",
        f"<p class=about>{escape(str(run.path))}: {escape(told or 'no status')}</p>",
        _table(_measured(run, rows), ("split", "step", "settings", "metric", "value")),
        *(_picture(file) for file in _pictures(run, rows)),
        _details("settings", tree),
        _details("data", run.data()),
        _details("environment", run.env()),
    ]
    return "\n".join(filter(None, parts))


def _measured(run: RunFolder, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the last validation, what the run tested, and what ``ssm eval`` has stored."""
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["split"] in ("validation", "test"):
            found = {"split": row["split"], "step": row["step"], "settings": "", "metric": row["name"]}
            last[row["split"], row["name"]] = found | {"value": row["value"]}
    stored = []
    for file in sorted((run.path / "eval").glob("*.json")):
        try:
            one = json.loads(file.read_bytes())
            settings = ", ".join(f"{key}={value}" for key, value in flat(one["overrides"]).items())
            what = {"split": one["split"], "step": one["step"], "settings": settings}
            for name, value in one["metrics"].items():  # null stands for what is not finite
                stored.append(what | {"metric": name, "value": math.nan if value is None else value})
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # not one of ours, or torn
    # A run's own test is stored like any other: once is enough.
    own = [row for row in last.values() if row not in stored]
    return own + stored


def _pictures(run: RunFolder, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    if rows and not (run.path / "plots" / "learning_curve.png").is_file():
        # A folder may be one that cannot be written to, a part one that is not installed.
        with contextlib.suppress(UserError, OSError):
            learning_curve(run)
    return sorted(
        (run.path / "plots").glob("*.png"), key=lambda file: (file.stem != "learning_curve", file.name)
    )


def _picture(file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    return f'<p><img alt="{escape(file.stem)}" src="data:image/png;base64,{data}"></p>'


def _details(title: str, tree: Any) -> str:
    if not tree:
        return ""
    text = escape(json.dumps(tree, indent=2, ensure_ascii=False, default=str))
    return f"<details><summary>{title}</summary><pre>{text}</pre></details>"


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    if not rows:
        return ""
    shown = [name for name in columns if any(row.get(name) not in (None, "") for row in rows)]
    head = "".join(f"<th>{escape(name)}</th>" for name in shown)
    lines = "".join(f"<tr>{''.join(_cell(row.get(name)) for name in shown)}</tr>\n" for row in rows)
    return f"<div class=wide><table><tr>{head}</tr>\n{lines}</table></div>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"<td class=number>{value:.4g}</td>" if math.isfinite(value) else "<td>not finite</td>"
    if isinstance(value, int):
        return f"<td class=number>{value:,}</td>"
    text = (
        ", ".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)
    )
    return f"<td>{escape(text)}</td>"
