"""The start of S5 and its kin, against the matrices of the HiPPO and S4 papers built here by their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from ssm_core.hippo import block_diagonal_start, hippo_eigenbasis, hippo_normal


def legs(n: int) -> torch.Tensor:
    """HiPPO-LegS, entry by entry."""
    a = torch.zeros(n, n, dtype=torch.float64)
    for row in range(n):
        for column in range(row):
            a[row, column] = -math.sqrt((2 * row + 1) * (2 * column + 1))
        a[row, row] = -(row + 1)
    return a


@pytest.mark.parametrize("n", [1, 2, 3, 8, 16])
def test_the_normal_part_plus_rank_one_is_legs(n: int) -> None:
    p = torch.tensor([math.sqrt(k + 0.5) for k in range(n)], dtype=torch.float64)
    torch.testing.assert_close(hippo_normal(n) - torch.outer(p, p), legs(n), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("n", [2, 4, 16, 64])
def test_the_normal_part_is_minus_a_half_plus_skew(n: int) -> None:
    s = hippo_normal(n) + 0.5 * torch.eye(n, dtype=torch.float64)
    torch.testing.assert_close(s, -s.T, rtol=0, atol=1e-11)


@pytest.mark.parametrize("n", [2, 4, 16, 64])
def test_the_eigenbasis_brings_the_matrix_back(n: int) -> None:
    eigenvalues, v = hippo_eigenbasis(n)
    back = 2 * (v @ torch.diag(eigenvalues) @ v.mH).real
    torch.testing.assert_close(back, hippo_normal(n), rtol=0, atol=1e-10 * n)
    torch.testing.assert_close(v.mH @ v, torch.eye(n // 2, dtype=v.dtype), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [2, 4, 16, 64])
def test_eigenvalues_are_those_of_a_general_solver(n: int) -> None:
    eigenvalues, _ = hippo_eigenbasis(n)
    general = torch.linalg.eigvals(hippo_normal(n))
    general = general[general.imag < 0]
    expected = general[general.imag.argsort()]
    torch.testing.assert_close(eigenvalues, expected, rtol=1e-10, atol=1e-10)
    assert (eigenvalues.real == -0.5).all()


def test_two_states_give_one_pair() -> None:
    eigenvalues, _ = hippo_eigenbasis(2)
    assert eigenvalues.item() == pytest.approx(-0.5 - 0.8660254037844386j, abs=1e-14)


@pytest.mark.parametrize(("n", "largest"), [(64, 1303.27), (256, 20860.2)])
def test_the_fastest_mode(n: int, largest: float) -> None:
    eigenvalues, _ = hippo_eigenbasis(n)
    assert eigenvalues.imag.abs().max().item() == pytest.approx(largest, rel=1e-5)


@pytest.mark.parametrize("n", [2, 8, 64])
def test_the_phase_of_eigenvectors_is_fixed(n: int) -> None:
    _, v = hippo_eigenbasis(n)
    assert (v[0].real > 0).all()
    torch.testing.assert_close(v[0].imag, torch.zeros(n // 2, dtype=torch.float64), rtol=0, atol=1e-14)


def test_blocks_stand_on_the_diagonal() -> None:
    eigenvalues, v = block_diagonal_start(16, 8)
    assert eigenvalues.tolist() == pytest.approx([-0.5 - 0.8660254037844386j] * 8)
    assert v.shape == (16, 8)
    one = hippo_eigenbasis(2)[1]
    for block in range(8):
        assert torch.equal(v[2 * block : 2 * block + 2, block : block + 1], one)
    assert v.count_nonzero() == 16
