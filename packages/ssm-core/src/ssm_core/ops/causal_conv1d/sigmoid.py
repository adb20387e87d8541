"""The sigmoid in arithmetic only, so that numba loops calling it vectorise (numba has no vector exp).

1 / (1 + exp(-z)), with exp(x) = 2^k exp(r), k the nearest integer to x / ln 2 and exp(r) a polynomial on
|r| <= ln(2)/2: within 2 epsilons of the argument's precision. A NaN stays one; |z| is taken as 87 (708 in float64)
at most.
"""

from math import factorial

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from ssm_core.ops._numba_runtime import inlined

# Adding and subtracting 1.5 * 2^(bits of the mantissa) rounds to the nearest integer, which sits in the sum's low bits.
_ROUND, _ROUND_32 = 6755399441055744.0, np.float32(12582912.0)
# ln 2 in two parts: the first has enough trailing zeros for products with k to be exact.
_LN2_HIGH, _LN2_LOW, _PER_LN2 = 6.93147180369123816490e-01, 1.90821492927058770002e-10, 1.4426950408889634
_LN2_HIGH_32, _LN2_LOW_32, _PER_LN2_32 = (np.float32(c) for c in (0.693359375, -2.12194440e-4, _PER_LN2))
_E2, _E3, _E4, _E5, _E6, _E7, _E8, _E9, _E10, _E11, _E12, _E13 = (1.0 / factorial(k) for k in range(2, 14))
_F2, _F3, _F4, _F5, _F6, _F7 = (np.float32(1.0 / factorial(k)) for k in range(2, 8))
_ONE_32, _LIMIT_32 = np.float32(1.0), np.float32(87.0)


@intrinsic
def _power(typing_context, shifted):
    """2^k for shifted = k + the rounding constant of its type."""
    integer, real, shift, bias = (
        (ir.IntType(32), ir.FloatType(), 23, 127)
        if shifted == types.float32
        else (ir.IntType(64), ir.DoubleType(), 52, 1023)
    )

    def build(_context, builder, _signature, args):
        bits = builder.add(builder.bitcast(args[0], integer), ir.Constant(integer, bias))
        return builder.bitcast(builder.shl(bits, ir.Constant(integer, shift)), real)

    return shifted(shifted), build


@inlined
def _sigmoid_64(z):
    x = 708.0 if z < -708.0 else -z
    x = -708.0 if x < -708.0 else x
    shifted = x * _PER_LN2 + _ROUND
    k = shifted - _ROUND
    r = x - k * _LN2_HIGH - k * _LN2_LOW
    p = _E8 + r * (_E9 + r * (_E10 + r * (_E11 + r * (_E12 + r * _E13))))
    p = _E2 + r * (_E3 + r * (_E4 + r * (_E5 + r * (_E6 + r * (_E7 + r * p)))))
    return 1.0 / (1.0 + _power(shifted) * (1.0 + (r + r * r * p)))  # pyright: ignore[reportCallIssue]


@inlined
def _sigmoid_32(z):
    x = _LIMIT_32 if z < -_LIMIT_32 else -z
    x = -_LIMIT_32 if x < -_LIMIT_32 else x
    shifted = x * _PER_LN2_32 + _ROUND_32
    k = shifted - _ROUND_32
    r = x - k * _LN2_HIGH_32 - k * _LN2_LOW_32
    p = _F2 + r * (_F3 + r * (_F4 + r * (_F5 + r * (_F6 + r * _F7))))
    return _ONE_32 / (_ONE_32 + _power(shifted) * (_ONE_32 + (r + r * r * p)))  # pyright: ignore[reportCallIssue]


def sigmoid(z):
    """1 / (1 + exp(-z)) of a float32 or float64; only inside compiled code."""
    raise NotImplementedError("sigmoid: call it from code compiled by numba")


@overload(sigmoid, jit_options={"forceinline": True, "fastmath": {"contract"}, "error_model": "numpy"})
def _sigmoid(z):
    if z == types.float32:
        return lambda z: _sigmoid_32(z)
    return lambda z: _sigmoid_64(z)
