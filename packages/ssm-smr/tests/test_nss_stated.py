"""The probe on stated systems: the toy table, grids, the gate in front."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError
from ssm_smr.nss.grids import interpolate, places
from ssm_smr.nss.probe import probe
from ssm_smr.nss.spec import NSSConfig
from ssm_smr.nss.stated import on_both_grids, run
from ssm_smr.nss.systems import gated, system

TOY = {
    -0.5: ((4.9e-3, 3.3e-3, 2.5e-3), (0.64, 1.09, 1.15)),
    0.0: ((4.3e-3, 9.8e-3, 1.3e-2), (0.72, 3.1, 5.6)),
    0.5: ((5.9e-3, 4.8e-2, 0.58), (0.82, 13, 169)),
    1.0: ((4.8e-3, 0.29, 43), (0.95, 78, 1.2e4)),
}
"""|e_k| at k = 100, 500, 1000 under a jitter of 0.5 and a stretch of 1.2, as an independent prototype found it."""


def test_the_toy_table():
    rows = probe(None, None, NSSConfig(table=True)).rows
    assert len(rows) == 8
    for row in rows:
        if row["input"] != "without SMR":
            continue
        jitter, stretch = TOY[row["real"]]
        for k, moved, stretched in zip((100, 500, 1000), jitter, stretch, strict=True):
            assert row[f"stretch k={k}"] == pytest.approx(stretched, rel=0.05)
            assert moved / 10**0.5 < row[f"jitter k={k}"] < moved * 10**0.5
        assert row["radius"] == pytest.approx(math.exp(0.01 * row["real"]))


def test_it_finds_figures_rows_and_charts():
    result = probe(None, None, NSSConfig(length=300))
    without, smr = result.rows
    assert (without["input"], smr["input"]) == ("without SMR", "with SMR")
    assert without["radius"] == smr["radius"] == pytest.approx(math.exp(-0.005))
    assert without["kappa"] == pytest.approx(1 - math.exp(-0.005))
    assert 0 < without["bound_used"] < 1
    assert [chart.title.split(":")[0] for chart in result.charts] == [
        "the input",
        "error of the state, and what it cannot exceed",
        "Lyapunov function of the error",
        "discrete eigenvalues",
    ]
    assert "cannot exceed" in result.text


@pytest.mark.parametrize("kind", ["hippo", "random"])
def test_dense_systems_have_a_lyapunov_bound_only(kind):
    rows = probe(None, None, NSSConfig(system=kind, length=200)).rows
    for row in rows:
        assert row["bound_diagonal"] is None
        assert row["sup_e"] <= row["bound_by_mode"] * (1 + 1e-9)


@given(
    st.sampled_from(["modes", "hippo", "random"]),
    st.floats(-3.0, -0.1),
    st.sampled_from(["jitter", "stretch", "drop", "rate"]),
    st.integers(0, 1000),
    st.sampled_from(["default", "open"]),
    st.floats(0.5, 2.0),
)
def test_a_stable_system_stays_within_its_bounds_with_smr_and_without(kind, real, grid, seed, gate, scale):
    config = NSSConfig(
        system=kind,
        real=real,
        grid=grid,
        seed=seed,
        gate=gate,
        gate_scale=scale,
        length=80,
        signal=(1.0, 3.7),
    )
    for one in run(config).values():
        assert one.radius < 1
        for bound in one.bounds().values():
            assert bound is None or float(one.error.max()) <= bound * (1 + 1e-9)


@given(st.floats(1.0, 3.0), st.integers(0, 1000), st.sampled_from(["default", "open"]), st.integers(1, 8))
def test_above_a_radius_of_1_the_error_grows_at_its_rate_behind_smr_too(real, seed, gate, tau):
    config = NSSConfig(real=real, seed=seed, gate=gate, tau=tau)
    for one in run(config).values():
        assert one.radius == pytest.approx(math.exp(0.01 * real))
        rate = float(one.error[-1] / one.error[-101]) ** 0.01
        assert rate == pytest.approx(one.radius, rel=1e-4)


@given(st.integers(0, 1000), st.integers(1, 8), st.floats(0.1, 3.0), st.sampled_from(["default", "open"]))
def test_the_gate_never_magnifies_beyond_its_scale(seed, tau, scale, gate):
    config = NSSConfig(
        seed=seed, tau=tau, gate_scale=scale, gate=gate, length=60, grid="jitter", signal=(1.0, 9.3)
    )
    for u in on_both_grids(config):
        assert bool((gated(config, u).abs() <= scale * u.abs()).all())
    if gate == "open":
        u = on_both_grids(config)[0]
        torch.testing.assert_close(gated(config, u), scale / (1 + math.exp(-3)) * u)


def test_grids():
    nominal = torch.arange(200, dtype=torch.float64)
    assert torch.equal(places(NSSConfig(grid="stretch", size=1.5), 200), 1.5 * nominal)
    assert torch.equal(places(NSSConfig(grid="rate", size=0.5), 200), 2 * nominal)
    assert torch.equal(places(NSSConfig(grid="drop", size=0.0), 200), nominal)
    jitter = places(NSSConfig(grid="jitter", size=0.25), 200)
    assert 0.2 < float((jitter - nominal).abs().max()) <= 0.25
    assert bool((jitter.diff() > 0).all())
    assert not torch.equal(jitter, places(NSSConfig(grid="jitter", size=0.25), 200, draw=1))
    dropped = places(NSSConfig(grid="drop", size=0.3), 5000)
    assert bool((dropped.diff() >= 1).all())
    assert torch.equal(dropped, dropped.round())
    assert dropped[0] == 0
    assert 5000 / float(dropped[-1]) == pytest.approx(0.7, abs=0.02)


def test_reading_between_elements():
    x = torch.tensor([[[0.0], [2.0], [4.0]]])
    place = torch.tensor([-0.4, 0.25, 1.0, 1.5, 2.0, 7.0], dtype=torch.float64)
    assert interpolate(x, place)[0, :, 0].tolist() == [0.0, 0.5, 2.0, 3.0, 4.0, 4.0]


def test_a_dense_system_is_held_exactly():
    """Two half steps with the input held are one step."""
    a, b = system(NSSConfig(system="hippo", step=0.02))
    half_a, half_b = system(NSSConfig(system="hippo", step=0.01))
    torch.testing.assert_close(half_a @ half_a, a)
    torch.testing.assert_close(half_a @ half_b + half_b, b)
    a, _ = system(NSSConfig(system="random", real=-0.7, step=1.0))
    assert float(torch.linalg.eigvals(a).abs().max()) == pytest.approx(math.exp(-0.7))


def test_nothing_moves_nothing():
    for one in run(NSSConfig(grid="jitter", size=0.0, length=50)).values():
        assert float(one.error.max()) == 0
        assert one.figures()["bound_used"] is None
        assert one.figures()["triggered"] == 0
    result = probe(None, None, NSSConfig(grid="jitter", size=0.0, length=50))
    assert "reaches 0" in result.text


@pytest.mark.parametrize("hertz", [1e-307, 0.3, 40.0])
def test_the_shortest_and_the_slowest_that_is_taken_gives_numbers(hertz):
    result = probe(None, None, NSSConfig(length=2, signal=(hertz,), step=0.001))
    assert len(result.charts[0].curves[0].x) == 2
    values = [*result.figures.values(), *(value for row in result.rows for value in row.values())]
    assert all(math.isfinite(value) for value in values if isinstance(value, float))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"grid": "jitter", "size": 0.7}, "would change places"),
        ({"grid": "drop", "size": 1.0}, "share of points"),
        ({"size": 0.0}, "above 0"),
        ({"tau": 0}, "at least 1"),
        ({"signal": []}, "at least one entry"),
        ({"signal": [0.0]}, "signal takes frequencies above 0"),
        ({"signal": [1.0, -2.0]}, "signal takes frequencies above 0"),
        ({"length": 1}, "length must be at least 2"),
        ({"table": True, "length": 10}, "leave length at 1000"),
        ({"seed": -1}, "negative"),
        ({"step": 0.0}, "above 0"),
    ],
)
def test_wrong_knobs(knobs, message):
    with pytest.raises(ConfigError, match=message):
        registry.configure("probe", "nss", knobs)
