"""What resampling layers made of one sequence, as plain lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ssm_core.compose import describe, matching_layers
from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Batch
from ssm_serpent.information.calls import Call, first_calls
from ssm_serpent.information.subjects import offers
from ssm_serpent.intervals import TICKS


@dataclass(frozen=True)
class Branch:
    """A compressed branch on a sequence of L elements.

    Attributes:
        layer: Index of its block.
        name: Its number among the branches of its layer; with the layer's path, where a block has several.
        kappa: Compression that it was built for.
        elements: The elements that it saw, by their place in the sequence.
        intervals: Interval of each, in units of the grid's spacing.
        times: Sum of the intervals up to each.
        points: Number of points.
        events: For each point that the times reach, the place in ``elements`` at which it is finished, counted from 0.
            The last point may be beyond the end, where points are made of the nearest elements.
        window: Slots W of a window.
        windows: For each point, [start, end) of the places in ``elements`` that it is made of: at most W, and not what
            lies between two events, unless that is as long.
        reads: For each element the point that it reads back, counted from 1; 0 is none.
    """

    layer: int
    name: str
    kappa: float
    elements: list[int]
    intervals: list[float]
    times: list[float]
    points: int
    events: list[int]
    window: int
    windows: list[tuple[int, int]]
    reads: list[int]

    @property
    def title(self) -> str:
        """Layer and branch, in words."""
        return f"layer {self.layer}, branch {self.name}"

    @property
    def beyond(self) -> str:
        """That a point is beyond the end, in words; nothing if none is."""
        return " (one point beyond the end)" if self.points > len(self.events) else ""

    @property
    def told(self) -> str:
        """What its points are made of, in words."""
        alone = sum(held is None for held in self.holders())
        left = f", {alone} of the elements in none" if alone else ""
        return f"windows of {self.window}{left}"

    def holders(self) -> list[tuple[int, int] | None]:
        """Return for each element the first and the last point that are made of it, counted from 1; None if none is.

        Windows begin and end in order, so those that hold an element are consecutive.
        """
        held: list[tuple[int, int] | None] = [None] * len(self.elements)
        for point, (start, end) in enumerate(self.windows, 1):
            for place in range(start, end):
                first, _ = held[place] or (point, point)
                held[place] = first, point
        return held

    def segments(self) -> Iterator[tuple[int, int]]:
        """Yield [start, end) of the elements between one event and the next, and last of those after all events."""
        start = 0
        for event in self.events:
            yield start, event + 1
            start = event + 1
        if start < len(self.elements):
            yield start, len(self.elements)


def branches_of(model: Any, batch: Batch, layers: str) -> list[Branch]:
    """Run a batch of one sequence through a model and return what its resampling layers made of it.

    Raises:
        UserError: If none of the chosen blocks resamples.
    """
    blocks = list(model.stack.blocks)
    chosen = sorted(matching_layers(layers, len(blocks), "the probe resample"))
    modules = {
        (index, name): module
        for index in chosen
        for name, module in blocks[index].named_modules()
        if offers(module, "trace")
    }
    if not modules:
        there = ", ".join(describe(getattr(blocks[index], "mixer", blocks[index])) for index in chosen)
        raise UserError(
            f"no layer of this model resamples its sequence: {there}", "train one with --addon serpent"
        )
    named = {f"{index} {name}": module for (index, name), module in modules.items()}
    with first_calls(named) as calls, torch.no_grad():
        model(batch)
    found = []
    for (index, name), module in modules.items():
        call = calls.get(f"{index} {name}")
        if call is not None:
            alone = sum(other == index for other, _ in modules) == 1
            found += _branches(index, "" if alone else f" of {name}", module, call)
    return found


def _branches(layer: int, whose: str, module: Any, call: Call) -> Iterator[Branch]:
    x_bld, mask_bl = call.x_bld[:1], None if call.mask_bl is None else call.mask_bl[:1]
    with torch.no_grad():
        traces = module.trace(x_bld, mask_bl=mask_bl)
    # A trace counts valid elements only.
    places = range(x_bld.shape[1]) if mask_bl is None else mask_bl[0].nonzero()[:, 0].tolist()
    for trace in traces:
        spans, index, count = trace.spans, trace.index, len(places)
        points, ticks = int(index.count_b[0]), spans.times_bl[0].tolist()
        events = [e for k, e in enumerate(index.event_bk[0, :points].tolist(), 1) if ticks[e] >= k * TICKS]
        inside = index.inside_bkw[0, :points]
        starts = (index.start_bk[0, :points] + inside.int().argmax(1)).tolist()
        yield Branch(
            layer=layer,
            name=f"{trace.branch}{whose}",
            kappa=float(trace.compression),
            elements=list(places),
            intervals=spans.u_bl[0, :count].tolist(),
            times=(spans.times_bl[0, :count].double() / TICKS).tolist(),
            points=points,
            events=events,
            window=inside.shape[1],
            windows=[(start, start + n) for start, n in zip(starts, inside.sum(1).tolist(), strict=True)],
            reads=index.point_bl[0, :count].tolist(),
        )
