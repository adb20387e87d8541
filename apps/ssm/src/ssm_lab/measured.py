"""Printing, drawing and keeping what probes and benches found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssm_core.plugin.config import plain
from ssm_core.plugin.errors import PluginError, UserError
from ssm_lab import console


def show(result: Any, whose: str, as_json: bool) -> None:
    """Print a :class:`ssm_core.protocols.Result`, or a mapping of the same form, as text and tables or as JSON.

    JSON holds the values of charts too, if there are any, but no files.

    Args:
        result: What the plugin returned.
        whose: Kind and name of the plugin, for messages.
        as_json: Print JSON.

    Raises:
        PluginError: If the plugin returned something else.
    """
    found = plain(result)
    if not isinstance(found, dict):
        raise PluginError(
            f"{whose} returned a {type(result).__name__}, not a Result", "report it to its author"
        )
    drawn, _ = found.pop("charts", None), found.pop("files", None)
    if as_json:
        console.emit_json({**found, "charts": drawn} if drawn else found)
        return
    # A mapping without the fields of a Result is a mapping of figures.
    figures = found.get("figures", {k: v for k, v in found.items() if k not in ("text", "rows")})
    if found.get("text"):
        console.emit(found["text"])
    console.emit_table([{"figure": name, "value": value} for name, value in figures.items()])
    console.emit_table(found.get("rows") or [])


def check_picture(picture: Path | None) -> None:
    """Refuse what is not called a PNG, before anything is measured.

    Raises:
        UserError: If the name ends otherwise.
    """
    if picture is not None and picture.suffix.lower() != ".png":
        raise UserError(f"--picture writes a PNG, and {picture} is not called one", "name it FILE.png")


def keep(result: Any, whose: str, picture: Path | None) -> None:
    """Draw a result's charts and write its files beside the picture; say on standard error where.

    Args:
        result: What the plugin returned; only a :class:`ssm_core.protocols.Result` has charts and files.
        whose: Kind and name of the plugin, for messages.
        picture: The PNG file to write; None writes nothing, and says what there would be.

    Raises:
        PluginError: If a file's name is a path.
        UserError: If something cannot be written.
    """
    charts, files = getattr(result, "charts", ()), getattr(result, "files", {})
    for name in files:
        if Path(name).name != name:
            raise PluginError(f"{whose} has a file '{name}', which is not a plain name", "tell its author")
    if picture is None:
        there_is = ["a picture"] * bool(charts) + list(files)
        if there_is:
            console.say(f"not written: {', '.join(there_is)} (give --picture FILE)")
        return
    try:
        if charts:
            from ssm_eval.plots import draw_charts

            console.say(f"picture: {draw_charts(charts, picture)}")
        for name, text in files.items():
            console.say(f"file:    {_write(picture.with_name(name), text)}")
    except OSError as error:
        raise UserError(f"cannot write {error.filename or picture}: {error.strerror}") from None


def _write(path: Path, text: str) -> Path:
    from ssm_core.run.folder import write_bytes

    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode())
    return path
