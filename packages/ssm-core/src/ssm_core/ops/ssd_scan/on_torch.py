"""The state-space dual in matrix products over chunks of Q steps, in plain torch calls; any device.

With s_t the sum of dt A over a chunk up to step t, L_ij = exp(s_i - s_j) for i >= j (else 0), xd_j = dt_j x_j and S
the state that the chunk starts from (Dao and Gu 2024, section 6),

    y_i = sum_j (C_i . B_j) L_ij xd_j + exp(s_i) S C_i,      S' = exp(s_Q) S + sum_j exp(s_Q - s_j) xd_j B_j^T.

Only S goes from chunk to chunk. Backward computes the states again. With g the gradient of y and Z that of S',

    xd_j: sum_i (C_i . B_j) L_ij g_i + exp(s_Q - s_j) Z B_j          S: exp(s_Q) Z + sum_i exp(s_i) g_i C_i^T
    C_i: sum_j L_ij (g_i . xd_j) B_j + exp(s_i) S^T g_i       B_j: sum_i L_ij (g_i . xd_j) C_i + exp(s_Q - s_j) Z^T xd_j

and a step's dt A is in every product of decays that spans it: with W_ij = L_ij (C_i . B_j) (g_i . xd_j),

    dt_t A: sum_{j < t <= i} W_ij + sum_{i >= t} g_i . exp(s_i) S C_i + sum_{j < t} exp(s_Q - s_j) xd_j . Z B_j
            + exp(s_Q) Z . S,

sums without subtractions, exact to rounding however fast the decay. s is summed in double precision and rounded after
subtracting: in single precision, s_i - s_j would lose what a fast step leaves of the slow ones behind it.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.ops.ssd_scan._folding import Batch, Pack

# Elements of L that are worked on at a time: bounds the memory and keeps to the caches.
_SLAB = 1 << 20


class Operands(NamedTuple):
    """A forward pass in chunks.

    Attributes:
        x: (K, Q, H, P).
        xd: dt x, (K, Q, H, P).
        B: (K, Q, G, N).
        C: (K, Q, G, N).
        sums: s, (K, H, Q), float64.
        since: exp(s_i), the decay since the chunk began, (K, H, Q).
        until: exp(s_Q - s_j), the decay until it ends, (K, H, Q).
    """

    x: Tensor
    xd: Tensor
    B: Tensor
    C: Tensor
    sums: Tensor
    since: Tensor
    until: Tensor

    def part(self, chunks: slice) -> "Operands":
        """The operands of some of the chunks."""
        return Operands(*(tensor[chunks] for tensor in self))


def forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """y (B,L,H,P) and the state (B or S,H,P,N) after each sequence. Clean inputs of one precision assumed."""
    start = _start(x, B, initial_state, cu_seqlens)
    if x.shape[1] == 0:
        return torch.zeros_like(x), start.clone()
    fold = _folding(x, cu_seqlens, chunk_size)
    o = _operands(fold, x, dt, A, B, C)
    states, last = fold.carry(o.since[..., -1], _outer(_weighted(o.xd, o.until, o.B), o.xd, o.B), start)
    y = torch.empty_like(o.x, memory_format=torch.contiguous_format)
    for part in _slabs(o):
        within, from_state = _outputs(o.part(part), _scores(o.part(part)), states[part])
        torch.add(within, from_state, out=y[part])
    y = fold.join(y)
    if D is not None:
        y = torch.addcmul(y, _skip(D, x), x)
    return y if z is None else y * F.silu(z), last


def backward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    grad_y: Tensor,
    grad_state: Tensor,
    chunk_size: int,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, dt, A, B, C, D, z and the initial state, None where there is none."""
    start = _start(x, B, initial_state, cu_seqlens)
    if x.shape[1] == 0:
        empty = (None if m is None else torch.zeros_like(m) for m in (x, dt, A, B, C, D, z))
        return *empty, None if initial_state is None else grad_state.clone()
    fold = _folding(x, cu_seqlens, chunk_size)
    o = _operands(fold, x, dt, A, B, C)
    g = grad_y if z is None else grad_y * F.silu(z)
    grad_x, grad_a, grad_B, grad_C, y, grad_initial = _adjoint(
        fold, o, fold.split(g), grad_state, start, z is not None
    )
    grad_xd, grad_a = fold.join(grad_x), fold.join(grad_a)
    grad_dt = torch.addcmul((grad_xd * x).sum(-1), grad_a, A)
    grad_x = grad_xd * dt[..., None]
    grad_D = grad_z = None
    if D is not None:
        grad_x.addcmul_(g, _skip(D, x))
        grad_D = (g * x).sum((0, 1, 3) if D.ndim == 1 else (0, 1))
    if z is not None:
        y = fold.join(y)
        gate = z.sigmoid()
        grad_z = grad_y * (y if D is None else y + _skip(D, x) * x) * (gate + z * gate * (1.0 - gate))
    grad_A = (grad_a * dt).sum((0, 1))
    return grad_x, grad_dt, grad_A, fold.join(grad_B), fold.join(grad_C), grad_D, grad_z, grad_initial


def _start(x: Tensor, B: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
    if initial_state is not None:
        return initial_state
    rows = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return x.new_zeros(rows, *x.shape[2:], B.shape[3])


def _folding(x: Tensor, cu_seqlens: Tensor | None, chunk_size: int) -> Batch | Pack:
    if cu_seqlens is None:
        return Batch(x.shape[0], x.shape[1], chunk_size)
    return Pack(cu_seqlens, x.shape[1], chunk_size)


def _skip(D: Tensor, x: Tensor) -> Tensor:
    """D as (H, 1) or (H, P)."""
    return D.reshape(x.shape[2], 1 if D.ndim == 1 else x.shape[3])


def _operands(fold: Batch | Pack, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Operands:
    x, dt, B, C = (fold.split(m) for m in (x, dt, B, C))
    sums = (dt.double() * A.double()).cumsum(1).transpose(1, 2).contiguous()
    since, until = sums.exp().to(x.dtype), (sums[..., -1:] - sums).exp_().to(x.dtype)
    return Operands(x, dt[..., None] * x, B, C, sums, since, until)


def _slabs(o: Operands) -> list[slice]:
    """The chunks in runs whose L has about _SLAB elements."""
    chunks, heads, size = o.sums.shape
    step = max(1, _SLAB // max(1, heads * size * size))
    return [slice(k, k + step) for k in range(0, max(chunks, 1), step)]


def _weighted(x: Tensor, weight: Tensor, B: Tensor) -> Tensor:
    """x (K, Q, H, P) times weight (K, H, Q), the heads of a group side by side: (K, G, Q, H/G P)."""
    chunks, size, heads, width = x.shape
    x = x * weight.transpose(1, 2)[..., None]
    return x.reshape(chunks, size, B.shape[2], heads // B.shape[2] * width).transpose(1, 2)


def _outer(weighted: Tensor, x: Tensor, B: Tensor) -> Tensor:
    """sum_j weight_j x_j B_j^T, (K, H, P, N)."""
    wide = weighted.mT @ B.transpose(1, 2)  # (K, G, H/G P, N)
    return wide.reshape(x.shape[0], *x.shape[2:], B.shape[3])


def _inner(states: Tensor, weight: Tensor, C: Tensor) -> Tensor:
    """weight_i S C_i as (K, Q, H, P), for states (K, H, P, N)."""
    chunks, heads, width, _ = states.shape
    wide = C.transpose(1, 2) @ _by_group(states, C).transpose(-1, -2)  # (K, G, Q, H/G P)
    y = wide.transpose(1, 2).reshape(chunks, C.shape[1], heads, width)
    return y.mul_(weight.transpose(1, 2)[..., None])


def _by_group(states: Tensor, C: Tensor) -> Tensor:
    """States (K, H, P, N) as (K, G, H/G P, N)."""
    chunks, heads, width, size = states.shape
    return states.reshape(chunks, C.shape[2], heads // C.shape[2] * width, size)


def _scores(o: Operands) -> Tensor:
    """C_i . B_j, (K, G, Q, Q)."""
    return o.C.transpose(1, 2) @ o.B.permute(0, 2, 3, 1)


def _decays(o: Operands) -> Tensor:
    """L (K, H, Q, Q)."""
    decay = torch.empty((*o.sums.shape, o.sums.shape[-1]), dtype=o.x.dtype, device=o.x.device)
    torch.sub(o.sums[..., None], o.sums[..., None, :], out=decay)
    return decay.exp_().tril_()


def _times_scores(decay: Tensor, scores: Tensor) -> Tensor:
    """(K, H, Q, Q) times the scores of its head's group, in place."""
    groups = scores.shape[1]
    decay.unflatten(1, (groups, decay.shape[1] // groups)).mul_(scores[:, :, None])
    return decay


def _outputs(o: Operands, scores: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """What the chunk's own inputs, and what its first state, give y: (K, Q, H, P) each."""
    mixing = _times_scores(_decays(o), scores)
    within = (mixing @ o.xd.transpose(1, 2)).transpose(1, 2)
    return within, _inner(states, o.since, o.C)


def _adjoint(
    fold: Batch | Pack, o: Operands, g: Tensor, grad_state: Tensor, start: Tensor, with_y: bool
) -> tuple[Tensor, ...]:
    """Gradients in chunks of xd, dt A, B and C, the output before skip and gate, and that of the initial state."""
    total = o.since[..., -1]
    g_since, xd_until = _weighted(g, o.since, o.C), _weighted(o.xd, o.until, o.B)
    states, _ = fold.carry(total, _outer(xd_until, o.xd, o.B), start)
    grad_states, grad_initial = fold.carry_back(total, _outer(g_since, g, o.C), grad_state)
    slabs = [
        _adjoint_of_slab(
            *(o.part(part), g[part], g_since[part], xd_until[part], states[part], grad_states[part]), with_y
        )
        for part in _slabs(o)
    ]
    found = (parts[0] if len(slabs) == 1 else torch.cat(parts) for parts in zip(*slabs, strict=True))
    return *found, grad_initial


def _adjoint_of_slab(
    o: Operands,
    g: Tensor,
    g_since: Tensor,
    xd_until: Tensor,
    states: Tensor,
    grad_states: Tensor,
    with_y: bool,
) -> tuple[Tensor, ...]:
    """See the head of this file, whose terms these are."""
    groups = o.B.shape[2]
    scores, decay = _scores(o), _decays(o)
    from_state = _inner(states, o.since, o.C)
    to_state = _inner(grad_states, o.until, o.B)
    g_heads, xd_heads = (m.transpose(1, 2).contiguous() for m in (g, o.xd))  # (K, H, Q, P)

    mixing_bar = (g_heads @ xd_heads.mT).mul_(decay)
    scores_bar = mixing_bar.unflatten(1, (groups, g.shape[2] // groups)).sum(2)
    grad_C = scores_bar @ o.B.transpose(1, 2)
    grad_C += g_since @ _by_group(states, o.C)
    grad_B = scores_bar.mT @ o.C.transpose(1, 2)
    grad_B += xd_until @ _by_group(grad_states, o.C)

    mixing = _times_scores(decay, scores)
    ahead, behind = (g * from_state).sum(-1).mT, (o.xd * to_state).sum(-1).mT
    grad_a = _spanned(_times_scores(mixing_bar, scores), ahead, behind)
    grad_a += (o.since[..., -1] * (grad_states * states).sum((-1, -2)))[..., None]
    grad_xd = to_state.add_((mixing.mT @ g_heads).transpose(1, 2))
    if with_y:
        from_state.add_((mixing @ xd_heads).transpose(1, 2))
    return grad_xd, grad_a.mT, grad_B.transpose(1, 2), grad_C.transpose(1, 2), from_state


def _spanned(pairs: Tensor, ahead: Tensor, behind: Tensor) -> Tensor:
    """At t: sum_{j < t <= i} pairs_ij + sum_{i >= t} ahead_i + sum_{j < t} behind_j; (K, H, Q, Q) to (K, H, Q)."""
    earlier = torch.ones(pairs.shape[-2:], dtype=pairs.dtype, device=pairs.device).triu_(1)  # (j, t)
    return (pairs @ earlier).tril_().sum(-2) + ahead @ (1.0 - earlier) + behind @ earlier
