"""Finding plugins by entry point, in three stages: found (metadata only), described (spec imported), built.

Listing stops at the first stage, help and checking at the second; only building may import torch. A broken or clashing
plugin hurts only whoever asks for it by name.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, distributions
from typing import Any, cast

from ssm_core.plugin.config import check
from ssm_core.plugin.errors import PluginError, did_you_mean, install
from ssm_core.plugin.spec import API, AddonSpec, BackboneSpec, BenchSpec, ProbeSpec, Spec, TaskSpec

KINDS = {
    "backbone": "ssm.backbones",
    "addon": "ssm.addons",
    "task": "ssm.tasks",
    "probe": "ssm.probes",
    "bench": "ssm.benches",
    "recipe": "ssm.recipes",
    "command": "ssm.commands",
}
"""Kind, as the command line calls it -> entry-point group."""

SPECS: dict[str, type[Spec]] = {
    "backbone": BackboneSpec,
    "addon": AddonSpec,
    "task": TaskSpec,
    "probe": ProbeSpec,
    "bench": BenchSpec,
}
"""Kind -> the class of its specs; recipes are packages and commands are Typer apps."""

NAMED = ("backbone", "task")
"""Kinds whose table in a configuration has the plugin's name beside its knobs."""

FIRST_PARTY = {
    **dict.fromkeys(
        (
            *("chordmixer", "dss", "h3", "liquid_s4", "lru", "mamba2", "mega"),
            *("s4", "s4d", "s5", "s6", "seqboat", "spade", "transformer"),
        ),
        "ssm-core",
    ),
    **dict.fromkeys(
        (
            *("digits", "induction-heads", "irregular-csv", "lra-image", "lra-listops", "lra-pathfinder"),
            *("lra-pathx", "lra-retrieval", "lra-text", "mqar", "pendulum", "selective-copying", "sine"),
            *("speech-commands", "text-lm", "ts", "wikitext103"),
        ),
        "ssm-data",
    ),
    "serpent": "ssm-serpent",
    "smr": "ssm-smr",
}
"""Our own plugins and their distributions, to say what to install when one is asked for and absent."""


HOST = "ssm-lab"
"""The distribution of the command line."""


@dataclass(frozen=True)
class Entry:
    """A plugin as its distribution's metadata declares it; nothing of it has been imported.

    Attributes:
        kind: A key of :data:`KINDS`.
        name: Short name.
        dist: Distribution that declares it.
        version: That distribution's version.
        point: The entry point itself.
        summary: The distribution's one-line description.
    """

    kind: str
    name: str
    dist: str
    version: str
    point: EntryPoint
    summary: str

    @property
    def long_name(self) -> str:
        """``distribution/name``: names one plugin even where short names clash."""
        return f"{self.dist}/{self.name}"

    def load(self) -> Any:
        """Import what the entry point names.

        Raises:
            PluginError: If that fails for whatever reason; the cause is chained.
        """
        try:
            return self.point.load()
        except (Exception, SystemExit) as error:  # foreign code: anything may come out
            raise PluginError(
                f"{self.kind} '{self.name}' from {self.dist} {self.version} ({self.point.value}) could not be "
                f"loaded: {type(error).__name__}: {error}",
                f"mend or uninstall {self.dist}; --debug shows the traceback",
            ) from error


@functools.cache
def found(kind: str) -> tuple[Entry, ...]:
    """Return every plugin of a kind that is installed, sorted by name, duplicates of one declaration removed.

    ``SSM_PLUGINS`` (``none``, or distributions separated by commas) limits what is seen; ``SSM_PLUGINS_BLOCK`` hides
    distributions. The commands of the command line itself stay: without ``list`` and ``doctor`` nobody could look.
    """
    only = os.environ.get("SSM_PLUGINS")
    allowed = None if only is None else {_canonical(name) for name in only.split(",")}
    blocked = {_canonical(name) for name in os.environ.get("SSM_PLUGINS_BLOCK", "").split(",")}
    entries: dict[tuple[str, str, str], Entry] = {}
    for dist in distributions():
        points = [p for p in dist.entry_points if p.group == KINDS[kind]]
        if not points:
            continue
        dist_name = _canonical(dist.metadata["Name"])
        hidden = dist_name in blocked or (allowed is not None and dist_name not in allowed)
        if hidden and not (kind == "command" and dist_name == HOST):
            continue
        for point in points:
            # An editable install beside a wheel declares the same thing twice: that is one plugin.
            key = (point.name, dist_name, point.value)
            summary = str(dist.metadata["Summary"]) if "Summary" in dist.metadata else ""
            entries.setdefault(key, Entry(kind, point.name, dist_name, dist.version, point, summary))
    return tuple(sorted(entries.values(), key=lambda e: (e.name, e.dist)))


def _canonical(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def find(kind: str, name: str) -> Entry:
    """Return the plugin with a short name or ``distribution/name``.

    Raises:
        PluginError: If there is none, or if two distributions declare the short name.
    """
    entries = found(kind)
    dist, _, short = name.rpartition("/")
    matches = [e for e in entries if e.name == short and (not dist or e.dist == _canonical(dist))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        owners = "; ".join(f"{e.long_name} -> {e.point.value}" for e in matches)
        raise PluginError(
            f"{kind} '{name}' is registered {len(matches)} times: {owners}",
            f"name one of them as <distribution>/<name>, for example '{matches[0].long_name}'",
        )
    elsewhere = [e.long_name for e in entries if e.name == short]
    hint = f"known: {', '.join(elsewhere)}" if elsewhere else did_you_mean(short, {e.name for e in entries})
    if short in FIRST_PARTY and FIRST_PARTY[short] not in {e.dist for e in entries}:
        hint = f"it comes with the package {FIRST_PARTY[short]}: {install(FIRST_PARTY[short])}"
    raise PluginError(f"there is no {kind} '{name}'", hint)


def describe(kind: str, name: str) -> tuple[Entry, Any]:
    """Return a plugin's entry and its spec, without importing what it builds.

    Raises:
        PluginError: Unknown, clashing, broken, not a spec, written for another API number, or with a knob that no
            configuration can set.
    """
    entry = find(kind, name)
    spec = entry.load()
    if kind not in SPECS:
        return entry, spec
    owner = f"{kind} '{entry.name}' from {entry.dist} {entry.version}"
    if not isinstance(spec, SPECS[kind]):
        raise PluginError(
            f"{owner}: {entry.point.value} is a {type(spec).__name__}, not a {SPECS[kind].__name__}"
        )
    if not isinstance(cast("object", spec.api), int):
        raise PluginError(f"{owner} gives {spec.api!r} as its plugin API, not a number", f"mend {entry.dist}")
    if spec.api != API:
        newer = "upgrade ssm-core" if spec.api > API else f"upgrade {entry.dist}"
        raise PluginError(f"{owner} is written for plugin API {spec.api}; this is API {API}", newer)
    if spec.name != entry.name:
        raise PluginError(f"{owner} calls itself '{spec.name}' in its spec", "the two names have to agree")
    if kind in NAMED and "name" in getattr(spec.config, "__dataclass_fields__", {}):
        raise PluginError(
            f"{owner} has a knob called 'name', which in a configuration is the {kind}'s own",
            "give the knob another name",
        )
    return entry, spec


def builder(kind: str, name: str) -> tuple[Spec, Callable[..., Any]]:
    """Return a plugin's spec and its build function, imported now.

    Raises:
        PluginError: As :func:`describe`, or if the module or function that ``build`` names cannot be imported.
    """
    entry, spec = describe(kind, name)
    try:
        module, _, attribute = spec.build.partition(":")
        return spec, getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # foreign code: anything may come out
        raise PluginError(
            f"{kind} '{name}' from {entry.dist} {entry.version} cannot be built: {spec.build}: "
            f"{type(error).__name__}: {error}",
            f"mend or uninstall {entry.dist}; --debug shows the traceback",
        ) from error


def configure(kind: str, name: str, values: Mapping[str, Any], where: str = "") -> Any:
    """Check plain values against a plugin's config class and return the config.

    Args:
        kind: Plugin kind.
        name: Plugin name.
        values: Plain field values.
        where: Prefix for messages; the kind if empty.
    """
    entry, spec = describe(kind, name)
    return check(spec.config, values, where or kind, f"{kind} {entry.long_name}")


def build_task(name: str, values: Mapping[str, Any]) -> Any:
    """Build a task from its name and plain knobs."""
    config = configure("task", name, values)
    return builder("task", name)[1](config)
