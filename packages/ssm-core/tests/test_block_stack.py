from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssm_core.block import ChannelMix, Dropout, ResidualBlock
from ssm_core.feed_forward import FeedForward
from ssm_core.norms import make_norm
from ssm_core.protocols import LayerInfo
from ssm_core.stack import Stack
from ssm_core.testing import TinyMixer


def layer(**changes) -> LayerInfo:
    return LayerInfo(**{"index": 0, "n_layers": 1, "d_model": 6, **changes})


@pytest.mark.parametrize("activation", ["half_glu1", "half_glu2", "full_glu", "linear", "gelu", "none"])
def test_channel_mixing_is_its_formula(activation: str) -> None:
    torch.manual_seed(0)
    mix = ChannelMix(6, activation, dropout=0.0)  # type: ignore[arg-type]
    y = torch.randn(2, 5, 6)
    g = F.gelu(y)
    gate = torch.sigmoid(mix.gate(g)) if mix.gate is not None else None
    expected = {
        "none": lambda: y,
        "gelu": lambda: g,
        "half_glu1": lambda: g * gate,
        "half_glu2": lambda: y * gate,
        "full_glu": lambda: mix.value(g) * gate,
        "linear": lambda: mix.value(g),
    }[activation]()
    torch.testing.assert_close(mix(y), expected)


@pytest.mark.parametrize("norm", ["layer", "rms", "batch", "scale", "none"])
def test_prenorm_and_postnorm(norm: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6)
    for prenorm in (True, False):
        block = ResidualBlock(TinyMixer(6), layer(norm=norm, prenorm=prenorm))
        norm_of = make_norm(norm, 6)
        inner = norm_of(x) if prenorm else x
        expected = x + block.mix(TinyMixer(6)(inner)[0])
        torch.testing.assert_close(block(x)[0], expected if prenorm else norm_of(expected))


def test_a_block_is_what_its_mixer_is() -> None:
    block = ResidualBlock(TinyMixer(6, causal=False, takes_dt=False), layer())
    assert (block.d_model, block.causal, block.streaming, block.takes_dt) == (6, False, False, False)


def test_dropout_is_off_in_evaluation_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(8, 100, 50)
    for tie in (False, True):
        dropout = Dropout(0.25, tie)
        assert dropout.eval()(x) is x
        dropped = dropout.train()(x)
        assert dropped.mean().item() == pytest.approx(1.0, abs=0.1)
        assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])


def test_tied_dropout_shares_its_mask_over_time() -> None:
    torch.manual_seed(0)
    dropped = Dropout(0.5, tie=True)(torch.ones(4, 9, 30))
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert not torch.equal(dropped[:1], dropped[1:2]), "rows have masks of their own"
    untied = Dropout(0.5)(torch.ones(4, 9, 30))
    assert not torch.equal(untied, untied[:, :1].expand_as(untied))


def test_a_stack_is_its_blocks_in_turn() -> None:
    torch.manual_seed(0)
    blocks = [ResidualBlock(TinyMixer(6), layer(index=i, n_layers=3)) for i in range(3)]
    stack = Stack(blocks, 6, "layer")
    x, dt = torch.randn(2, 7, 6), 0.5 + torch.rand(2, 7)
    expected = x
    for block in blocks:
        expected, _ = block(expected, dt_bl=dt)
    y, states = stack(x, dt_bl=dt)
    torch.testing.assert_close(y, F.layer_norm(expected, (6,)))
    assert len(states) == 3


def test_a_stack_can_what_all_its_blocks_can() -> None:
    blocks = [ResidualBlock(TinyMixer(6), layer()), ResidualBlock(TinyMixer(6, takes_dt=False), layer())]
    assert (Stack(blocks, 6).causal, Stack(blocks, 6).streaming, Stack(blocks, 6).takes_dt) == (
        True,
        True,
        False,
    )
    blocks.append(ResidualBlock(TinyMixer(6, causal=False), layer()))
    assert (Stack(blocks, 6).causal, Stack(blocks, 6).streaming) == (False, False)


def test_a_state_of_another_stack_is_refused() -> None:
    one, two = (Stack([ResidualBlock(TinyMixer(6), layer()) for _ in range(n)], 6) for n in (1, 2))
    x = torch.randn(2, 3, 6)
    with pytest.raises(ValueError, match="tuple of 2, one for each block, but is a tuple of 1"):
        two(x, state=one.init_state(2))
    with pytest.raises(ValueError, match=r"a tuple of 0: pass the one .* or that of init_state"):
        one(x, state=())
    with pytest.raises(ValueError, match="is a dict of 2"):
        two.step(x[:, 0], state=one.init_state(2)[0])


@pytest.mark.parametrize("name", ["mask", "reset"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_a_mask_of_numbers_is_refused(name: str, dtype: torch.dtype) -> None:
    """Hugging Face's are of 0 and 1; torch's own message names neither the argument nor the way out."""
    stack = Stack([ResidualBlock(TinyMixer(6), layer())], 6)
    with pytest.raises(ValueError, match=rf"{name}_bl is boolean, True where .*: pass {name}\.bool\(\)"):
        stack(torch.randn(2, 3, 6), **{f"{name}_bl": torch.ones(2, 3, dtype=dtype)})


def test_norms_have_their_names() -> None:
    assert isinstance(make_norm("layer", 3), nn.LayerNorm)
    assert isinstance(make_norm("rms", 3), nn.RMSNorm)
    assert isinstance(make_norm("none", 3), nn.Identity)


def test_what_follows_a_block_comes_after_its_sum() -> None:
    torch.manual_seed(0)
    plain = ResidualBlock(TinyMixer(6), layer())
    then = FeedForward(6, 12, activation="silu")
    block = ResidualBlock(TinyMixer(6), layer(), then=then)
    block.mix.load_state_dict(plain.mix.state_dict())
    x = torch.randn(2, 5, 6)
    between = plain(x)[0]
    expected = between + then.down(F.silu(then.up(F.layer_norm(between, (6,)))))
    torch.testing.assert_close(block(x)[0], expected)
    torch.testing.assert_close(block.step(x[:, 0], state=block.init_state(2))[0], expected[:, 0])


def test_the_mixer_s_own_output_may_be_dropped_too() -> None:
    """With all of it gone and nothing but a sum after it, the block is its skip connection."""
    x = torch.randn(2, 5, 6)
    for drop_mixed in (True, False):
        block = ResidualBlock(TinyMixer(6), layer(dropout=1.0), "none", drop_mixed=drop_mixed).train()
        block.mix.dropout.rate = 0.0
        assert torch.equal(block(x)[0], x) is drop_mixed


def test_a_feed_forward_half_shares_its_dropout_over_time_if_asked() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 1, 6).expand(4, 9, 6)
    for tied in (True, False):
        y = FeedForward(6, 12, dropout=0.5, tie_dropout=tied).train()(x)
        assert torch.equal(y, y[:, :1].expand_as(y)) is tied
