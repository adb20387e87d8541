"""S5 beside s5-pytorch, another port of the paper's code, with the same parameters: equal and unequal steps.

``fixtures/s5_pytorch.safetensors`` comes from s5-pytorch 0.2.1 on a CPU: parameters of a layer of ours (6 channels, 8
states in 2 blocks) moved by 0.1 times a normal draw and its steps by a factor of e^1.5, set in that package's ``S5``;
``u`` (2, 21, 6), ``gaps`` (2, 21), and its outputs for steps of one, ``y_equal``, and for those gaps, ``y_gaps``.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ssm_core.backbones.s5.layer import S5
from ssm_core.backbones.s5.spec import S5Config
from ssm_core.bench.layers import peers

FIXTURE = Path(__file__).parents[1] / "fixtures" / "s5_pytorch.safetensors"


def close(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()


def test_outputs_are_those_of_the_other_code() -> None:
    stored = load_file(FIXTURE)
    u, gaps, equal, unequal = (stored.pop(name) for name in ("u", "gaps", "y_equal", "y_gaps"))
    layer = S5(6, S5Config(state_size=8, blocks=2))
    layer.load_state_dict(stored)
    assert (equal - unequal).abs().max() > 0.1 * equal.abs().max(), "the gaps change nothing"
    with torch.no_grad():
        close(layer(u)[0], equal)
        close(layer(u, dt_bl=torch.ones_like(gaps))[0], equal)
        close(layer(u, dt_bl=gaps)[0], unequal)


@pytest.mark.parametrize("state_size", [8, 64])
def test_the_package_gives_the_same(state_size: int) -> None:
    """With the package at hand: another size, and parameters as they start."""
    pytest.importorskip("s5")
    torch.manual_seed(1)
    layer = S5(16, S5Config(state_size=state_size))
    block = SimpleNamespace(d_model=16, mixer=layer, norm=torch.nn.Identity(), mix=torch.nn.Identity())
    theirs = peers._s5(block)[0].block.inner
    u, gaps = torch.randn(3, 50, 16), 0.1 + 3 * torch.rand(3, 50)
    with torch.no_grad():
        close(layer(u)[0], theirs(u))
        close(layer(u, dt_bl=gaps)[0], theirs(u, gaps))
