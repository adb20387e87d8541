"""What the tests of the block share: SeRpEnt round a tiny mixer, inputs, and a mixer that changes nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssm_core.protocols import LayerInfo
from ssm_core.testing.tiny import TinyMixer
from ssm_serpent.build import build
from ssm_serpent.layer import SeRpEnt
from ssm_serpent.spec import SerpentConfig


class Same(nn.Module):
    """A mixer that hands its input back; without memory, so it suits both directions."""

    streaming = takes_dt = False

    def __init__(self, d_model: int, causal: bool) -> None:
        super().__init__()
        self.d_model, self.causal = d_model, causal

    def init_state(self, batch_size: int, **like: Any) -> tuple[()]:
        return ()

    def forward(self, x_bld: Tensor, **given: Any) -> tuple[Tensor, tuple[()]]:
        return x_bld, ()


def serpent(
    width: int = 4,
    *,
    causal: bool = True,
    same: bool = False,
    seed: int = 0,
    device: str = "cpu",
    **knobs: Any,
) -> SeRpEnt:
    """SeRpEnt round a tiny mixer, or one that changes nothing; in float64, all parameters moved off their start."""
    torch.manual_seed(seed)
    layer = LayerInfo(index=0, n_layers=1, d_model=width, causal=causal)
    inner = Same if same else TinyMixer
    made: Any = build(SerpentConfig(**knobs))(lambda w: inner(w, causal=causal), width, layer)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return made.double().eval().to(device)


def drawn(batch: int, length: int, width: int = 4, seed: int = 1, device: str = "cpu") -> Tensor:
    """Inputs (B, L, D) whose logits vary."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, length, width, generator=generator, dtype=torch.float64)
    return 2 * x.to(device)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Equal within a share of the largest value expected."""
    # A floor for what is zero throughout, and no other: that has to be exact all the same, or nearly.
    scale = max([1e-30, *expected.detach().abs().flatten().tolist()])
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)
