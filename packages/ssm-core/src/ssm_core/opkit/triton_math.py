"""Elementwise functions that Triton kernels share. Imported only by kernels, once Triton is there."""

import triton
import triton.language as tl


@triton.jit
def sigmoid(z):
    """1 / (1 + exp(-z))."""
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def softplus(z):
    """log(1 + exp(z)) as torch has it, z itself above 20; as exact where exp(z) is small.

    With u = exp(-|z|) it is max(z, 0) + log(1 + u), and log(1 + u) = 2 artanh(s) of s = u / (2 + u), at most 1/3: 17
    terms of its series are enough in float64. A logarithm of 1 + u would lose u to rounding.
    """
    u = tl.exp(-tl.abs(z))
    s = u / (2.0 + u)
    one = tl.zeros_like(z) + 1.0  # constants are of float32 unless made so
    total = one / 33.0
    for k in tl.static_range(1, 17):
        total = one / (33.0 - 2.0 * k) + s * s * total
    return tl.where(z > 20.0, z, tl.where(z > 0.0, z, 0.0) + 2.0 * s * total)
