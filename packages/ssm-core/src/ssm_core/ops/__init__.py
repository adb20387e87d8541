"""Operations along time, each with a plain reference and fast implementations for CPUs and GPUs."""

from ssm_core.opkit.dispatch import available_backends
from ssm_core.ops.cauchy import cauchy
from ssm_core.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from ssm_core.ops.diagonal_ssm import diagonal_ssm
from ssm_core.ops.fft_conv import fft_conv
from ssm_core.ops.linear_scan import linear_scan
from ssm_core.ops.selective_scan import selective_scan
from ssm_core.ops.selective_state_update import selective_state_update
from ssm_core.ops.ssd_scan import ssd_scan
from ssm_core.ops.vandermonde import vandermonde

__all__ = [
    "available_backends",
    "cauchy",
    "causal_conv1d",
    "causal_conv1d_update",
    "diagonal_ssm",
    "fft_conv",
    "linear_scan",
    "selective_scan",
    "selective_state_update",
    "ssd_scan",
    "vandermonde",
]
