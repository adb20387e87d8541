"""A new third-party package from the templates that come with this one."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError, did_you_mean

SAYS = {
    "backbone": "an exponential moving average a channel, each with a memory of its own length",
    "addon": "a learned factor on the input of the recurrence",
    "task": "repeats a random signal some steps late",
}
"""Kind -> what the code in its template does."""

TRAIN = {
    "backbone": "ssm train --backbone {name} --task pendulum --epochs 3",
    "addon": "ssm train --backbone s5 --addon {name} --task pendulum --epochs 3",
    "task": "ssm train --backbone s5 --task {name} --epochs 3",
}
"""Kind -> a first run with it."""


def write(kind: str, name: str, out: Path) -> Path:
    """Write a package with one plugin and return its folder.

    Args:
        kind: ``backbone``, ``addon`` or ``task``.
        name: Name of the plugin; the distribution is called ``ssm-NAME``.
        out: Folder to make the package's folder in.

    Raises:
        UserError: If the name cannot be used or is taken, or the folder exists or cannot be made.
    """
    if kind not in SAYS:
        raise UserError(f"there is no template for '{kind}'", did_you_mean(kind, SAYS))
    words = values(kind, name)
    _check_free(kind, name, words["package"])
    folder = out.absolute() / words["dist"]
    try:
        folder.mkdir(parents=True)
        root = files("ssm_lab") / "templates"
        for source in ("common", kind):
            _fill(root / source, folder, words)
    except FileExistsError:
        raise UserError(f"{folder} exists already", "choose another --out, or remove it") from None
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}", "choose another --out") from None
    return folder


def values(kind: str, name: str) -> dict[str, str]:
    """Return what is filled into the templates."""
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        raise UserError(
            f"'{name}' cannot be the name of a {kind}",
            "use lower-case letters, digits and single - or _, as in my-ssm",
        )
    words = re.split("[-_]", name)
    dist = "-".join(words if words[0] == "ssm" and len(words) > 1 else ["ssm", *words])
    major, minor = version("ssm-core").split(".")[:2]
    return {
        "kind": kind,
        "group": registry.KINDS[kind].removeprefix("ssm."),
        "name": name,
        "dist": dist,
        "package": dist.replace("-", "_"),
        "cls": "".join(word.capitalize() for word in words),
        "core": f">={major}.{minor},<{major}.{int(minor) + 1}",
        "says": SAYS[kind],
        "module": "task" if kind == "task" else "layer",
        "train": TRAIN[kind].format(name=name),
    }


def _check_free(kind: str, name: str, package: str) -> None:
    owners = [entry.dist for entry in registry.found(kind) if entry.name == name]
    if owners:
        raise UserError(f"there is a {kind} '{name}' already, from {owners[0]}", "choose another name")
    if importlib.util.find_spec(package) is not None:
        raise UserError(f"a package '{package}' is installed already", "choose another name")


def _fill(source: Traversable, target: Path, words: dict[str, str]) -> None:
    for item in source.iterdir():
        name = item.name.replace("__package__", words["package"])
        if item.is_dir():
            (target / name).mkdir(exist_ok=True)
            _fill(item, target / name, words)
        elif name.endswith(".tmpl"):
            text = Template(item.read_text(encoding="utf-8")).substitute(words)
            (target / name.removesuffix(".tmpl")).write_text(text, encoding="utf-8")
