"""What the convolution and its update refuse."""

from torch import Tensor

from ssm_core.opkit.checks import check_cu_seqlens, check_numeric, check_real, check_shape
from ssm_core.ops.causal_conv1d.autograd import state_shape

ACTIVATIONS = (None, "silu", "swish")


def check(
    op: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> None:
    """Raise a ValueError unless these fit each other; it names the operation and the argument."""
    if activation not in ACTIVATIONS:
        choices = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"{op}: activation is {activation!r}; choose one of {choices}")
    if x.ndim != 3:
        raise ValueError(f"{op}: x has shape {tuple(x.shape)}, expected (B, L, H)")
    tensors = {"x": x, "weight": weight, "bias": bias, "initial_state": initial_state}
    check_numeric(op, **tensors)
    check_real(op, **tensors)
    if weight.ndim != 2 or weight.shape[0] != x.shape[2] or weight.shape[1] == 0:
        raise ValueError(
            f"{op}: weight has shape {tuple(weight.shape)}, expected ({x.shape[2]}, W), that is (H, W) with W >= 1"
        )
    if bias is not None:
        check_shape(op, "bias", bias, (x.shape[2],), letters="(H,)")
    if cu_seqlens is not None:
        check_cu_seqlens(op, cu_seqlens, x.shape[0], x.device)
    if initial_state is not None:
        letters = "(B, W-1, H)" if cu_seqlens is None else "(S, W-1, H)"
        check_shape(op, "initial_state", initial_state, state_shape(x, weight, cu_seqlens), letters=letters)
