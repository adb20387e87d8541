"""A layer's linear recurrence laid open, for whoever wants to look into a trained model without knowing its kind."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ssm_core.ops import linear_scan
from ssm_core.protocols import Side


class Recurrence(NamedTuple):
    """What a linear recurrence x_k = A_k x_{k-1} + d_k does over an input, from x = 0.

    Attributes:
        a: A_k. The entries of its diagonal, that of every element (*F) or of each (B, L, *F), or to be stretched to
            that; or, where ``dense``, one real matrix (H, N, N) in each of H channels, the same for every element. A
            dense one acts on N real numbers, which are (Re x_0, Im x_0, Re x_1, ...) where the state is complex.
        d: What enters the state at each element (B, L, *F): B-bar u in the papers' letters.
        dense: Whether `a` are matrices.
    """

    a: Tensor
    d: Tensor
    dense: bool = False

    def wide(self) -> Recurrence:
        """Return the same in double precision."""
        a, d = (t.to(torch.promote_types(t.dtype, torch.float64)) for t in (self.a, self.d))
        return Recurrence(a, d, self.dense)

    def states(self) -> Tensor:
        """Return the state after each element (B, L, *F), in the precision of `a` and `d`."""
        kind = torch.promote_types(self.a.dtype, self.d.dtype)
        if not self.dense:
            return linear_scan(self.a.to(kind).expand(self.d.shape), self.d.to(kind), backend="reference")[0]
        x, states = self.d.new_zeros(self.d[:, 0].shape, dtype=kind), []
        for d_bhn in self.d.to(kind).unbind(1):
            x = torch.einsum("hmn,bhn->bhm", self.a.to(kind), x) + d_bhn
            states.append(x)
        return torch.stack(states, 1)


@runtime_checkable
class LinearRecurrence(Protocol):
    """A mixer, or a part of one, that can lay its recurrence open. Optional: no model needs it, probes look for it."""

    def recurrence(
        self, x_bld: Tensor, *, dt_bl: Tensor | None = None, side: Side | None = None
    ) -> Recurrence | None:
        """Return what the recurrence does over an input, that of the forward direction if there are two.

        Args:
            x_bld: The layer's input (B, L, D), L at least 1, all of it valid.
            dt_bl: Gap before each element (B, L); None is 1 everywhere.
            side: Tensors beside x.

        Returns:
            The recurrence, whose state after the last element is that of ``forward``; None if the layer's settings
            leave it without one.
        """
        ...
