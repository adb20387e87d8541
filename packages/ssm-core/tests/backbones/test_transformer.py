"""The Transformer against masked softmax written out, far beyond its window, and its sizes and refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssm_core import build_model
from ssm_core.attention import Attention, RelativeBuckets, number_of_heads
from ssm_core.attention.positions import rotate, sinusoids, valid_positions
from ssm_core.attention.relative import bucket_starts
from ssm_core.backbones.transformer.layer import Positioned
from ssm_core.params import gather_hints
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import LayerInfo
from ssm_core.testing import MixerSuite
from ssm_core.testing.cases import Case
from ssm_core.testing.subject import Form, forms
from ssm_core.testing.trees import leaves

LOCAL = {"window": 7, "ffn_width": 4}
EVERYTHING = {"ffn_width": 4}
ITSELF = {"window": 1, "bias": False}
SINUSOID = {"positions": "sinusoid", "heads": 1, "window": 7}
LEARNED = {"positions": "learned", "heads": 1, "window": 16, "activation": "relu"}


class TestBlock(MixerSuite):
    backbone = "transformer"
    config = LOCAL
    widths = (1, 4)


@pytest.mark.slow
class TestWithoutWindow(MixerSuite):
    backbone = "transformer"
    config = EVERYTHING
    widths = (1, 4)
    splits_at_resets = ("causal", "bidirectional")
    exhaustive = True


@pytest.mark.slow
class TestAttention(MixerSuite):
    backbone = "transformer"
    config = ITSELF
    part = "ssm"
    splits_at_resets = ("causal", "bidirectional")
    exhaustive = True

    @forms
    def test_it_compiles_with_everything_given(self, form: Form) -> None:
        """All but resets: the longest row they leave decides whether there are blocks, and is read from the data."""
        mixer = self.built(form, self.widths[-1], torch.float32)
        case = Case(2, 9, 0, 8, torch.float32, False, True)
        self._check_compiled(mixer, [self.inputs(case, mixer, length=length) for length in (9, 10, 16, 33)])

    def test_the_causal_form_looks_back(self) -> None:
        pytest.skip("a window of 1 sees nothing but the present")

    def test_the_bidirectional_form_looks_both_ways(self) -> None:
        pytest.skip("a window of 1 sees nothing but the present")


@pytest.mark.slow
class TestSinusoids(MixerSuite):
    backbone = "transformer"
    config = SINUSOID


@pytest.mark.slow
class TestLearned(MixerSuite):
    backbone = "transformer"
    config = LEARNED

    def layer(self, width: int, causal: bool) -> LayerInfo:
        return LayerInfo(index=0, n_layers=1, d_model=width, causal=causal, max_length=1000)


def attention(width: int = 6, heads: int = 2, seed: int = 0, **knobs: Any) -> Attention:
    torch.manual_seed(seed)
    made = Attention(width, heads, **knobs).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def turned(x: Tensor, position: int, base: float) -> Tensor:
    """Multiply the pairs (i, i + E/2) by exp(sqrt(-1) position base^(-2 i / E)) as complex numbers."""
    half = len(x) // 2
    angle = torch.tensor([position * base ** (-i / half) for i in range(half)], dtype=torch.float64)
    z = torch.complex(x[:half], x[half : 2 * half]) * torch.exp(1j * angle)
    return torch.cat([z.real, z.imag, x[2 * half :]])


def naive(layer: Attention, x_ld: Tensor) -> Tensor:
    """Each query by itself, over a list of the keys it may see."""
    d, e = layer.d_model, layer.d_model // layer.heads
    q, k, v = (x_ld @ layer.qkv.weight[i * d : (i + 1) * d].mT for i in range(3))
    if layer.qkv.bias is not None:
        q, k, v = (each + layer.qkv.bias[i * d : (i + 1) * d] for i, each in enumerate((q, k, v)))
    out = torch.zeros_like(x_ld)
    for head in range(layer.heads):
        part = slice(head * e, (head + 1) * e)
        for i in range(len(x_ld)):
            last = i + 1 if layer.causal else len(x_ld)
            keys = [j for j in range(last) if layer.window is None or abs(i - j) < layer.window]
            scores = []
            for j in keys:
                query, key = q[i, part], k[j, part]
                if layer.rotary_base is not None:
                    query, key = (turned(a, n, layer.rotary_base) for a, n in ((query, i), (key, j)))
                score = query @ key / math.sqrt(e)
                if layer.relative is not None:
                    score = score + layer.relative.weight[naive_bucket(layer.relative, j - i), head]
                scores.append(score)
            weights = torch.stack(scores).softmax(0)
            out[i, part] = sum(w * v[j, part] for w, j in zip(weights, keys, strict=True))
    out = out @ layer.out.weight.mT
    return out if layer.out.bias is None else out + layer.out.bias


def naive_bucket(relative: RelativeBuckets, offset: int, max_distance: int = 20) -> int:
    """T5's formula, in floating point with a guard against its rounding at exact powers."""
    count = len(relative.weight) if relative.causal else len(relative.weight) // 2
    base = count if not relative.causal and offset > 0 else 0
    n, exact = abs(offset), count // 2
    if n < exact:
        return base + n
    far = math.floor(math.log(n / exact) / math.log(max_distance / exact) * (count - exact) + 1e-9)
    return base + min(exact + far, count - 1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 4, 30])
@pytest.mark.parametrize("kind", ["plain", "rotary", "relative"])
def test_it_is_masked_softmax_attention(causal: bool, window: int | None, kind: str) -> None:
    relative = RelativeBuckets(2, 8, 20, causal=causal) if kind == "relative" else None
    base = 100.0 if kind == "rotary" else None
    layer = attention(causal=causal, window=window, rotary_base=base, relative=relative, bias=kind != "plain")
    for length in (1, 4, 17):
        x = torch.randn(2, length, 6, dtype=torch.float64)
        y, _ = layer(x)
        expected = torch.stack([naive(layer, row) for row in x])
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("window", [1, 3, 8])
def test_steps_far_beyond_the_window_are_the_parallel_pass(window: int) -> None:
    """With a memory whose size never changes, and in float32 as in float64: positions do not wear out."""
    layer = attention(window=window, rotary_base=10000.0)
    x = torch.randn(2, 12 * window + 5, 6, dtype=torch.float64)
    y, _ = layer(x)
    state = layer.init_state(2)
    sizes = [leaf.shape for leaf in leaves(state)]
    for time in range(x.shape[1]):
        out, state = layer.step(x[:, time], state=state)
        torch.testing.assert_close(out, y[:, time], rtol=1e-10, atol=1e-10)
        assert [leaf.shape for leaf in leaves(state)] == sizes
    assert state["count"].tolist() == [x.shape[1]] * 2


def test_without_a_window_the_memory_grows_by_what_it_reads() -> None:
    layer = attention(rotary_base=10000.0)
    state = layer.init_state(2)
    assert state["k"].shape[1] == 0
    for length in (3, 0, 1, 5):
        _, state = layer(torch.randn(2, length, 6, dtype=torch.float64), state=state)
    assert state["k"].shape == (2, 9, 2, 3)


def test_rows_of_one_batch_may_have_read_unequally_much() -> None:
    """After a masked prompt each row goes on from its own count."""
    layer = attention(window=4, rotary_base=50.0)
    x, then = torch.randn(3, 9, 6, dtype=torch.float64), torch.randn(3, 6, 6, dtype=torch.float64)
    lengths = [9, 2, 0]
    _, state = layer(x, mask_bl=torch.arange(9) < torch.tensor(lengths)[:, None])
    assert state["count"].tolist() == lengths
    y, _ = layer(then, state=state)
    for row, length in enumerate(lengths):
        joined = torch.cat([x[row, :length], then[row]])
        torch.testing.assert_close(y[row], naive(layer, joined)[length:], rtol=1e-10, atol=1e-10)


def test_turned_products_depend_on_the_distance_only() -> None:
    q, k = torch.randn(2, 1, 1, 1, 5, dtype=torch.float64)

    def product(i: int, j: int) -> Tensor:
        a, b = (rotate(x, torch.tensor([[n]]), 10000.0) for x, n in ((q, i), (k, j)))
        return (a * b).sum()

    torch.testing.assert_close(product(3, 1), product(1_000_003, 1_000_001), rtol=1e-8, atol=1e-8)
    assert (product(3, 1) - product(3, 2)).abs() > 1e-3
    near = (rotate(x.float(), torch.tensor([[n]]), 1e4) for x, n in ((q, 10**6 + 3), (k, 10**6 + 1)))
    a, b = near
    torch.testing.assert_close((a * b).sum().double(), product(3, 1), rtol=1e-5, atol=1e-5)


def test_sinusoids_are_those_of_the_paper() -> None:
    values = sinusoids(torch.tensor([[0, 7]]), 6)
    expected = [f(7 / 10000 ** (2 * i / 6)) for f in (math.sin, math.cos) for i in range(3)]
    assert values[0, 0].tolist() == [0.0] * 3 + [1.0] * 3
    torch.testing.assert_close(values[0, 1], torch.tensor(expected, dtype=torch.float64))
    assert sinusoids(torch.tensor([[3]]), 5).shape == (1, 1, 5)


def test_positions_count_valid_elements_since_the_last_reset() -> None:
    mask = torch.tensor([[0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 0]]).bool()
    reset = torch.tensor([[0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 1]]).bool()
    before = torch.tensor([10, 20])
    positions, count = valid_positions(mask, mask, reset, before)
    assert positions[0, mask[0]].tolist() == [10, 11, 0, 1]
    assert positions[1, mask[1]].tolist() == [0, 1, 2, 3, 4]
    assert count.tolist() == [2, 0]
    assert valid_positions(mask, None, None, None)[0].tolist() == [list(range(6))] * 2
    empty, same = valid_positions(mask[:, :0], None, None, before)
    assert empty.shape == (2, 0)
    assert same is before


@pytest.mark.parametrize(
    ("buckets", "max_distance"), [(32, 128), (16, 128), (16, 20), (3, 9), (2, 5), (1, 4)]
)
def test_buckets_are_those_of_t5(buckets: int, max_distance: int) -> None:
    """Its formula in exact arithmetic: the two sides of floor(log(n/e) / log(m/e) (N - e)) compared as integers."""
    starts = bucket_starts(buckets, max_distance)
    assert len(starts) == buckets - 1
    relative = RelativeBuckets(1, buckets, max_distance, causal=True)
    with torch.no_grad():
        relative.weight.copy_(torch.arange(buckets)[:, None])
    distance = torch.arange(2 * max_distance)
    found = relative(-distance[None])[0, 0]
    exact = buckets // 2
    for n in range(2 * max_distance):
        if n < exact:
            wanted = n
        elif exact == 0:
            wanted = 0
        else:
            scaled = math.log(n / exact) / math.log(max_distance / exact) * (buckets - exact)
            wanted = min(exact + math.floor(scaled + 1e-9), buckets - 1)
        assert found[n] == wanted, n
    assert (relative(distance[None]) == 0).all(), "a causal bias has nothing to say of what comes after"


def test_the_order_of_elements_shows_only_with_positions() -> None:
    x = torch.randn(1, 6, 6, dtype=torch.float64)
    order = torch.tensor([2, 0, 1, 4, 3, 5])
    for base, same in ((None, True), (10.0, False)):
        layer = attention(causal=False, rotary_base=base)
        assert torch.allclose(layer(x)[0][:, order], layer(x[:, order])[0]) is same


@pytest.mark.parametrize("positions", ["sinusoid", "learned"])
def test_position_vectors_are_added_once_before_the_first_layer(positions: str) -> None:
    torch.manual_seed(0)
    model = build_model(
        "transformer",
        d_input=3,
        d_model=8,
        n_layers=2,
        max_length=16,
        backbone_config={"positions": positions},
    ).eval()
    first, second = model.stack.blocks
    assert isinstance(first, Positioned)
    assert not isinstance(second, Positioned)
    x = torch.randn(2, 5, 8)
    added = sinusoids(torch.arange(5)[None], 8).float() if first.table is None else first.table[:5]
    torch.testing.assert_close(first(x)[0], first.block(x + added)[0])


def test_learned_positions_have_an_end_and_say_so() -> None:
    knobs = {"backbone_config": {"positions": "learned"}, "d_input": 3, "d_model": 8, "n_layers": 1}
    with pytest.raises(ConfigError, match="max_length"):
        build_model("transformer", **knobs)
    model = build_model("transformer", **knobs, max_length=4)
    _, state = model(torch.randn(1, 4, 3))
    with pytest.raises(ValueError, match="built for max_length 4"):
        model.step(torch.randn(1, 3), state=state)
    with pytest.raises(ValueError, match="built for max_length 4"):
        model(torch.randn(1, 5, 3))
    assert gather_hints(model)["stack.blocks.0.table"].weight_decay == 0


def test_number_of_parameters() -> None:
    """12 D^2 + 13 D a block, as everywhere: 4 D^2 + 4 D attention, 8 D^2 + 5 D feed-forward, two norms of 2 D."""
    block = build_model("transformer", d_input=2, d_model=64, n_layers=1).stack.blocks[0]
    assert sum(p.numel() for p in block.parameters()) == 12 * 64**2 + 13 * 64
    # The Long Range Arena's ListOps baseline: 512 wide, 8 heads, 1024 inside, learned positions.
    block = build_model(
        "transformer",
        d_input=2,
        d_model=512,
        n_layers=1,
        max_length=2000,
        backbone_config={"heads": 8, "ffn_width": 1024, "positions": "learned", "activation": "relu"},
    ).stack.blocks[0]
    expected = 4 * 512**2 + 4 * 512 + 2 * 512 * 1024 + 512 + 1024 + 4 * 512 + 2000 * 512
    assert sum(p.numel() for p in block.parameters()) == expected


def test_the_start_of_the_matrices() -> None:
    layer = Attention(96, 4)
    for matrix in (*layer.qkv.weight.chunk(3), layer.out.weight):
        assert matrix.abs().max() <= math.sqrt(6 / 192)
        assert matrix.std().item() == pytest.approx(math.sqrt(6 / 192 / 3), rel=0.05)
    assert not layer.qkv.bias.any()
    assert not layer.out.bias.any()


def test_weights_are_dropped_in_training_only() -> None:
    layer = attention(dropout=0.5)
    x = torch.randn(1, 8, 6, dtype=torch.float64)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


@pytest.mark.parametrize(("width", "heads"), [(1, 1), (64, 1), (100, 1), (128, 2), (200, 2), (512, 8)])
def test_heads_left_out_are_about_64_wide(width: int, heads: int) -> None:
    assert number_of_heads(None, width, "mine") == heads


def test_what_it_does_not_take_is_refused() -> None:
    causal, both = attention(), attention(causal=False)
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"task\.time=ignored or appended"):
        causal(x, dt_bl=torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"no side inputs, but got \['B'\]"):
        causal(x, side={"B": x})
    with pytest.raises(ValueError, match="carries no state"):
        both(x, state=causal.init_state(2))
    with pytest.raises(ValueError, match="cannot step"):
        both.step(x[:, 0], state=())
    with pytest.raises(ValueError, match="4 heads do not divide the width 6"):
        Attention(6, 4)
    with pytest.raises(ConfigError, match="3 heads do not divide the width 64"):
        build_model("transformer", d_input=3, backbone_config={"heads": 3})


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"heads": 0}, "heads must be at least 1"),
        ({"window": 0}, "window must be at least 1"),
        ({"ffn_width": 0}, "ffn_width must be at least 1"),
        ({"rotary_base": 1.0}, "rotary_base"),
        ({"dropout_attention": 1.0}, "dropout_attention"),
        ({"dropout_hidden": -0.1}, "dropout_hidden"),
        ({"positions": "alibi"}, "'rotary', 'sinusoid', 'learned' or 'none'"),
    ],
)
def test_settings_that_cannot_work_are_refused(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("transformer", d_input=3, backbone_config=knobs)
