"""The bench's knobs: what is refused before anything is timed, and how many tokens its intervals keep."""

from __future__ import annotations

import pytest

from ssm_serpent.bench.parts import leaves
from ssm_serpent.bench.spec import SerpentBenchConfig
from ssm_serpent.intervals import intervals


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

    config = SerpentBenchConfig(width=2, state_size=2)
    logits = leaves(config, 4, 4096, torch.float32)[1]
    assert float(intervals(logits, kappa, 1.0).u_bl.mean()) == pytest.approx(0.3 + 0.7 * kappa, abs=0.01)
