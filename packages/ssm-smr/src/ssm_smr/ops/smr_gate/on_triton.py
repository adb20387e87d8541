"""The gate on CUDA: a depthwise one in one pass over memory each way, a dense one by torch's matrix products.

Both are the short convolution of `ssm_core.ops.causal_conv1d.on_triton` with the gate as what follows. The products of
a dense gate are in float32 at least; torch.set_float32_matmul_precision lets them use TF32.
"""

from collections.abc import Iterator

from ssm_core.opkit.triton_runtime import Variant
from ssm_core.ops.causal_conv1d import on_triton
from ssm_smr.ops.smr_gate.by_mode import by_mode

forward, backward = by_mode(on_triton)


def variants() -> Iterator[Variant]:
    """The kernels as dispatch launches them."""
    return on_triton.variants(("gate",))
