"""The gate on a CPU: a depthwise one in one compiled pass each way, a dense one by torch's matrix products.

Four fifths of a dense gate's time are those products, which BLAS does; the depthwise one waits for memory, so
convolution, sigmoid and product are one loop (`ssm_core.ops.causal_conv1d.on_numba`).
"""

from ssm_core.ops.causal_conv1d import on_numba
from ssm_smr.ops.smr_gate.by_mode import by_mode

forward, backward = by_mode(on_numba)
