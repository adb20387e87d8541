"""Reading points back by Triton kernels, on CUDA tensors: a lookup, and for the gradient a loop over a point's run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssm_core.opkit.checks import compute_dtype
from ssm_core.opkit.triton_runtime import Variant, arithmetic
from ssm_serpent.ops.spread.on_torch import edges

_TILE = {"BR": 16, "BH": 128}
"""Rows (tokens or points) and columns of a program."""
_WARPS = 4


def forward(y: Tensor, point: Tensor, before: Tensor | None) -> tuple[Tensor]:
    """(B, L, h) in the dtype of y."""
    out = y.new_empty(*point.shape, y.shape[2])
    if out.numel():
        held = out if before is None else before.contiguous()
        grid = (triton.cdiv(point.numel(), _TILE["BR"]) * triton.cdiv(y.shape[2], _TILE["BH"]),)
        sizes = point.shape[1], y.shape[1], y.shape[2], point.numel()
        options = {"BEFORE": before is not None, **_TILE, "num_warps": _WARPS, "num_stages": 1}
        spread_kernel[grid](y.contiguous(), point.contiguous(), held, out, *sizes, **options)
    return (out,)


def backward(y: Tensor, point: Tensor, before: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of y, and of what stood before."""
    dtype = compute_dtype(y, before)
    grad_y = y.new_empty(y.shape, dtype=dtype)
    if y.numel():
        runs = edges(point, y.shape[1])
        rows = y.shape[0] * y.shape[1]
        grid = (triton.cdiv(rows, _TILE["BR"]) * triton.cdiv(y.shape[2], _TILE["BH"]),)
        sizes = point.shape[1], y.shape[1], y.shape[2], rows
        options = {"DTYPE": arithmetic(dtype), **_TILE, "num_warps": _WARPS, "num_stages": 1}
        collect_kernel[grid](grad.contiguous(), point.contiguous(), runs, grad_y, *sizes, **options)
    if before is None:
        return grad_y, None
    return grad_y, grad.to(dtype).masked_fill(point[..., None] > 0, 0).sum(1)


@triton.jit
def spread_kernel(
    y,
    point,
    before,
    out,
    length,
    points,
    width,
    total,
    BEFORE: tl.constexpr,
    BR: tl.constexpr,
    BH: tl.constexpr,
):
    """out[b, l] = y[b, q(l) - 1], or before[b]: a tile of tokens and channels."""
    tiles = tl.cdiv(width, BH)
    t = (tl.program_id(0) // tiles).to(tl.int64) * BR + tl.arange(0, BR)
    h = tl.program_id(0) % tiles * BH + tl.arange(0, BH)
    there, some, b = t < total, (h < width)[None, :], t // length
    q = tl.load(point + t, mask=there, other=0)
    row = b * points + q - 1
    value = tl.load(y + row[:, None] * width + h[None, :], mask=(q > 0)[:, None] & some, other=0.0)
    if BEFORE:
        none = (there & (q == 0))[:, None] & some
        held = tl.load(before + b[:, None] * width + h[None, :], mask=none, other=0.0)
        value = tl.where(none, held.to(value.dtype), value)
    tl.store(out + t[:, None] * width + h[None, :], value, mask=there[:, None] & some)


@triton.jit
def collect_kernel(
    grad,
    point,
    runs,
    grad_y,
    length,
    points,
    width,
    total,
    DTYPE: tl.constexpr,
    BR: tl.constexpr,
    BH: tl.constexpr,
):
    """grad_y[b, k]: the sum of grad[b, l] over the run of tokens that read the point, padding among them left out."""
    tiles = tl.cdiv(width, BH)
    p = (tl.program_id(0) // tiles).to(tl.int64) * BR + tl.arange(0, BR)
    h = tl.program_id(0) % tiles * BH + tl.arange(0, BH)
    there, some, b = p < total, (h < width)[None, :], p // points
    run = runs + b * (points + 1) + p % points
    begin = tl.load(run, mask=there, other=0)
    count = tl.load(run + 1, mask=there, other=0) - begin
    most = tl.max(count, 0)
    found = tl.zeros((BR, BH), DTYPE)
    for r in range(most):
        t = b * length + begin + r
        reads = tl.load(point + t, mask=there & (r < count), other=0) > 0
        row = tl.load(grad + t[:, None] * width + h[None, :], mask=reads[:, None] & some, other=0.0)
        found += row.to(DTYPE)
    tl.store(grad_y + p[:, None] * width + h[None, :], found, mask=there[:, None] & some)


def variants() -> Iterator[Variant]:
    """Every configuration."""
    sizes = dict.fromkeys(("length", "points", "width", "total"), "i32")
    for element, size in (("fp32", 4), ("bf16", 2), ("fp64", 8)):
        values, sums = f"*{element}", "*fp64" if element == "fp64" else "*fp32"
        for given in (False, True):
            yield Variant(
                name=f"spread {element}{' before' * given}",
                kernel=spread_kernel,
                signature={"y": values, "point": "*i64", "before": values, "out": values, **sizes},
                constants={"BEFORE": given, **_TILE},
                num_warps=_WARPS,
                aligned=("y", "point", "before", "out", "width"),
                wide=element != "fp64",
                elements=_TILE["BR"] * _TILE["BH"],
                traffic=2 * size,
            )
        dtype = arithmetic(torch.float64 if element == "fp64" else torch.float32)
        yield Variant(
            name=f"spread collect {element}",
            kernel=collect_kernel,
            signature={"grad": values, "point": "*i64", "runs": "*i64", "grad_y": sums, **sizes},
            constants={"DTYPE": dtype, **_TILE},
            num_warps=_WARPS,
            aligned=("grad", "point", "runs", "grad_y", "width"),
            elements=_TILE["BR"] * _TILE["BH"],
            unit="token and channel",
            traffic=size,
        )
