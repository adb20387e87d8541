"""Encoding by Triton kernels, on CUDA tensors: matrix products that look their rows up, nothing gathered in memory.

What the distances give is small and torch's (`from_basis`, `basis_backward`). A token sums
over the run of windows that hold it, and the weight has shares of the points, added afterwards: no atomics.
Products of 16-bit tokens may use TF32; others are in float32 at least.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
from torch import Tensor

from ssm_core.opkit.checks import compute_dtype
from ssm_core.opkit.triton_runtime import Variant, arithmetic
from ssm_serpent.ops.encode.on_torch import basis_backward, from_basis, split, used_rows
from ssm_serpent.ops.encode.triton_kernels import points_kernel, tokens_kernel, weight_kernel
from ssm_serpent.ops.encode.windows import run_edges

_SINGLE, _DOUBLE = {"BP": 64, "BD": 32, "BH": 32}, {"BP": 32, "BD": 16, "BH": 16}
_WARPS = 8
_SHARE = 1024
"""Points of a share at least; there are at most _SHARES of them."""
_SHARES = 32


def forward(
    x: Tensor,
    start: Tensor,
    inside: Tensor,
    distance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    centres: Tensor,
    log_gamma: Tensor,
) -> tuple[Tensor]:
    """Points (B, K, h)."""
    dtype = compute_dtype(x, distance, weight, bias, centres, log_gamma)
    given = _wide(dtype, distance, weight, bias, centres, log_gamma)
    distance, weight, bias, centres, log_gamma = given  # pyright: ignore[reportAssignmentType]
    tokens_h, basis_h = split(weight, x.shape[2])
    out = from_basis(inside, distance, basis_h, bias, centres, log_gamma)
    if x.numel() and out.numel():
        sizes, options = _launch_of(x, inside, len(weight), dtype)
        grid = (triton.cdiv(start.numel(), options["BP"]) * triton.cdiv(len(weight), options["BH"]),)
        points_kernel[grid](
            x.contiguous(), tokens_h, start.contiguous(), _bytes(inside), out, *sizes, **options
        )
    return (out.view(*start.shape, len(weight)),)


def backward(
    x: Tensor,
    start: Tensor,
    inside: Tensor,
    distance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    centres: Tensor,
    log_gamma: Tensor,
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, the distances, the weight, the bias, the centres and log_gamma."""
    dtype = compute_dtype(x, distance, weight, bias, centres, log_gamma)
    given = _wide(dtype, distance, weight, bias, centres, log_gamma, used_rows(grad, inside))
    distance, weight, bias, centres, log_gamma, grad = given  # pyright: ignore[reportAssignmentType]
    tokens_h, basis_h = split(weight, x.shape[2])
    grad_x, grad_tokens = x.new_zeros(x.shape, dtype=dtype), torch.zeros_like(tokens_h)
    if x.numel() and grad.numel():
        x, start, held, grad = x.contiguous(), start.contiguous(), _bytes(inside), grad.contiguous()
        sizes, options = _launch_of(x, inside, len(weight), dtype)
        length, _, width, outputs, total, window = sizes
        edges, tokens = run_edges(start, inside, length), len(x) * length
        grid = (triton.cdiv(tokens, options["BP"]) * triton.cdiv(width, options["BD"]),)
        of_tokens = *sizes[:4], tokens, window
        tokens_kernel[grid](grad, tokens_h, edges, held, grad_x, *of_tokens, **options)
        share = max(_SHARE, triton.next_power_of_2(triton.cdiv(total, _SHARES)))
        parts = triton.cdiv(total, share)
        sums = grad.new_empty(parts, outputs, window * width)
        grid = (parts * window * triton.cdiv(outputs, options["BH"]) * triton.cdiv(width, options["BD"]),)
        weight_kernel[grid](x, grad, start, held, sums, *sizes, share, **options)
        grad_tokens = sums.sum(0)
    return grad_x, *basis_backward(grad, grad_tokens, inside, distance, basis_h, bias, centres, log_gamma)


def _wide(dtype: torch.dtype, *tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.to(dtype) for t in tensors]


def _bytes(inside: Tensor) -> Tensor:
    return inside.contiguous().view(torch.uint8)


def _launch_of(
    x: Tensor, inside: Tensor, outputs: int, dtype: torch.dtype
) -> tuple[tuple[int, int, int, int, int, int], dict[str, Any]]:
    """The sizes that every kernel takes, and its options."""
    (_, length, width), (batch, points, window) = x.shape, inside.shape
    half = x.dtype in (torch.float16, torch.bfloat16) and dtype == torch.float32
    options = dict(_DOUBLE if dtype == torch.float64 else _SINGLE)
    options |= {"DTYPE": arithmetic(dtype), "PRECISION": "tf32" if half else "ieee"}
    sizes = length, points, width, outputs, batch * points, window
    return sizes, options | {"num_warps": _WARPS, "num_stages": 1, "enable_fp_fusion": True}


def variants() -> Iterator[Variant]:
    """Every configuration."""
    for kernel in (points_kernel, tokens_kernel, weight_kernel):
        for element in ("fp32", "bf16", "fp64"):
            yield _variant(kernel, element)


def _variant(kernel: Any, element: str) -> Variant:
    """One kernel for tokens of a type, everything else being in the precision of the arithmetic."""
    name, computed = kernel.__name__, "*fp64" if element == "fp64" else "*fp32"
    pointers = {"x": f"*{element}", "grad": computed, "weight": computed, "out": computed, "grad_x": computed}
    pointers |= {"sums": computed, "start": "*i64", "edges": "*i64", "inside": "*u8"}
    sizes = ("length", "points", "width", "outputs", "total", "window", "share")
    types = pointers | dict.fromkeys(sizes, "i32")
    dtype = torch.float64 if element == "fp64" else torch.float32
    constants = dict(_DOUBLE if element == "fp64" else _SINGLE)
    constants |= {"DTYPE": arithmetic(dtype), "PRECISION": "tf32" if element == "bf16" else "ieee"}
    signature = {argument: types[argument] for argument in kernel.arg_names if argument in types}
    products, size = kernel is not tokens_kernel, {"fp32": 4, "bf16": 2, "fp64": 8}[element]
    return Variant(
        name=f"encode {name.partition('_')[0]} {element}",
        kernel=kernel,
        signature=signature,
        constants=constants,
        num_warps=_WARPS,
        aligned=(*(name for name in signature if name in pointers), "width", "outputs"),
        elements=constants["BP"] * constants["BD"] * constants["BH"] if products else 0,
        unit="product",
        stack=0 if kernel is weight_kernel else 16,  # two to four words, far from the last register
        traffic=size / 64,  # of 64 outputs: what is read once for all of them
    )
