"""HiPPO matrices, their eigenbases, and the starts of S4, S4D and S5 made from them, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hippo_normal(n: int) -> Tensor:
    """Return the normal part of HiPPO-LegS, -1/2 I plus a skew-symmetric matrix (N, N).

    A_legs[n, k] = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it; adding P P^T with P[n] = sqrt(n + 1/2) makes it
    normal (S4 paper, appendix; HiPPO-N of the S5 paper, section 4.3).
    """
    root = torch.sqrt(2 * torch.arange(n, dtype=torch.float64) + 1)
    legs = -torch.tril(torch.outer(root, root), -1) - torch.diag(
        torch.arange(1.0, n + 1, dtype=torch.float64)
    )
    p = root / 2**0.5
    return legs + torch.outer(p, p)


def hippo_eigenbasis(n: int) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of :func:`hippo_normal`, one of each conjugate pair.

    The eigenvalues are -1/2 + i w with w < 0, sorted by w. Each eigenvector's phase is fixed by making its first entry
    real and positive, so that starts do not depend on the linear algebra library.

    Returns:
        Lambda (N/2,) complex128 and V (N, N/2) complex128 with unit columns.
    """
    normal = hippo_normal(n)
    skew = (normal - normal.T) / 2
    w, v = torch.linalg.eigh(-1j * skew.to(torch.complex128))
    w, v = w[: n // 2], v[:, : n // 2]
    v = v * (v[:1].abs() / v[:1])
    return torch.complex(torch.full_like(w, -0.5), w), v


def block_diagonal_start(state_size: int, blocks: int) -> tuple[Tensor, Tensor]:
    """Return the start of S5: J copies of HiPPO-N of size P / J on the diagonal.

    Returns:
        Lambda (P/2,) and V (P, P/2), block-diagonal, complex128.
    """
    lambda_n, v = hippo_eigenbasis(state_size // blocks)
    return lambda_n.repeat(blocks), torch.block_diag(*[v] * blocks)


def hippo_system(kind: str, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a HiPPO system x' = A x + B u, and what makes A normal (S4 paper, appendix B.1 and C.1).

    Args:
        kind: ``"legs"`` (scaled Legendre), ``"legt"`` (translated Legendre) or ``"fout"`` (truncated Fourier).
        n: States N, even.

    Returns:
        A (N, N), B (N,) and P (R, N), so that A + sum_r P_r P_r^T is a multiple of the identity plus a skew-symmetric
        matrix; R is 2 for ``"legt"``, else 1.
    """
    index = torch.arange(n, dtype=torch.float64)
    root = torch.sqrt(2 * index + 1)
    if kind == "legs":
        p = torch.sqrt(index + 0.5)
        return hippo_normal(n) - torch.outer(p, p), root, p[None]
    if kind == "legt":
        sign = (-1.0) ** (index[:, None] - index)
        a = -0.5 * torch.outer(root, root) * torch.where(index[:, None] < index, sign, 1.0)
        odd = index % 2
        return a, 0.5 * root, torch.stack([(1 - odd) * root, odd * root]) / 2**0.5
    b = 2**0.5 * (1 - index % 2)
    b[0] = 1.0
    turn = math.pi * (index // 2 * (1 - index % 2))[:-1]
    return torch.diag(turn, -1) - torch.diag(turn, 1) - torch.outer(b, b), b, b[None]


def dplr_start(kind: str, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a HiPPO system in the eigenbasis of its normal part, A = V (Lambda - sum_r P_r P_r^*) V^*.

    One of each conjugate pair is kept, that with Im Lambda <= 0. The phases of the eigenvectors are fixed, so that
    starts do not depend on the linear algebra library: the first entry, or where that is zero the first that is not,
    is real and positive.

    Args:
        kind: As in :func:`hippo_system`.
        n: States N, even.

    Returns:
        Lambda (N/2,), P = V^* P (R, N/2) and B = V^* B (N/2,), complex128.
    """
    a, b, p = hippo_system(kind, n)
    if kind == "fout":
        # States 2k and 2k + 1 turn round each other. The pair k = 0 stands still: its eigenvectors are chosen here.
        w = -math.pi * torch.arange(n // 2, dtype=torch.float64).flip(0)
        lambda_n, v = torch.complex(torch.zeros_like(w), w), torch.zeros(n, n // 2, dtype=torch.complex128)
        column = torch.arange(n // 2)
        v[n - 2 - 2 * column, column], v[n - 1 - 2 * column, column] = 0.5**0.5, 1j * 0.5**0.5
    elif kind == "legs":
        lambda_n, v = hippo_eigenbasis(n)
    else:
        normal = a + p.T @ p
        w, v = torch.linalg.eigh(-1j * ((normal - normal.T) / 2).to(torch.complex128))
        w, v = w[: n // 2], v[:, : n // 2]
        v = v * (v[:1].abs() / v[:1])
        lambda_n = torch.complex(normal.diagonal().mean().expand_as(w), w)
    return lambda_n, p.to(v.dtype) @ v.conj(), v.mH @ b.to(v.dtype)


def diagonal_start(kind: str, n: int) -> tuple[Tensor, Tensor]:
    """Return a start of S4D (S4D paper, section 4): one eigenvalue of each conjugate pair, with Im <= 0, and B.

    Args:
        kind: ``"legs"`` (HiPPO-LegS without its low-rank term), ``"inv"`` (S4D-Inv, eq. 9), ``"lin"`` (S4D-Lin, eq. 10)
            or ``"real"`` (S4D-Real: -1, ..., -N/2, imaginary parts zero).
        n: States N, even.

    Returns:
        Lambda (N/2,) and B (N/2,), complex128; B is the HiPPO system's for ``"legs"``, else ones.
    """
    if kind == "legs":
        lambda_n, _, b = dplr_start("legs", n)
        return lambda_n, b
    index = torch.arange(n // 2, dtype=torch.float64)
    real, w = torch.full_like(index, -0.5), torch.zeros_like(index)
    if kind == "lin":
        w = math.pi * index
    elif kind == "inv":
        w = n / math.pi * (n / (2 * index + 1) - 1)
    else:
        real = -(index + 1)
    return torch.complex(real, -w), torch.ones(n // 2, dtype=torch.complex128)
