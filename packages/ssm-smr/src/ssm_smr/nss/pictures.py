"""What was measured as charts: errors below their bounds, energies, eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ssm_core.protocols import Chart, Curve
from ssm_smr.nss.measure import Measured

POINTS = 400
"""Most points of a line or a cloud."""


def errors(found: Mapping[str, Measured], title: str) -> Chart:
    """Return |e_k| of each variant over k, logarithmic, with the tightest bound of each dashed.

    Args:
        found: Name of the variant -> what was measured of it.
        title: Title of the panel.
    """
    curves = []
    for name, one in found.items():
        curves.append(line(f"|e|, {name}", one.error))
        bound = one.tightest()
        if bound is not None:
            length = len(one.error)
            ends = {"x": [1, length], "y": [bound, bound], "style": "dashed"}
            curves.append(Curve(label=f"its bound, {name}", same_as=f"|e|, {name}", **ends))
    return Chart(title=title, curves=curves, x_label="element k", y_label="error of the state", log_y=True)


def energies(found: Mapping[str, Measured], title: str, *, levels: bool = True) -> Chart:
    """Return V_k of each variant that has one, logarithmic, with what it cannot exceed dashed."""
    curves = []
    for name, one in found.items():
        if one.lyapunov is None or one.energy is None:
            continue
        curves.append(line(f"V, {name}", one.energy))
        if levels:
            level = one.lyapunov.level(float(one.drive.max()))
            ends = {"x": [1, len(one.energy)], "y": [level, level], "style": "dashed"}
            curves.append(Curve(label=f"its bound, {name}", same_as=f"V, {name}", **ends))
    return Chart(title=title, curves=curves, x_label="element k", y_label="V = e* P e", log_y=True)


def disc(found: Mapping[str, Measured], title: str) -> Chart:
    """Return eigenvalues of each transition in the complex plane, with the unit circle."""
    turn = [2 * math.pi * i / 200 for i in range(201)]
    circle = Curve(
        label="unit circle", x=[math.cos(t) for t in turn], y=[math.sin(t) for t in turn], style="dashed"
    )
    clouds = []
    for name, one in found.items():
        some = thinned(one.eigenvalues)
        clouds.append(Curve(label=name, x=some.real.tolist(), y=some.imag.tolist(), style="points"))
    return Chart(title=title, curves=[*clouds, circle], x_label="Re", y_label="Im", equal=True)


def inputs(nominal: Tensor, perturbed: Tensor, after: Sequence[Tensor], title: str) -> Chart:
    """Return an input (L,) on both grids, and behind the gate if `after` holds the two."""
    names = (
        "u on the nominal grid",
        "u on the perturbed grid",
        "u' behind SMR, nominal",
        "u' behind SMR, perturbed",
    )
    curves = [line(name, u) for name, u in zip(names, (nominal, perturbed, *after), strict=False)]
    return Chart(title=title, curves=curves, x_label="element k", y_label="input")


def line(label: str, values: Tensor) -> Curve:
    """Return a curve over k = 1, 2, ..., the largest value of each stretch if there are too many."""
    every = -(-len(values) // POINTS)
    if every == 1:
        return Curve(label=label, x=list(range(1, len(values) + 1)), y=values.tolist())
    parts = values.split(every)
    places = [int(part.abs().argmax()) for part in parts]
    x = [1 + i * every + place for i, place in enumerate(places)]
    return Curve(label=label, x=x, y=[float(part[place]) for part, place in zip(parts, places, strict=True)])


def thinned(values: Tensor) -> Tensor:
    """Return at most POINTS of the values (E,), evenly over their sizes, the largest among them."""
    if len(values) <= POINTS:
        return values
    order = values.abs().argsort()
    return values[order[torch.linspace(0, len(values) - 1, POINTS).round().long()]]
