"""exp(x) for real x in the precision of x, in arithmetic only, so that numba kernels calling it vectorise.

exp(x) = 2^k exp(f) with k the nearest integer to x / ln 2 and |f| <= ln 2 / 2, exp(f) by its series. Relative error
below 2e-7 in float32 and 3e-16 in float64; 0 below the smallest normal number, and a NaN stays one.
"""

from math import factorial

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from ssm_core.opkit.numba_runtime import inlined

# Adding and subtracting 1.5 * 2^23 or 1.5 * 2^52 rounds to the nearest integer, which sits in the low bits of the sum.
_ROUND32, _ROUND64 = np.float32(12582912.0), 6755399441055744.0
# ln 2 in two parts: the first has enough trailing zeros for its product with k to be exact.
_HIGH32, _LOW32 = np.float32(0.693145751953125), np.float32(1.42860682030941723e-6)
_HIGH64, _LOW64 = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_PER_LN2_32, _PER_LN2_64 = np.float32(1.4426950408889634), 1.4426950408889634
_LEAST32, _MOST32, _LEAST64, _MOST64 = np.float32(-87.0), np.float32(88.0), -708.0, 709.0
_ONE32, _ZERO32 = np.float32(1.0), np.float32(0.0)
_F2, _F3, _F4, _F5, _F6, _F7 = (np.float32(1.0 / factorial(k)) for k in range(2, 8))
_E2, _E3, _E4, _E5, _E6, _E7, _E8, _E9, _E10, _E11, _E12, _E13 = (1.0 / factorial(k) for k in range(2, 14))


@intrinsic
def _power_of_two(typing_context, shifted):
    """2^k, in the type of `shifted`, whose low bits hold the integer k."""
    bits, mantissa, bias = (32, 23, 127) if shifted == types.float32 else (64, 52, 1023)

    def generate(_context, builder, _signature, args):
        integer = ir.IntType(bits)
        k = builder.bitcast(args[0], integer)
        exponent = builder.shl(builder.add(k, ir.Constant(integer, bias)), ir.Constant(integer, mantissa))
        return builder.bitcast(exponent, args[0].type)

    return shifted(shifted), generate


def exp(x):
    """The exponential, for kernels; see the module."""
    raise NotImplementedError("exp: call it from code compiled by numba")


@overload(exp, jit_options={"forceinline": True, "fastmath": {"contract"}, "error_model": "numpy"})
def _exp(x):
    def exp32(x):
        return _exp32(x)

    def exp64(x):
        return _exp64(x)

    return exp32 if x == types.float32 else exp64


@inlined
def _exp32(x):
    v = _MOST32 if x > _MOST32 else x
    v = _LEAST32 if v < _LEAST32 else v
    shifted = v * _PER_LN2_32 + _ROUND32
    k = shifted - _ROUND32
    f = v - k * _HIGH32 - k * _LOW32
    p = _F2 + f * (_F3 + f * (_F4 + f * (_F5 + f * (_F6 + f * _F7))))
    p = _power_of_two(shifted) * (_ONE32 + (f + f * f * p))  # pyright: ignore[reportCallIssue]
    return _ZERO32 if x < _LEAST32 else p


@inlined
def _exp64(x):
    v = _MOST64 if x > _MOST64 else x
    v = _LEAST64 if v < _LEAST64 else v
    shifted = v * _PER_LN2_64 + _ROUND64
    k = shifted - _ROUND64
    f = v - k * _HIGH64 - k * _LOW64
    p = _E8 + f * (_E9 + f * (_E10 + f * (_E11 + f * (_E12 + f * _E13))))
    p = _E2 + f * (_E3 + f * (_E4 + f * (_E5 + f * (_E6 + f * (_E7 + f * p)))))
    p = _power_of_two(shifted) * (1.0 + (f + f * f * p))  # pyright: ignore[reportCallIssue]
    return 0.0 if x < _LEAST64 else p
