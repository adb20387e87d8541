"""The second half of a block that has one: two linear maps with an activation between, on each element by itself."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.block import Dropout
from ssm_core.norms import make_norm, normalise


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS = {"gelu": F.gelu, "gelu_tanh": _gelu_tanh, "silu": F.silu, "relu": F.relu}


class FeedForward(nn.Module):
    """The second half of a block: ``x + drop(W2 drop(act(W1 norm(x))))``, or with the norm after the sum.

    Args:
        d_model: Width D.
        hidden: Width between the two maps.
        norm: Kind of norm, as in :func:`make_norm`.
        prenorm: Norm first, or last.
        activation: ``"gelu"``, ``"gelu_tanh"``, ``"silu"`` or ``"relu"``.
        dropout: Rate after each of the two maps.
        hidden_dropout: Another rate after the first map; None takes ``dropout``.
        tie_dropout: Share the dropout masks over time.
    """

    def __init__(
        self,
        d_model: int,
        hidden: int,
        *,
        norm: str = "layer",
        prenorm: bool = True,
        activation: str = "gelu",
        dropout: float = 0.0,
        hidden_dropout: float | None = None,
        tie_dropout: bool = False,
    ) -> None:
        super().__init__()
        self.norm = make_norm(norm, d_model)
        self.prenorm = prenorm
        self.activation = activation
        self.dropout = Dropout(dropout, tie_dropout)
        self.hidden_dropout = Dropout(dropout if hidden_dropout is None else hidden_dropout, tie_dropout)
        self.up = nn.Linear(d_model, hidden)
        self.down = nn.Linear(hidden, d_model)

    def forward(self, x: Tensor, mask_bl: Tensor | None = None) -> Tensor:
        """Map (B, L, D) or (B, D) to the same."""
        inner = normalise(self.norm, x, mask_bl) if self.prenorm else x
        hidden = self.hidden_dropout(_ACTIVATIONS[self.activation](self.up(inner)))
        out = x + self.dropout(self.down(hidden))
        return out if self.prenorm else normalise(self.norm, out, mask_bl)
