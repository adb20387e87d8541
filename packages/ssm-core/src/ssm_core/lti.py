"""Diagonal systems that do not change with time: their convolution, and the state before and after it.

In every channel x_k = exp(log_a) x_{k-1} + b u_k, y_k = 2 Re(c x_k) + D u_k, or y_k = c x_k + D u_k without conjugates.
The convolution is by FFT and its kernel by `ssm_core.ops.vandermonde`; what a carried state adds, and the state at the
end, are sums over the powers of exp(log_a), split into two factors of about sqrt(L) each, so that nothing of size
(B, L, H, N) or (H, L, N) is formed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssm_core.ops import fft_conv, vandermonde
from ssm_core.protocols import Side, State
from ssm_core.ragged import flip_valid, valid


def diagonal_lti(
    u_blh: Tensor,
    log_a: Tensor,
    b: Tensor,
    c: Tensor,
    D: Tensor | None = None,
    state: Tensor | None = None,
    *,
    lengths_b: Tensor | None = None,
    conj: bool = True,
) -> tuple[Tensor, Tensor]:
    """Run a diagonal system with constant coefficients over a sequence.

    Phases k Im(log_a) grow with the length: pass log_a in complex128 where they matter. It does not decide the
    precision of what is returned, which u, b and c do.

    Args:
        u_blh: Inputs (B, L, H), real, zero behind each row's end.
        log_a: Logarithm of the decay of one step (H, N), complex or real, finite.
        b: Input weights of the discretised system (H, N).
        c: Output weights (H, N).
        D: Skip weights (H,), or None.
        state: x before the first step (B, H, N), or None for zero.
        lengths_b: Number of elements that count (B,); None if all do.
        conj: The N states stand for conjugate pairs.

    Returns:
        y (B, L, H), and x after each row's last element that counts (B, H, N).
    """
    length = u_blh.shape[1]
    kernel = vandermonde(c * b, log_a, length, conj=conj)
    y_blh = fft_conv(u_blh, kernel.real, D)
    if state is not None:
        y_blh = y_blh + echo(state, log_a, c, length, conj=conj).to(y_blh.dtype)
    return y_blh, last_state(u_blh, log_a, b, state, lengths_b)


def two_sided(
    u_blh: Tensor,
    k: Tensor,
    k_back: Tensor,
    D: Tensor | None = None,
    *,
    u_back_blh: Tensor | None = None,
    start: str = "next",
) -> Tensor:
    """Convolve with one kernel forwards and another backwards: sum_j k_j u_{t-j} + sum_j k_back_j v_{t+s+j} + D u_t.

    Args:
        u_blh: Inputs u (B, L, H), zero behind each row's end.
        k: Kernel of the past (H, K).
        k_back: Kernel of the future (H, K2), K2 >= 1.
        D: Skip weights (H,), or None.
        u_back_blh: Inputs v of the second direction (B, L, H) if they are to differ.
        start: Where the second direction begins: "next" is s = 1, as S4's code has it, "same" is s = 0.

    Returns:
        y (B, L, H).
    """
    here, ahead = torch.zeros_like(k_back[:, :1]), k_back
    if start == "same":
        here, ahead = k_back[:, :1], k_back[:, 1:]
    if u_back_blh is not None:
        return fft_conv(u_blh, k, D) + fft_conv(u_back_blh, here, k_reverse=ahead)
    return fft_conv(u_blh, k + F.pad(here, (0, k.shape[1] - 1)), D, k_reverse=ahead)


def echo(state: Tensor, log_a: Tensor, c: Tensor, length: int, *, conj: bool = True) -> Tensor:
    """Return what a state (B, H, N) adds to the outputs that follow it (B, L, H): c exp((k + 1) log_a) x_{-1}."""
    kind = _kind(log_a, state, c)
    coarse, fine = (power.to(kind) for power in _powers(log_a, length, first=1))
    held = torch.einsum("bhn,hqn->bqhn", (state * c).to(kind), coarse)
    y = torch.einsum("bqhn,hrn->bqrh", held, fine).flatten(1, 2)[:, :length].real
    return 2 * y if conj else y


def last_state(
    u_blh: Tensor, log_a: Tensor, b: Tensor, state: Tensor | None = None, lengths_b: Tensor | None = None
) -> Tensor:
    """Return x after each row's last element that counts (B, H, N): sum_j exp(j log_a) b u_{last - j}, and the start's.

    Shapes as in :func:`diagonal_lti`.
    """
    batch, length, width = u_blh.shape
    kind = _kind(log_a, u_blh, b)
    if length == 0:
        return torch.zeros(batch, *b.shape, dtype=kind, device=b.device) if state is None else state
    coarse, fine = (power.to(kind) for power in _powers(log_a, length))
    rows, columns = coarse.shape[1], fine.shape[1]
    backwards = F.pad(flip_valid(u_blh, lengths_b), (0, 0, 0, rows * columns - length))
    folded = backwards.view(batch, rows, columns, width)
    inner = _real_times(folded, fine)
    x = b * torch.einsum("bqhn,hqn->bhn", inner, coarse)
    if state is None:
        return x
    steps = torch.full((batch,), length, device=b.device) if lengths_b is None else lengths_b
    decay = torch.exp(steps[:, None, None] * _wide(log_a))
    return x + decay.to(kind) * state


def equal_steps(gaps_bl: Tensor | None, lengths_b: Tensor | None) -> bool:
    """Whether all gaps are 1, so that a convolution does.

    Padding at the ends of rows leaves them so, and for that the gaps are looked at. They are not where a gradient is
    asked of them, nor in a compiled graph, whose form may not depend on values: there the scan runs.
    """
    if gaps_bl is None:
        return True
    if gaps_bl.requires_grad or gaps_bl.is_meta or torch.compiler.is_compiling():
        return False
    counts = gaps_bl == 1
    return bool((counts if lengths_b is None else counts | ~valid(gaps_bl, lengths_b)).all())


def refuse(
    name: str,
    causal: bool,
    side: Side | None,
    state: State | None,
    x_reverse: Tensor | None,
    dt: Tensor | None = None,
) -> None:
    """Refuse what a linear state-space layer in one of its forms cannot honour.

    Args:
        name: The layer's name, for messages.
        causal: Its form.
        side: Side inputs given.
        state: State given.
        x_reverse: Second input given.
        dt: Gaps given, for a layer that takes none.

    Raises:
        ValueError: In words.
    """
    if side:
        raise ValueError(
            f"{name} uses no side inputs, but got {sorted(side)}: its A, B, C and steps do not depend on the input"
        )
    if dt is not None:
        raise ValueError(f"{name} takes no gaps (dt_bl): --set task.time=ignored or appended")
    if causal and x_reverse is not None:
        raise ValueError(f"x_reverse_bld needs a bidirectional {name}: build the model with causal=False")
    if not causal and state:
        raise ValueError(
            f"a bidirectional {name} carries no state: build the model with causal=True to stream"
        )


def _kind(log_a: Tensor, *operands: Tensor) -> torch.dtype:
    """The precision of the operands, complex if log_a is."""
    kind = operands[0].dtype
    for operand in operands[1:]:
        kind = torch.promote_types(kind, operand.dtype)
    return torch.promote_types(kind, torch.complex64) if log_a.is_complex() else kind


def _real_times(folded: Tensor, fine: Tensor) -> Tensor:
    """sum_r u[b, q, r, h] fine[h, r, n] for real u and complex or real powers."""
    if not fine.is_complex():
        return torch.einsum("bqrh,hrn->bqhn", folded.to(fine.dtype), fine)
    parts = torch.view_as_real(fine.resolve_conj()).flatten(2)
    product = torch.einsum("bqrh,hrm->bqhm", folded.to(parts.dtype), parts)
    return torch.view_as_complex(product.unflatten(-1, (fine.shape[2], 2)).contiguous())


def _powers(log_a: Tensor, length: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Return exp(q R log_a) (H, Q, N) and exp((r + first) log_a) (H, R, N) with Q R >= length, in double precision."""
    columns = 1  # a power of two, so that graphs compiled for one length serve others
    while columns * columns < length:
        columns *= 2
    rows = -(-length // columns)
    wide = _wide(log_a)
    coarse = torch.arange(rows, device=log_a.device, dtype=torch.float64)[:, None]
    fine = torch.arange(first, columns + first, device=log_a.device, dtype=torch.float64)[:, None]
    return torch.exp(columns * coarse * wide[:, None]), torch.exp(fine * wide[:, None])


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)
