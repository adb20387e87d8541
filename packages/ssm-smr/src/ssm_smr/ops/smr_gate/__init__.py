"""The gate of State Memory Replay: recent inputs decide how much of the current one passes."""

import torch
from torch import Tensor

from ssm_core.opkit import dispatch
from ssm_core.opkit.checks import check_cu_seqlens, check_numeric, check_real, check_shape, compute_dtype
from ssm_smr.ops.smr_gate import reference
from ssm_smr.ops.smr_gate.autograd import gate, state_shape


def smr_gate(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    gate_scale: float = 1.0,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Scale each input by a squashed causal convolution: u'_k = s sigmoid(b + sum_i W_i u_{k-i}) u_k, i = 0..tau-1.

    Depthwise, one pass over u forward and one backward, which computes the gate anew; a dense gate's sigmoid is kept.

    Args:
        u: Input of the state-space model, real (B, L, H), any strides, L = 0 included.
        weight: Real; depthwise (H, tau), or dense (H, H, tau) as (output, input, time). ``weight[..., -1]`` belongs to
            the current step.
        bias: (H,), or None.
        initial_state: The tau - 1 inputs before the first, oldest first: (B, tau-1, H); (S, tau-1, H) with
            `cu_seqlens`; zeros if None.
        gate_scale: Factor s on the sigmoid.
        cu_seqlens: int32 (S+1,), offsets 0, ..., L of S sequences packed end to end in a batch of one, empty ones
            included. Memory does not cross from one to the next.
        backend: "reference", "torch", "numba" or "triton"; None takes SSM_BACKEND or else the fastest that runs.

    Returns:
        u' (B, L, H) in the dtype of u, and the last tau - 1 inputs (B, tau-1, H) or (S, tau-1, H); both differentiable
        (once; on "reference" to any order). Arithmetic and the state are in float32 at least, or the widest dtype
        given, also under autocast.

    Raises:
        ValueError: Shapes, dtypes, devices or offsets do not fit; the message names the argument.
        RuntimeError: The backend asked for cannot run here.

    Source:
        Qi et al. 2024, arXiv 2405.17534, as reconstructed in the documentation; the paper's own equations
        were not at hand.

    Example:
        >>> u = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1)
        >>> gated, memory = smr_gate(u, torch.zeros(1, 2))
        >>> gated.flatten().tolist(), memory.flatten().tolist()
        ([0.5, 1.0, 1.5], [3.0])
    """
    backend = dispatch.requested("smr_gate", backend)
    _check(u, weight, bias, initial_state, cu_seqlens)
    with torch.autocast(u.device.type, enabled=False):
        if backend != "reference":
            gated, state = gate(u, weight, bias, initial_state, cu_seqlens, float(gate_scale), backend)
            return gated, state
        dtype = compute_dtype(u, weight, bias, initial_state)
        bias, initial_state = (None if t is None else t.to(dtype) for t in (bias, initial_state))
        options = {"gate_scale": gate_scale, "cu_seqlens": cu_seqlens}
        gated, state = reference.smr_gate(u.to(dtype), weight.to(dtype), bias, initial_state, **options)
        return gated.to(u.dtype), state


def _check(u, weight, bias, initial_state, cu_seqlens) -> None:
    op = "smr_gate"
    if u.ndim != 3:
        raise ValueError(f"{op}: u has shape {tuple(u.shape)}, expected (B, L, H)")
    tensors = {"u": u, "weight": weight, "bias": bias, "initial_state": initial_state}
    check_numeric(op, **tensors)
    check_real(op, **tensors)
    h, tau = u.shape[2], weight.shape[-1] if weight.ndim else 0
    if tau == 0 or tuple(weight.shape) not in {(h, tau), (h, h, tau)}:
        raise ValueError(
            f"{op}: weight has shape {tuple(weight.shape)}, expected ({h}, tau) or ({h}, {h}, tau) with tau >= 1"
        )
    if bias is not None:
        check_shape(op, "bias", bias, (h,), letters="(H,)")
    if cu_seqlens is not None:
        check_cu_seqlens(op, cu_seqlens, u.shape[0], u.device)
    if initial_state is not None:
        letters = "(B, tau-1, H)" if cu_seqlens is None else "(S, tau-1, H)"
        check_shape(op, "initial_state", initial_state, state_shape(u, weight, cu_seqlens), letters=letters)


def _probe(backend: str) -> Tensor:
    u, weight = torch.arange(12.0).view(2, 3, 2), torch.tensor([[0.5, -1.0, 0.2], [1.0, 0.0, -0.5]])
    return smr_gate(u, weight, torch.ones(2), gate_scale=2.0, backend=backend)[0]


dispatch.register("smr_gate", _probe, "ssm_smr.ops")
