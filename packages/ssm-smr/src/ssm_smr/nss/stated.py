"""A stated system: its state on the nominal and the perturbed grid, with and without SMR on the input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ssm_core.protocols import Chart, Result
from ssm_smr.nss import pictures
from ssm_smr.nss.grids import places, signal
from ssm_smr.nss.measure import Measured, measure
from ssm_smr.nss.spec import NSSConfig
from ssm_smr.nss.systems import driven, gated, system

TABLE_REALS = (-0.5, 0.0, 0.5, 1.0)
TABLE_AT = (100, 500, 1000)
TABLE_DRAWS = 20
"""The table's real parts, the elements it shows, and the draws of the jitter that it averages over."""


def stated(config: NSSConfig) -> Result:
    """Return the figures, rows and charts of one stated system."""
    found, (u, moved) = run(config), on_both_grids(config)
    without, smr = found["without SMR"], found["with SMR"]
    behind = [gated(config, u), gated(config, moved)]
    periods = 2 / config.step / min(config.signal)
    shown = slice(0, round(min(periods, config.length)))
    charts = [
        pictures.inputs(
            u[shown], moved[shown], [v[shown] for v in behind], f"the input: {config.perturbation}"
        ),
        pictures.errors(found, "error of the state, and what it cannot exceed"),
        pictures.energies(found, "Lyapunov function of the error"),
        pictures.disc({"eigenvalues of A-bar": without}, "discrete eigenvalues"),
    ]
    ratio = float((behind[0].abs() / u.abs().clamp(min=1e-12))[u != 0].mean())
    figures: dict[str, Any] = {
        "spectral radius": without.radius,
        "kappa": "none" if without.lyapunov is None else without.lyapunov.kappa(),
        f"radius^tau, tau = {config.tau}": without.radius**config.tau,
        "mean gate": ratio,
        "largest error": float(without.error.max()),
        "largest error, with SMR": float(smr.error.max()),
    }
    rows = [{"input": name, **one.figures()} for name, one in found.items()]
    return Result(text=_text(config, without, smr), figures=figures, rows=rows, charts=charts)


def run(config: NSSConfig, draw: int = 0) -> dict[str, Measured]:
    """Return what was measured without and with SMR."""
    a_bar, b_bar = system(config)
    u, moved = on_both_grids(config, draw)
    pairs = {"without SMR": (u, moved), "with SMR": (gated(config, u), gated(config, moved))}
    return {
        name: measure(driven(a_bar, b_bar, one), driven(a_bar, b_bar, two))
        for name, (one, two) in pairs.items()
    }


def on_both_grids(config: NSSConfig, draw: int = 0) -> tuple[Tensor, Tensor]:
    """Return the input (L,) at the nominal points and at the perturbed ones."""
    nominal = torch.arange(config.length, dtype=torch.float64)
    return signal(config, nominal), signal(config, places(config, config.length, draw))


def table(config: NSSConfig) -> Result:
    """Return the toy table: |e_k| for four real parts, under jitter of 0.5 and stretch of 1.2, with SMR and without."""
    rows, curves = [], {"jitter": {}, "stretch": {}}
    for real in TABLE_REALS:
        base = replace(config, system="modes", real=real)
        jitter = _over_draws(replace(base, grid="jitter", size=0.5))
        stretch = {k: v.error for k, v in run(replace(base, grid="stretch", size=1.2)).items()}
        radius = float(system(base)[0].abs().max())
        for name in stretch:
            row: dict[str, Any] = {"real": real, "radius": radius, "input": name}
            for grid, errors in (("jitter", jitter), ("stretch", stretch)):
                row |= {f"{grid} k={k}": float(errors[name][k - 1]) for k in TABLE_AT}
                curves[grid][f"Re = {real:g}, {name}"] = errors[name]
            rows.append(row)
    titles = {
        "jitter": f"points moved by up to half a step (rms of {TABLE_DRAWS} draws)",
        "stretch": "points 1.2 steps apart",
    }
    charts = [_lines(titles[grid], lines) for grid, lines in curves.items()]
    return Result(text=_table_text(config), rows=rows, charts=charts)


def _over_draws(config: NSSConfig) -> dict[str, Tensor]:
    runs = [run(config, draw) for draw in range(TABLE_DRAWS)]
    return {name: torch.stack([one[name].error for one in runs]).square().mean(0).sqrt() for name in runs[0]}


def _lines(title: str, errors: dict[str, Tensor]) -> Chart:
    curves = []
    for name, error in errors.items():
        line = pictures.line(name, error)
        solid = name.replace("with ", "without ")
        curves.append(line if solid == name else replace(line, style="dashed", same_as=solid))
    return Chart(title=title, curves=curves, x_label="element k", y_label="error of the state", log_y=True)


def _table_text(config: NSSConfig) -> str:
    waves = ", ".join(f"{hertz:g}" for hertz in config.signal)
    return (
        f"|e_k| after k elements of {len(config.frequencies)} modes, step {config.step:g} s, sine waves of {waves} Hz; "
        f"under jitter the root mean square of {TABLE_DRAWS} draws.\n"
        "With Re < 0 the error stays bounded, at 0 it grows steadily, above 0 exponentially: behind SMR as well."
    )


def _text(config: NSSConfig, without: Measured, smr: Measured) -> str:
    bound, worst, radius = without.tightest(), float(without.error.max()), f"{without.radius:.5g}"
    if bound is None:
        verdict = f"the spectral radius is {radius}, not below 1: no bound exists, for the gate leaves A-bar as it is."
    else:
        used = without.figures()["bound_used"] or 0.0
        verdict = (
            f"the spectral radius is {radius}: |e| cannot exceed {bound:.4g}, and uses {used:.0%} of it."
        )
    shares = [one.figures()["sup_e_relative"] for one in (without, smr)]
    plain, gate = ("none" if share is None else f"{share:.1%}" for share in shares)
    return (
        f"{config.system}, {config.perturbation}: the error of the state reaches {worst:.4g}; {verdict}\n"
        f"Behind an SMR gate ({config.gate}, tau = {config.tau}, not trained) it reaches {float(smr.error.max()):.4g}; "
        f"beside the largest state that is {gate}, and without the gate {plain}."
    )
