"""The Vandermonde product as its formula: the definition, and the oracle of the tests."""

import torch
from torch import Tensor


def vandermonde(v: Tensor, log_x: Tensor, length: int, *, conj: bool = True) -> Tensor:
    """K_l = sum_n v_n exp(l log_x_n), twice its real part if `conj`; see `ssm_core.ops.vandermonde`."""
    dtype = torch.promote_types(v.dtype, log_x.dtype)
    steps = [(v * torch.exp(l * log_x)).sum(-1) for l in range(length)]
    kernel = torch.stack(steps, -1) if steps else (v * log_x).to(dtype)[:, :0]  # (H, length)
    return (kernel + kernel.conj()).real if conj else kernel
