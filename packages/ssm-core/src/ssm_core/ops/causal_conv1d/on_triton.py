"""Causal convolution by Triton kernels, on CUDA tensors: one pass over memory forward, one backward.

The gradients of weight and bias are summed in each program, then over the programs by torch: no atomics. Where there
are initial states, the W - 1 outputs of each sequence that read them are computed by the torch form, and so is all
that their gradients reach; the rest does not know of states. Filters of more than 8 taps, too many to hold in
registers, take the torch form's loop over taps, and so do filters (H, H, W) that mix the channels, by matrix products.
"""

from collections.abc import Iterator, Sequence

import torch
import triton
from torch import Tensor

from ssm_core.opkit.checks import compute_dtype
from ssm_core.opkit.packing import is_first
from ssm_core.opkit.triton_runtime import Variant, arithmetic, next_power_of_2
from ssm_core.ops.causal_conv1d import on_torch
from ssm_core.ops.causal_conv1d.history import add_final_state_gradient, add_heads, final_state, heads
from ssm_core.ops.causal_conv1d.triton_kernels import backward_kernel, forward_kernel

KINDS = {"": 0, "silu": 1, "gate": 2}
MOST_TAPS = 8
_WARPS = 1
# (steps that a program holds at once, most channels, these for over 4 taps or float64): what registers hold.
_FORWARD, _BACKWARD = (16, 128, 64), (8, 64, 32)
# Programs of the backward that are aimed at, and the most pieces of that many steps that one does.
_PROGRAMS, _PIECES = 2048, 32


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    activation: str,
    gate_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """y (B,L,H) and the last W - 1 inputs (B or S,W-1,H)."""
    dtype = compute_dtype(x, weight, bias, initial_state)
    if _by_taps(weight):
        given = _widened(dtype, x, weight, bias, initial_state)
        return on_torch.forward(*given, cu_seqlens, activation, gate_scale)
    state = final_state(x, initial_state, cu_seqlens, weight.shape[1] - 1).to(dtype)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.numel():
        operands = _operands(x, weight, bias, cu_seqlens)
        steps, block = _tile(_FORWARD, weight.shape[1], x.shape[2], dtype)
        grid = x.shape[0] * triton.cdiv(x.shape[1], steps), triton.cdiv(x.shape[2], block)
        forward_kernel[grid](
            *(*operands, y, x.shape[1], x.shape[2]),
            **_options(x, weight, bias, initial_state, cu_seqlens, activation, gate_scale),
            STEPS=steps,
            BLOCK=block,
        )
    if initial_state is not None:
        first = heads(x, cu_seqlens, weight.shape[1] - 1)
        given = _widened(dtype, first, weight, bias, initial_state)
        add_heads(y, on_torch.forward(*given, None, activation, gate_scale)[0], cu_seqlens)
    return y, state


def backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    grad_y: Tensor,
    grad_state: Tensor,
    activation: str,
    gate_scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, the weight, the bias and the initial state."""
    dtype, width = compute_dtype(x, weight, bias, initial_state), weight.shape[-1]
    if _by_taps(weight):
        given = _widened(dtype, x, weight, bias, initial_state)
        grads = _widened(dtype, grad_y, grad_state)
        return on_torch.backward(*given, cu_seqlens, *grads, activation, gate_scale)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    sums = x.new_zeros(1, width + 1, x.shape[2], dtype=dtype)
    if x.numel():
        operands = _operands(x, weight, bias, cu_seqlens)
        steps, block = _tile(_BACKWARD, width, x.shape[2], dtype)
        columns = triton.cdiv(x.shape[2], block)
        pieces = _pieces(x.shape[0] * columns, x.shape[1])
        rows = x.shape[0] * triton.cdiv(x.shape[1], steps * pieces)
        sums = x.new_empty(rows, width + 1, x.shape[2], dtype=dtype)
        backward_kernel[rows, columns](
            *(*operands, grad_y.contiguous(), grad_x, sums, x.shape[1], x.shape[2], pieces),
            **_options(x, weight, bias, initial_state, cu_seqlens, activation, gate_scale),
            STEPS=steps,
            BLOCK=block,
        )
    total = sums.sum(0)
    grad_weight, grad_bias, grad_initial = total[:-1].T, total[-1].clone(), torch.zeros_like(grad_state)
    if initial_state is not None:
        first, grad_first = (heads(t, cu_seqlens, width - 1) for t in (x, grad_y))
        given = (
            *_widened(dtype, first, weight, bias, initial_state),
            None,
            *_widened(dtype, grad_first, grad_initial),
        )
        grads = on_torch.backward(*given, activation, gate_scale)
        add_heads(grad_x, grads[0], cu_seqlens)
        grad_weight, grad_bias, grad_initial = grad_weight + grads[1], grad_bias + grads[2], grads[3]
    add_final_state_gradient(grad_x, grad_initial, grad_state, cu_seqlens)
    return grad_x, grad_weight, grad_bias, grad_initial


def _by_taps(weight: Tensor) -> bool:
    """Whether the torch form has to do it."""
    return weight.ndim == 3 or weight.shape[1] > MOST_TAPS


def _operands(x, weight, bias, cu_seqlens) -> tuple[Tensor, ...]:
    """The tensors as the kernels read them; stand-ins for what they do not read."""
    bias = weight.new_zeros(x.shape[2]) if bias is None else bias
    sequence = offsets = x
    if cu_seqlens is not None:
        offsets = cu_seqlens.to(torch.int32)
        sequence = is_first(cu_seqlens, x.shape[1], False)[1].to(torch.int32)
    return tuple(t.contiguous() for t in (x, weight, bias, sequence, offsets))


def _options(x, weight, bias, initial_state, cu_seqlens, activation: str, gate_scale: float) -> dict:
    given = (t.dtype for t in (x, weight, bias, initial_state) if t is not None)
    return {
        "W": weight.shape[1],
        "KIND": KINDS[activation],
        "GATE_SCALE": gate_scale,
        "PACKED": cu_seqlens is not None,
        "HAS_STATE": initial_state is not None,
        "ACC": arithmetic(*given),
        "num_warps": _WARPS,
        "enable_fp_fusion": True,
    }


def _tile(sizes: tuple[int, int, int], width: int, channels: int, dtype: torch.dtype) -> tuple[int, int]:
    """(steps, channels) of a program that computes in a type."""
    steps, *most = sizes
    return steps, min(most[width > 4 or dtype == torch.float64], max(32, next_power_of_2(channels)))


def _pieces(rows: int, length: int) -> int:
    """Pieces of a backward's steps for each program, rows of the batch and blocks of channels being `rows`."""
    wanted = rows * triton.cdiv(length, _BACKWARD[0]) // _PROGRAMS
    return max(1, min(_PIECES, wanted))


def _widened(dtype: torch.dtype, *tensors: Tensor | None) -> tuple:
    return tuple(None if t is None else t.to(dtype) for t in tensors)


def variants(kinds: Sequence[str] = ("", "silu")) -> Iterator[Variant]:
    """The kernels as dispatch launches them on many channels: 4 taps in every way, and of other filters the ends."""
    for kernel in (forward_kernel, backward_kernel):
        for kind in kinds:
            for dtype in _BYTES:
                yield variant(kernel, kind, 4, dtype, packed=False, has_state=False)
                yield variant(kernel, kind, 4, dtype, packed=True, has_state=True)
            yield variant(kernel, kind, 4, "fp32", packed=True, has_state=False)
            yield variant(kernel, kind, 4, "fp32", packed=False, has_state=True)
        for dtype in ("fp32", "bf16"):
            yield variant(kernel, kinds[-1], 2, dtype, packed=False, has_state=False)
            yield variant(kernel, kinds[-1], 5, dtype, packed=False, has_state=False)
        for dtype in ("fp32", "bf16", "fp64"):
            yield variant(kernel, kinds[-1], MOST_TAPS, dtype, packed=True, has_state=True)


_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp64": 8}


def _stack(width: int, dtype: str, forwards: bool) -> int:
    """Bytes that the longest filters may spill: two words, far from the last register; rows of 8 steps in float64."""
    if width <= 4:
        return 0
    return 416 if dtype == "fp64" and not forwards else 8


def variant(kernel, kind: str, width: int, dtype: str, *, packed: bool, has_state: bool) -> Variant:
    """One kernel, with weights in float32 at least."""
    forwards, x, index = kernel is forward_kernel, f"*{dtype}", "*i32" if packed else f"*{dtype}"
    kept = "*fp64" if dtype == "fp64" else "*fp32"
    pointers = {"x": x, "weight": kept, "bias": kept, "sequence": index, "offsets": index}
    pointers |= {"y": x} if forwards else {"grad_y": x, "grad_x": x, "sums": kept}
    sizes = dict.fromkeys(("length", "channels") if forwards else ("length", "channels", "pieces"), "i32")
    constants = {"W": width, "KIND": KINDS[kind], "GATE_SCALE": 1.0, "PACKED": packed, "HAS_STATE": has_state}
    computed = torch.float64 if dtype == "fp64" else torch.float32
    steps, block = _tile(_FORWARD if forwards else _BACKWARD, width, 1024, computed)
    constants |= {"STEPS": steps, "BLOCK": block}
    return Variant(
        name=f"{kernel.__name__} {kind or 'plain'} W={width} {dtype}{' packed' * packed}{' state' * has_state}",
        kernel=kernel,
        signature=pointers | sizes,
        constants=constants | {"ACC": arithmetic(computed)},
        num_warps=_WARPS,
        stack=_stack(width, dtype, forwards),
        aligned=(*pointers, "channels"),
        wide=forwards and width <= 4 and x == kept,
        elements=steps * block,
        traffic=_BYTES[dtype] * (2 if forwards else 3),
    )
