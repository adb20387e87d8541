"""Launching the Triton kernel of the step. Gradients, where they are asked for, are those of the torch form."""

from collections.abc import Iterator

import torch
import triton
from torch import Tensor

from ssm_core.opkit.checks import compute_dtype
from ssm_core.opkit.triton_runtime import Variant, arithmetic, next_power_of_2
from ssm_core.ops.selective_scan.discretization import METHODS
from ssm_core.ops.selective_state_update import on_torch
from ssm_core.ops.selective_state_update.triton_kernel import update_kernel

_CELLS = {False: 512, True: 256}
"""(channel, state) pairs of a program, for real and complex A: 4 and 2 for each thread, with all that is live."""

_WARPS = 4


def forward(x, state, dt, A, B, C, D, z, dt_bias, softplus: bool, method: str) -> tuple[Tensor, Tensor]:
    """y (B,D), and the state after the step (B,D,N)."""
    (batch, width), states = x.shape, A.shape[1]
    tensors = x, state, dt, A, B, C, D, z, dt_bias = [*map(_resolved, (x, state, dt, A, B, C, D, z, dt_bias))]
    dtype = compute_dtype(*tensors)
    y, after = x.new_empty(batch, width), x.new_empty(state.shape, dtype=dtype)
    block, block_n = _tile(states, A.is_complex())
    blocks = triton.cdiv(width, block)
    (groups_b, strides_b), (groups_c, strides_c) = (_groups(m, batch, width) for m in (B, C))
    strides = [step for t in (x, state, dt, A) for step in t.stride()] + [*strides_b, *strides_c]
    strides += [*_strides(D, 1), *_strides(z, 2), *_strides(dt_bias, 1)]
    if batch * blocks:
        update_kernel[(batch * blocks,)](
            *(_floats(x if t is None else t) for t in tensors),
            *(y, _floats(after), width, states, blocks, width // groups_b, width // groups_c, *strides),
            B_SHARED=groups_b == 1,
            C_SHARED=groups_c == 1,
            HAS_D=D is not None,
            HAS_Z=z is not None,
            HAS_BIAS=dt_bias is not None,
            SOFTPLUS=softplus,
            METHOD=METHODS.index(method),
            WIDE=A.is_complex(),
            BLOCK_D=block,
            BLOCK_N=block_n,
            ACC=arithmetic(dtype),
            num_warps=_WARPS,
            enable_fp_fusion=True,
        )
    return y, after


def backward(x, state, dt, A, B, C, D, z, dt_bias, grad_y, grad_state, softplus: bool, method: str):
    """Gradients of all tensors, by the torch form."""
    tensors = (x, state, dt, A, B, C, D, z, dt_bias, grad_y, grad_state)
    wide = arithmetic(compute_dtype(*tensors)) == arithmetic(torch.float64)
    real, pairs = (torch.float64, torch.complex128) if wide else (torch.float32, torch.complex64)
    given = (None if t is None else t.to(pairs if t.is_complex() else real) for t in tensors)
    return on_torch.backward(*given, softplus, method)


def _tile(states: int, wide: bool) -> tuple[int, int]:
    """Channels and states of a program."""
    block_n = next_power_of_2(states)
    return max(1, _CELLS[wide] // block_n), block_n


def _groups(m: Tensor, batch: int, width: int) -> tuple[int, tuple[int, int, int]]:
    """How many groups of channels B or C tells apart, and its strides along batch, groups and states."""
    if m.ndim == 2:
        return 1, (m.stride(0), 0, m.stride(1))
    fixed = m.shape[0] != batch  # (1, D, N), the same for every row
    return m.shape[1], (0 if fixed else m.stride(0), m.stride(1), m.stride(2))


def _strides(t: Tensor | None, axes: int) -> tuple[int, ...]:
    return (0,) * axes if t is None else t.stride()


def _resolved(t: Tensor | None) -> Tensor | None:
    """A tensor whose memory says what it holds: neither a conjugate nor a negative that is yet to be taken."""
    return None if t is None else t.resolve_conj().resolve_neg()


def _floats(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


_POINTERS = ("x", "state", "dt", "A", "B", "C", "D", "z", "dt_bias", "y", "after")
_BYTES = {"fp32": 4, "bf16": 2, "fp64": 8}


def variants() -> Iterator[Variant]:
    """The kernel as dispatch launches it on contiguous tensors of many channels, in every method and precision.

    With B and C the same for all channels and a feed-through, which is how the layers call it; and with all that there
    is, B and C by groups of channels. Of 16 states, and in float32 of 64 and 256 too.
    """
    for element in _BYTES:
        for wide in (False, True):
            for method in METHODS:
                yield _variant(element, wide, method, 16, full=False)
                yield _variant(element, wide, method, 16, full=True)
    for states in (64, 256):
        for wide in (False, True):
            yield _variant("fp32", wide, "euler", states, full=False)


def _variant(element: str, wide: bool, method: str, states: int, *, full: bool) -> Variant:
    """One kernel; states, A, D and bias are in float32 at least, the others of the type of x."""
    kept = "fp64" if element == "fp64" else "fp32"
    of_x = ("x", "dt", "z", "y", *(() if wide else ("B", "C")))  # complex numbers are never of 16 bits
    signature = {name: f"*{element if name in of_x else kept}" for name in _POINTERS}
    if not full:
        signature |= dict.fromkeys(("z", "dt_bias"), signature["x"])  # stand-ins
    ones = ("x_d", "state_n", "dt_d", "A_n", "B_n", "C_n", "D_d", *(("z_d", "bias_d") if full else ()))
    flags = dict.fromkeys(("HAS_Z", "HAS_BIAS", "SOFTPLUS"), full) | {
        "B_SHARED": not full,
        "C_SHARED": not full,
    }
    block, block_n = _tile(states, wide)
    constants = (
        dict.fromkeys(ones, 1) | flags | {"HAS_D": True, "METHOD": METHODS.index(method), "WIDE": wide}
    )
    computed = torch.float64 if element == "fp64" else torch.float32
    constants |= {"BLOCK_D": block, "BLOCK_N": block_n, "ACC": arithmetic(computed)}
    names = [name for name in update_kernel.arg_names if name not in constants]
    signature = {name: signature.get(name, "i32") for name in names}
    part, size = 2 if wide else 1, _BYTES[kept]
    return Variant(
        f"selective_state_update {'complex' if wide else 'real'} {method} {states} states {element}"
        f"{' groups, gate, bias, softplus' * full}",
        update_kernel,
        signature,
        constants,
        num_warps=_WARPS,
        aligned=tuple(name for name in names if name not in ("blocks", "per_group_b", "per_group_c")),
        wide=not wide,  # real and imaginary parts are loaded apart
        elements=block * block_n,
        unit="channel and state",
        stack=48 if wide and method != "bilinear" else 0,  # the slow way of a sine has some
        traffic=2 * size * part + _BYTES[element] * (4 if full else 3) / states,
    )
