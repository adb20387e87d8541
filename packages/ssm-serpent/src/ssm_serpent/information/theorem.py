"""Proposition 1 in numbers: random systems, both definitions of a missing element, D_n going to 0."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssm_core.protocols import Chart, Curve, Result
from ssm_serpent.information.spec import InformationConfig
from ssm_serpent.information.statistics import slope
from ssm_serpent.information.systems import (
    DEFINITIONS,
    Definition,
    Systems,
    bound,
    direction,
    draw,
    states,
    with_interval,
    without,
)

VANISHING = 1e-3
"""||v|| below this share of ||h_L|| counts as none: there is no linear term then, and nothing to be near to."""

ROUNDING = 1e-14
"""Rounding of a state in float64, as a share of its size: the distance is a difference of two."""


class Found(NamedTuple):
    """What one kind of systems gives under one definition, for each interval.

    Attributes:
        name: Kind and definition, in words.
        intervals: D_n (M,).
        distance_ms: ||h_L - h_L^(n)|| (M, S).
        error_ms: | distance / (D_n ||v||) - 1 | (M, S).
        bound_ms: D_n max |a| / 2 (M, S).
        rounding_ms: What rounding may add to the error (M, S).
    """

    name: str
    intervals: tuple[float, ...]
    distance_ms: Tensor
    error_ms: Tensor
    bound_ms: Tensor
    rounding_ms: Tensor

    @property
    def held(self) -> bool:
        """The bound held in every system."""
        return bool((self.error_ms <= self.bound_ms + self.rounding_ms).all())


def measure(config: InformationConfig) -> Result:
    """Compare the distance with D_n ||v|| and its bound on random systems; which element is missing is drawn too."""
    generator = torch.Generator().manual_seed(config.seed)
    kinds = ("real", "complex") if config.eigenvalues == "both" else (config.eigenvalues,)
    found = []
    for kind in kinds:
        systems = draw(config.systems, config.state_size, config.length, kind, generator)
        n = int(torch.randint(config.length, (), generator=generator))
        found += [_find(systems, n, kind, definition, config.intervals) for definition in DEFINITIONS]
    rows = [row for one in found for row in _rows(one)]
    figures = _figures(found)
    held = all(one.held for one in found)
    return Result(
        text=(
            "the last state moves by D_n ||v|| to first order in the interval D_n, whichever way element n is left "
            f"out: the bound D_n max|a| / 2 on the rest {'held in every system' if held else 'WAS BROKEN'}.\n"
            "removed (its interval goes too): v = e^(TA) (A h_(n-1) + B x_n); masked (x_n = 0, the interval stays): "
            "v = e^(TA) B x_n.\n"
            "This is linear in D_n with the data fixed. It does not say that D_n is the information in element n: v "
            "depends on x_n, on what came before, and on the time T since."
        ),
        figures=figures,
        rows=rows,
        charts=[_distances(found), _errors(found)],
    )


def _find(systems: Systems, n: int, kind: str, definition: Definition, intervals: tuple[float, ...]) -> Found:
    size_s, end_s = direction(systems, n, definition).norm(dim=1), states(systems)[:, -1].norm(dim=1)
    kept = size_s > VANISHING * end_s
    systems, size_s, end_s = Systems(*(value[kept] for value in systems)), size_s[kept], end_s[kept]
    distances, errors, bounds, roundings = [], [], [], []
    for interval in intervals:
        whole = with_interval(systems, n, interval)
        lacking = without(whole, n, definition)
        distance_s = (states(whole)[:, -1] - states(lacking)[:, -1]).norm(dim=1)
        distances.append(distance_s)
        errors.append((distance_s / (interval * size_s) - 1).abs())
        bounds.append(bound(systems, interval))
        roundings.append(ROUNDING * end_s / (interval * size_s))
    stacked = map(torch.stack, (distances, errors, bounds, roundings))
    return Found(f"{kind} A, {definition}", intervals, *stacked)


def _rows(found: Found) -> list[dict[str, Any]]:
    rows = []
    values = found.distance_ms, found.error_ms, found.bound_ms
    for interval, distance_s, error_s, bound_s in zip(found.intervals, *values, strict=True):
        empty = len(error_s) == 0
        rows.append(
            {
                "systems of": found.name,
                "systems": len(error_s),
                "D_n": interval,
                "median distance": None if empty else float(distance_s.median()),
                "largest error of the ratio": None if empty else float(error_s.max()),
                "largest bound": None if empty else float(bound_s.max()),
                "share of the bound": None if empty else float((error_s / bound_s).max()),
            }
        )
    return rows


def _figures(found: list[Found]) -> dict[str, float]:
    figures = {}
    for one in found:
        # The statement is about D_n -> 0: the two smallest.
        smallest = sorted(range(len(one.intervals)), key=lambda index: one.intervals[index])[:2]
        x = torch.tensor([one.intervals[index] for index in smallest], dtype=torch.float64)
        slopes = [slope(x, distance_m) for distance_m in one.distance_ms[smallest].unbind(1)]
        if slopes:
            figures[f"slope between the smallest two, {one.name}: least"] = min(slopes)
            figures[f"slope between the smallest two, {one.name}: most"] = max(slopes)
    return figures


def _distances(found: list[Found]) -> Chart:
    curves = []
    for one in found:
        if one.distance_ms.shape[1]:
            low, middle, high = one.distance_ms.quantile(_tensor([0.1, 0.5, 0.9]), dim=1).tolist()
            curves.append(
                Curve(label=one.name, x=one.intervals, y=middle, style="line and points", low=low, high=high)
            )
    if curves:
        ends = [min(found[0].intervals), max(found[0].intervals)]
        through = min(zip(curves[0].x, curves[0].y, strict=True))
        line = [0.3 * float(through[1] or 0) * end / through[0] for end in ends]  # below, to be seen
        curves.append(Curve(label="slope 1", x=ends, y=line, style="dashed"))
    return Chart(
        title="median distance of the last states, 10 to 90 %",
        curves=curves,
        x_label="interval $D_n$",
        y_label=r"$\|h_L - h_L^{(n)}\|$",
        log_x=True,
        log_y=True,
    )


def _errors(found: list[Found]) -> Chart:
    curves = [
        Curve(
            label=one.name,
            x=one.bound_ms.flatten().tolist(),
            y=one.error_ms.flatten().tolist(),
            style="points",
        )
        for one in found
        if one.bound_ms.numel()
    ]
    every = list(itertools.chain.from_iterable(curve.x for curve in curves))
    if every:
        ends = [min(every), max(every)]
        curves.append(Curve(label="the bound", x=ends, y=ends, style="dashed"))
    return Chart(
        title="how far the ratio is from 1, a point a system",
        curves=curves,
        x_label=r"bound $D_n \max|a| / 2$",
        y_label=r"$|\; \|h_L - h_L^{(n)}\| \,/\, (D_n \|v\|) - 1 \;|$",
        log_x=True,
        log_y=True,
    )


def _tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
