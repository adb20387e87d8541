"""The starts of S4 and S4D: HiPPO matrices by their definitions, and in the eigenbasis."""

from __future__ import annotations

import math

import pytest
import torch

from ssm_core.hippo import diagonal_start, dplr_start, hippo_system


@pytest.mark.parametrize("kind", ["legs", "legt", "fout"])
def test_starts_are_the_hippo_matrices_in_their_eigenbasis(kind: str) -> None:
    a, b, p = hippo_system(kind, 16)
    normal = a + p.T @ p
    off = normal + normal.T
    torch.testing.assert_close(off, off[0, 0] * torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-12)
    lambda_n, p_n, b_n = dplr_start(kind, 16)
    assert (lambda_n.imag <= 0).all()
    # Invariants of the change of basis: A B, A A B, ... seen through B and P.
    half = torch.cat([lambda_n, lambda_n.conj()])
    p_full, b_full = (torch.cat([x, x.conj()], -1) for x in (p_n, b_n))
    back = torch.diag(half) - p_full.mT @ p_full.conj()
    x, x_full = b, b_full
    for _ in range(5):
        torch.testing.assert_close((b_full.conj() @ x_full).real, b @ x, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close((p_full.conj() @ x_full).real, p @ x, rtol=1e-9, atol=1e-9)
        x, x_full = a @ x / 10, back @ x_full / 10


def test_hippo_matrices_entry_by_entry() -> None:
    a, b, _ = hippo_system("legt", 4)
    for n in range(4):
        for k in range(4):
            sign = (-1) ** (n - k) if n < k else 1
            assert a[n, k].item() == pytest.approx(-0.5 * math.sqrt((2 * n + 1) * (2 * k + 1)) * sign)
    assert b.tolist() == pytest.approx([0.5 * math.sqrt(2 * n + 1) for n in range(4)])
    a, b, _ = hippo_system("fout", 4)
    root, pi = 2**0.5, math.pi
    assert b.tolist() == pytest.approx([1, 0, root, 0])
    expected = [[-1, 0, -root, 0], [0, 0, 0, 0], [-root, 0, -2, -pi], [0, 0, pi, 0]]
    torch.testing.assert_close(a, torch.tensor(expected, dtype=torch.float64))


def test_eigenvalues_start_at_the_papers_values() -> None:
    """First, second and last of N = 64."""
    for kind, expected in {
        "lin": (0, 3.1416, 97.389),
        "inv": (1283.4, 414.2, 0.3232),
        "real": (0, 0, 0),
    }.items():
        a, b = diagonal_start(kind, 64)
        assert (-a.imag[[0, 1, -1]]).tolist() == pytest.approx(expected, rel=1e-3)
        assert (b == 1).all()
        assert a.real.tolist() == ([-0.5] * 32 if kind != "real" else [-float(n) for n in range(1, 33)])
    a, b = diagonal_start("legs", 64)
    assert (-a.imag[[0, 1, -1]]).tolist() == pytest.approx((1303.3, 433.0, 0.264), rel=2e-3)
    assert b.abs().max().item() == pytest.approx(40.75, rel=1e-3)
