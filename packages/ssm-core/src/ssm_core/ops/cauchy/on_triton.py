"""The Cauchy product by Triton kernels, on CUDA tensors, in real arithmetic.

A program of the forward does a block of nodes and runs over the states; so does that of the gradient of z. For those of
v and w a program does a few states and runs over the nodes. Formulas are those of `on_torch`.
"""

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor, conj_physical

from ssm_core.opkit.triton_runtime import Variant, arithmetic

NODES, STATES = 256, 4
"""Nodes of a program, of each pass where it runs over them; states of a program that does."""
WARPS = 4


def forward(v: Tensor, z: Tensor, w: Tensor, conj: bool) -> tuple[Tensor]:
    """K (H, F) for v, w (H, N) and z (F,) or (H, F), complex, of one precision."""
    K = v.new_zeros(v.shape[0], z.shape[-1])
    if K.numel():
        _over_states(v, z, w, None, K, conj)
    return (K,)


def backward(v: Tensor, z: Tensor, w: Tensor, grad: Tensor, conj: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of v (H, N), z (F,) or (H, F) and w (H, N), given that of K."""
    (H, N), F = v.shape, z.shape[-1]
    grad_v, grad_w = torch.zeros_like(v), torch.zeros_like(w)
    grad_z = v.new_zeros(H, F)
    if grad_z.numel():
        _over_states(v, z, w, grad, grad_z, conj)
    if grad_v.numel():
        sums = torch.empty(H, N, 2, 2, dtype=v.real.dtype, device=v.device)
        operands = (*(_reals(x) for x in (z, w, grad)), sums, N, F, 0 if z.ndim == 1 else F)
        _launch(_sums, H * triton.cdiv(N, STATES), operands, v.dtype, CONJ=conj, BN=STATES)
        grad_v, grad_w = torch.view_as_complex(sums).unbind(2)
        grad_w = conj_physical(v) * grad_w
    return grad_v, grad_z.sum(0) if z.ndim == 1 else grad_z, grad_w


_ALIGNED = ("N", "z_row")
"""Sizes that usually are multiples of 16: not the number of nodes, L / 2 + 1 in S4, and rows of nodes for all are 0."""


def variants() -> Iterator[Variant]:
    """Every configuration. Real and imaginary parts are loaded apart, so no load is 128 bits wide; traffic is that of
    32 states, nodes for every row."""
    for element, dtype, size in (("fp32", tl.float32, 8), ("fp64", tl.float64, 16)):
        for conj in (True, False):
            constants = {"CONJ": conj, "DTYPE": dtype, "BF": NODES}
            what = f"{'pairs ' * conj}{element}"
            for slope in (False, True):
                yield Variant(
                    name=f"cauchy {'gradient of z' if slope else 'forward'} {what}",
                    kernel=_nodes,
                    signature=_types(element, "v", "z", "w", "grad", "out"),
                    constants={"SLOPE": slope, **constants},
                    num_warps=WARPS,
                    aligned=("v", "z", "w", "grad", "out", *_ALIGNED),
                    elements=NODES,
                    unit="node and state",
                    traffic=size * (3 if slope else 2) / 32,
                )
            yield Variant(
                name=f"cauchy gradients of v and w {what}",
                kernel=_sums,
                signature=_types(element, "z", "w", "grad", "sums"),
                constants={"BN": STATES, **constants},
                num_warps=WARPS,
                aligned=("z", "w", "grad", "sums", *_ALIGNED),
                elements=NODES * STATES,
                unit="node and state",
                traffic=size * 2 / 32,
            )


def _types(element: str, *pointers: str) -> dict[str, str]:
    integers = dict.fromkeys(("N", "F", "z_row"), "i32")
    return {**dict.fromkeys(pointers, f"*{element}"), **integers}


def _over_states(v: Tensor, z: Tensor, w: Tensor, grad: Tensor | None, out: Tensor, conj: bool) -> None:
    """K into `out`, or with the gradient of K that of z, a row for each row of v."""
    (H, N), F = v.shape, z.shape[-1]
    operands = *(_reals(x) for x in (v, z, w, out if grad is None else grad)), torch.view_as_real(out)
    operands = *operands, N, F, 0 if z.ndim == 1 else F
    _launch(_nodes, H * triton.cdiv(F, NODES), operands, v.dtype, SLOPE=grad is not None, CONJ=conj)


def _launch(kernel: Callable, programs: int, operands: tuple, dtype: torch.dtype, **constants) -> None:
    kernel[(programs,)](  # pyright: ignore[reportIndexIssue]
        *operands, DTYPE=arithmetic(dtype), BF=NODES, num_warps=WARPS, **constants
    )


def _reals(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj().contiguous())


@triton.jit
def _nodes(
    v,
    z,
    w,
    grad,
    out,
    N,
    F,
    z_row,
    SLOPE: tl.constexpr,
    CONJ: tl.constexpr,
    DTYPE: tl.constexpr,
    BF: tl.constexpr,
):
    """sum_n v_n r_n, or -grad conj(sum_n v_n r_n^2) if SLOPE, the conjugates' terms added if CONJ."""
    program, across = tl.program_id(0), tl.cdiv(F, BF)
    h = (program // across).to(tl.int64)
    f = program % across * BF + tl.arange(0, BF)
    ok = f < F
    node = z + (h * z_row + f) * 2
    z_re, z_im = tl.load(node, mask=ok, other=1.0), tl.load(node + 1, mask=ok, other=1.0)
    sum_re, sum_im = tl.zeros((BF,), DTYPE), tl.zeros((BF,), DTYPE)
    for n in range(N):
        at = (h * N + n) * 2
        v_re, v_im = tl.load(v + at), tl.load(v + at + 1)
        w_re, w_im = tl.load(w + at), tl.load(w + at + 1)
        r_re, r_im = _reciprocal(z_re - w_re, z_im - w_im)
        if SLOPE:
            r_re, r_im = r_re * r_re - r_im * r_im, 2 * r_re * r_im
        sum_re += v_re * r_re - v_im * r_im
        sum_im += v_re * r_im + v_im * r_re
        if CONJ:
            r_re, r_im = _reciprocal(z_re - w_re, z_im + w_im)
            if SLOPE:
                r_re, r_im = r_re * r_re - r_im * r_im, 2 * r_re * r_im
            sum_re += v_re * r_re + v_im * r_im
            sum_im += v_re * r_im - v_im * r_re
    to = (h * F + f) * 2
    if SLOPE:
        g_re, g_im = tl.load(grad + to, mask=ok, other=0.0), tl.load(grad + to + 1, mask=ok, other=0.0)
        sum_re, sum_im = -(g_re * sum_re + g_im * sum_im), g_re * sum_im - g_im * sum_re
    tl.store(out + to, sum_re, mask=ok)
    tl.store(out + to + 1, sum_im, mask=ok)


@triton.jit
def _sums(
    z,
    w,
    grad,
    sums,
    N,
    F,
    z_row,
    CONJ: tl.constexpr,
    DTYPE: tl.constexpr,
    BN: tl.constexpr,
    BF: tl.constexpr,
):
    """sum_f g conj(r) + conj(g) s, and the same of r^2 and s^2, for BN states; r, s of a pole and of its conjugate."""
    program, across = tl.program_id(0), tl.cdiv(N, BN)
    h = (program // across).to(tl.int64)
    n = program % across * BN + tl.arange(0, BN)
    pole = w + (h * N + n) * 2
    w_re = tl.load(pole, mask=n < N, other=0.0)[:, None]
    w_im = tl.load(pole + 1, mask=n < N, other=0.0)[:, None]
    v_re, v_im = tl.zeros((BN, BF), DTYPE), tl.zeros((BN, BF), DTYPE)
    p_re, p_im = tl.zeros((BN, BF), DTYPE), tl.zeros((BN, BF), DTYPE)
    for first in range(0, F, BF):
        f = (first + tl.arange(0, BF))[None, :]
        # Past the end the gradient is 0 and the difference 1 + i, so the product is 0.
        node, at, ok = z + (h * z_row + f) * 2, grad + (h * F + f) * 2, f < F
        z_re = tl.load(node, mask=ok, other=0.0)
        z_im = tl.load(node + 1, mask=ok, other=0.0)
        g_re, g_im = tl.load(at, mask=ok, other=0.0), tl.load(at + 1, mask=ok, other=0.0)
        real, imag = tl.where(ok, z_re - w_re, 1.0), tl.where(ok, z_im - w_im, 1.0)
        r_re, r_im = _reciprocal(real, imag)
        v_re += g_re * r_re + g_im * r_im
        v_im += g_im * r_re - g_re * r_im
        q_re, q_im = r_re * r_re - r_im * r_im, 2 * r_re * r_im
        p_re += g_re * q_re + g_im * q_im
        p_im += g_im * q_re - g_re * q_im
        if CONJ:
            r_re, r_im = _reciprocal(real, tl.where(ok, z_im + w_im, 1.0))
            v_re += g_re * r_re + g_im * r_im
            v_im += g_re * r_im - g_im * r_re
            q_re, q_im = r_re * r_re - r_im * r_im, 2 * r_re * r_im
            p_re += g_re * q_re + g_im * q_im
            p_im += g_re * q_im - g_im * q_re
    to = sums + (h * N + n) * 4
    tl.store(to, tl.sum(v_re, 1), mask=n < N)
    tl.store(to + 1, tl.sum(v_im, 1), mask=n < N)
    tl.store(to + 2, tl.sum(p_re, 1), mask=n < N)
    tl.store(to + 3, tl.sum(p_im, 1), mask=n < N)


@triton.jit
def _reciprocal(re, im):
    """1 / (re + i im)."""
    scale = 1.0 / (re * re + im * im)
    return re * scale, -im * scale
