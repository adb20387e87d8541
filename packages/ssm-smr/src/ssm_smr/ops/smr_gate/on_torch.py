"""The gate in plain torch calls, on any device: a short convolution tap by tap, then sigmoid and product.

`ssm_core.ops.causal_conv1d` has a depthwise one, with the gate as what may follow; backward it computes the
convolution anew, so that nothing of size (B, L, H) is kept but u. One that mixes channels is `dense`.
"""

from ssm_core.ops.causal_conv1d import on_torch
from ssm_smr.ops.smr_gate.by_mode import by_mode

forward, backward = by_mode(on_torch)
