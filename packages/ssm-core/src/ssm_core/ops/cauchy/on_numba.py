"""The Cauchy product by compiled loops: rows and states outside, nodes inside, so that the inner loop vectorises.

The formulas are those of `on_torch`. Complex numbers come as two arrays of reals, and 1 / d = conj(d) / |d|^2 is real
arithmetic. A pair of poles is done in one pass; nothing of size N F is stored, and rows are shared among threads.
"""

import numpy as np
import torch
from torch import Tensor, conj_physical

from ssm_core.opkit.numba_runtime import jit_summing, launch

_GRAIN = 1 << 13
"""Quotients that are worth a thread."""


def forward(v: Tensor, z: Tensor, w: Tensor, conj: bool) -> tuple[Tensor]:
    """K (H, F) for v, w (H, N) and z (F,) or (H, F), complex, of one precision."""
    shape = (v.shape[0], z.shape[-1])
    K = tuple(torch.empty(shape, dtype=v.real.dtype) for _ in range(2))
    _launch(_forward, (*_parts(v), *_parts(_rows(z)), *_parts(w), *(x.numpy() for x in K), conj), v, z)
    return (torch.complex(*K),)


def backward(v: Tensor, z: Tensor, w: Tensor, grad: Tensor, conj: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of v (H, N), z (F,) or (H, F) and w (H, N), given that of K."""
    shape, real = (v.shape[0], z.shape[-1]), v.real.dtype
    C = tuple(torch.empty(shape, dtype=real) for _ in range(2))
    sums = tuple(torch.empty(v.shape, dtype=real) for _ in range(4))
    found = [x.numpy() for x in (*sums, *C)]
    given = (*_parts(v), *_parts(_rows(z)), *_parts(w), *_parts(conj_physical(grad)))
    _launch(_backward, (*given, *found, conj), v, z)
    grad_z = -grad * conj_physical(torch.complex(*C))
    return torch.complex(*sums[:2]), grad_z.sum(0) if z.ndim == 1 else grad_z, torch.complex(*sums[2:])


@jit_summing
def _forward(
    v_re, v_im, z_re, z_im, w_re, w_im, K_re, K_im, conj, first_row, last_row, first_column, last_column
):
    """Fill K (H, F); z has H rows or one."""
    for h in range(first_row, last_row):
        k_re, k_im = K_re[h], K_im[h]
        x_re, x_im = z_re[h % len(z_re)], z_im[h % len(z_im)]
        F, one = np.uint64(len(k_re)), k_re.dtype.type(1)
        for f in range(F):
            k_re[f] = 0
            k_im[f] = 0
        for n in range(v_re.shape[1]):
            a, b, p, q = v_re[h, n], v_im[h, n], w_re[h, n], w_im[h, n]
            if conj:
                for f in range(F):
                    re, im, im2 = x_re[f] - p, x_im[f] - q, x_im[f] + q
                    s, s2 = one / (re * re + im * im), one / (re * re + im2 * im2)
                    # v (re - i im) s + conj(v) (re - i im2) s2
                    k_re[f] += (a * re + b * im) * s + (a * re - b * im2) * s2
                    k_im[f] += (b * re - a * im) * s - (b * re + a * im2) * s2
            else:
                for f in range(F):
                    re, im = x_re[f] - p, x_im[f] - q
                    s = one / (re * re + im * im)
                    k_re[f] += (a * re + b * im) * s
                    k_im[f] += (b * re - a * im) * s


@jit_summing
def _backward(
    v_re,
    v_im,
    z_re,
    z_im,
    w_re,
    w_im,
    g_re,
    g_im,
    gv_re,
    gv_im,
    gw_re,
    gw_im,
    C_re,
    C_im,
    conj,
    first_row,
    last_row,
    first_column,
    last_column,
):
    """Fill the gradients of v and w (H, N), and C (H, F), from g, the conjugate of the gradient of K."""
    for h in range(first_row, last_row):
        c_re, c_im, y_re, y_im = C_re[h], C_im[h], g_re[h], g_im[h]
        x_re, x_im = z_re[h % len(z_re)], z_im[h % len(z_im)]
        F = np.uint64(len(c_re))
        for f in range(F):
            c_re[f] = 0
            c_im[f] = 0
        for n in range(v_re.shape[1]):
            a, b, p, q = v_re[h, n], v_im[h, n], w_re[h, n], w_im[h, n]
            A, B, D, E = _state(a, b, p, q, x_re, x_im, y_re, y_im, c_re, c_im, F)
            gv_re[h, n], gv_im[h, n] = A, -B
            gw_re[h, n], gw_im[h, n] = a * D - b * E, -(a * E + b * D)
            if conj:
                A, B, D, E = _state(a, -b, p, -q, x_re, x_im, y_re, y_im, c_re, c_im, F)
                gv_re[h, n] += A
                gv_im[h, n] += B
                gw_re[h, n] += a * D + b * E
                gw_im[h, n] += a * E - b * D


@jit_summing
def _state(a, b, p, q, x_re, x_im, y_re, y_im, c_re, c_im, F):
    """sum_f g r and sum_f g r^2 of one pole w = p + i q, and v r^2 added to c, with v = a + i b."""
    zero, one = c_re.dtype.type(0), c_re.dtype.type(1)
    A, B, D, E = zero, zero, zero, zero
    for f in range(F):
        re, im = x_re[f] - p, x_im[f] - q
        s = one / (re * re + im * im)
        re, im = re * s, -im * s
        sq_re, sq_im = re * re - im * im, (re + re) * im
        A += y_re[f] * re - y_im[f] * im
        B += y_re[f] * im + y_im[f] * re
        D += y_re[f] * sq_re - y_im[f] * sq_im
        E += y_re[f] * sq_im + y_im[f] * sq_re
        c_re[f] += a * sq_re - b * sq_im
        c_im[f] += a * sq_im + b * sq_re
    return A, B, D, E


def _rows(z: Tensor) -> Tensor:
    return z[None] if z.ndim == 1 else z


def _parts(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Re and Im, each contiguous."""
    re, im = torch.view_as_real(x.detach().resolve_conj().resolve_neg()).unbind(-1)
    return re.contiguous().numpy(), im.contiguous().numpy()


def _launch(kernel, arrays: tuple, v: Tensor, z: Tensor) -> None:
    offsets = np.arange(v.shape[0] + 1, dtype=np.int64) * (v.shape[1] * z.shape[-1])
    if v.shape[0]:
        launch(kernel, arrays, offsets, 1, lanes=1, grain=_GRAIN)
