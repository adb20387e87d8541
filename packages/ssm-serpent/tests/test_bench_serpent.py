"""The bench's knobs: what is refused before anything is timed, and how many tokens its intervals keep."""

from __future__ import annotations

import pytest

from ssm_serpent.bench.measure import forward_and_backward, peak_bytes
from ssm_serpent.bench.parts import leaves, parts
from ssm_serpent.bench.spec import SerpentBenchConfig
from ssm_serpent.intervals import intervals
from ssm_serpent.token_dot import token_dot


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"length": 4}, "length 4 is less than window 6"),
        ({"length": 8, "window": 9}, "length 8 is less than window 9"),
        ({"batch": 0}, "at least 1"),
        ({"width": 3}, "must be even"),
        ({"compression": 0.0}, r"must lie in \(0, 1\]"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs, words):
    with pytest.raises(ValueError, match=words):
        SerpentBenchConfig(**knobs)


@pytest.mark.parametrize("kappa", [0.1, 0.25, 0.8])
def test_random_intervals_keep_the_share_that_the_knob_says(kappa):
    import torch

    config = SerpentBenchConfig(width=64, state_size=2)
    x, logits, w, b = leaves(config, 4, 4096, torch.float32)[:4]
    for each in (logits, token_dot(x, w) + b):
        assert float(intervals(each, kappa, 1.0).u_bl.mean()) == pytest.approx(0.3 + 0.7 * kappa, abs=0.01)


def test_ticks_are_the_same_in_both_precisions():
    import torch

    config = SerpentBenchConfig(width=10)
    ticks = []
    for dtype in (torch.float32, torch.float64):
        x, _, w, b = leaves(config, 2, 500, dtype)[:4]
        ticks.append(intervals(token_dot(x, w) + b, 0.25, 1.0).ticks_bl)
    assert torch.equal(*ticks)


def test_the_layer_takes_a_third_of_the_memory_of_the_direct_reading():
    """At half the default batch, by which both grow alike; with its interval map, as users run it."""
    import torch

    config = SerpentBenchConfig(batch=8)
    given, stage = leaves(config, config.batch, config.length, torch.float32), parts(config)[-1]
    runs = (forward_and_backward(hand, given) for hand in (stage.ours, stage.direct))
    ours, direct = (peak_bytes(run, torch.device("cpu")) for run in runs)
    assert direct >= 3 * ours
