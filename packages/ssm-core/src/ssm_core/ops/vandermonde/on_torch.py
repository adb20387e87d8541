"""The Vandermonde product as one batched product of small matrices. Any device.

Write l = q + Q k with 0 <= q < Q. Then x^l = x^q x^{Qk}, and

    K_{q+Qk} = sum_n r_{kn} p_{nq},   p_{nq} = x_n^q,   r_{kn} = s v_n x_n^{Qk}

(s = 2 and the real part where conjugate pairs are summed, else s = 1): two tables of N Q and N L/Q numbers and a
product of matrices, real ones, with Re and Im of each state in turn. An angle l Im(log x) of 10^4 rad has an error of
10^-3 rad in float32, so the tables are computed in float64 and only then rounded: each entry is then right to the last
digit, at any length.

Backward, with G the gradient of K and gamma_k = sum_q G_{q+Qk} conj(p_q), T_k = sum_q l G_{q+Qk} conj(p_q):

    v_bar = s sum_k gamma_k conj(x^{Qk}),   log_x_bar = sum_k conj(r_k) T_k,

the same products with one table transposed. Tables are recomputed. Complex numbers come as a last axis of two reals.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def forward(v: Tensor, log_x: Tensor, length: int, conj: bool) -> tuple[Tensor]:
    """K (H, length), or (H, length, 2) if not `conj`, for v and log_x (H, N, 2) of one precision."""
    Q, M = chunks(length)
    r = times(v, powers(log_x, Q, M), conj)  # (H, N, 2, M)
    p = fine_table(log_x, Q, conj)  # (H, 2N, Q c)
    out = torch.bmm(r.flatten(1, 2).mT, p).flatten(1)  # (H, M Q c)
    return ((out if conj else out.unflatten(1, (-1, 2)))[:, :length],)


def backward(v: Tensor, log_x: Tensor, grad: Tensor, length: int, conj: bool) -> tuple[Tensor, Tensor]:
    """Gradients of v and log_x (H, N, 2), given that of K."""
    Q, M = chunks(length)
    x_Qk, p = powers(log_x, Q, M), fine_table(log_x, Q, conj)
    steps = torch.arange(length, dtype=grad.dtype, device=grad.device)
    gamma = _project(grad, p, M)  # (H, N, 2, M)
    T = _project(grad * (steps if conj else steps[:, None]), p, M)
    grad_v = conj_product_sum(x_Qk, gamma)
    return grad_v + grad_v if conj else grad_v, conj_product_sum(times(v, x_Qk, conj), T)


def chunks(length: int) -> tuple[int, int]:
    """Q, a power of two near the root of `length`, and the number M of chunks of Q that cover it."""
    Q = 1 << (max(length - 1, 0).bit_length() + 1) // 2
    return Q, -(-length // Q)


def powers(log_x: Tensor, stride: int, count: int) -> Tensor:
    """Re and Im of exp(log_x l) for l = 0, stride, ...: (H, N, 2, count), computed in float64."""
    steps = stride * torch.arange(count, dtype=torch.float64, device=log_x.device)
    re, im = log_x.to(torch.float64)[..., None].unbind(2)  # (H, N, 1)
    modulus, angle = (re * steps).exp_(), im * steps
    return torch.stack([(x.mul_(modulus)).to(log_x.dtype) for x in (angle.cos(), angle.sin_())], 2)


def fine_table(log_x: Tensor, Q: int, conj: bool) -> Tensor:
    """x^q for q < Q, (H, 2N, Q), whose product with (Re r, Im r) is Re(r x^q); (H, 2N, 2Q) with Re and Im in turn."""
    re, im = powers(log_x, 1, Q).unbind(2)
    if conj:
        return torch.stack([re, -im], 2).flatten(1, 2)
    return torch.stack([torch.stack([re, im], -1), torch.stack([-im, re], -1)], 2).flatten(3).flatten(1, 2)


def times(v: Tensor, x_Qk: Tensor, conj: bool) -> Tensor:
    """r = s v x^{Qk}: (H, N, 2, M)."""
    a, b = (v + v if conj else v)[..., None].unbind(2)  # (H, N, 1)
    re, im = x_Qk.unbind(2)
    return torch.stack([a * re - b * im, a * im + b * re], 2)


def conj_product_sum(a: Tensor, b: Tensor) -> Tensor:
    """Sum over the last axis of conj(a) b, for (H, N, 2, M): (H, N, 2)."""
    (a_re, a_im), (b_re, b_im) = a.unbind(2), b.unbind(2)
    re = (a_re * b_re + a_im * b_im).sum(-1)
    return torch.stack([re, (a_re * b_im - a_im * b_re).sum(-1)], -1)


def _project(grad: Tensor, p: Tensor, M: int) -> Tensor:
    """sum_q grad_{q+Qk} conj(p_q) for (H, length) or (H, length, 2): (H, N, 2, M)."""
    flat = grad.flatten(1)
    flat = F.pad(flat, (0, M * p.shape[2] - flat.shape[1]))
    found = torch.bmm(p, flat.reshape(flat.shape[0], M, p.shape[2]).mT)
    return found.unflatten(1, (-1, 2))
