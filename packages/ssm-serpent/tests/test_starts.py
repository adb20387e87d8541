"""Where training starts: centres and widths of the Gaussians, bias of the intervals; and what optimisers are told."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from serpents import Same

from ssm_core.protocols import Hint, LayerInfo
from ssm_serpent.build import build
from ssm_serpent.compressed import Compressed
from ssm_serpent.spec import SerpentConfig

FLOAT32 = Hint(dtype=torch.float32)
KEPT = Hint(weight_decay=0.0, dtype=torch.float32)

unhurried = settings(deadline=None)


def branch(causal: bool, width: int = 4, seed: int = 0, **knobs: object) -> Compressed:
    """The compressed branch of a block as it is built."""
    torch.manual_seed(seed)
    layer = LayerInfo(index=0, n_layers=1, d_model=width, causal=causal)
    config = SerpentConfig(base=False, **knobs)  # pyright: ignore[reportArgumentType]
    return build(config)(lambda w: Same(w, causal), width, layer).branches[0]


@pytest.mark.parametrize("causal", [True, False])
@unhurried
@given(window=st.integers(1, 9), seed=st.integers(0, 999))
def test_centres_start_all_over_the_distances_of_a_window(causal, window, seed):
    """Distances are in [1 - W, 1) with trailing windows, and in [-W / 2, W / 2] but for half a step with nearest."""
    centres = branch(causal, seed=seed, window=window, basis=400).resampler.encoder.centres
    lowest, highest = (1 - window, 1) if causal else (-window / 2, window / 2)
    assert lowest <= centres.min() < lowest + 0.05 * window
    assert highest - 0.05 * window < centres.max() <= highest
    assert (centres.mean() - (lowest + highest) / 2).abs() < 0.1 * window


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("train_width", [True, False])
@unhurried
@given(window=st.integers(1, 9), basis=st.integers(1, 40))
def test_widths_start_at_the_spacing_of_the_gaussians(causal, train_width, window, basis):
    """gamma = 1 / (2 s^2) with s = max(W / G, 1 / 4): neighbours cross, and none is a needle."""
    encoder = branch(causal, window=window, basis=basis, train_width=train_width).resampler.encoder
    s = max(window / basis, 0.25)
    assert math.exp(encoder.log_gamma_start) == pytest.approx(1 / (2 * s**2))
    if train_width:
        torch.testing.assert_close(encoder.log_gamma.exp(), torch.full((basis,), 1 / (2 * s**2)))
    else:
        assert encoder.log_gamma is None


@pytest.mark.parametrize("start", [(), (0.3,), (0.9,)])
def test_a_token_of_zeros_starts_with_the_interval_asked_for_or_the_middle(start):
    spans = branch(True, compression=(0.2,), start=start).resampler.interval_map(torch.zeros(1, 3, 4))
    torch.testing.assert_close(spans.u_bl, torch.full((1, 3), *start or (0.6,)))


@pytest.mark.parametrize("start", [(), (0.3,), (0.9,)])
def test_fixed_intervals_are_the_start_whatever_the_tokens_and_have_no_gradient(start):
    interval_map = branch(True, compression=(0.2,), start=start, fixed=True).resampler.interval_map
    tokens = torch.randn(2, 5, 4, requires_grad=True)
    u_bl = interval_map(tokens).u_bl
    torch.testing.assert_close(u_bl, torch.full((2, 5), *start or (0.6,)))
    u_bl.sum().backward()
    assert not any(x.grad.any() for x in (tokens, interval_map.weight, interval_map.bias))


@pytest.mark.parametrize("train_width", [True, False])
def test_what_optimisers_are_told(train_width):
    resampler = branch(True, train_width=train_width).resampler
    widths = {"log_gamma": KEPT} if train_width else {}
    assert resampler.encoder.param_hints() == {"centres": KEPT, **widths}
    assert resampler.interval_map.param_hints() == {"weight": FLOAT32, "bias": KEPT}
    for part in (resampler.encoder, resampler.interval_map):
        assert part.param_hints().keys() <= dict(part.named_parameters()).keys()


@pytest.mark.parametrize("window", [1, 7])
def test_maps_start_as_linear_layers_do(window):
    """Uniform, of the size that W (D + G) inputs give, the columns of the distances among them."""
    encoder = branch(True, width=16, window=window, basis=4).resampler.encoder
    bound = (window * 20) ** -0.5
    for values in (encoder.weight, encoder.weight[:, :, 16:]):
        assert 0.9 * bound < values.abs().max() <= bound
    assert encoder.bias.abs().max() <= bound
    weight = branch(True, width=400).resampler.interval_map.weight
    assert 0.9 / 20 < weight.abs().max() <= 1 / 20


@pytest.mark.parametrize(
    "knobs",
    [{"compression": (1e-6,), "bounds": "cap"}, {"compression": (0.5,), "bounds": "cap", "start": (1e-7,)}],
)
def test_fixed_intervals_below_a_tick_are_refused(knobs):
    SerpentConfig(**knobs)
    with pytest.raises(ValueError, match=r"below 2\^-20"):
        SerpentConfig(**knobs, fixed=True)
