"""One step of the selective scan, as one step of the scan's time loop: the definition, and the oracle of the tests."""

import torch.nn.functional as F
from torch import Tensor

from ssm_core.ops.selective_scan import reference


def selective_state_update(
    x: Tensor,
    state: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    discretization: str = "euler",
) -> tuple[Tensor, Tensor]:
    """y (B, D) and the state (B, D, N); see `ssm_core.ops.selective_state_update`. Ordinary autograd."""
    dt = dt if dt_bias is None else dt + dt_bias
    dt = F.softplus(dt) if dt_softplus else dt
    B, C = (_along(m, len(x)) for m in (B, C))
    gate = None if z is None else z[:, None]
    operands = x[:, None], dt[:, None], A, B, C, D, gate, state
    y, state = reference.selective_scan(*operands, discretization=discretization)
    return y[:, 0], state


def _along(m: Tensor, batch: int) -> Tensor:
    """B or C as the scan has it: (B, 1, G, N), or (D, N) where it is the same at every step."""
    if m.ndim == 2:
        return m[:, None, None]
    return m[:, None] if len(m) == batch else m[0]
