"""What a study leaves for its reader: ``results.json``, ``table.md`` and ``figure.png``, from whatever is finished."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ssm_core.plugin.config import to_toml
from ssm_core.run.folder import write_bytes, write_json
from ssm_train.study.analysis import analyse
from ssm_train.study.comparisons import Row, title
from ssm_train.study.folder import StudyFolder
from ssm_train.study.plan import Plan

REDRAW = 60.0
"""Seconds between two drawings of the figure, but the last."""


class Report:
    """Writes the report of a study, as often as something is new.

    Args:
        plan: The study.
        folder: Where its runs are, and where the report goes.
    """

    def __init__(self, plan: Plan, folder: StudyFolder) -> None:
        self.plan, self.folder = plan, folder
        self._drawn = -REDRAW

    def write(self, *, last: bool = False) -> Row:
        """Write everything and return the results.

        Args:
            last: Draw the figure, however recently it was drawn.

        Raises:
            UserError: If the folder cannot be written.
        """
        results = analyse(self.plan, self.folder)
        self.folder.make()
        write_json(self.folder.path / "results.json", results)
        write_bytes(self.folder.path / "table.md", markdown(results).encode())
        if last or time.monotonic() - self._drawn > REDRAW:
            from ssm_eval.plots.study import draw
            from ssm_train.study.layout import layout

            picture = layout(self.plan.study, results)
            if picture.panels:
                draw(picture, self.folder.path / "figure.png")
            self._drawn = time.monotonic()
        return results


def cell_rows(results: Mapping[str, Any]) -> list[Row]:
    """Return one row for each cell that has a result: levels, parameters, and the metric under each condition."""
    rows = []
    for cell in results["cells"]:
        tests = {name: metrics.get(results["metric"]) for name, metrics in cell["tests"].items()}
        if any(value and (value["n"] or value["not_finite"]) for value in tests.values()):
            seeds = max(value["n"] + value["not_finite"] for value in tests.values() if value)
            shown = {name: _mean(value) for name, value in tests.items()}
            rows.append({**cell["levels"], "parameters": cell["parameters"], "seeds": seeds, **shown})
    return rows


def comparison_rows(results: Mapping[str, Any]) -> list[Row]:
    """Return one row for each comparison of at least one pair, or of which a value is not finite."""
    kept = [row for row in results["comparisons"] if row["n"] or any(row["not_finite"])]
    lost = any(any(row["not_finite"]) for row in kept)
    return [
        {
            "block": row["block"],
            "compared": title(row),
            "at": ", ".join(row["at"].values()),
            "test": row["test"],
            "metric": row["metric"],
            "pairs": row["n"],
            **({"not finite": _lost(row["not_finite"])} if lost else {}),
            "difference": _value(row, "difference", "low", "high", "+"),
            "ratio": _value(row, "ratio", "ratio_low", "ratio_high", ""),
            "p of": _p_of(row),
            "p": _p(row["p"]),
            "p (Holm)": _p(row["p_holm"]),
        }
        for row in kept
    ]


def threshold_rows(results: Mapping[str, Any]) -> list[Row]:
    """Return one row for each threshold and cell: the size at which the metric has its multiple, over the seeds."""
    return [
        {
            "what grows": row["name"],
            **row["levels"],
            f"{row['metric']} times": f"{row['factor']:g}",
            "median": _size(row, "median"),
            "least": _size(row, "low"),
            "largest": _size(row, "high"),
            "seeds": len(row["values"]),
        }
        for row in results["thresholds"]
    ]


def missing_line(results: Mapping[str, Any]) -> str:
    """Return what is missing, in a line; nothing if nothing is."""
    missing, total = results["missing"], results["runs"]
    if not missing:
        return ""
    first = "; ".join(f"{row['cell']}, seed {row['seed']} ({row['state']})" for row in missing[:3])
    more = f"; and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"{len(missing)} of {total} runs are missing or not measured yet: {first}{more}"


def markdown(results: Mapping[str, Any]) -> str:
    """Return the page ``table.md``."""
    level = f"{results['level']:.0%}".replace("%", " %")
    parts = [f"# {results['study']}", results["question"] or results["summary"]]
    if results["set"]:
        parts.append(f"Settings laid over all runs: `{to_toml(results['set'])}`.")
    if line := missing_line(results):
        parts.append(f"**Not complete:** {line}.")
    parts.append(f"Test {results['metric']}: mean over seeds ± half of its {level} interval (Student's).")
    parts.append(_table(cell_rows(results)) or "Nothing is finished yet.")
    if rows := comparison_rows(results):
        parts += [
            "## Comparisons",
            _legend(results, level),
            _table(rows),
        ]
    if rows := threshold_rows(results):
        parts += [
            "## Thresholds",
            "The size of a condition at which the metric is a multiple of what it is under the first, between tested "
            "sizes by interpolation of its logarithm; over the seeds.",
            _table(rows),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _legend(results: Mapping[str, Any], level: str) -> str:
    """Say what stands in the table of comparisons; what is said of some rows only, where there are such."""
    rows = results["comparisons"]
    counts = Counter(row["block"] for row in rows if row["p"] is not None)
    tested = ", ".join(f"{n} in block {block}" for block, n in counts.items()) or "none so far"
    parts = [
        f"Pairs are of one seed. Mean difference, and geometric mean of the ratios, with their {level} intervals; p of "
        "the paired t test that what stands under *p of* is nothing (a difference of 0, a ratio of 1), and corrected "
        f"by Holm's method within each block, a `[[compare]]` of the study (comparisons with a p: {tested})."
    ]
    if any(row["between"] for row in rows):
        parts.append(
            "Where two more levels are named, it is the difference (ratio) at the first less (over) that at the other."
        )
    if any(any(row["not_finite"]) for row in rows):
        parts.append(
            "Values that are not finite make no pair: a comparison is of the seeds that came through on both sides, "
            "and flatters the side that has more *not finite*."
        )
    return " ".join(parts)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *([_cell(row[name]) for name in header] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
    return text.replace("|", "\\|")


def _mean(value: Mapping[str, Any] | None) -> str:
    if not value or not (value["n"] or value["not_finite"]):
        return ""
    if not value["n"]:
        return f"none of {value['not_finite']} finite"
    bad = f" ({value['not_finite']} not finite)" if value["not_finite"] else ""
    half = "" if value["high"] is None else f" ± {value['high'] - value['mean']:.1g}"
    return f"{value['mean']:.3g}{half}{bad}"


def _value(row: Mapping[str, Any], name: str, low: str, high: str, sign: str) -> str:
    if row[name] is None:
        return ""
    ends = [row[end] for end in (low, high) if row[end] is not None]
    interval = f" [{', '.join(f'{end:{sign}.3g}' for end in ends)}]" if ends else ""
    return f"{row[name]:{sign}.3g}{interval}"


def _size(row: Mapping[str, Any], name: str) -> str:
    return f"> {row['largest']:g}" if row[name] is None else f"{row[name]:.3g}"


def _lost(counts: Sequence[int]) -> str:
    return f"{counts[0]} against {counts[1]}" if any(counts) else ""


def _p_of(row: Mapping[str, Any]) -> str:
    if row["p"] is None:
        return ""
    return row["on"] if row["on"] == row["asked"] else f"{row['on']} (no {row['asked']}: not all above 0)"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"
