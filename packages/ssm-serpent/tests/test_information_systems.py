"""Proposition 1 as a property: its bound and its identities hold for any system with Re a <= 0."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ssm_serpent.information.measure import probe
from ssm_serpent.information.spec import InformationConfig
from ssm_serpent.information.statistics import pearson, ranks, slope, spearman
from ssm_serpent.information.systems import (
    DEFINITIONS,
    Systems,
    bound,
    direction,
    phi,
    states,
    with_interval,
    without,
)

ROUNDING = 1e-13
"""A sum of at most a dozen float64 terms, as a share of the largest."""


@st.composite
def cases(draw):
    """Return one system with a sequence, and which element will be left out."""
    size, length = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    is_complex = draw(st.booleans())

    def numbers(low: float, high: float, count: int) -> torch.Tensor:
        values = st.lists(st.floats(low, high, width=32), min_size=count, max_size=count)
        return torch.tensor(draw(values), dtype=torch.float64)

    a = numbers(-5, 0, size)
    b = numbers(-3, 3, size * length).view(length, size)
    if is_complex:
        a = torch.complex(a, numbers(-20, 20, size))
        b = torch.complex(b, numbers(-3, 3, size * length).view(length, size))
    intervals = numbers(0, 2, length)
    return Systems(a[None], b[None], intervals[None]), draw(st.integers(0, length - 1))


# torch's first call in a process may take seconds.
unhurried = settings(deadline=None)

interval = st.floats(-5, 0).map(lambda power: 10**power)
definitions = st.sampled_from(DEFINITIONS)


def on(device: str, systems: Systems) -> Systems:
    return Systems(*(part.to(device) for part in systems))


def both_ends(systems: Systems, n: int, definition):
    return states(systems)[:, -1], states(without(systems, n, definition))[:, -1]


@unhurried
@given(cases(), interval, definitions)
def test_20_the_ratio_keeps_to_its_bound(device, case, d_n, definition):
    systems, n = case
    systems = with_interval(on(device, systems), n, d_n)
    whole, lacking = both_ends(systems, n, definition)
    linear = d_n * direction(systems, n, definition).norm(dim=1)
    largest = states(systems).abs().max()
    assume(linear > 1e-9 * (1 + largest))  # no linear term, or one below rounding: nothing is claimed
    error = ((whole - lacking).norm(dim=1) - linear).abs()
    assert error <= bound(systems, d_n) * linear + ROUNDING * (1 + largest)


@unhurried
@given(cases(), interval, definitions)
def test_20_the_difference_is_exactly_what_the_identity_says(device, case, d_n, definition):
    systems, n = case
    systems = with_interval(on(device, systems), n, d_n)
    whole, lacking = both_ends(systems, n, definition)
    expected = d_n * phi(d_n * systems.a_sn) * direction(systems, n, definition)
    largest = 1 + float(states(systems).abs().max()) + float(expected.abs().max())
    torch.testing.assert_close(whole - lacking, expected, rtol=0, atol=ROUNDING * largest)


@unhurried
@given(cases(), definitions)
def test_the_direction_does_not_depend_on_the_interval(device, case, definition):
    systems, n = case
    systems = on(device, systems)
    first, second = (direction(with_interval(systems, n, d_n), n, definition) for d_n in (1e-4, 1.0))
    assert torch.equal(first, second)


@unhurried
@given(cases(), interval)
def test_the_gap_in_the_proof(device, case, d_n):
    """The terms before n cancel if it is masked only; removed, they differ by the factor e^(D_n A)."""
    systems, n = case
    a, b, spans = with_interval(on(device, systems), n, d_n)
    before = Systems(a, torch.where(torch.arange(b.shape[1], device=device)[:, None] < n, b, 0), spans)
    whole, masked = both_ends(before, n, "masked")
    assert torch.equal(whole, masked)
    _, removed = both_ends(before, n, "removed")
    largest = 1 + states(before).abs().max().item()
    torch.testing.assert_close(torch.exp(d_n * a) * removed, whole, rtol=0, atol=ROUNDING * largest)


def test_a_growing_mode_may_break_the_bound():
    """Re a <= 0 is needed: the check above can fail."""
    systems = Systems(torch.tensor([[4.0]]).double(), torch.ones(1, 1, 1).double(), torch.ones(1, 1).double())
    whole, lacking = both_ends(systems, 0, "masked")
    linear = direction(systems, 0, "masked").norm()
    assert ((whole - lacking).norm() / linear - 1).abs() > bound(systems, 1.0).item()


def test_phi_is_smooth_at_zero():
    z = torch.tensor([0, 1e-12, 1e-6, -1e-6], dtype=torch.float64)
    torch.testing.assert_close(phi(z), 1 + z / 2 + z * z / 6, rtol=1e-15, atol=0)
    turned = phi(z * 1j)
    torch.testing.assert_close(turned, 1 + 0.5j * z - z * z / 6, rtol=1e-12, atol=0)


def test_the_probe_says_that_the_bound_holds():
    found = probe(None, None, InformationConfig(systems=20))
    assert "held" in found.text
    assert len(found.rows) == 16
    for row in found.rows:
        assert row["systems"] > 10
        assert 0 < row["share of the bound"] < 1.0001
    assert all(value == pytest.approx(1, abs=1e-2) for value in found.figures.values())
    assert [len(chart.curves) for chart in found.charts] == [5, 5]
    one = probe(None, None, InformationConfig(systems=2, eigenvalues="real", length=1, state_size=1))
    assert len(one.rows) == 8


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=12))
def test_equals_share_their_rank(values):
    x = torch.tensor(values, dtype=torch.float64)
    order = sorted(values)
    expected = [order.index(value) + (order.count(value) + 1) / 2 for value in values]
    assert ranks(x).tolist() == expected


def test_slopes_and_correlations_of_known_values():
    x = torch.tensor([1.0, 2, 4, 8]).double()
    assert slope(x, 3 * x**1.5) == pytest.approx(1.5)
    assert slope(x, torch.tensor([0.0, 1, 2, 4]).double()) == pytest.approx(1)
    assert spearman(x, x.exp()) == pytest.approx(1)
    assert spearman(x, -x.exp()) == pytest.approx(-1)
    assert pearson(x, -2 * x + 1) == pytest.approx(-1)
    assert pearson(x, torch.tensor([1.0, 0, 0, 1]).double()) == pytest.approx(1.5 / 28.75**0.5)
    assert math.isnan(pearson(x, torch.ones(4).double()))
    assert math.isnan(slope(torch.ones(4).double(), x))
