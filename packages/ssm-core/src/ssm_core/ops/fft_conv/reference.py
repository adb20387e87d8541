"""The long convolution as a sum over lags: the definition, and the oracle of the tests."""

import torch
from torch import Tensor


def fft_conv(u: Tensor, k: Tensor, D: Tensor | None = None, *, k_reverse: Tensor | None = None) -> Tensor:
    """y_t = sum_j k_j u_{t-j} + sum_j k_reverse_j u_{t+1+j} + D u_t; see `ssm_core.ops.fft_conv`."""
    L = u.shape[1]
    y = u * (0 if D is None else D)
    for j, k_h in enumerate(k.unbind(1)[:L]):
        y = torch.cat([y[:, :j], y[:, j:] + k_h * u[:, : L - j]], 1)
    if k_reverse is not None:
        for j, k_h in enumerate(k_reverse.unbind(1)[: max(L - 1, 0)]):
            y = torch.cat([y[:, : L - 1 - j] + k_h * u[:, j + 1 :], y[:, L - 1 - j :]], 1)
    return y
