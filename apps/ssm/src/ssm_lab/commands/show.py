"""``ssm show``: one plugin in full."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ssm_core.plugin import registry
from ssm_core.plugin.config import knobs, plain, to_toml
from ssm_core.plugin.errors import UserError, did_you_mean
from ssm_core.plugin.spec import Spec
from ssm_lab import complete, console, options

app = typer.Typer()


@app.command()
def show(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", autocompletion=complete.kind, help=f"One of {', '.join(complete.KINDS.values())}."
        ),
    ],
    name: Annotated[
        str, typer.Argument(metavar="NAME", autocompletion=complete.name_of_kind, help="Its name.")
    ],
    as_json: options.Json = False,
) -> None:
    """Show one plugin: its knobs, defaults, paper and abilities."""
    kind = complete.KINDS.get(kind, kind)
    if kind not in complete.KINDS.values():
        raise UserError(f"there is no kind '{kind}' of plugins", did_you_mean(kind, complete.KINDS.values()))
    about = {"recipe": _recipe, "study": _study}.get(kind, _plugin)(kind, name)
    if as_json:
        console.emit_json(about)
    else:
        _print(about)


def _plugin(kind: str, name: str) -> dict[str, Any]:
    entry, spec = registry.describe(kind, name)
    about = {
        "kind": kind,
        "name": entry.name,
        "long_name": entry.long_name,
        "dist": entry.dist,
        "version": entry.version,
        "summary": entry.summary,
    }
    if not isinstance(spec, Spec):
        return about
    # What only this kind of plugin says, such as a backbone's capabilities, follows what all say.
    special = {key: value for key, value in plain(spec).items() if key not in Spec.__dataclass_fields__}
    return {
        **about,
        "summary": spec.summary,
        "status": spec.status,
        "build": spec.build,
        "knobs": knobs(spec.config),
        "paper": plain(spec.paper),
        **special,
    }


def _recipe(kind: str, name: str) -> dict[str, Any]:
    from ssm_core.run.recipes import recipe

    if "/" not in name:
        raise UserError(f"recipe '{name}' of which task?", "say TASK/NAME; `ssm list recipes` shows them")
    found = recipe(name, "")
    return {
        "kind": kind,
        "name": found.name,
        "long_name": f"{found.dist}/{found.name}",
        "dist": found.dist,
        "summary": found.summary,
        "settings": found.tree,
        "backbones": dict(found.backbones),
    }


def _study(kind: str, name: str) -> dict[str, Any]:
    from ssm_core.run.recipes import study
    from ssm_train.study.definition import TESTS
    from ssm_train.study.reading import read_study

    shipped = study(name)
    found = read_study(shipped)
    return {
        "kind": kind,
        "name": shipped.name,
        "long_name": f"{shipped.dist}/{shipped.name}",
        "dist": shipped.dist,
        "summary": shipped.summary,
        "question": found.question,
        "recipe": found.recipe,
        "seeds": found.seeds,
        "axes": {axis.name: list(axis.levels) for axis in found.axes},
        "tests": found.levels(TESTS),
        "settings": shipped.tree,
    }


def _print(about: dict[str, Any]) -> None:
    console.emit(
        f"{about['kind']} {about['long_name']}{' ' + about['version'] if 'version' in about else ''}"
    )
    console.emit(about["summary"])
    if paper := about.get("paper"):
        where = f" (arXiv:{paper['arxiv']})" if paper["arxiv"] else ""
        console.emit(f"{paper['authors']}, {paper['year']}: {paper['title']}{where}")
    shown = ("slot", "flags", "capabilities", "settings", "backbones")
    for key in ("question", "recipe", "seeds", "axes", "tests") if about["kind"] == "study" else shown:
        if about.get(key):
            console.emit(f"\n{key}")
            value = about[key]
            _print_values(", ".join(map(str, value)) if isinstance(value, list) else value)
    if about.get("knobs"):
        console.emit("")
        rows = [{**knob, "default": _default(knob)} for knob in about["knobs"]]
        console.emit_table(rows, ("name", "type", "default", "doc"), "knobs")
    if about.get("published"):
        console.emit("")
        rows = [{**row, "settings": [f"{k}={v}" for k, v in row["settings"]]} for row in about["published"]]
        console.emit_table(rows, _used(rows), "published")


def _print_values(value: Any) -> None:
    pairs = value.items() if isinstance(value, dict) else [("", value)]
    for key, item in pairs:
        shown = "none" if item is None else to_toml(item)
        console.emit(f"  {key} = {shown}" if key else f"  {item}")


def _used(rows: list[dict[str, Any]]) -> list[str]:
    """Return the columns that are not empty in every row."""
    return [key for key in rows[0] if any(row[key] not in (None, "", []) for row in rows)]


def _default(knob: dict[str, Any]) -> str:
    if knob.get("required"):
        return "(required)"
    return "" if knob["default"] is None else to_toml(knob["default"])
