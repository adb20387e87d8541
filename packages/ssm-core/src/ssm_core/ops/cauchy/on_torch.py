"""The Cauchy product in plain torch calls, block by block. Any device.

A block of rows and nodes is as large as stays in a processor's cache. In it r_{fn} = 1 / (z_f - w_n) comes from real
arithmetic, conj(d) / |d|^2 (a division of complex numbers takes several times longer), and the sums over n, or over f
in the backward, are products of matrices. Conjugate pairs are 2 N states, the second half conj(v), conj(w).

K is holomorphic in each argument, so with G the gradient of K and conj the rule of the chain,

    conj(v_bar_n) = sum_f conj(G_f) r_{fn},   conj(w_bar_n) = v_n sum_f conj(G_f) r_{fn}^2,
    conj(z_bar_f) = -conj(G_f) sum_n v_n r_{fn}^2;

where the second half of the states are conjugates, their gradients are conjugated and added to the first half's.
Within an operator conjugates are computed, never lazy: a program traced by torch.compile does not resolve those.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, conj_physical

_CACHE, _LARGE = 1 << 16, 1 << 23
"""Numbers in a block, on a CPU and elsewhere."""

Parts = tuple[Tensor, Tensor]


def forward(v: Tensor, z: Tensor, w: Tensor, conj: bool) -> tuple[Tensor]:
    """K (H, F) for v, w (H, N) and z (F,) or (H, F), complex, of one precision."""
    v, w = _pairs(v, w) if conj else (v, w)
    z = z.expand(v.shape[0], z.shape[-1])
    K = torch.zeros_like(z, memory_format=torch.contiguous_format)
    K_re, K_im = torch.view_as_real(K).unbind(-1)
    (v_re, v_im), z_parts, w_parts = _parts(v), _parts(z), _parts(w)
    for rows, nodes in blocks(v, z):
        r_re, r_im = _reciprocal(z_parts, w_parts, rows, nodes)  # (h, f, N)
        a, b = v_re[rows, :, None], v_im[rows, :, None]  # (h, N, 1)
        K_re[rows, nodes] = (r_re @ a - r_im @ b)[..., 0]
        K_im[rows, nodes] = (r_re @ b + r_im @ a)[..., 0]
    return (K,)


def backward(v: Tensor, z: Tensor, w: Tensor, grad: Tensor, conj: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of v (H, N), z (F,) or (H, F) and w (H, N), given that of K."""
    vs, ws = _pairs(v, w) if conj else (v, w)
    zs = z.expand(v.shape[0], z.shape[-1])
    A, B, C = (
        torch.zeros_like(vs),
        torch.zeros_like(vs),
        torch.zeros_like(zs, memory_format=torch.contiguous_format),
    )
    z_parts, w_parts, v_parts, g_parts = _parts(zs), _parts(ws), _parts(vs), _parts(conj_physical(grad))
    for rows, nodes in blocks(vs, zs):
        r = _reciprocal(z_parts, w_parts, rows, nodes)  # (h, f, N)
        square = r[0] * r[0] - r[1] * r[1], 2 * r[0] * r[1]
        g = g_parts[0][rows, None, nodes], g_parts[1][rows, None, nodes]  # (h, 1, f)
        A[rows] += _matmul(g, r)[:, 0]
        B[rows] += _matmul(g, square)[:, 0]
        C[rows, nodes] = _matmul(square, (v_parts[0][rows, :, None], v_parts[1][rows, :, None]))[..., 0]
    grad_v, grad_w, grad_z = conj_physical(A), conj_physical(vs * B), -grad * conj_physical(C)
    if conj:
        N = v.shape[1]
        grad_v, grad_w = (g[:, :N] + conj_physical(g[:, N:]) for g in (grad_v, grad_w))
    return grad_v, grad_z.sum(0) if z.ndim == 1 else grad_z, grad_w


def blocks(v: Tensor, z: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of rows and of nodes that cover z (H, F), so that rows x nodes x states is at most the size of a block."""
    (H, N), F = v.shape, z.shape[1]
    size = max((_CACHE if v.device.type == "cpu" else _LARGE) // max(N, 1), 1)
    nodes = max(min(F, size), 1)
    rows = max(size // nodes, 1)
    for h in range(0, H, rows):
        for f in range(0, F, nodes):
            yield slice(h, h + rows), slice(f, f + nodes)


def _reciprocal(z: Parts, w: Parts, rows: slice, nodes: slice) -> Parts:
    """1 / (z_f - w_n) for a block: (h, f, N)."""
    re, im = (x[rows, nodes, None] - y[rows, None] for x, y in zip(z, w, strict=True))
    scale = torch.addcmul(re * re, im, im).reciprocal_()
    return re.mul_(scale), im.mul_(scale).neg_()


def _matmul(a: Parts, b: Parts) -> Tensor:
    return torch.complex(a[0] @ b[0] - a[1] @ b[1], a[0] @ b[1] + a[1] @ b[0])


def _pairs(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.cat([x, conj_physical(x)], 1) for x in tensors)


def _parts(x: Tensor) -> Parts:
    """Re and Im, each contiguous in its last axis."""
    re, im = torch.view_as_real(x.resolve_conj()).unbind(-1)
    return re.contiguous(), im.contiguous()
