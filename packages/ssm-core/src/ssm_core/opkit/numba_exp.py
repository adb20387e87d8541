"""exp(z) - 1 for complex z, in arithmetic only, so that numba kernels calling it vectorise (numba has no vector exp).

With z = x + iy, exp(z) - 1 = (exp(x) - 1) - 2 exp(x) sin^2(y/2) + i exp(x) 2 sin(y/2) cos(y/2): no cancellation where
z is small, and a reduction of y by whole turns needs no case distinction. All in float64, whatever the data: angles of
1e5 radians keep float32 results exact to the last bits. Relative error below 1e-15 for |y| < 1e5.
"""

from math import factorial, tau

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ssm_core.opkit.numba_runtime import inlined

# Adding and subtracting 1.5 * 2^52 rounds to the nearest integer, which sits in the low bits of the sum.
_ROUND = 6755399441055744.0
# ln 2 and a turn in two parts: the first has enough trailing zeros for products with the quotient to be exact.
_LN2_HIGH, _LN2_LOW, _PER_LN2 = 6.93147180369123816490e-01, 1.90821492927058770002e-10, 1.4426950408889634
_TURN_HIGH, _TURN_LOW, _PER_TURN = 6.2831853069365025, 2.430840202602477e-10, 1.0 / tau

_E2, _E3, _E4, _E5, _E6, _E7, _E8, _E9, _E10, _E11, _E12, _E13 = (1.0 / factorial(k) for k in range(2, 14))
_S3, _S5, _S7, _S9, _S11, _S13, _S15, _S17, _S19, _S21 = (
    (-1) ** (k // 2) / factorial(k) for k in range(3, 22, 2)
)
_C2, _C4, _C6, _C8, _C10, _C12, _C14, _C16, _C18, _C20, _C22 = (
    (-1) ** (k // 2) / factorial(k) for k in range(2, 23, 2)
)


@intrinsic
def _bits(typing_context, x):
    """The 64 bits of a float64, as int64."""
    return types.int64(types.float64), lambda _context, builder, _signature, args: builder.bitcast(
        args[0], ir.IntType(64)
    )


@intrinsic
def _float(typing_context, x):
    """The float64 that has these 64 bits."""
    return types.float64(types.int64), lambda _context, builder, _signature, args: builder.bitcast(
        args[0], ir.DoubleType()
    )


@inlined
def expm1(x, y):
    """(Re, Im) of exp(x + iy) - 1. A NaN in x or y reaches both; |x| is taken as 708 at most."""
    x = -708.0 if x < -708.0 else x
    x = 708.0 if x > 708.0 else x
    shifted = x * _PER_LN2 + _ROUND
    k = shifted - _ROUND
    f = x - k * _LN2_HIGH - k * _LN2_LOW
    p = _E8 + f * (_E9 + f * (_E10 + f * (_E11 + f * (_E12 + f * _E13))))
    p = f + f * f * (_E2 + f * (_E3 + f * (_E4 + f * (_E5 + f * (_E6 + f * (_E7 + f * p))))))
    power = _float((_bits(shifted) + 1023) << 52)  # 2^k  # pyright: ignore[reportCallIssue]
    real = power * p + (power - 1.0)

    n = (y * _PER_TURN + _ROUND) - _ROUND
    r = 0.5 * (y - n * _TURN_HIGH - n * _TURN_LOW)  # half the angle, within a quarter turn
    q = r * r
    s = _S11 + q * (_S13 + q * (_S15 + q * (_S17 + q * (_S19 + q * _S21))))
    s = r + r * q * (_S3 + q * (_S5 + q * (_S7 + q * (_S9 + q * s))))
    c = _C12 + q * (_C14 + q * (_C16 + q * (_C18 + q * (_C20 + q * _C22))))
    c = 1.0 + q * (_C2 + q * (_C4 + q * (_C6 + q * (_C8 + q * (_C10 + q * c)))))
    twice = 2.0 * (real + 1.0) * s
    return real - twice * s, twice * c
