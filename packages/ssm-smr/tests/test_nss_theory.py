"""What the page on non-stable states claims, on random systems."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssm_core.recurrence import Recurrence
from ssm_smr.nss.lyapunov import Lyapunov, spectral_radius, threshold
from ssm_smr.nss.measure import Measured, measure

MARGIN = 1e-9
SEEDS = st.integers(0, 2**31)


def transition(seed: int, n: int, radius: float, *, dense: bool) -> torch.Tensor:
    """Draw diagonal entries (N,), or a matrix (1, N, N) far from normal, whose spectral radius is given."""
    rng = torch.Generator().manual_seed(seed)
    if not dense:
        a = torch.randn(n, generator=rng, dtype=torch.complex128)
        return a * radius / a.abs().max()
    a = torch.randn(1, n, n, generator=rng, dtype=torch.float64).triu(1) * 2
    a += torch.diag_embed(torch.randn(1, n, generator=rng, dtype=torch.float64))
    return a * radius / spectral_radius(a, dense=True)


def drive(seed: int, length: int, n: int, a: torch.Tensor, *, dense: bool, greedy: bool) -> torch.Tensor:
    """Draw d (L, N) of norm up to 1; greedy ones have norm 1 and push the error on in its own direction."""
    rng = torch.Generator().manual_seed(seed + 1)
    kind = torch.float64 if dense else torch.complex128
    d = torch.randn(length, n, generator=rng, dtype=kind)
    d = d / d.norm(dim=1, keepdim=True)
    if not greedy:
        return d * torch.rand(length, 1, generator=rng, dtype=torch.float64)
    e = d[0]
    for k in range(1, length):
        e = a[0] @ e if dense else a * e
        d[k] = e / e.norm().clamp(min=1e-300)
        e = e + d[k]
    return d


def pair(a: torch.Tensor, d: torch.Tensor, *, dense: bool) -> Measured:
    """Measure the error that d alone makes."""
    d = d[None, :, None] if dense else d[None]
    return measure(Recurrence(a, torch.zeros_like(d), dense), Recurrence(a, d, dense))


def growth_bound(lyapunov: Lyapunov, e: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Return the bound of V_k - V_{k-1} for |e_{k-1}| and |d_k|: -|e|^2 + 2 |A* P| |e| |d| + |P| |d|^2."""
    most, _, coupling = lyapunov.spread()
    return -e.square() + 2 * coupling.max() * e * d + most.max() * d.square()


def older_than(recurrence: Recurrence, e: torch.Tensor, tau: int) -> torch.Tensor:
    """Return what the error (L, N) owes to inputs tau or more elements ago, A^tau e_{k-tau} (L, N); A diagonal, fixed.

    That is the whole sum of A^j d_{k-j} less its first tau terms.
    """
    late = recurrence.a.to(e.dtype) ** tau * e[: max(len(e) - tau, 0)]
    return torch.cat([torch.zeros_like(e[: len(e) - len(late)]), late])


@given(SEEDS, st.integers(1, 5), st.floats(0.05, 0.98), st.booleans(), st.booleans())
def test_below_a_radius_of_1_the_error_stays_within_every_bound(seed, n, radius, dense, greedy):
    a = transition(seed, n, radius, dense=dense)
    found = pair(a, drive(seed, 120, n, a, dense=dense, greedy=greedy), dense=dense)
    bounds = {name: bound for name, bound in found.bounds().items() if bound is not None}
    assert ("bound_diagonal" in bounds) is not dense
    assert len(bounds) == 2 + (not dense)
    for bound in bounds.values():
        assert float(found.error.max()) <= bound * (1 + MARGIN)
    assert float(found.energy.max()) <= found.lyapunov.level(float(found.drive.max())) * (1 + MARGIN)


@given(SEEDS, st.integers(1, 5), st.floats(0.05, 0.98), st.booleans(), st.booleans())
def test_v_grows_no_faster_than_the_quadratic_form(seed, n, radius, dense, greedy):
    a = transition(seed, n, radius, dense=dense)
    found = pair(a, drive(seed, 60, n, a, dense=dense, greedy=greedy), dense=dense)
    growth = found.energy[1:] - found.energy[:-1]
    allowed = growth_bound(found.lyapunov, found.error[:-1], found.drive[1:])
    scale = found.energy.max() + found.drive.max()
    assert bool((growth <= allowed + MARGIN * scale).all())


@given(SEEDS, st.integers(1, 5), st.floats(0.05, 0.98), st.booleans(), st.floats(0.0, 0.999))
def test_v_falls_wherever_the_drive_is_below_kappa_times_the_error(seed, n, radius, dense, share):
    a = transition(seed, n, radius, dense=dense)
    lyapunov = Lyapunov.of(a, dense=dense)
    rng = torch.Generator().manual_seed(seed + 2)
    kind = torch.float64 if dense else torch.complex128
    e, d = torch.randn(2, 50, n, generator=rng, dtype=kind)
    d = d / d.norm(dim=1, keepdim=True) * e.norm(dim=1, keepdim=True) * lyapunov.kappa() * share
    after = (e @ a[0].mT if dense else a * e) + d
    energies = [lyapunov.energy(x[:, None] if dense else x) for x in (e, after)]
    assert bool((energies[1] < energies[0]).all())


@given(SEEDS, st.integers(1, 6), st.floats(0.05, 0.995), st.booleans())
def test_p_solves_the_lyapunov_equation(seed, n, radius, dense):
    a = transition(seed, n, radius, dense=dense)
    p = Lyapunov.of(a, dense=dense).p
    left = a.mT @ p @ a - p if dense else (a.abs().square() - 1) * p
    right = -torch.eye(n, dtype=torch.float64)[None] if dense else -torch.ones(n, dtype=torch.float64)
    assert float((left - right).abs().max()) <= 1e-10 * float(p.abs().max())


@pytest.mark.parametrize(("modulus", "size"), [(0.0, 3.0), (0.5, 0.1), (0.995, 7.0)])
def test_one_mode_meets_its_bound(modulus, size):
    """The bound of a diagonal system cannot be improved: a steady push in the error's own direction reaches it."""
    push = size * torch.ones(4000, 1, dtype=torch.float64)
    found = pair(torch.tensor([modulus], dtype=torch.float64), push, dense=False)
    expected = size / (1 - modulus)
    assert float(found.error.max()) == pytest.approx(expected, rel=1e-6)
    assert all(bound == pytest.approx(expected) for bound in found.bounds().values())
    assert found.lyapunov.kappa() == pytest.approx(1 - modulus)


def test_without_the_root_of_the_condition_the_bound_is_none():
    """A chain of 100 states that hand on what they hold, the last step magnified tenfold: far from normal."""
    n, gain = 100, 10.0
    a = torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)
    a[0, 1] = gain
    d = torch.zeros(n, n, dtype=torch.float64)
    for k in range(n):
        d[k, n - 1 - k] = 1.0  # all of it meets in state 0 at the last step
    found = pair(a[None], d, dense=True)
    assert float(found.error.max()) == pytest.approx(1 + gain * (n - 1))
    assert float(found.error.max()) > 2 * float(found.drive.max()) / found.lyapunov.kappa()
    assert float(found.error.max()) <= found.bounds()["bound_lyapunov"]


@given(SEEDS, st.integers(1, 4), st.floats(0.1, 0.99), st.integers(1, 30))
def test_what_is_left_of_the_sum_after_tau_terms(seed, n, radius, tau):
    a = transition(seed, n, radius, dense=False)
    d = drive(seed, 60, n, a, dense=False, greedy=True)
    run = Recurrence(a, d[None])
    left = older_than(run, run.states()[0], tau)
    k = 59
    first = sum(a**j * d[k - j] for j in range(min(tau, k + 1)))
    torch.testing.assert_close(left[k], run.states()[0, k] - first, rtol=1e-9, atol=1e-9)
    assert float(left.norm(dim=1).max()) <= radius**tau / (1 - radius) * (1 + MARGIN)


@pytest.mark.parametrize("dense", [False, True])
def test_from_a_radius_of_1_on_there_is_no_bound(dense):
    for radius in (1.0, 1.3):
        a = torch.full((1, 1, 1) if dense else (1,), radius, dtype=torch.float64)
        found = pair(a, torch.ones(50, 1, dtype=torch.float64), dense=dense)
        assert found.lyapunov is None
        assert set(found.bounds().values()) == {None}
        assert found.figures()["bound_used"] is None
        assert found.figures()["kappa"] is None
        assert float(found.error[-1]) >= 50


@given(SEEDS, st.integers(1, 4), st.floats(0.1, 0.95))
def test_a_transition_that_changes_is_bounded_by_its_largest_values(seed, n, most):
    rng = torch.Generator().manual_seed(seed)
    a = most * torch.rand(1, 80, n, generator=rng, dtype=torch.float64)
    x, moved = torch.randn(2, 1, 80, n, generator=rng, dtype=torch.float64)
    found = measure(Recurrence(a, x), Recurrence(a.flip(1), moved))
    assert found.varies
    assert found.radius == pytest.approx(float(a.max()))
    for bound in found.bounds().values():
        assert float(found.error.max()) <= bound * (1 + MARGIN)
    allowed = growth_bound(found.lyapunov, found.error[:-1], found.drive[1:])
    assert bool((found.energy.diff() <= allowed + MARGIN * found.energy.max()).all())


def test_kappa_is_the_root_of_the_quadratic_form():
    coupling, most = torch.tensor(30.0).double(), torch.tensor(700.0).double()
    kappa = threshold(coupling, most)
    assert float(-1 + 2 * coupling * kappa + most * kappa**2) == pytest.approx(0, abs=1e-12)
    assert float(kappa) == pytest.approx((-30 + math.sqrt(900 + 700)) / 700)


@pytest.mark.parametrize("changes", [(False, True), (True, False), (True, True)])
def test_a_run_with_gaps_beside_one_without(changes):
    rng = torch.Generator().manual_seed(3)
    fixed = torch.tensor([0.9, -0.5], dtype=torch.float64)
    a = [torch.rand(1, 6, 2, generator=rng, dtype=torch.float64) if change else fixed for change in changes]
    d = torch.randn(2, 1, 6, 2, generator=rng, dtype=torch.float64)
    runs = [Recurrence(a_i, d_i) for a_i, d_i in zip(a, d, strict=True)]
    expected = (runs[1].states() - runs[0].states())[0].norm(dim=1)
    found = measure(*runs)
    torch.testing.assert_close(found.error, expected)
    assert found.varies is changes[0]


def test_a_fixed_transition_of_each_row_is_measured_for_each_row():
    """Two rows whose gaps are constant but different: A is given per element, and is the same at each of one row."""
    rng = torch.Generator().manual_seed(5)
    a, d = torch.tensor([0.9, -0.5], dtype=torch.float64), torch.randn(2, 1, 40, 2, generator=rng).double()
    known = None
    for gap in (1.0, 0.25):
        powers = (a.abs() ** gap).expand(1, 40, 2)
        known = measure(Recurrence(powers, d[0]), Recurrence(powers, d[1]), known)
        assert not known.varies
        assert known.radius == pytest.approx(0.9**gap)
        assert sorted(known.eigenvalues.real.tolist()) == pytest.approx([0.5**gap, 0.9**gap])
        assert known.lyapunov.kappa() == pytest.approx(1 - 0.9**gap)
        assert known.bounds()["bound_diagonal"] == pytest.approx(float(known.drive.max()) / (1 - 0.9**gap))


@pytest.mark.parametrize("length", [1, 2, 5])
def test_where_nothing_moves_nothing_is_triggered(length):
    found = pair(torch.tensor([0.9]).double(), torch.zeros(length, 1).double(), dense=False)
    assert found.triggered() == (None if length == 1 else 0.0)
    pushed = pair(torch.tensor([0.9]).double(), torch.ones(5, 1).double(), dense=False)
    assert pushed.triggered() == 1.0, "|d| = 1 is above (1 - 0.9) |e|, for |e| is below 10"
