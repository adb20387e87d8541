"""Loading a run back: model and configuration, from the run folder only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ssm_core.compose import of_addons
from ssm_core.model import SequenceModel, build_for_task
from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.folder import RunFolder


class Misfit(UserError):
    """Weights that do not fit a model, by name or by shape."""


def load(
    run: Path | str, *, which: str = "best", overrides: Mapping[str, Any] | None = None
) -> tuple[SequenceModel, RunConfig]:
    """Return the trained model of a run, in evaluation mode on the CPU, and its configuration.

    Args:
        run: The run folder.
        which: ``best`` or ``latest`` checkpoint.
        overrides: Settings laid over the run's own, such as ``{"task": {"sample_rate": 0.3}}``.

    Raises:
        UserError: If the folder is no run, has no checkpoint, or its weights do not fit the model.
    """
    folder = RunFolder.open(run)
    config = RunConfig.from_tree(layered(folder.config_tree(), overrides=overrides))
    if config.task is None or config.backbone is None:
        raise UserError(
            f"{folder.path} was made with one's own task or model", "load its weights into that by hand"
        )
    _, build = registry.builder("task", config.task.name)
    with torch.random.fork_rng(devices=[]):
        model = build_for_task(config, build(config.task.config))
    try:
        load_weights(model, folder.checkpoint(which) / "model.safetensors")
    except Misfit as error:
        if not overrides:
            raise
        said = ", ".join(sorted(_assignments(overrides)))
        raise Misfit(
            f"with {said} the model is not the one that was trained: {error.what}",
            "leave out settings that change the model; weights are read as they are",
        ) from None
    return model.eval(), config


def load_weights(model: torch.nn.Module, file: Path) -> None:
    """Load a safetensors file into a model; names and shapes have to agree exactly.

    Raises:
        UserError: If the file cannot be read, or naming the first weights that do not fit.
    """
    model.load_state_dict(fitting(model.state_dict(), _read(file), file))


def start_from(model: torch.nn.Module, file: Path) -> list[str]:
    """Load the weights of a run into a model that may have more add-ons than that run had.

    An add-on holds what it goes round as ``inner``: the weights of ``mixer`` there are those of ``mixer.inner`` here.
    Nothing but an add-on's own may be missing there: a backbone that has grown a weight is another backbone.

    Returns:
        Names of the add-ons' own parameters, which keep the start they were built with.

    Raises:
        UserError: If the file cannot be read, or naming the first weights that do not fit.
    """
    own, weights = model.state_dict(), _read(file)
    if own.keys() == weights.keys():
        model.load_state_dict(fitting(own, weights, file))
        return []
    bare = {_without_inner(name): name for name in weights}
    if len({_without_inner(name) for name in own}) < len(own) or len(bare) < len(weights):
        raise UserError(
            f"{file} is of other add-ons, and two here have parameters of one name: no telling which is whose",
            "start from a run with the same add-ons",
        )
    source = {name: name if name in weights else bare.get(_without_inner(name)) for name in own}
    brought = of_addons(model)
    new = [name for name, held in source.items() if held is None and name in brought]
    moved = {name: weights[held] for name, held in source.items() if held is not None}
    moved |= {name: weights[name] for name in weights.keys() - set(source.values())}
    old = fitting({name: own[name] for name in own if name not in new}, moved, file)
    model.load_state_dict(old | {name: own[name] for name in new})
    return new


def fitting(own: Mapping[str, Tensor], weights: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Return weights as they are, if their names and shapes are those of a model.

    Args:
        own: The model's own.
        weights: What is to take their place.
        file: Where that comes from, for messages.

    Raises:
        Misfit: Naming the first weights that do not fit.
    """
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    wrong = sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
    for names, what in (
        (missing, "lacks"),
        (extra, "has, unlike the model,"),
        (wrong, "has in another shape"),
    ):
        if names:
            raise Misfit(f"{file} {what} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}")
    return weights


def account(model: torch.nn.Module, new: Sequence[str]) -> str:
    """Return a line about parameters that keep their start: every name, those that differ in a layer's number as one.

    Args:
        model: The model.
        new: Names, as :func:`start_from` returns them.
    """
    own, groups = model.state_dict(), dict[tuple[str, str, str], list[str]]()
    for name in new:
        before, number, after = (*re.split(r"\.(\d+)\.", name, maxsplit=1), "", "")[:3]
        shape = " x ".join(map(str, own[name].shape)) or "1"
        groups.setdefault((before, after, shape), []).append(number)
    parts = []
    for (before, after, shape), numbers in groups.items():
        layer = f".{numbers[0]}." if len(numbers) == 1 else f".{{{','.join(numbers)}}}."
        parts.append(f"{before}{layer if after else ''}{after} ({len(numbers)} of {shape})")
    return f"{sum(own[name].numel() for name in new):,} new parameters: {', '.join(parts)}"


def _without_inner(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "inner")


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with file.open("rb"):
            pass  # of a file that may not be read, safetensors says that there is none
        return load_file(file)
    except OSError as error:
        raise UserError(f"cannot read the weights {file}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UserError(f"cannot read the weights {file}: {error}") from None


def _assignments(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _assignments(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={value}"
