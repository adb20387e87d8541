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
    """Every kernel that dispatch can launch for up to 64 states, in float32."""
    integers = ("width", "states", "blocks_per_group", "per_group", "groups", "groups_b", "groups_c")
    for module, kind in ((triton_real, "real"), (triton_wide, "complex")):
        for method, name in enumerate(METHODS):
            shared = {"METHOD": method, "CHUNK": CHUNK, "ACC": arithmetic(torch.float32)}
            fixed = {"B_FIXED": kind == "complex", "C_FIXED": kind == "complex"}
            pointers = ("u", "dt", "A", "B", "C", "y", "state", "kept")
            for n in (16, 64):
                yield Variant(
                    f"selective_scan forward, {kind}, {name}, {n} states",
                    module.forward,
                    _signature(pointers, integers),
                    {**shared, **fixed, "BLOCK_D": _block_forward(n, kind == "complex"), "BLOCK_N": n},
                    num_warps=_WARPS_FORWARD,
                    stack=8 if name == "bilinear" else 0,  # where a division calls its slow path
                )
            gradients = ("grad_y", "grad_u", "grad_dt", "grad_A", "grad_B", "grad_C", "carry")
            yield Variant(
                f"selective_scan backward, {kind}, {name}",
                module.backward,
                _signature(
                    ("u", "dt", "A", "B", "C", "kept", *gradients), (*integers[:2], "steps", *integers[2:])
                ),
                {**shared, **fixed, "BLOCK_D": _BLOCK_BACKWARD},
                num_warps=_WARPS_BACKWARD[kind == "complex"],
            )


def _unwritten(like: Tensor, A: Tensor) -> Tensor:
    """Room for what a kernel writes; zeros where there is no state, and so no kernel that would."""
    new = torch.empty_like if A.numel() else torch.zeros_like
    return new(like, memory_format=torch.contiguous_format)


def _block_forward(states: int, wide: bool) -> int:
    return max(1, _CELLS[wide] // next_power_of_2(states))


def _signature(pointers: tuple[str, ...], integers: tuple[str, ...]) -> dict[str, str]:
    return {
        **dict.fromkeys(pointers, "*fp32"),
        "offsets": "*i64",
        **dict.fromkeys(integers, "i32"),
    }


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
