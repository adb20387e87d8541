"""Systems stated by knobs, x' = A x + B u held over a step, and the gate on their input."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssm_core.discretize import zoh
from ssm_core.hippo import hippo_system
from ssm_core.recurrence import Recurrence
from ssm_smr.gate import OPEN
from ssm_smr.nss.grids import generator
from ssm_smr.nss.spec import NSSConfig
from ssm_smr.ops import smr_gate


def system(config: NSSConfig) -> tuple[Tensor, Tensor]:
    """Return the discrete system: A-bar (N,) complex and diagonal, or (N, N) real and dense, and B-bar (N,)."""
    if config.system == "modes":
        hertz = torch.tensor(config.frequencies, dtype=torch.float64)
        a = torch.complex(torch.full_like(hertz, config.real), 2 * math.pi * hertz)
        return zoh(a, torch.tensor(config.step, dtype=torch.float64))  # B is all ones
    n = config.states
    if config.system == "hippo":
        a, b = hippo_system("legs", n)[:2]
    else:
        a = torch.randn(n, n, generator=generator(config.seed, 1), dtype=torch.float64) / math.sqrt(n)
        most = torch.linalg.eigvals(a).real.max()
        a, b = a + (config.real - most) * torch.eye(n, dtype=a.dtype), torch.ones(n, dtype=a.dtype)
    return zoh_dense(a, b, config.step)


def zoh_dense(a: Tensor, b: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Hold a dense system (N, N), (N,) over a step: exp of the matrix ((A, B), (0, 0)) has both in its first rows."""
    n = len(a)
    both = torch.zeros(n + 1, n + 1, dtype=a.dtype)
    both[:n, :n], both[:n, n] = a, b
    held = torch.linalg.matrix_exp(step * both)
    return held[:n, :n], held[:n, n]


def driven(a_bar: Tensor, b_bar: Tensor, u: Tensor) -> Recurrence:
    """Return the system's recurrence on an input (L,), as one row."""
    d = u[:, None] * b_bar
    if a_bar.ndim == 2:
        return Recurrence(a_bar[None], d[None, :, None], dense=True)
    return Recurrence(a_bar, d[None])


def gated(config: NSSConfig, u: Tensor) -> Tensor:
    """Return u' (L,) of an input u (L,) behind SMR, with the weights that the config names."""
    weight = torch.zeros(1, config.tau, dtype=u.dtype)
    bias = torch.full((1,), OPEN, dtype=u.dtype)
    if config.gate == "default":
        rng, bound = generator(config.seed, 2), config.tau**-0.5
        weight = bound * (2 * torch.rand(1, config.tau, generator=rng, dtype=u.dtype) - 1)
        bias = bound * (2 * torch.rand(1, generator=rng, dtype=u.dtype) - 1)
    return smr_gate(u[None, :, None], weight, bias, gate_scale=config.gate_scale)[0][0, :, 0]
