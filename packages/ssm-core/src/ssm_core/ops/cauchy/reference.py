"""The Cauchy product as its formula: the definition, and the oracle of the tests."""

from torch import Tensor


def cauchy(v: Tensor, z: Tensor, w: Tensor, *, conj: bool = True) -> Tensor:
    """K_f = sum_n v_n / (z_f - w_n), the pairs' other halves added if `conj`; see `ssm_core.ops.cauchy`."""
    z = z.expand(v.shape[0], z.shape[-1])  # (H, F)
    kernel = 0 * z
    for v_h, w_h in zip(v.unbind(1), w.unbind(1), strict=True):
        kernel = kernel + v_h[:, None] / (z - w_h[:, None])
        if conj:
            kernel = kernel + v_h.conj()[:, None] / (z - w_h.conj()[:, None])
    return kernel
