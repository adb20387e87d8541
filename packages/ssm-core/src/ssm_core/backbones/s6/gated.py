"""What stands round the convolution and the scan in Mamba: a map to two copies, one of which gates the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.backbones.s6.spec import S6Config
from ssm_core.mamba import output_map
from ssm_core.protocols import LayerInfo, Mixer, Side, State


class Gated(nn.Module):
    """``out_proj(inner(x) * silu(z))`` with ``x, z = in_proj(u)``.

    Its state is that of the inner mixer.

    Args:
        layer: Where it stands: its width H, the number of layers.
        inner: What holds slot ``mixer``, of width D.
        config: Biases and start of the two maps.
    """

    def __init__(self, layer: LayerInfo, inner: Mixer, config: S6Config) -> None:
        super().__init__()
        self.d_model = layer.d_model
        width = inner.d_model
        self.in_proj = nn.Linear(layer.d_model, 2 * width, bias=config.bias)
        self.inner = inner
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
        """Map (B, L, H) to (B, L, H); see :class:`ssm_core.protocols.Mixer`."""
        if mask_bl is not None:
            x_bld = torch.where(mask_bl[..., None], x_bld, torch.zeros_like(x_bld))
        x, z = self.in_proj(x_bld).chunk(2, -1)
        y, state = self.inner(x, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl, side=side, state=state)
        return self.out_proj(y * F.silu(z)), state

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Map one element (B, H) to (B, H)."""
        x, z = self.in_proj(x_bd).chunk(2, -1)
        y, state = self.inner.step(x, dt_b=dt_b, side=side, state=state)
        return self.out_proj(y * F.silu(z)), state
