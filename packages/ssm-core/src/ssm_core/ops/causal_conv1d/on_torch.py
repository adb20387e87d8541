"""Causal convolution tap by tap: one product over all steps for each of the W taps.

Sequences are laid end to end, each behind its state (`history.join`), so a batch and a pack are the same matrix, and a
tap is a contiguous shift of it. torch's own conv1d is not used: on CUDA it rounds to TF32 unless told otherwise. What
follows the convolution is one of

    "" : y = z,    "silu" : y = z sigmoid(z),    "gate" : y = gate_scale x sigmoid(z),

and a weight (H, H, W) as (output, input, tap) mixes the channels: ssm_smr's gate is both.
"""

import torch
from torch import Tensor

from ssm_core.ops.causal_conv1d.history import add_final_state_gradient, final_state, join, split


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    activation: str,
    gate_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """y (B,L,H) and the last W - 1 inputs (B or S,W-1,H). Clean inputs of one dtype assumed."""
    past = weight.shape[-1] - 1
    joined = join(x, initial_state, cu_seqlens, past)
    z, _ = split(correlate(joined, weight, bias), x, cu_seqlens, past)
    state = final_state(x, initial_state, cu_seqlens, past)
    if activation == "":
        return z.clone(), state  # not a part of the longer z
    gate = torch.sigmoid(z)
    return (gate.mul_(z) if activation == "silu" else gate.mul_(x).mul_(gate_scale)), state


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
    """Gradients of x, the weight, the bias and the initial state, the convolution computed anew.

    With grad_z that of z, one tap gives grad_x_{t-i} += w_i grad_z_t and grad_w_i = sum_t grad_z_t x_{t-i}.
    """
    past = weight.shape[-1] - 1
    joined = join(x, initial_state, cu_seqlens, past)
    grad_z, direct = grad_y, None
    if activation:
        z, _ = split(correlate(joined, weight, bias), x, cu_seqlens, past)
        grad_z, direct = activation_backward(z, x, grad_y, activation, gate_scale)
    grad_joined, grad_weight = correlate_backward(joined, weight, join(grad_z, None, cu_seqlens, past))
    grad_x, grad_initial = split(grad_joined, x, cu_seqlens, past)
    add_final_state_gradient(grad_x, grad_initial, grad_state, cu_seqlens)
    grad_x = grad_x.clone() if direct is None else grad_x + direct
    return grad_x, grad_weight, grad_z.sum((0, 1)), grad_initial.clone()


def correlate(joined: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """z (N,H) of the matrix (N,H) that `history.join` makes; its first W - 1 rows mean nothing."""
    past, taps = weight.shape[-1] - 1, _taps(weight)
    z = torch.zeros_like(joined)
    valid = z[past:]
    if bias is not None:
        valid += bias
    for k in range(past + 1):
        tap = joined[k : k + len(valid)]
        if weight.ndim == 3:
            valid.addmm_(tap, taps[k].T)
        else:
            valid.addcmul_(tap, taps[k])
    return z


def correlate_backward(joined: Tensor, weight: Tensor, grad_z: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the matrix and the weight; grad_z (N,H) must be 0 at rows of states."""
    past, taps = weight.shape[-1] - 1, _taps(weight)
    grad_joined, grad_taps = torch.zeros_like(joined), torch.empty_like(taps)
    grad_z = grad_z[past:]
    for k in range(past + 1):
        tap, grad_tap = joined[k : k + len(grad_z)], grad_joined[k : k + len(grad_z)]
        if weight.ndim == 3:
            grad_tap.addmm_(grad_z, taps[k])
            torch.mm(grad_z.T, tap, out=grad_taps[k])
        else:
            grad_tap.addcmul_(grad_z, taps[k])
            torch.sum(grad_z * tap, 0, out=grad_taps[k])
    return grad_joined, grad_taps.movedim(0, -1)


def _taps(weight: Tensor) -> Tensor:
    """The weight with its taps first, each of them contiguous as BLAS wants it."""
    return weight.movedim(-1, 0).contiguous()


def activation_backward(
    z: Tensor, x: Tensor, grad_y: Tensor, activation: str, gate_scale: float
) -> tuple[Tensor, Tensor | None]:
    """(gradient of z, gradient of x past the convolution): the sigmoid's slope is s (1 - s)."""
    gate = torch.sigmoid(z)
    if activation == "silu":
        return grad_y * gate * (1 + z * (1 - gate)), None
    direct = gate_scale * grad_y * gate
    return direct * x * (1 - gate), direct
