"""Linear scan in plain torch calls, on any device.

A call costs about 20 us whatever its size, so a loop over L steps is slow where a step is small. Then time is folded
into chunks: Q steps are walked with all chunks side by side from a zero state, beside the running products of `a`;
the states at the chunk edges are walked next; and each chunk adds its products times the state it starts from.
Nothing is divided and no logarithm taken, so a may be 0, negative or complex. Where a step is large, one loop
writing in place moves the fewest bytes.
"""

import math

import torch
from torch import Tensor

from ssm_core.opkit.packing import add_at_last, after, at_first, at_last, before, over, resets

# Elements in a step from which the plain loop is bound by memory rather than by calls.
_LARGE_STEP = 4096


def forward(
    a: Tensor, b: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """h (B,L,*F) and the state (B or S,*F) after each sequence. Clean inputs of one dtype assumed."""
    if cu_seqlens is not None:
        a, b_reset = resets(a, b, initial_state, cu_seqlens, reverse)
        h, _ = _scan(a, b_reset, b.new_zeros(b.shape[:1] + b.shape[2:]), reverse)
        return h, at_last(h, initial_state, cu_seqlens, reverse)
    state = b.new_zeros(b.shape[:1] + b.shape[2:]) if initial_state is None else initial_state
    return _scan(a, b, state, reverse)


def backward(
    a: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    grad_h: Tensor,
    grad_state: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a (as a), b (B,L,*F) and the initial state: lambda_t = g_t + conj(a_{t+1}) lambda_{t+1}."""
    # conj_physical, not conj: below torch's dispatch of conjugate views, as an operator is, such views are misread.
    invariant = a.ndim == h.ndim - 2
    g = add_at_last(grad_h, grad_state, cu_seqlens, reverse)
    a_next = a if invariant else after(a, cu_seqlens, reverse)
    lam, _ = forward(torch.conj_physical(a_next), g, None, cu_seqlens, not reverse)
    grad_a = lam * torch.conj_physical(before(h, initial_state, cu_seqlens, reverse))
    a_first = a if invariant else at_first(a, cu_seqlens, reverse)
    grad_initial = torch.conj_physical(a_first) * at_first(lam, cu_seqlens, reverse)
    if cu_seqlens is not None:
        empty = over(cu_seqlens[1:] == cu_seqlens[:-1], grad_state)
        grad_initial = torch.where(empty, grad_state, grad_initial)
    elif h.shape[1] == 0:
        grad_initial = grad_state.clone()
    return grad_a.sum((0, 1)) if invariant else grad_a, lam, grad_initial


def _scan(a: Tensor, b: Tensor, state: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """(h, last state), neither an alias of an input."""
    h = torch.empty_like(b, memory_format=torch.contiguous_format)
    length = b.shape[1]
    size = math.isqrt(length) if state.numel() < _LARGE_STEP else 1
    if size < 4:
        return h, _walk(a, b, h, state, range(length), reverse)
    # The chunks take the first `whole` steps in scan order, the plain loop the few that are left.
    whole = length - length % size
    chunked = slice(length - whole, length) if reverse else slice(0, whole)
    rest = range(length - whole) if reverse else range(whole, length)
    a_chunked = a if a.ndim == b.ndim - 2 else a[:, chunked]
    state = _scan_chunks(a_chunked, b[:, chunked], h[:, chunked], state, size, reverse)
    return h, _walk(a, b, h, state, rest, reverse)


def _walk(a: Tensor, b: Tensor, h: Tensor, state: Tensor, steps: range, reverse: bool) -> Tensor:
    """Fill h at `steps`, one by one, and return the last state as a tensor of its own."""
    invariant = a.ndim == b.ndim - 2
    for t in reversed(steps) if reverse else steps:
        state = torch.addcmul(b[:, t], a if invariant else a[:, t], state, out=h[:, t])
    return state.clone()


def _scan_chunks(a: Tensor, b: Tensor, h: Tensor, state: Tensor, size: int, reverse: bool) -> Tensor:
    """Fill h (B, K size, *F) from chunks of `size` steps and return the last state."""
    invariant = a.ndim == b.ndim - 2
    chunks = b.shape[1] // size
    b, h = b.unflatten(1, (chunks, size)), h.unflatten(1, (chunks, size))
    a = a.expand((1, 1, size, *a.shape)) if invariant else a.unflatten(1, (chunks, size))
    products = torch.empty(a.shape, dtype=a.dtype, device=a.device)
    previous = None
    for q in reversed(range(size)) if reverse else range(size):
        if previous is None:
            h[:, :, q] = b[:, :, q]
            products[:, :, q] = a[:, :, q]
        else:
            torch.addcmul(b[:, :, q], a[:, :, q], h[:, :, previous], out=h[:, :, q])
            torch.mul(a[:, :, q], products[:, :, previous], out=products[:, :, q])
        previous = q
    starts = torch.empty_like(h[:, :, 0])
    for k in reversed(range(chunks)) if reverse else range(chunks):
        starts[:, k] = state
        state = torch.addcmul(h[:, k, previous], products[:, 0 if invariant else k, previous], state)
    h.addcmul_(products, starts.unsqueeze(2))
    return state
