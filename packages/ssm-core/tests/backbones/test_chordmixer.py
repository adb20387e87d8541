"""ChordMixer against a loop over elements and tracks, its reach, and the sizes of the published models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssm_core import build_model
from ssm_core.backbones.chordmixer.layer import ChordMixer, number_of_tracks, rotate
from ssm_core.plugin.errors import ConfigError
from ssm_core.testing import MixerSuite

pytestmark = pytest.mark.filterwarnings("ignore:chordmixer")

QUICK = {"max_length": 8, "hidden": 5}


class TestBlock(MixerSuite):
    backbone = "chordmixer"
    config = QUICK
    widths = (4, 6)

    def test_the_bidirectional_form_looks_both_ways(self) -> None:
        """One layer reaches 0, 1, 2, 4, ... elements ahead, the end followed by the beginning, and no others."""
        reached = self._reach("bidirectional", time=3)
        assert [time for time in range(7) if reached[time] > 0] == [0, 3, 4, 5]


@pytest.mark.slow
class TestMixer(TestBlock):
    config = QUICK | {"hidden": None}
    part = "mixer"
    widths = (4, 9)
    splits_at_resets = ("causal", "bidirectional")
    exhaustive = True


@pytest.mark.slow
class TestPostNorm(TestBlock):
    config = QUICK | {"norm_after": "rms"}
    widths = (5, 14)


def naive(x_ld: Tensor, sizes: list[int]) -> Tensor:
    """out[t] = in[(t + 2^(i - 1)) mod L] in track i, element by element."""
    out, length, start = torch.zeros_like(x_ld), len(x_ld), 0
    for track, size in enumerate(sizes):
        for channel in range(start, start + size):
            for time in range(length):
                source = time if track == 0 else (time + 2 ** (track - 1)) % length
                out[time, channel] = x_ld[source, channel]
        start += size
    return out


@pytest.mark.parametrize(
    ("width", "sizes"), [(12, [3, 3, 3, 3]), (4, [1, 1, 1, 1]), (6, [2, 2, 1, 1]), (11, [3, 3, 3, 2])]
)
def test_rotation_is_the_loop_over_elements(width: int, sizes: list[int]) -> None:
    for length in (1, 3, 8, 13):
        x = torch.randn(2, length, width)
        expected = torch.stack([naive(row, sizes) for row in x])
        assert torch.equal(rotate(x, 4, None), expected)
        assert torch.equal(rotate(x, 4, torch.tensor([length, length])), expected)


def test_every_row_rotates_within_its_own_length() -> None:
    x = torch.randn(4, 9, 8)
    lengths = [9, 5, 1, 0]
    y = rotate(x, 4, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        assert torch.equal(y[row, :length], naive(x[row, :length], [2, 2, 2, 2]))


def test_a_layer_is_the_network_and_the_rotation() -> None:
    torch.manual_seed(0)
    mixer = ChordMixer(8, 4, 5).double()
    x = torch.randn(2, 7, 8, dtype=torch.float64)
    inner = torch.nn.functional.gelu(x @ mixer.up.weight.mT + mixer.up.bias)
    plain = inner @ mixer.down.weight.mT + mixer.down.bias
    expected = torch.stack([naive(row, [2, 2, 2, 2]) for row in plain])
    torch.testing.assert_close(mixer(x)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", [2, 5, 8, 16, 21])
def test_log2_layers_reach_the_whole_sequence_and_fewer_do_not(length: int) -> None:
    """Of other lengths than powers of two, the farthest element may need fewer ones in its distance's digits."""
    layers = math.ceil(math.log2(length))
    fewer = [(layers - 1, False)] if length == 2**layers and layers > 1 else []
    for n_layers, covers in ((layers, True), *fewer):
        torch.manual_seed(0)
        model = build_model(
            "chordmixer", d_input=2, d_model=12, n_layers=n_layers, causal=False, max_length=length
        ).double()
        x = torch.randn(1, length, 2, dtype=torch.float64, requires_grad=True)
        for time in (0, length - 1):
            y = model(x)[0][:, time]
            reached = torch.autograd.grad((y * torch.cos(torch.arange(12))).sum(), x)[0].abs().amax(-1)
            assert bool((reached > 0).all()) is covers


@pytest.mark.parametrize(
    ("longest", "tracks"), [(1, 1), (2, 2), (3, 3), (4, 3), (1024, 11), (2048, 12), (4000, 13)]
)
def test_number_of_tracks(longest: int, tracks: int) -> None:
    assert number_of_tracks(longest) == tracks
    assert tracks == math.ceil(math.log2(longest)) + 1


@pytest.mark.parametrize(
    ("max_length", "track", "hidden"),
    [(2048, 8, 88), (4096, 16, 96), (4000, 20, 128), (1024, 28, 420), (16384, 10, 128)],
    ids=["listops", "text", "retrieval", "image", "pathx"],
)
def test_the_published_sizes(max_length: int, track: int, hidden: int) -> None:
    width = track * number_of_tracks(max_length)
    model = build_model(
        "chordmixer",
        d_input=1,
        d_model=width,
        n_layers=1,
        causal=False,
        max_length=max_length,
        backbone_config={"hidden": hidden, "norm_after": "batch"},
    )
    block = model.stack.blocks[0]
    assert sum(p.numel() for p in block.parameters()) == 2 * width * hidden + width + hidden + 4 * width
    assert [part.shape[-1] for part in torch.empty(1, width).tensor_split(width // track, -1)] == [track] * (
        width // track
    )


def test_the_task_s_length_gives_way_to_the_knob() -> None:
    model = build_model(
        "chordmixer",
        d_input=1,
        d_model=16,
        n_layers=1,
        causal=False,
        max_length=9,
        backbone_config={"max_length": 16},
    )
    assert model.stack.blocks[0].mixer.tracks == 5


def test_the_start_of_the_matrices() -> None:
    mixer = ChordMixer(120, 6, 60)
    for part in (mixer.up, mixer.down):
        assert part.weight.std().item() == pytest.approx(math.sqrt(6 / 180 / 3), rel=0.05)
        assert not part.bias.any()


def test_the_norm_after_the_sum_closes_the_block() -> None:
    knobs: dict[str, Any] = {"d_input": 1, "d_model": 8, "n_layers": 1, "causal": False, "max_length": 8}
    block = build_model("chordmixer", **knobs, backbone_config={"norm_after": "rms"}).stack.blocks[0].eval()
    y, _ = block(torch.randn(2, 6, 8))
    torch.testing.assert_close(y.square().mean(-1), torch.ones(2, 6), rtol=1e-4, atol=1e-4)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.max_length"):
        build_model("chordmixer", d_input=1, causal=False)
    with pytest.raises(ConfigError, match=r"model\.causal=false"):
        build_model("chordmixer", d_input=1, max_length=8)
    with pytest.raises(ConfigError, match="each of its 7 tracks, but its width is 6"):
        build_model("chordmixer", d_input=1, d_model=6, causal=False, max_length=64)
    with pytest.raises(ConfigError, match="hidden must be at least 1"):
        build_model("chordmixer", d_input=1, causal=False, max_length=8, backbone_config={"hidden": 0})
    with pytest.raises(ConfigError, match="max_length must be at least 1"):
        build_model("chordmixer", d_input=1, causal=False, backbone_config={"max_length": 0})
    mixer, x = ChordMixer(4, 4, 4), torch.randn(2, 5, 4)
    with pytest.raises(ValueError, match="carries no state"):
        mixer(x, state={"x": x})
    with pytest.raises(ValueError, match=r"no side inputs, but got \['B'\]"):
        mixer(x, side={"B": x})
    with pytest.raises(ValueError, match="cannot step"):
        mixer.step(x[:, 0], state=())
    with pytest.raises(ValueError, match=r"dt_bl.*task\.time=ignored or appended"):
        mixer(x, dt_bl=torch.ones(2, 5))


def test_too_few_layers_to_see_everything_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"8 elements at most, of 32; --set model.n_layers=5"):
        build_model("chordmixer", d_input=2, d_model=12, n_layers=3, causal=False, max_length=32)
