"""The linear scan as a registered torch operator with its derivatives.

With g the gradient of h, h^- the states before each step and the final state's gradient added at the last step,

    lambda_t = g_t + conj(a_{t+1}) lambda_{t+1},   b_bar = lambda,   a_bar = lambda conj(h^-),
    initial_state_bar = conj(a_0) lambda_0,

a scan in the other direction. Its own derivative, for gradients (u, v, w) of (a_bar, b_bar, initial_state_bar), is
again a scan, mu_t = a_t mu_{t-1} + v_t + u_t h^-_t from mu_{-1} = w, so derivatives of every order exist.
"""

import torch
from torch import Tensor
from torch.autograd import Function

from ssm_core.opkit import packing
from ssm_core.opkit.checks import check_offsets
from ssm_core.opkit.dispatch import run_backend
from ssm_core.opkit.transforms import apply, contiguous, fold, refuse_mapped, register

OPS = torch.ops.ssm_core

torch.library.define(
    "ssm_core::linear_scan",
    "(Tensor a, Tensor b, Tensor? initial_state, Tensor? cu_seqlens, bool reverse, str backend) -> (Tensor, Tensor)",
)
torch.library.define(
    "ssm_core::linear_scan_backward",
    "(Tensor a, Tensor h, Tensor? initial_state, Tensor? cu_seqlens, Tensor grad_h, Tensor grad_state, "
    "bool reverse, str backend) -> (Tensor, Tensor, Tensor)",
)


@torch.library.impl("ssm_core::linear_scan", "CompositeExplicitAutograd")
def _forward(a, b, initial_state, cu_seqlens, reverse, backend):
    if cu_seqlens is not None and cu_seqlens.device.type == "cpu":
        check_offsets("linear_scan", cu_seqlens, b.shape[1])
    given = (a, b, initial_state, cu_seqlens, reverse)
    return contiguous(run_backend("forward", "linear_scan", backend, *given, first=b))


@torch.library.impl("ssm_core::linear_scan_backward", "CompositeExplicitAutograd")
def _backward(a, h, initial_state, cu_seqlens, grad_h, grad_state, reverse, backend):
    given = (a, h, initial_state, cu_seqlens, grad_h, grad_state, reverse)
    return contiguous(run_backend("backward", "linear_scan", backend, *given, first=h))


@torch.library.register_fake("ssm_core::linear_scan")
def _forward_fake(a, b, initial_state, cu_seqlens, reverse, backend):
    return b.new_empty(b.shape), b.new_empty(packing.state_shape(b, cu_seqlens))


@torch.library.register_fake("ssm_core::linear_scan_backward")
def _backward_fake(a, h, initial_state, cu_seqlens, grad_h, grad_state, reverse, backend):
    return a.new_empty(a.shape), h.new_empty(h.shape), h.new_empty(packing.state_shape(h, cu_seqlens))


def scan(*operands) -> tuple[Tensor, Tensor]:
    """The differentiable scan of clean operands, in the order of the operator's."""
    states, last = apply(LinearScan, OPS.linear_scan, *operands)
    return states, last


class LinearScan(Function):
    """(a, b, initial_state, cu_seqlens, reverse, backend) -> (h, final state); all of one dtype."""

    @staticmethod
    def forward(a, b, initial_state, cu_seqlens, reverse, backend):
        """Run the operator."""
        return OPS.linear_scan(a, b, initial_state, cu_seqlens, reverse, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep a, h and the initial state: b is not needed."""
        a, _, initial_state, cu_seqlens, ctx.reverse, ctx.backend = inputs
        ctx.save_for_backward(a, output[0], initial_state, cu_seqlens)

    @staticmethod
    def backward(ctx, grad_h, grad_state):
        """The scan of the adjoint."""
        a, h, initial_state, cu_seqlens = ctx.saved_tensors
        operands = (a, h, initial_state, cu_seqlens, grad_h, grad_state, ctx.reverse, ctx.backend)
        grad_a, grad_b, grad_initial = apply(LinearScanBackward, OPS.linear_scan_backward, *operands)
        return grad_a, grad_b, None if initial_state is None else grad_initial, None, None, None

    @staticmethod
    def vmap(info, in_dims, a, b, initial_state, cu_seqlens, reverse, backend):
        """Fold the mapped axis into the features, where every operand has room for it."""
        refuse_mapped("linear_scan", in_dims[3])
        axes = (_a_axis(a, b, in_dims[:2]), 2, 1)
        folded = fold(info.batch_size, in_dims[:3], (a, b, initial_state), axes)
        return scan(*folded, cu_seqlens, reverse, backend), (2, 1)


class LinearScanBackward(Function):
    """(a, h, initial_state, cu_seqlens, grad_h, grad_state, reverse, backend) -> the three gradients."""

    @staticmethod
    def forward(a, h, initial_state, cu_seqlens, grad_h, grad_state, reverse, backend):
        """Run the operator."""
        return OPS.linear_scan_backward(a, h, initial_state, cu_seqlens, grad_h, grad_state, reverse, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the operands that the gradients are products of, lambda among them."""
        a, h, initial_state, cu_seqlens, _, _, ctx.reverse, ctx.backend = inputs
        ctx.save_for_backward(a, h, initial_state, cu_seqlens, output[1])

    @staticmethod
    def backward(ctx, u, v, w):
        """The second derivative, by the public scan."""
        a, h, initial_state, cu_seqlens, lam = ctx.saved_tensors
        where = (cu_seqlens, ctx.reverse)
        h_before = packing.before(h, initial_state, *where)
        mu, grad_state = scan(a, v + u * h_before, w, *where, ctx.backend)
        grad_a = packing.before(mu, w, *where).conj() * lam
        grad_before = u.conj() * lam
        if a.ndim == h.ndim - 2:
            grad_a = grad_a.sum((0, 1))
        grad_initial = None if initial_state is None else packing.at_first(grad_before, *where)
        return grad_a, packing.after(grad_before, *where), grad_initial, None, mu, grad_state, None, None

    @staticmethod
    def vmap(info, in_dims, a, h, initial_state, cu_seqlens, grad_h, grad_state, reverse, backend):
        """Fold the mapped axis into the features, as for the forward scan."""
        refuse_mapped("linear_scan", in_dims[3])
        axis = _a_axis(a, h, in_dims[:2])
        operands, dims = (a, h, initial_state, grad_h, grad_state), (*in_dims[:3], *in_dims[4:6])
        a, h, initial_state, grad_h, grad_state = fold(info.batch_size, dims, operands, (axis, 2, 1, 2, 1))
        operands = (a, h, initial_state, cu_seqlens, grad_h, grad_state, reverse, backend)
        return apply(LinearScanBackward, OPS.linear_scan_backward, *operands), (axis, 2, 1)


def _a_axis(a: Tensor, b: Tensor, dims: tuple[int | None, ...]) -> int:
    """Where the mapped axis goes in `a`: the first feature axis, axis 0 if it is time-invariant."""
    a_ndim, b_ndim = (x.ndim - (dim is not None) for x, dim in zip((a, b), dims, strict=True))
    return 0 if a_ndim == b_ndim - 2 else 2


register("ssm_core::linear_scan", LinearScan)
register("ssm_core::linear_scan_backward", LinearScanBackward)
