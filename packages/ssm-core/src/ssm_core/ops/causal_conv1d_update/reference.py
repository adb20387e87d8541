"""One step of the causal convolution, as one step of its time loop: the definition, and the oracle of the tests."""

from torch import Tensor

from ssm_core.ops.causal_conv1d import reference


def causal_conv1d_update(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = ""
) -> tuple[Tensor, Tensor]:
    """y (B, H) and the state (B, W-1, H); see `ssm_core.ops.causal_conv1d_update`. Ordinary autograd."""
    y, state = reference.causal_conv1d(x[:, None], weight, bias, activation, state)
    return y[:, 0], state
