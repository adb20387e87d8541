"""Elements left out of the layers of a trained model, one at a time: intervals, last states, outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ssm_core.compose import describe, matching_layers
from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Batch
from ssm_serpent.information.calls import Call, answering_less, first_calls
from ssm_serpent.information.outputs import Said, divergence, said
from ssm_serpent.information.spec import InformationConfig
from ssm_serpent.information.subjects import Change, Recurrence, Resampler, offers

SHARES = (1e-2, 1e-3)
"""Shares of its own interval that an element gets to see how its effect vanishes with the interval."""


@dataclass(frozen=True)
class Part:
    """A mixer in a block that can be asked.

    Attributes:
        layer: Index of the block.
        name: Its path in the block.
        module: Itself.
    """

    layer: int
    name: str
    module: nn.Module

    @property
    def key(self) -> str:
        """Its path in the model."""
        return f"{self.layer}.{self.name}"

    def subject(self, call: Call) -> Recurrence | Resampler:
        """Return it with what it was called with."""
        kind = Recurrence if offers(self.module, "intervals") else Resampler
        return kind(self.module, call)


@dataclass
class Sample:
    """What was found about one part, branch and way of leaving out an element; n elements of all sequences.

    Attributes:
        part: The part.
        branch: Its branch, if it has some.
        definition: The way.
        interval: Interval of each element.
        after: Number of elements after it, the masked ones not counted.
        state: Distance of the last states; NaN where no state is carried, or rounding is as large.
        output: Divergence of the outputs, nats; NaN where it was not measured.
        fixed: Slope of the distance over the interval, all else fixed; recurrences only.
        used: For each element and channel, the share of the proposition's bound by which the distance is off D_n |v|;
            recurrences that lay their diagonal open only.
        channels: For each sequence the intervals and distances of each channel, (n, D) both, on the CPU; where there
            are some.
    """

    part: Part
    branch: str
    definition: str
    interval: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    state: list[float] = field(default_factory=list)
    output: list[float] = field(default_factory=list)
    fixed: list[float] = field(default_factory=list)
    used: list[float] = field(default_factory=list)
    channels: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def parts_of(model: Any, layers: str) -> tuple[list[Part], list[tuple[int, str]]]:
    """Return what can be asked in the chosen blocks, and (index, what stands there) of those where nothing can be.

    Raises:
        UserError: If nothing can be asked in any of them.
    """
    blocks = list(model.stack.blocks)
    parts: list[Part] = []
    silent: list[tuple[int, str]] = []
    for index in sorted(matching_layers(layers, len(blocks), "the probe information")):
        found = [
            Part(index, name, module)
            for name, module in blocks[index].named_modules()
            if offers(module, "intervals") or offers(module, "trace")
        ]
        parts += found
        if not found:
            silent.append((index, describe(getattr(blocks[index], "mixer", blocks[index]))))
    if not parts:
        raise UserError(
            f"no layer of this model tells an interval for each element: {', '.join(what for _, what in silent)}",
            "selective backbones do (s6, mamba2), and layers with the add-on serpent",
        )
    return parts, silent


def sample(
    model: Any,
    rows: list[Mapping[str, Any]],
    parts: list[Part],
    config: InformationConfig,
    device: torch.device,
) -> list[Sample]:
    """Leave out elements of each row and return what was found, a sample a part, branch and definition."""
    generator = torch.Generator().manual_seed(config.seed)
    samples: dict[tuple[str, str, str], Sample] = {}
    for row in rows:
        with first_calls({part.key: part.module for part in parts}) as calls, torch.no_grad():
            model(_batch(model, row, 1, device))
        whole: dict[int, tuple[Batch, Said | None]] = {}
        for part in parts:
            if part.key not in calls:
                continue
            subject = part.subject(calls[part.key])
            places = subject.places
            order = torch.randperm(len(places), generator=generator, device="cpu")
            chosen = order[: config.elements].sort().values.to(places.device)
            if not len(chosen):
                continue
            if len(chosen) not in whole:
                batch = _batch(model, row, len(chosen), device)
                whole[len(chosen)] = batch, said(model, batch)
            _leave_out(model, part, subject, places[chosen], *whole[len(chosen)], samples)
    return list(samples.values())


def _leave_out(
    model: Any,
    part: Part,
    subject: Recurrence | Resampler,
    at_p: Tensor,
    batch: Batch,
    before: Said | None,
    samples: dict[tuple[str, str, str], Sample],
) -> None:
    for definition in subject.definitions:
        change = subject.change(definition, at_p)
        output_p = torch.full_like(change.state_p.expand(len(at_p)), torch.nan)
        if before is not None:
            with answering_less(part.module, change.answer_pld):
                after = said(model, batch)
            if after is not None:
                output_p = divergence(before, after)
        fixed: list[float] = []
        used: list[float] = []
        if isinstance(subject, Recurrence) and subject.copy.mixer.takes_dt:
            small, tiny = (subject.change(definition, at_p, share) for share in SHARES)
            fixed, used = _slopes(small, tiny), _used(subject.bounds(), at_p, change, tiny)
        for branch, interval_l in subject.intervals().items():
            key = part.key, branch, definition
            one = samples.setdefault(key, Sample(part, branch, definition))
            one.interval += interval_l[at_p].tolist()
            one.after += (len(subject.places) - torch.searchsorted(subject.places, at_p, right=True)).tolist()
            one.state += change.state_p.expand(len(at_p)).tolist()
            one.output += output_p.tolist()
            one.fixed += fixed
            one.used += used
            if isinstance(subject, Recurrence) and change.channel_pd is not None:
                one.channels.append((subject.by_channel()[at_p].cpu(), change.channel_pd.cpu()))


def _slopes(small: Change, tiny: Change) -> list[float]:
    moved = (tiny.state_p > 0) & (small.state_p > 0)  # neither lost in rounding
    ratio = torch.log(small.state_p[moved] / tiny.state_p[moved])
    return (ratio / math.log(SHARES[0] / SHARES[1])).tolist()


def _used(bound_ld: Tensor | None, at_p: Tensor, change: Change, tiny: Change) -> list[float]:
    """Return | distance / (D_n |v|) - 1 | by its bound, for every element and channel where it is above rounding.

    The distance at the smallest share s of the interval, divided by s, stands in for D_n |v|. It is off by up to s
    times the bound b, so that the ratio of the two may be off by (b + s b) / (1 - s b).
    """
    if bound_ld is None:
        return []
    share, bound_pd = SHARES[1], bound_ld[at_p]
    whole, part = (
        one.state_p[:, None] if one.channel_pd is None else one.channel_pd for one in (change, tiny)
    )
    error_pd = (share * whole / part - 1).abs()
    used = error_pd * (1 - share * bound_pd) / (bound_pd * (1 + share))
    return used[used.isfinite()].tolist()


def _batch(model: Any, row: Mapping[str, Any], times: int, device: torch.device) -> Batch:
    # Without resets: the sequence counts as one document, else a layer would be called once a document.
    return replace(model.task.collate([row] * times), reset_bl=None).to(device)
