"""The mathematics of S4: a bilinear step in O(N), and the convolution kernel by the Cauchy product.

The N/2 stored states x stand for conjugate pairs. On them the whole system acts as

    x' = Lambda x - sum_r P_r 2 Re(P_r^* x) + B u,   y = 2 Re(C x),

which is linear over the reals only. Where a matrix is needed, it is that of the N reals (Re x_0, Im x_0, Re x_1, ...).
The bilinear step is x <- W (2 x + dt B u) - x with W = (I - dt/2 A)^-1, and W is diagonal plus low rank by Woodbury's
identity (S4 paper, appendix C.3). All of it runs in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssm_core.ops import cauchy


@dataclass(frozen=True)
class System:
    """A diagonal-plus-low-rank system in each of H channels, with its step.

    Attributes:
        a: Lambda (H, N/2) complex128.
        p: P (H, R, N/2) complex128.
        b: B (H, N/2) complex128.
        dt: Steps (H,), float64.
    """

    a: Tensor
    p: Tensor
    b: Tensor
    dt: Tensor

    def woodbury(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return d (H, N/2), u and v (H, R, N/2) with W x = d x - sum_r u_r Re(v_r^* x)."""
        d = 1 / (1 - self.dt[:, None] * self.a / 2)
        dp, back = d[:, None] * self.p, d.conj()[:, None] * self.p
        inner = (self.p[:, :, None].conj() * dp[:, None]).sum(-1).real  # P_r^T d P_s
        inner = inner + torch.diag_embed((1 / self.dt)[:, None].expand(-1, self.p.shape[1]))
        v = torch.linalg.solve(inner, torch.view_as_real(back).flatten(-2))
        return d, dp, as_complex(v)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Return the discrete system over the reals, A (H, N, N) and B (H, N)."""
        n = self.a.shape[1]
        units = as_complex(torch.eye(2 * n, dtype=self.dt.dtype, device=self.dt.device))  # (N, N/2)
        d, u, v = self.woodbury()
        w = apply(d[:, None], u[:, None], v[:, None], units)  # W of each unit vector: (H, N, N/2)
        return as_real(2 * w - units).mT, self.inputs()

    def inputs(self) -> Tensor:
        """Return the discrete B over the reals, (H, N)."""
        return as_real(apply(*self.woodbury(), self.dt[:, None] * self.b))

    def kernel(self, c: Tensor, length: int) -> Tensor:
        """Return the first `length` values of the impulse response (K, H, length).

        Args:
            c: Output weights (K, H, N/2) complex128, those of a kernel cut off at `length`: (I - A^L)^T C.
            length: L.
        """
        turn = (
            -2 * torch.pi / length * torch.arange(length // 2 + 1, dtype=self.dt.dtype, device=self.dt.device)
        )
        omega = torch.complex(turn.cos(), turn.sin())
        half = (1 + omega) / 2
        left = torch.cat([c, self.p.conj().transpose(0, 1)])  # C, P_1^*, ...
        right = torch.cat([self.b[None], self.p.transpose(0, 1)])  # B, P_1, ...
        k = self._resolvent(left, right, omega)
        free, to_p = k[: len(c), 0], k[: len(c), 1:]  # (K, H, F), (K, R, H, F)
        from_b, around = half * k[len(c) :, 0], half * k[len(c) :, 1:]  # (R, H, F), (R, R, H, F)
        if len(from_b) == 1:
            solved = from_b / (1 + around[0])
        else:
            eye = torch.eye(len(from_b), dtype=around.dtype, device=around.device)
            solved = torch.linalg.solve(eye + around.permute(2, 3, 0, 1), from_b.permute(1, 2, 0)[..., None])
            solved = solved[..., 0].permute(2, 0, 1)
        return torch.fft.irfft(free - (to_p * solved).sum(1), n=length)

    def _resolvent(self, left: Tensor, right: Tensor, omega: Tensor) -> Tensor:
        """2 / (1 + omega) times left (z - Lambda)^-1 right for all pairs, z = 2/dt (1 - omega) / (1 + omega).

        In the form with finite nodes that :func:`ssm_core.ops.cauchy` gives: omega = -1 needs no care.
        """
        dt = self.dt[:, None]
        scale = 2 + dt * self.a
        poles = (2 - dt * self.a) / scale
        residues = 2 * dt * (left[:, None] * right) / scale  # (I, J, H, N/2)
        pairs = residues.shape[0] * residues.shape[1]
        k = -cauchy(residues.flatten(0, 2), omega, poles.repeat(pairs, 1))
        return k.unflatten(0, residues.shape[:3])


def apply(d: Tensor, u: Tensor, v: Tensor, x: Tensor) -> Tensor:
    """Return d x - sum_r u_r Re(v_r^* x), over the last axis: x (..., N/2), u and v (..., R, N/2)."""
    seen = (v.conj() * x[..., None, :]).sum(-1, keepdim=True).real
    return d * x - (u * seen).sum(-2)


def as_real(x: Tensor) -> Tensor:
    """(..., N/2) complex as (..., N) real."""
    return torch.view_as_real(x.resolve_conj()).flatten(-2)


def as_complex(x: Tensor) -> Tensor:
    """(..., N) real as (..., N/2) complex."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
