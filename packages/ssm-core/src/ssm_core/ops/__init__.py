"""Operations along time, each with a plain reference and fast implementations; see `linear_scan`, `diagonal_ssm`."""

from ssm_core.ops._backend import available_backends
from ssm_core.ops.diagonal_ssm import diagonal_ssm
from ssm_core.ops.linear_scan import linear_scan
from ssm_core.ops.selective_scan import selective_scan
from ssm_core.ops.selective_scan.update import selective_state_update

__all__ = ["available_backends", "diagonal_ssm", "linear_scan", "selective_scan", "selective_state_update"]
