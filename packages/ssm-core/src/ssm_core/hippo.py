"""HiPPO matrices and their eigenbases, in float64."""

from __future__ import annotations

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
