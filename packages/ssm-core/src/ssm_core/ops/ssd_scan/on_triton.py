"""The state-space dual on CUDA: sums of decays, states of chunks, their passing on, outputs; and the same backward.

Chunks have 64 steps (32 in single, 16 in double precision), or 16 where sequences are short; P and N are walked in
tiles. Operands of half precision are multiplied as tf32, which holds them exactly, all others as they are; sums and
states are float32 or float64. Gradients that several programs add to (of A, D, B and C) are written as partial sums and
added up afterwards, in an order that does not change.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ssm_core.opkit.checks import compute_dtype
from ssm_core.opkit.triton_runtime import Variant
from ssm_core.ops.ssd_scan import _triton_backward as back
from ssm_core.ops.ssd_scan import _triton_forward as fore
from ssm_core.ops.ssd_scan._triton_plan import HALVES, Plan, Shape, constants, launch, shape_for, steps_of

_BLOCK = 512  # elements of a state that a program passes on
_HEADS = 16  # heads whose decays a program sums
_PROGRAMS = 512  # enough to fill a GPU: the heads of a group are shared out until there are so many


def forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """y (B,L,H,P) in the dtype of x and the state (B or S,H,P,N) after each sequence."""
    plan = _planned((x, dt, A, B, C, D, z, initial_state), cu_seqlens, chunk_size)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    states, last = _states(plan)
    if x.numel() and plan.count:
        steps = (plan.x.stride(0), plan.gate.stride(0), plan.dt.stride(0), plan.B.stride(0), plan.C.stride(0))
        grid = (plan.count * x.shape[2], plan.tiles(x.shape[3]))
        tensors = (plan.x, plan.gate, plan.dt, plan.B, plan.C, plan.D, plan.high, plan.low, states, y)
        plan.launch(fore.outputs, grid, (*tensors, *plan.chunks[:2], *plan.sizes, *steps), plan.gated)
    return y, last


def backward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    grad_y: Tensor,
    grad_state: Tensor,
    chunk_size: int,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, dt, A, B, C, D, z and the initial state, None where there is none."""
    plan = _planned((x, dt, A, B, C, D, z, initial_state), cu_seqlens, chunk_size)
    states, _ = _states(plan)
    g = steps_of(grad_y)
    adjoints, grad_initial = _states(plan, g, grad_state.to(plan.dtype).contiguous())
    grad_x, grad_z, grad_dt, grad_A, grad_D = _input_gradients(plan, g, states, adjoints)
    grad_B, grad_C = _projection_gradients(plan, g, states, adjoints)
    return (
        grad_x.view(x.shape),
        grad_dt.view(dt.shape),
        grad_A.sum(0),
        grad_B.view(B.shape),
        grad_C.view(C.shape),
        None if D is None else grad_D.sum((0, 2) if D.ndim == 1 else 0),
        None if z is None else grad_z.view(z.shape),
        None if initial_state is None else grad_initial,
    )


def _planned(tensors: tuple, cu_seqlens: Tensor | None, chunk_size: int) -> Plan:
    """The plan, its sums of decays filled in."""
    plan = Plan(tensors, cu_seqlens, chunk_size)
    heads = plan.sizes[0]
    if plan.count and heads:
        arguments = (plan.dt, plan.A, plan.high, plan.low, *plan.chunks[:2], heads, plan.dt.stride(0))
        fixed = {"Q": plan.shape.Q, "HEADS": _HEADS, "DTYPE": plan.constants["DTYPE"]}
        launch(fore.sum_decays, (plan.count, -(-heads // _HEADS)), arguments, fixed, 4)
    return plan


def _states(plan: Plan, g: Tensor | None = None, edge: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The state each chunk starts from, and the last ones; with g and `edge`, the adjoints, right to left."""
    heads, _, width, states = plan.sizes
    found = torch.empty(plan.count, heads, width, states, dtype=plan.dtype, device=plan.x.device)
    final, adjoint = torch.empty_like(plan.start), g is not None
    values, vectors = (plan.x, plan.B) if g is None else (g, plan.C)
    if found.numel():
        steps = (values.stride(0), plan.gate.stride(0), plan.dt.stride(0), vectors.stride(0))
        grid = (plan.count * heads, plan.tiles(width), plan.tiles(states))
        tensors = (values, plan.gate, plan.dt, vectors, plan.high, plan.low, found)
        fixed = {"ADJOINT": adjoint, "GATED": adjoint and plan.z is not None}
        plan.launch(fore.sum_outer, grid, (*tensors, *plan.chunks[:2], *plan.sizes, *steps), fixed)
    if final.numel():
        size = width * states
        enters = plan.start if edge is None else edge
        arguments = (found, enters, final, plan.high, plan.chunks.offsets, heads, size)
        fixed = {"Q": plan.shape.Q, "BLOCK": _BLOCK, "REVERSE": adjoint}
        launch(fore.pass_states, (plan.sequences * heads, -(-size // _BLOCK)), arguments, fixed, 4)
    return found, final


def _input_gradients(plan: Plan, g: Tensor, entering: Tensor, leaving: Tensor) -> tuple[Tensor, ...]:
    """Gradients of x, z, dt; shares of those of A (K, H) and D (K, H, P)."""
    heads, _, width, _ = plan.sizes
    device = g.device
    grad_x = torch.empty(plan.x.shape, dtype=plan.x.dtype, device=device)
    grad_z = grad_x if plan.z is None else torch.empty(plan.z.shape, dtype=plan.z.dtype, device=device)
    grad_dt = torch.empty(plan.dt.shape, dtype=plan.dtype, device=device)
    grad_A = torch.empty(plan.count, heads, dtype=plan.dtype, device=device)
    grad_D = torch.empty(plan.count, heads, width, dtype=plan.dtype, device=device)
    found = (grad_x, grad_z, grad_dt, grad_A, grad_D)
    operands = (plan.x, plan.gate, plan.dt, plan.A, plan.B, plan.C, plan.D, g)
    tensors = (*operands, plan.high, plan.low, entering, leaving, *found)
    steps = (m.stride(0) for m in (plan.x, plan.gate, plan.dt, plan.B, plan.C, g))
    if plan.count * heads:
        grid = (plan.count * heads,)
        plan.launch(
            back.input_gradients, grid, (*tensors, *plan.chunks[:2], *plan.sizes, *steps), plan.gradient
        )
    return found


def _projection_gradients(plan: Plan, g: Tensor, entering: Tensor, leaving: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of B and C (steps, G, N)."""
    heads, groups, _, states = plan.sizes
    share = max(1, min(heads // groups, plan.count * heads // _PROGRAMS))
    splits = -(-(heads // groups) // share)
    found = torch.empty(2, splits, *plan.B.shape, dtype=plan.dtype, device=g.device)
    tensors = (plan.x, plan.gate, plan.dt, plan.B, plan.C, g, plan.high, plan.low, entering, leaving, *found)
    steps = (m.stride(0) for m in (plan.x, plan.gate, plan.dt, plan.B, plan.C, g))
    if found.numel():
        grid = (plan.count * groups * splits, -(-states // plan.shape.GRADIENT_TILE))
        numbers = (*plan.sizes, *steps, splits, share, plan.length)
        plan.launch(back.projection_gradients, grid, (*tensors, *plan.chunks[:2], *numbers), plan.gradient)
    grad_B, grad_C = found.sum(1)
    return grad_B, grad_C


_TRITON_TYPES = {torch.float32: "fp32", torch.float64: "fp64", torch.float16: "fp16", torch.bfloat16: "bf16"}
_ACTIVATIONS = ("x", "z", "B", "C", "y", "grad_y", "grad_x", "grad_z")
# Bytes that a thread spills at worst, on sm_80, which has half the shared memory to put operands of a product in.
_SPILLED = {"outputs": 64, "input_gradients": 400, "projection_gradients": 152}
_INDICES = ("start", "stop", "offsets")
_ALIGNED = ("width", "states", "size", "x_step", "z_step", "B_step", "C_step", "grad_step")


def variants() -> Iterator[Variant]:
    """Every kernel configuration that a launch can choose, operands of one dtype."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        for shape in sorted({shape_for((dtype,), length) for length in (16, 64)}):
            yield from _variants(dtype, shape)


def _variants(dtype: torch.dtype, shape: Shape) -> Iterator[Variant]:
    computed = compute_dtype(torch.empty(0, dtype=dtype))
    common = constants(shape, computed, dtype in HALVES)
    plain = {"Q": shape.Q}
    settings = [(fore.sum_decays, {**plain, "HEADS": _HEADS, "DTYPE": common["DTYPE"]}, 4)]
    settings += [(fore.pass_states, {**plain, "BLOCK": _BLOCK, "REVERSE": flag}, 4) for flag in (False, True)]
    outer = [(False, False), (True, False), (True, True)]
    settings += [
        (fore.sum_outer, {**common, "ADJOINT": adjoint, "GATED": gated}, shape.num_warps)
        for adjoint, gated in outer
    ]
    for kernel in (fore.outputs, back.input_gradients, back.projection_gradients):
        tile = shape.TILE if kernel is fore.outputs else shape.GRADIENT_TILE
        fixed = {**common, "TILE": tile}
        settings += [(kernel, {**fixed, "GATED": flag}, shape.num_warps) for flag in (False, True)]
    for kernel, chosen, num_warps in settings:
        flags = "".join(f" {name.lower()}" for name, value in chosen.items() if value is True)
        signature = {
            name: _triton_type(name, dtype, computed) for name in kernel.arg_names if name not in chosen
        }
        aligned = tuple(name for name, kind in signature.items() if kind.startswith("*") or name in _ALIGNED)
        name = f"{kernel.__name__} {_TRITON_TYPES[dtype]} Q{shape.Q}{flags}"
        spilled = _SPILLED.get(kernel.__name__, 0)
        elements, unit, traffic = _elements(kernel, chosen, dtype.itemsize, computed.itemsize)
        yield Variant(
            name,
            kernel,
            signature,
            chosen,
            num_warps=num_warps,
            aligned=aligned,
            elements=elements,
            unit=unit,
            traffic=traffic,
            stack=spilled,
        )


def _elements(kernel: Any, chosen: dict, given: int, kept: int) -> tuple[int, str, float]:
    """Elements of a pass, what they are, and bytes of one with 128 states; B and C are shared by the heads."""
    Q = chosen["Q"]
    if kernel is fore.sum_decays:
        return Q * _HEADS, "step and head", 3 * kept
    if kernel is fore.pass_states:
        return _BLOCK, "chunk and cell of a state", 2 * kept
    if kernel is back.input_gradients:
        return 0, "", 0.0  # loops over two different things
    # Arrays of steps and channels, each read or written once for all states; those of states, once for all steps.
    of_steps, of_states = {fore.sum_outer: (1, 1), fore.outputs: (2, 1), back.projection_gradients: (2, 2)}[
        kernel
    ]
    of_steps += chosen["GATED"]
    return Q * chosen["TILE"] ** 2, "step, channel and state", of_steps * given / 128 + of_states * kept / Q


def _triton_type(name: str, dtype: torch.dtype, computed: torch.dtype) -> str:
    if name in _ACTIVATIONS:
        return f"*{_TRITON_TYPES[dtype]}"
    if name in _INDICES:
        return "*i64"
    numbers = name in ("heads", "groups", "width", "states", "size", "splits", "share", "total_steps")
    return "i32" if numbers or name.endswith("_step") else f"*{_TRITON_TYPES[computed]}"
