"""Launching the Triton kernels of the selective scan; see `triton_real` and `triton_wide`."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssm_core.opkit.triton_runtime import Variant, arithmetic, next_power_of_2
from ssm_core.ops.selective_scan import triton_real, triton_wide
from ssm_core.ops.selective_scan.core import CHUNK, slots
from ssm_core.ops.selective_scan.discretization import METHODS

_CELLS = {False: 512, True: 256}
"""(channel, state) pairs of a forward program, for real and complex A: few enough to stay in registers."""

_BLOCK_BACKWARD, _WARPS_FORWARD = 16, 4
_WARPS_BACKWARD = {False: 4, True: 8}
"""A tile of the backward kernel is CHUNK x 16: 4 elements a thread for real A, 2 for complex, with all that is live."""


class _Layout(NamedTuple):
    """How channels fall into groups and blocks."""

    blocks_per_group: int
    per_group: int
    groups: int
    groups_b: int
    groups_c: int


def forward(u, dt, A, B, C, initial_state, cu_seqlens, method: str) -> tuple[Tensor, Tensor, Tensor]:
    """y (B,L,D), the state (B or S,D,N) after each sequence, and the kept states (slots,N,D)."""
    offsets, block = _offsets(u, cu_seqlens), _block_forward(A.shape[1], A.is_complex())
    rows, layout = len(offsets) - 1, _layout(A.shape[0], block, B, C)
    y = _unwritten(u, A)
    state = A.new_zeros(rows, *A.shape)
    if initial_state is not None:
        state.copy_(initial_state)
    kept = A.new_zeros(slots(u.shape[0] * u.shape[1], rows), A.shape[1], A.shape[0])
    kernel = (triton_wide if A.is_complex() else triton_real).forward
    tensors = (*map(_floats, (u, dt, A, B, C)), y, _floats(state), _floats(kept), offsets)
    if rows and A.numel():
        kernel[(rows * layout.blocks_per_group * layout.groups,)](
            *(*tensors, *A.shape, *layout),
            **_constants(A, B, C, method, block),
            BLOCK_N=next_power_of_2(A.shape[1]),
            num_warps=_WARPS_FORWARD,
        )
    return y, state, kept


def backward(
    u, dt, A, B, C, initial_state, cu_seqlens, kept, grad_y, grad_state, method: str
) -> tuple[Tensor | None, ...]:
    """Gradients of u, dt, A, B, C and the initial state."""
    offsets, block = _offsets(u, cu_seqlens), _BLOCK_BACKWARD
    rows, layout = len(offsets) - 1, _layout(A.shape[0], block, B, C)
    grad_u, grad_dt = (_unwritten(x, A) for x in (u, dt))
    carry = grad_state.mT.to(A.dtype, copy=True, memory_format=torch.contiguous_format)
    grad_A = torch.zeros_like(carry)
    blocks, steps = layout.blocks_per_group * layout.groups, u.shape[0] * u.shape[1]
    room = A.new_empty if A.numel() else A.new_zeros
    parts = [torch.zeros_like(carry) if m.ndim == 2 else room(blocks, steps, A.shape[1]) for m in (B, C)]
    kernel = (triton_wide if A.is_complex() else triton_real).backward
    tensors = (u, dt, A, B, C, kept, grad_y)
    written = (grad_u, grad_dt, grad_A, *parts, carry)
    if rows and A.numel():
        kernel[(rows * blocks,)](
            *(*map(_floats, tensors), *map(_floats, written), offsets, *A.shape, steps, *layout),
            **_constants(A, B, C, method, block),
            num_warps=_WARPS_BACKWARD[A.is_complex()],
        )
    grad_B, grad_C = (_gathered(part, m, layout) for part, m in zip(parts, (B, C), strict=True))
    return grad_u, grad_dt, grad_A.sum(0).mT, grad_B, grad_C, None if initial_state is None else carry.mT


def variants() -> Iterator[Variant]:
    """Kernels as dispatch launches them: every method, B and C fixed or not, channels in one group and in several.

    In float32, that is: in float64 one group, B and C alike. Forward tiles are those of 16 states, and for both alike
    those of 64: whatever the states, a tile has as many cells; the backward goes through states one by one. Sizes are
    multiples of 16, and all tensors of one precision, as dispatch makes them.
    """
    for element, dtype in (("fp32", torch.float32), ("fp64", torch.float64)):
        for wide in (False, True):
            for method in METHODS:
                for form, (fixed_b, fixed_c, groups) in _FORMS.items():
                    usual = fixed_b == fixed_c and groups is not None
                    if usual or element == "fp32":
                        yield _variant(dtype, element, wide, method, form, 16)
                        yield _variant(dtype, element, wide, method, form, None)
                    if usual and element == "fp32":
                        yield _variant(dtype, element, wide, method, form, 64)


_FORMS = {
    "varying B, C": (False, False, 1),
    "fixed B, C": (True, True, 1),
    "fixed B": (True, False, 1),
    "fixed C": (False, True, 1),
    "groups": (False, False, None),
}
"""Whether B and C are fixed, and the number of groups if it is 1, which a launch takes for a constant."""
_INTEGERS = ("width", "states", "blocks_per_group", "per_group", "groups", "groups_b", "groups_c")
_ALIGNED = ("width", "states", "steps", "per_group")


def _variant(
    dtype: torch.dtype, element: str, wide: bool, method: str, form: str, states: int | None
) -> Variant:
    """The forward kernel for so many states, or the backward one."""
    module, kind = (triton_wide, "complex") if wide else (triton_real, "real")
    fixed_b, fixed_c, groups = _FORMS[form]
    constants = {"B_FIXED": fixed_b, "C_FIXED": fixed_c, "METHOD": METHODS.index(method), "CHUNK": CHUNK}
    constants["ACC"] = arithmetic(dtype)
    if states is None:
        kernel, warps, what = module.backward, _WARPS_BACKWARD[wide], ""
        constants["BLOCK_D"] = _BLOCK_BACKWARD
    else:
        kernel, warps, what = module.forward, _WARPS_FORWARD, f" {states} states"
        constants |= {"BLOCK_D": _block_forward(states, wide), "BLOCK_N": states}
    if groups is not None:
        constants |= dict.fromkeys(("groups", "groups_b", "groups_c"), groups)
    integers = (*_INTEGERS, "steps")
    names = [name for name in kernel.arg_names if name not in constants]
    types = {"offsets": "*i64", **dict.fromkeys(integers, "i32")}
    signature = {name: types.get(name, f"*{element}") for name in names}
    return Variant(
        f"selective_scan {'backward' if states is None else 'forward'} {kind} {method}{what} {element} {form}",
        kernel,
        signature,
        constants,
        num_warps=warps,
        aligned=tuple(name for name in names if name in _ALIGNED or signature[name].startswith("*")),
        wide=not wide,  # real and imaginary parts are loaded apart
        elements=constants["BLOCK_D"] * (CHUNK if states is None else 1),
        unit="step, channel and state" if states is None else "step and channel",
        traffic=(8 if dtype == torch.float64 else 4) * _numbers(wide, fixed_b, fixed_c, states),
        stack=_stack(dtype, wide, method, states),
    )


def _stack(dtype: torch.dtype, wide: bool, method: str, states: int | None) -> int:
    """Bytes that a program may spill: the backward a few of what it holds for A complex or in float64, whatever its
    tile; the forward two words where a division calls its slow way, and what a sine's has."""
    if states is None:
        return 80 if wide or dtype == torch.float64 else 0
    return 48 if wide else 8 if method != "euler" else 0


def _numbers(wide: bool, fixed_b: bool, fixed_c: bool, states: int | None) -> float:
    """Numbers read and written for a (step, channel), or by the backward for one of its 16 states, caches aside."""
    part = 2 if wide else 1
    if states is not None:
        return 3 + part * states / CHUNK  # u, dt and y; kept states
    return 5 / 16 + part * (1 / CHUNK + ((not fixed_b) + (not fixed_c)) / _BLOCK_BACKWARD)


def _unwritten(like: Tensor, A: Tensor) -> Tensor:
    """Room for what a kernel writes; zeros where there is no state, and so no kernel that would."""
    new = torch.empty_like if A.numel() else torch.zeros_like
    return new(like, memory_format=torch.contiguous_format)


def _block_forward(states: int, wide: bool) -> int:
    return max(1, _CELLS[wide] // next_power_of_2(states))


def _constants(A: Tensor, B: Tensor, C: Tensor, method: str, block: int) -> dict[str, Any]:
    return {
        "B_FIXED": B.ndim == 2,
        "C_FIXED": C.ndim == 2,
        "METHOD": METHODS.index(method),
        "CHUNK": CHUNK,
        "BLOCK_D": block,
        "ACC": arithmetic(A.dtype),
    }


def _offsets(u: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Where each sequence starts in (B L, D), and the last ends: (S+1,) int64."""
    if cu_seqlens is not None:
        return cu_seqlens.long()
    return torch.arange(u.shape[0] + 1, device=u.device) * u.shape[1]


def _layout(width: int, block: int, *matrices: Tensor) -> _Layout:
    of = [m.shape[2] if m.ndim == 4 else 1 for m in matrices]
    groups = max(of)
    per_group = width // groups
    return _Layout(max(1, -(-per_group // block)), per_group, groups, *of)


def _floats(tensor: Tensor) -> Tensor:
    """Contiguous; complex numbers as pairs."""
    tensor = tensor.resolve_conj().contiguous()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _gathered(part: Tensor, m: Tensor, layout: _Layout) -> Tensor:
    """The gradient of B or C from what each sequence or block has of it, added up in a fixed order."""
    if m.ndim == 2:
        return part.sum(0).mT
    by_group = part.unflatten(0, (layout.groups, layout.blocks_per_group)).sum(1)  # (G, steps, N)
    if m.shape[2] == 1:
        by_group = by_group.sum(0, keepdim=True)
    return by_group.movedim(0, 1).reshape(m.shape)
