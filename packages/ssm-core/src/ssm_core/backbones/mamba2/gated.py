"""What stands round the convolution and the scan in Mamba-2: one map to all that they take, and the gated norm."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.backbones.mamba2.spec import Mamba2Config
from ssm_core.mamba import output_map
from ssm_core.protocols import Hint, LayerInfo, Mixer, Side, State


class GatedNorm(nn.Module):
    """RMS norm of ``y * silu(z)`` within each group of channels, in float32 at least.

    Args:
        width: D.
        groups: Number of groups, each of neighbouring channels.
        eps: Added to the mean square.
    """

    def __init__(self, width: int, groups: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = groups
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def param_hints(self) -> dict[str, Hint]:
        """It is a norm: no decay."""
        return {"weight": Hint(weight_decay=0.0)}

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Map y and z (..., D) to (..., D)."""
        wide = torch.promote_types(y.dtype, torch.float32)
        g = (y.to(wide) * F.silu(z.to(wide))).unflatten(-1, (self.groups, -1))
        g = g * torch.rsqrt(g.square().mean(-1, keepdim=True) + self.eps)
        return g.flatten(-2).to(y.dtype) * self.weight


class Gated(nn.Module):
    """``out_proj(norm(inner(x) * silu(z)))`` with ``z, x, B, C, dt = in_proj(u)``; B, C and dt go beside x.

    Its state is that of the inner mixer.

    Args:
        layer: Where it stands: its width, the number of layers.
        inner: What holds slot ``mixer``, of width D.
        side_widths: Widths of what comes beside x.
        config: Norm, biases and start of the two maps.
    """

    def __init__(
        self, layer: LayerInfo, inner: Mixer, side_widths: Mapping[str, int], config: Mamba2Config
    ) -> None:
        super().__init__()
        self.d_model = layer.d_model
        width = inner.d_model
        self.side_widths = dict(side_widths)
        total = 2 * width + sum(self.side_widths.values())
        self.in_proj = nn.Linear(layer.d_model, total, bias=config.bias)
        self.inner = inner
        self.norm = GatedNorm(width, config.groups) if config.gated_norm else None
        n_layers = layer.n_layers if config.rescale_out else 1
        self.out_proj = output_map(width, layer.d_model, bias=config.bias, n_layers=n_layers)
        if config.bias:
            nn.init.zeros_(self.in_proj.bias)

    @property
    def causal(self) -> bool:
        """Whether outputs depend on the past only."""
        return self.inner.causal

    @property
    def streaming(self) -> bool:
        """Whether :meth:`step` is available."""
        return self.inner.streaming

    @property
    def takes_dt(self) -> bool:
        """Whether the inner mixer honours gaps."""
        return self.inner.takes_dt

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return the inner mixer's initial state."""
        return self.inner.init_state(batch_size, device=device, dtype=dtype)

    def forward(
        self,
        x_bld: Tensor,
        *,
        dt_bl: Tensor | None = None,
        mask_bl: Tensor | None = None,
        reset_bl: Tensor | None = None,
        side: Side | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State]:
        """Map (B, L, d_model) to the same; see :class:`ssm_core.protocols.Mixer`."""
        self._refuse(side)
        if mask_bl is not None:
            x_bld = torch.where(mask_bl[..., None], x_bld, torch.zeros_like(x_bld))
        z, x, beside = self._parts(x_bld)
        y, state = self.inner(x, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl, side=beside, state=state)
        return self._out(y, z), state

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Map one element (B, d_model) to the same."""
        self._refuse(side)
        z, x, beside = self._parts(x_bd)
        y, state = self.inner.step(x, dt_b=dt_b, side=beside, state=state)
        return self._out(y, z), state

    def _parts(self, u: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        width = self.inner.d_model
        z, x, *beside = self.in_proj(u).split([width, width, *self.side_widths.values()], -1)
        return z, x, dict(zip(self.side_widths, beside, strict=True))

    def _out(self, y: Tensor, z: Tensor) -> Tensor:
        return self.out_proj(y * F.silu(z) if self.norm is None else self.norm(y, z))

    def _refuse(self, side: Side | None) -> None:
        if side:
            raise ValueError(f"mamba2 computes what it needs beside x itself, but got {sorted(side)} as side")
