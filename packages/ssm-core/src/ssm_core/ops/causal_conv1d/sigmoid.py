"""The sigmoid in arithmetic only, so that numba loops calling it vectorise: 1 / (1 + exp(-z)) in the precision of z."""

import numpy as np
from numba.core import types
from numba.extending import overload

from ssm_core.opkit.numba_real_exp import exp

_ONE_32 = np.float32(1.0)


def sigmoid(z):
    """1 / (1 + exp(-z)) of a float32 or float64; only inside compiled code."""
    raise NotImplementedError("sigmoid: call it from code compiled by numba")


@overload(sigmoid, jit_options={"forceinline": True, "fastmath": {"contract"}, "error_model": "numpy"})
def _sigmoid(z):
    if z == types.float32:
        return lambda z: _ONE_32 / (_ONE_32 + exp(-z))
    return lambda z: 1.0 / (1.0 + exp(-z))
