"""The layers of a trained model on sequences of the test split, on the nominal grid and on a perturbed one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Batch, Result
from ssm_smr.layer import gates
from ssm_smr.nss import pictures
from ssm_smr.nss.capture import cut, encoded_at, gates_at_one, listen, one_way_of_two, recurrences, whole
from ssm_smr.nss.grids import places
from ssm_smr.nss.measure import Measured, measure
from ssm_smr.nss.shift import shifted
from ssm_smr.nss.spec import NSSConfig

AS_TRAINED, AT_ONE, UNGATED = "as trained", "gate at 1", "input ungated"
"""Names of the variants: for gate = "none" what is taken away is a convolution, and no gate."""

PANELS = 4
"""Layers in the picture."""

NOTHING = "no linear recurrence to analyse"
LEFT_OUT = "; the reverse direction is left out"
OLD_GAPS = "; the gaps that the model is given stay those of the nominal grid"


@dataclass
class Variant:
    """What was measured of a model, as it is or with its raw input in place of what SMR makes of it.

    Attributes:
        layers: Block and part -> one measurement a sequence.
        outputs: Relative error of the features behind the stack, one a sequence.
        losses: Loss on the nominal and on the perturbed grid, one pair a sequence; none where targets are not known.
    """

    layers: dict[tuple[int, nn.Module], list[Measured]] = field(default_factory=dict)
    outputs: list[float] = field(default_factory=list)
    losses: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Pair:
    """A sequence on both grids.

    Attributes:
        nominal: Batch of one.
        moved: Batch of one; the same if the encoded inputs are moved.
        task: The task of the second.
        place: Where encoded inputs are read, in steps (L,), or None if the second batch already is on the other grid.
        length: Elements to compare; if encoded inputs are moved, all that the stack sees of either.
    """

    nominal: Batch
    moved: Batch
    task: Any
    place: Tensor | None
    length: int


def trained(model: Any, dataset: Any, config: NSSConfig) -> Result:
    """Return rows of each layer, as trained and, if there is SMR, on its raw input; charts of the first sequence.

    Raises:
        UserError: If no layer has a linear recurrence, or the task's settings do not fit.
    """
    if not any(recurrences(block) for block in model.stack.blocks):
        raise UserError(
            "no layer of this model has a linear recurrence to analyse",
            "of the backbones, s4, s4d, dss (version exp), s5, s6, mamba2, lru, h3, mega, spade and seqboat have",
        )
    variants = {name: Variant() for name in _variants(model)}
    known: dict[nn.Module, Measured] = {}
    how = ", ".join(config.shift) if config.shift else f"encoded inputs read with {config.perturbation}"
    for pair in _pairs(model, dataset, config):
        if pair.place is not None and pair.nominal.dt_bl is not None and OLD_GAPS not in how:
            how += OLD_GAPS
        for name, variant in variants.items():
            with contextlib.nullcontext() if name == AS_TRAINED else gates_at_one(model):
                _add(variant, known, model, pair, config)
    return _result(model, variants, how)


def _variants(model: nn.Module) -> list[str]:
    kinds = {gate.config.gate for gate in gates(model)}
    return [AS_TRAINED, *({UNGATED if kinds == {"none"} else AT_ONE} if kinds else ())]


def _pairs(model: Any, dataset: Any, config: NSSConfig) -> Iterator[Pair]:
    task, other, moved = model.task, model.task, dataset
    if config.shift:
        other = shifted(task, config.shift)
        moved = other.splits()["test"]
    for row in range(min(config.rows, len(dataset), len(moved))):
        one, two = task.collate([dataset[row]]), other.collate([moved[row]])
        # Where nothing counts, it is for the layers to say so.
        ends = [whole(b.inputs, b.mask_bl, b.reset_bl) or b.inputs.shape[1] for b in (one, two)]
        if config.shift:
            yield Pair(one, two, other, None, min(config.length, *ends))
            continue
        place = places(config, one.inputs.shape[1], row)
        inside = int((place <= ends[0] - 1).long().cumprod(0).sum())
        if inside == 0:
            raise UserError(
                f"none of the moved points lies within sequence {row} of the test split, {ends[0]} long",
                "probe longer sequences, another seed, or --set 'shift=[\"KNOB=VALUE\"]' with a knob of the task",
            )
        yield Pair(one, two, task, place, min(config.length, inside))


@torch.no_grad()
def _add(
    variant: Variant, known: dict[nn.Module, Measured], model: Any, pair: Pair, config: NSSConfig
) -> None:
    """Run one sequence on both grids and add what is found; `known` is what was measured of each layer before."""
    # What lies behind the end of either must not come back through a layer that looks ahead.
    with contextlib.nullcontext() if pair.place is None else cut(model, pair.length):
        calls, y, out = listen(model, lambda: model.task.run(model, pair.nominal))
        with contextlib.nullcontext() if pair.place is None else encoded_at(model, pair.place):
            calls_moved, y_moved, out_moved = listen(model, lambda: pair.task.run(model, pair.moved))
    for index, block in enumerate(model.stack.blocks):
        for part in recurrences(block):
            if part not in calls or part not in calls_moved:
                continue
            runs = [each[part].recurrence(pair.length) for each in (calls, calls_moved)]
            if runs[0] is not None and runs[1] is not None:
                known[part] = measure(runs[0], runs[1], known.get(part))
                variant.layers.setdefault((index, part), []).append(known[part])
    n = min(pair.length, y.shape[1], y_moved.shape[1])
    error, size = (y_moved[:, :n] - y[:, :n]).double().norm(), y[:, :n].double().norm()
    variant.outputs.append(float(error / size))
    if config.shift:
        losses = [
            task.loss(o, b)
            for task, o, b in ((model.task, out, pair.nominal), (pair.task, out_moved, pair.moved))
        ]
        variant.losses.append(
            (float(losses[0].total / losses[0].weight), float(losses[1].total / losses[1].weight))
        )


def _result(model: Any, variants: dict[str, Variant], how: str) -> Result:
    first = variants[AS_TRAINED]
    rows, charts = [], []
    for index, block in enumerate(model.stack.blocks):
        parts = [part for i, part in first.layers if i == index]
        for part in parts:
            left_out = LEFT_OUT if one_way_of_two(block, part) else ""
            for name, one in variants.items():
                row = _row(index, part, name, one.layers[index, part])
                rows.append({**row, "transition": row["transition"] + left_out})
        if not parts:
            rows.append({"layer": index, "part": type(block).__name__, "transition": NOTHING})
    keys = dict.fromkeys(key for row in rows for key in row)
    rows = [{key: row.get(key) for key in keys} for row in rows]
    for index, part in _some(list(first.layers)):
        found = {name: one.layers[index, part][0] for name, one in variants.items()}
        charts.append(pictures.errors(found, f"layer {index}, {type(part).__name__}: error of the state"))
    each = {f"layer {i}, {type(part).__name__}": found[0] for (i, part), found in first.layers.items()}
    title = f"Lyapunov function of the error, {AS_TRAINED}"
    charts.append(pictures.energies(each, title, levels=False))
    charts.append(pictures.disc(each, "discrete eigenvalues"))
    return Result(text=_text(variants, how), figures=_figures(variants), rows=rows, charts=charts)


def _row(index: int, part: nn.Module, name: str, found: list[Measured]) -> dict[str, Any]:
    """Return the figures of the sequence with the largest error."""
    worst = max(found, key=lambda one: float(one.error.max()))
    kind = "changes, taken along the nominal run" if worst.varies else "dense" if worst.dense else "diagonal"
    return {"layer": index, "part": type(part).__name__, "gate": name, "transition": kind, **worst.figures()}


def _figures(variants: dict[str, Variant]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, one in variants.items():
        figures[f"sequences, {name}"] = len(one.outputs)
        figures[f"relative error of the features, {name}"] = sum(one.outputs) / len(one.outputs)
        if one.losses:
            for grid, values in zip(("nominal", "perturbed"), zip(*one.losses, strict=True), strict=True):
                figures[f"loss, {grid} grid, {name}"] = sum(values) / len(values)
    return figures


def _text(variants: dict[str, Variant], how: str) -> str:
    layers = variants[AS_TRAINED].layers
    bounded = [index for (index, _), found in layers.items() if found[0].lyapunov is not None]
    shares = [f"{sum(one.outputs) / len(one.outputs):.1%} {name}" for name, one in variants.items()]
    return (
        f"{how}: the features behind the stack change by {' and by '.join(shares)}.\n"
        f"{len(bounded)} of {len(layers)} recurrences have a spectral radius below 1, and so a bound on their error.\n"
        "Elements of the same number are compared; rows show the sequence with the largest error, charts the first. "
        "The gate changes what enters the state, never A-bar."
    )


def _some(layers: list[Any]) -> list[Any]:
    """Return at most PANELS of the layers, first and last among them."""
    if len(layers) <= PANELS:
        return layers
    return [layers[round(i * (len(layers) - 1) / (PANELS - 1))] for i in range(PANELS)]
