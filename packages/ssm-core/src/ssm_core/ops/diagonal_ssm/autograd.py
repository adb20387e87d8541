"""The diagonal scan as a registered torch operator with its first derivative."""

import torch
from torch import Tensor
from torch.autograd import Function

from ssm_core.opkit.checks import check_offsets
from ssm_core.opkit.dispatch import run_backend
from ssm_core.opkit.packing import state_shape
from ssm_core.opkit.transforms import apply, contiguous, fold, refuse_mapped, register

OPS = torch.ops.ssm_core

torch.library.define(
    "ssm_core::diagonal_scan",
    "(Tensor dt, Tensor A, Tensor bu, Tensor? initial_state, Tensor? cu_seqlens, str method, str backend) "
    "-> (Tensor, Tensor)",
)
torch.library.define(
    "ssm_core::diagonal_scan_backward",
    "(Tensor dt, Tensor A, Tensor bu, Tensor? initial_state, Tensor? cu_seqlens, Tensor x, Tensor grad_x, "
    "Tensor grad_state, str method, str backend) -> (Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.impl("ssm_core::diagonal_scan", "CompositeExplicitAutograd")
def _forward(dt, A, bu, initial_state, cu_seqlens, method, backend):
    if cu_seqlens is not None and cu_seqlens.device.type == "cpu":
        check_offsets("diagonal_ssm", cu_seqlens, bu.shape[1])
    given = (dt, A, bu, initial_state, cu_seqlens, method)
    return contiguous(run_backend("forward", "diagonal_ssm", backend, *given, first=bu))


@torch.library.impl("ssm_core::diagonal_scan_backward", "CompositeExplicitAutograd")
def _backward(dt, A, bu, initial_state, cu_seqlens, x, grad_x, grad_state, method, backend):
    given = (dt, A, bu, initial_state, cu_seqlens, x, grad_x, grad_state, method)
    return contiguous(run_backend("backward", "diagonal_ssm", backend, *given, first=bu))


@torch.library.register_fake("ssm_core::diagonal_scan")
def _forward_fake(dt, A, bu, initial_state, cu_seqlens, method, backend):
    return bu.new_empty(bu.shape), bu.new_empty(state_shape(bu, cu_seqlens))


@torch.library.register_fake("ssm_core::diagonal_scan_backward")
def _backward_fake(dt, A, bu, initial_state, cu_seqlens, x, grad_x, grad_state, method, backend):
    state = bu.new_empty(state_shape(bu, cu_seqlens))
    return dt.new_empty(dt.shape), A.new_empty(A.shape), bu.new_empty(bu.shape), state


def scan(*operands) -> tuple[Tensor, Tensor]:
    """The differentiable scan of clean operands, in the order of the operator's."""
    states, last = apply(DiagonalScan, OPS.diagonal_scan, *operands)
    return states, last


class DiagonalScan(Function):
    """(dt, A, bu, initial_state, cu_seqlens, method, backend) -> (x, final state); all of one precision."""

    @staticmethod
    def forward(dt, A, bu, initial_state, cu_seqlens, method, backend):
        """Run the operator."""
        return OPS.diagonal_scan(dt, A, bu, initial_state, cu_seqlens, method, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the inputs and the states; the factors of each step are computed again."""
        *tensors, ctx.method, ctx.backend = inputs
        ctx.save_for_backward(*tensors, output[0])

    @staticmethod
    def backward(ctx, grad_x, grad_state):
        """The scan of the adjoint."""
        initial_state = ctx.saved_tensors[3]
        operands = (*ctx.saved_tensors, grad_x, grad_state, ctx.method, ctx.backend)
        grads = apply(DiagonalScanBackward, OPS.diagonal_scan_backward, *operands)
        return *grads[:3], None if initial_state is None else grads[3], None, None, None

    @staticmethod
    def vmap(info, in_dims, dt, A, bu, initial_state, cu_seqlens, method, backend):
        """Fold the mapped axis into the states: every operand has them as its last axis."""
        refuse_mapped("diagonal_ssm", in_dims[4])
        dt, A, bu, initial_state = _to_states(info.batch_size, in_dims[:4], (dt, A, bu, initial_state))
        return _from_states(info.batch_size, scan(dt, A, bu, initial_state, cu_seqlens, method, backend))


class DiagonalScanBackward(Function):
    """The gradients of `DiagonalScan`'s tensors, given those of its outputs; not differentiable again."""

    @staticmethod
    def forward(dt, A, bu, initial_state, cu_seqlens, x, grad_x, grad_state, method, backend):
        """Run the operator."""
        return OPS.diagonal_scan_backward(
            dt, A, bu, initial_state, cu_seqlens, x, grad_x, grad_state, method, backend
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Nothing is kept."""

    @staticmethod
    def backward(ctx, *grads):
        """Refuse."""
        raise NotImplementedError(
            "diagonal_ssm: no second derivative where dt changes with time; pass backend='reference' to have one"
        )

    @staticmethod
    def vmap(info, in_dims, dt, A, bu, initial_state, cu_seqlens, x, grad_x, grad_state, method, backend):
        """Fold the mapped axis into the states."""
        refuse_mapped("diagonal_ssm", in_dims[4])
        dims = (*in_dims[:4], *in_dims[5:8])
        folded = _to_states(info.batch_size, dims, (dt, A, bu, initial_state, x, grad_x, grad_state))
        operands = (*folded[:4], cu_seqlens, *folded[4:], method, backend)
        return _from_states(
            info.batch_size, apply(DiagonalScanBackward, OPS.diagonal_scan_backward, *operands)
        )


def _to_states(size: int, in_dims: tuple, tensors: tuple) -> list[Tensor | None]:
    """(..., N) mapped `size` times as (..., size N)."""
    axes = [
        0 if x is None else x.ndim - (dim is not None) - 1 for x, dim in zip(tensors, in_dims, strict=True)
    ]
    return [None if x is None else x.flatten(-2) for x in fold(size, in_dims, tensors, axes)]


def _from_states(size: int, outputs: tuple) -> tuple[tuple, tuple]:
    """(..., size N) as (..., size, N), with the place of the mapped axis for each."""
    split = tuple(x.unflatten(-1, (size, -1)) for x in outputs)
    return split, tuple(x.ndim - 2 for x in split)


register("ssm_core::diagonal_scan", DiagonalScan)
register("ssm_core::diagonal_scan_backward", DiagonalScanBackward)
