"""Other people's blocks with the weights of ours, if their packages are installed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4
"""Largest difference between a peer's block and ours, with the same weights, relative to the largest output."""


@dataclass(frozen=True)
class Peer:
    """Someone else's block.

    Attributes:
        name: Package, release, and what it is.
        of: Our backbone that it is timed beside.
        block: The module, (B, L, H) to (B, L, H).
        slow: It loops over time.
        same: It computes what our block does, with the same weights.
    """

    name: str
    of: str
    block: nn.Module
    slow: bool = False
    same: bool = True


def peers(backbone: str, block: nn.Module) -> list[Peer]:
    """Return the peers of a block of ours, those that should compute the same checked to do so.

    Raises:
        AssertionError: If one of them does not.
    """
    makers: dict[str, Callable[[Any], list[Peer]]] = {"s5": _s5, "s6": _mamba}
    found = makers[backbone](block) if backbone in makers else []
    for peer in [peer for peer in found if peer.same]:
        _check(block, peer)
    return found


@torch.no_grad()
def _check(block: Any, peer: Peer) -> None:
    x = torch.randn(2, 64, block.d_model, generator=torch.Generator().manual_seed(0))
    ours, theirs = block.cpu().eval()(x)[0], peer.block.eval()(x)
    error = float((ours - theirs).abs().max() / ours.abs().max())
    assert error <= TOLERANCE, f"{peer.name} is off ours by {error:.2g} of the largest output"
    block.train()
    peer.block.train()


class _Inside(nn.Module):
    """Our block's norm, channel mixing and skip connection round someone else's recurrence."""

    def __init__(self, block: Any, inner: nn.Module) -> None:
        super().__init__()
        self.norm, self.mix, self.inner = block.norm, block.mix, inner

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, H) to (B, L, H)."""
        return x + self.mix(self.inner(self.norm(x)))


def _s5(block: Any) -> list[Peer]:
    """s5-pytorch's layer in our block, and in its own. It stores all P states, ours one of each conjugate pair."""
    if not (release := _release("s5-pytorch")):
        return []
    import s5  # pyright: ignore[reportMissingImports]

    ours, inner = block.mixer, s5.S5(block.d_model, block.mixer.config.state_size)
    b, c = torch.view_as_complex(ours.B), torch.view_as_complex(ours.C)
    _set(inner.seq.Lambda, _pairs(torch.complex(ours.Lambda_re, ours.Lambda_im)))
    _set(inner.seq.B, _pairs(b))
    _set(inner.seq.C, _pairs(c.mT).mT)
    _set(inner.seq.D, ours.D)
    _set(inner.seq.log_step, torch.cat([ours.log_step, ours.log_step]))
    own = s5.S5Block(block.d_model, block.mixer.config.state_size, bidir=False)
    own.s5 = copy.deepcopy(inner)
    return [
        Peer(f"s5-pytorch {release}", "s5", _Inside(block, inner)),
        # Two norms and a larger map of the channels: another function, whose layer is the one just compared.
        Peer(f"s5-pytorch {release}, S5Block", "s5", own, same=False),
    ]


def _pairs(z: Tensor) -> Tensor:
    """Each of (N, ...) and its conjugate, (2 N, ...)."""
    return torch.cat([z, z.conj()])


@torch.no_grad()
def _set(parameter: nn.Parameter, value: Tensor) -> None:
    """Copy a value into a parameter, which may hold complex numbers as pairs or have axes of one more."""
    as_pairs = value.is_complex() and not parameter.is_complex()
    value = torch.view_as_real(value.resolve_conj()) if as_pairs else value
    parameter.copy_(value.reshape(parameter.shape))


def _mamba(block: Any) -> list[Peer]:
    """The Mamba block of transformers with our norm; its scan, without compiled kernels, is a loop over time."""
    if not (release := _release("transformers")):
        return []
    from transformers import MambaConfig  # pyright: ignore[reportMissingImports]
    from transformers.models.mamba.modeling_mamba import MambaBlock  # pyright: ignore[reportMissingImports]

    gated, conv, ssm = block.mixer, block.mixer.inner, block.mixer.inner.ssm
    knobs = MambaConfig(
        hidden_size=block.d_model,
        state_size=ssm.config.state_size,
        expand=ssm.config.expand,
        conv_kernel=ssm.config.conv_width,
        time_step_rank=ssm.rank,
    )
    theirs = MambaBlock(knobs, layer_idx=0)
    theirs.norm = copy.deepcopy(block.norm)
    weights = {
        "in_proj.weight": gated.in_proj.weight,
        "conv1d.weight": conv.weight[:, None],
        "conv1d.bias": conv.bias,
        "x_proj.weight": ssm.x_proj.weight,
        "dt_proj.weight": ssm.dt_proj.weight,
        "dt_proj.bias": ssm.dt_proj.bias,
        "A_log": ssm.A_log,
        "D": ssm.D,
        "out_proj.weight": gated.out_proj.weight,
    }
    theirs.mixer.load_state_dict({name: value.detach() for name, value in weights.items()})
    return [Peer(f"transformers {release}, time loop", "s6", theirs, slow=True)]


def _release(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
