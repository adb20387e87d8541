"""What comes beside x reaches each branch at its width; mixers of every kind run inside, Mamba-2 and attention too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from serpents import close
from torch import nn

from ssm_core import build_model
from ssm_serpent.side import side_of

MAMBA_2 = {"head_dim": 4, "state_size": 8, "expand": 2}


class Wants(nn.Module):
    def __init__(self, d_model: int, side_widths: dict[str, int] | None = None) -> None:
        super().__init__()
        self.d_model = d_model
        if side_widths is not None:
            self.side_widths = side_widths


def test_shared_tensors_pass_and_those_of_a_branch_are_cut():
    side = {"B": torch.arange(8.0).view(1, 1, 8), "dt": torch.arange(6.0).view(1, 1, 6)}
    for branch in range(3):
        given = side_of(side, branch, 3, Wants(4, {"B": 8, "dt": 2}), 12)
        assert given is not None
        assert torch.equal(given["B"], side["B"])
        assert given["dt"].flatten().tolist() == [2 * branch, 2 * branch + 1]


def test_without_a_word_from_the_mixer_what_is_as_wide_as_x_is_cut_as_x_is():
    side = {"scale": torch.arange(12.0).view(1, 12), "other": torch.zeros(1, 5)}
    given = side_of(side, 1, 3, Wants(4), 12)
    assert given is not None
    assert given["scale"].flatten().tolist() == [4, 5, 6, 7]
    assert given["other"].shape == (1, 5)
    assert side_of(None, 0, 2, Wants(4), 12) is side_of({}, 0, 2, Wants(4), 12) is None


def test_other_widths_are_refused():
    with pytest.raises(ValueError, match=r"'dt' beside x has width 7, and each of the 3 branches wants 2"):
        side_of({"dt": torch.zeros(1, 7)}, 0, 3, Wants(4, {"dt": 2}), 12)


def model(
    backbone: str, causal: bool, knobs: dict[str, Any], device: str, addons: tuple[str, ...] = ("serpent",)
) -> Any:
    torch.manual_seed(0)
    built = build_model(
        backbone,
        addons,
        d_input=3,
        d_output=2,
        d_model=8,
        n_layers=2,
        causal=causal,
        backbone_config=knobs,
        addon_configs=[{"compression": [0.4], "window": 3} for _ in addons],
        max_length=64,
    )
    return built.double().eval().to(device)


def drawn(batch: int, length: int, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, length, 3, generator=generator, dtype=torch.float64).to(device)


@pytest.mark.parametrize("causal", [True, False])
def test_mamba_2_gives_each_branch_its_own_heads(causal, device):
    net, x = model("mamba2", causal, MAMBA_2, device), drawn(2, 21, device)
    y, _ = net(x)
    serpent = net.stack.blocks[0].mixer.inner
    assert serpent.slices
    seen: list[dict[str, Any]] = []
    for branch in serpent.branches:
        branch.inner.register_forward_pre_hook(
            lambda _, __, given: seen.append(given["side"]), with_kwargs=True
        )
    close(net(x)[0], y)
    whole, at_points = seen
    token = serpent_tokens(net, x, causal)
    assert whole["dt"].shape == (2, 21, 2)
    assert whole["B"].shape == (2, 21, 8)
    everything = net.stack.blocks[0].mixer.in_proj(net.stack.blocks[0].norm(net.encoder(x)))
    B, dt = everything[..., 32:40], everything[..., 48:52]
    close(whole["dt"], dt[..., :2])
    rows = torch.arange(2, device=device)[:, None]
    valid = token >= 0
    close(at_points["dt"][valid], dt[rows, token][..., 2:][valid])
    close(at_points["B"][valid], B[rows, token][valid])


def serpent_tokens(net: Any, x: torch.Tensor, causal: bool) -> torch.Tensor:
    """The token that each point stands for, -1 in rows that are not in use."""
    found: list[Any] = []
    serpent = net.stack.blocks[0].mixer.inner
    handle = serpent.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    net(x)
    handle.remove()
    index, spans = serpent.trace(found[0])[0].index, serpent.trace(found[0])[0].spans
    token = index.event_bk
    if not causal:
        k = torch.arange(1, token.shape[1] + 1, device=token.device) * (1 << 20)
        token = (spans.times_bl[:, None] - k[:, None]).abs().argmin(2)
    return token.where(index.valid_bk, -1)


@pytest.mark.parametrize(
    ("backbone", "knobs"), [("mamba2", MAMBA_2), ("transformer", {}), ("s6", {}), ("mega", {})]
)
def test_states_of_every_form_stream(backbone, knobs, device):
    """Keys and values grow with each point, and rows have theirs at different times."""
    net, x = model(backbone, True, knobs, device), drawn(3, 24, device)
    y, _ = net(x)
    state, out = net.init_state(3, device=device), []
    for time in range(24):
        step, state = net.step(x[:, time], state=state)
        out.append(step)
    close(torch.stack(out, 1), y)
    first, state = net(x[:, :10])
    reset = torch.zeros(3, 14, dtype=torch.bool, device=device)
    reset[0, 0] = reset[1, 5] = reset[2, 13] = True
    second, _ = net(x[:, 10:], reset_bl=reset, state=state)
    close(first, y[:, :10])
    close(second[1:2, :5], y[1:2, 10:15])
    close(second[0:1], net(x[0:1, 10:])[0])
    close(second[1:2, 5:], net(x[1:2, 15:])[0])


def test_it_nests_in_itself(device):
    net = model("s5", True, {"state_size": 4}, device, ("serpent", "serpent"))
    x = drawn(2, 30, device)
    y, state = net(x[:, :20])
    close(torch.cat([y, net(x[:, 20:], state=state)[0]], 1), net(x)[0])
