"""Launching the Triton kernel of the step. Gradients, where they are asked for, are those of the torch form."""

from collections.abc import Iterator

import torch
import triton
from torch import Tensor

from ssm_core.opkit.checks import compute_dtype
from ssm_core.opkit.triton_runtime import Variant, arithmetic, next_power_of_2
from ssm_core.ops.causal_conv1d.on_triton import KINDS
from ssm_core.ops.causal_conv1d_update import on_torch
from ssm_core.ops.causal_conv1d_update.triton_kernel import update_kernel

_WARPS = 1
_MOST_ROWS = 16
_CHANNELS = {4: 128, 8: 64, 16: 32}
"""Channels of a program by the inputs that it holds at once: 16 numbers of a thread, and as many weights."""


def forward(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, activation: str
) -> tuple[Tensor, Tensor]:
    """y (B, H), and the last W - 1 inputs (B, W-1, H)."""
    (batch, channels), width = x.shape, weight.shape[1]
    # The kernel reads memory, which of a tensor that is yet to be negated says something else.
    x, state, weight = x.resolve_neg(), state.resolve_neg(), weight.resolve_neg()
    bias = None if bias is None else bias.resolve_neg()
    dtype = compute_dtype(x, state, weight, bias)
    y, after = x.new_empty(batch, channels), x.new_empty(state.shape, dtype=dtype)
    rows, block = _tile(width)
    blocks = triton.cdiv(channels, block)
    strides = *x.stride(), *state.stride(), *weight.stride(), *(bias.stride() if bias is not None else (0,))
    if batch * blocks:
        update_kernel[(batch * blocks,)](
            *(x, state, weight, x if bias is None else bias, y, after, channels, blocks, *strides),
            W=width,
            KIND=KINDS[activation],
            HAS_BIAS=bias is not None,
            ROWS=rows,
            BLOCK=block,
            ACC=arithmetic(dtype),
            num_warps=_WARPS,
            enable_fp_fusion=True,
        )
    return y, after


def backward(
    x: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    grad_y: Tensor,
    grad_state: Tensor,
    activation: str,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, the state, the weight and the bias, by the torch form."""
    tensors = (x, state, weight, bias, grad_y, grad_state)
    dtype = compute_dtype(*tensors)
    return on_torch.backward(*(None if t is None else t.to(dtype) for t in tensors), activation)


def _tile(width: int) -> tuple[int, int]:
    """(taps, channels) that a program holds at once."""
    rows = min(_MOST_ROWS, width)
    return rows, _CHANNELS[max(4, next_power_of_2(rows))]


_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp64": 8}


def variants() -> Iterator[Variant]:
    """The kernel as dispatch launches it on contiguous tensors of many channels: 4 taps in every way, others in one."""
    for element in _BYTES:
        yield _variant(4, element, "silu", True)
    yield _variant(4, "fp32", "", False)
    for width in (1, 2, 8, 64):
        for element in ("fp32", "bf16", "fp64"):
            yield _variant(width, element, "silu", True)


def _variant(width: int, element: str, activation: str, biased: bool) -> Variant:
    """One kernel, with states and weights in float32 at least."""
    kept = "*fp64" if element == "fp64" else "*fp32"
    rows, block = _tile(width)
    signature = {"x": f"*{element}", "state": kept, "weight": kept, "bias": kept if biased else f"*{element}"}
    signature |= {"y": f"*{element}", "after": kept}
    sizes = ["channels", "blocks", "x_b", "state_b", "state_w", *["weight_h"] * (width > 1)]
    odd = {"blocks"} if width % 16 == 0 else {"blocks", "weight_h"}
    constants = {"x_h": 1, "state_h": 1, "weight_w": 1, "bias_h": int(biased)}
    constants |= {"W": width, "KIND": KINDS[activation], "HAS_BIAS": biased, "ROWS": rows, "BLOCK": block}
    constants |= {} if width > 1 else {"weight_h": 1}
    numbers = _BYTES[element] * 2 + (8 if element == "fp64" else 4) * 2 * (width - 1)
    return Variant(
        name=f"causal_conv1d_update {activation or 'plain'} W={width} {element}{' bias' * biased}",
        kernel=update_kernel,
        signature=signature | dict.fromkeys(sizes, "i32"),
        constants=constants | {"ACC": arithmetic(torch.float64 if element == "fp64" else torch.float32)},
        num_warps=_WARPS,
        aligned=tuple(name for name in (*signature, *sizes) if name not in odd),
        wide=block == max(_CHANNELS.values()),
        elements=block if width <= _MOST_ROWS else 0,
        traffic=numbers,
    )
