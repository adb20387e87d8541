"""The Vandermonde product by Triton kernels, on CUDA tensors: the products of matrices of `on_torch`, tiled.

The tables, small beside the kernel K that they make, are `on_torch`'s. A program does a tile of K, or the sums of a
tile of states over one of chunks; those of different chunks are added afterwards, always in one order.
"""

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssm_core.opkit.triton_runtime import Variant, arithmetic
from ssm_core.ops.vandermonde.on_torch import chunks, conj_product_sum, fine_table, powers, times

FORWARD = {"BM": 64, "BJ": 64, "BS": 16}
BACKWARD = {"BN": 16, "BM": 32, "BJ": 16}
"""Tiles: of chunks, of columns of the fine table, of rows of both tables (re and im in turn), of states."""
WARPS = 4


def forward(v: Tensor, log_x: Tensor, length: int, conj: bool) -> tuple[Tensor]:
    """K (H, length), or (H, length, 2) if not `conj`, for v and log_x (H, N, 2) of one precision."""
    (H, N, _), (Q, M) = v.shape, chunks(length)
    out = v.new_zeros((H, length) if conj else (H, length, 2))
    if out.numel() and N:
        r, p = times(v, powers(log_x, Q, M), conj).contiguous(), fine_table(log_x, Q, conj).contiguous()
        columns = p.shape[2]
        grid = (H * triton.cdiv(M, FORWARD["BM"]) * triton.cdiv(columns, FORWARD["BJ"]),)
        sizes = 2 * N, M, columns, out.numel() // H
        _launch(_product, grid, (r, p, out, *sizes), v.dtype, FORWARD)
    return (out,)


def backward(v: Tensor, log_x: Tensor, grad: Tensor, length: int, conj: bool) -> tuple[Tensor, Tensor]:
    """Gradients of v and log_x (H, N, 2), given that of K."""
    (H, N, _), (Q, M) = v.shape, chunks(length)
    if not (grad.numel() and N):
        return torch.zeros_like(v), torch.zeros_like(log_x)
    x_Qk, p = powers(log_x, Q, M).contiguous(), fine_table(log_x, Q, conj).contiguous()
    tiles, columns = triton.cdiv(M, BACKWARD["BM"]), p.shape[2]
    sums = v.new_empty(tiles, H, N, 4)
    grid = (H * triton.cdiv(N, BACKWARD["BN"]) * tiles,)
    sizes = H, N, M, columns, grad.numel() // H, columns // Q
    _sums[grid](
        x_Qk, p, grad.contiguous(), sums, *sizes, DTYPE=arithmetic(v.dtype), **BACKWARD, num_warps=WARPS
    )
    gamma, T = sums.sum(0).unflatten(2, (2, 2)).unbind(2)  # (H, N, 2): sum_k conj(x^{Qk}) of the two
    scale = 2 if conj else 1
    return scale * gamma, scale * conj_product_sum(v[..., None], T[..., None])


def variants() -> Iterator[Variant]:
    """Every configuration, for tables of multiples of 16, with the traffic of 32 states."""
    for element, dtype, size in (("fp32", tl.float32, 4), ("fp64", tl.float64, 8)):
        pointers, integers = ("r", "p", "out"), ("rows", "M", "columns", "total")
        yield Variant(
            name=f"vandermonde product {element}",
            kernel=_product,
            signature=_types(element, pointers, integers),
            constants={"DTYPE": dtype, **FORWARD},
            num_warps=WARPS,
            aligned=(*pointers, *integers),
            wide=True,
            stack=8,  # on sm_80, in float32
            elements=FORWARD["BM"] * FORWARD["BJ"] * FORWARD["BS"] // 2,
            unit="element and state",
            traffic=size / 32,
        )
        pointers, integers = ("x", "p", "grad", "sums"), ("N", "M", "columns", "total")
        for conj in (True, False):  # for pairs there is one part, which a launch takes for a constant
            yield Variant(
                name=f"vandermonde sums {'pairs ' * conj}{element}",
                kernel=_sums,
                signature=_types(element, pointers, ("H", *integers, *(() if conj else ("parts",)))),
                constants={"DTYPE": dtype, **BACKWARD} | ({"parts": 1} if conj else {}),
                num_warps=WARPS,
                aligned=(*pointers, *integers),
                wide=True,
                elements=BACKWARD["BN"] * BACKWARD["BM"] * BACKWARD["BJ"],
                unit="element and state",
                traffic=size / 32,
            )


def _types(element: str, pointers: tuple[str, ...], integers: tuple[str, ...]) -> dict[str, str]:
    return {**dict.fromkeys(pointers, f"*{element}"), **dict.fromkeys(integers, "i32")}


def _launch(
    kernel: Callable, grid: tuple[int], operands: tuple, dtype: torch.dtype, tiles: dict[str, int]
) -> None:
    kernel[grid](  # pyright: ignore[reportIndexIssue]
        *operands, DTYPE=arithmetic(dtype), **tiles, num_warps=WARPS
    )


@triton.jit
def _product(
    r,
    p,
    out,
    rows,
    M,
    columns,
    total,
    DTYPE: tl.constexpr,
    BM: tl.constexpr,
    BJ: tl.constexpr,
    BS: tl.constexpr,
):
    """out[h, m columns + j] = sum_s r[h, s, m] p[h, s, j], a tile (BM, BJ)."""
    across, down = tl.cdiv(columns, BJ), tl.cdiv(M, BM)
    program = tl.program_id(0)
    h = (program // (across * down)).to(tl.int64)
    m = program // across % down * BM + tl.arange(0, BM)
    j = program % across * BJ + tl.arange(0, BJ)
    r += h * rows * M
    p += h * rows * columns
    found = tl.zeros((BM, BJ), DTYPE)
    for first in range(0, rows, BS):
        s = first + tl.arange(0, BS)
        inside = s[:, None] < rows
        left = tl.load(r + s[:, None] * M + m[None, :], mask=inside & (m < M)[None, :], other=0.0)
        right = tl.load(
            p + s[:, None] * columns + j[None, :], mask=inside & (j < columns)[None, :], other=0.0
        )
        found = tl.dot(tl.trans(left), right, found, input_precision="ieee", out_dtype=DTYPE)
    at = m.to(tl.int64)[:, None] * columns + j[None, :]
    tl.store(out + h * total + at, found, mask=(at < total) & (j < columns)[None, :])


@triton.jit
def _sums(
    x,
    p,
    grad,
    sums,
    H,
    N,
    M,
    columns,
    total,
    parts,
    DTYPE: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    BJ: tl.constexpr,
):
    """sum_m conj(x[h, n, m]) sum_j p[h, n, j] grad[h, l] over the chunks m of a tile, and the same with l grad."""
    across, down = tl.cdiv(N, BN), tl.cdiv(M, BM)
    program = tl.program_id(0)
    h = (program // (across * down)).to(tl.int64)
    tile = (program // across % down).to(tl.int64)
    n = program % across * BN + tl.arange(0, BN)
    m = tile * BM + tl.arange(0, BM)
    Q = columns // parts
    pairs = (h * N + n) * 2  # rows of Re; those of Im come next
    gamma_re, gamma_im = tl.zeros((BN, BM), DTYPE), tl.zeros((BN, BM), DTYPE)
    T_re, T_im = tl.zeros((BN, BM), DTYPE), tl.zeros((BN, BM), DTYPE)
    for first in range(0, columns, BJ):
        j = first + tl.arange(0, BJ)
        at = m[:, None] * columns + j[None, :]
        ok = (j < columns)[None, :]
        g = tl.load(grad + h * total + at, mask=ok & (at < total), other=0.0)  # (BM, BJ)
        weighted = tl.trans(g * (m[:, None] * Q + (j // parts)[None, :]).to(DTYPE))
        g = tl.trans(g)
        table = p + pairs[:, None] * columns + j[None, :]
        re = tl.load(table, mask=ok & (n < N)[:, None], other=0.0)
        im = tl.load(table + columns, mask=ok & (n < N)[:, None], other=0.0)
        gamma_re = tl.dot(re, g, gamma_re, input_precision="ieee", out_dtype=DTYPE)
        gamma_im = tl.dot(im, g, gamma_im, input_precision="ieee", out_dtype=DTYPE)
        T_re = tl.dot(re, weighted, T_re, input_precision="ieee", out_dtype=DTYPE)
        T_im = tl.dot(im, weighted, T_im, input_precision="ieee", out_dtype=DTYPE)
    power, ok = x + pairs[:, None] * M + m[None, :], (n < N)[:, None] & (m < M)[None, :]
    x_re, x_im = tl.load(power, mask=ok, other=0.0), tl.load(power + M, mask=ok, other=0.0)
    to = sums + ((tile * H + h) * N + n) * 4
    tl.store(to, tl.sum(x_re * gamma_re + x_im * gamma_im, 1), mask=n < N)
    tl.store(to + 1, tl.sum(x_re * gamma_im - x_im * gamma_re, 1), mask=n < N)
    tl.store(to + 2, tl.sum(x_re * T_re + x_im * T_im, 1), mask=n < N)
    tl.store(to + 3, tl.sum(x_re * T_im - x_im * T_re, 1), mask=n < N)
