"""The direct reading of the equations, table of distances and all, as the oracle of maps, branch and layer."""

from __future__ import annotations

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from serpents import close
from torch import Tensor

from ssm_serpent.bench.direct import direct_index
from ssm_serpent.bench.measure import values
from ssm_serpent.bench.parts import leaves, parts
from ssm_serpent.bench.spec import SerpentBenchConfig
from ssm_serpent.index import resample_index
from ssm_serpent.intervals import TICKS, Intervals, intervals


@st.composite
def cases(draw: st.DrawFn) -> tuple[SerpentBenchConfig, int]:
    """A block at a size of some tens of tokens, and a seed."""
    window = draw(st.integers(1, 7))
    config = SerpentBenchConfig(
        batch=draw(st.integers(1, 3)),
        length=draw(st.integers(window, 50)),
        width=2 * draw(st.integers(1, 4)),
        window=window,
        basis=draw(st.integers(1, 4)),
        state_size=2 * draw(st.integers(1, 2)),
        compression=draw(st.sampled_from([0.05, 0.2, 0.3, 0.5, 0.8])),
    )
    return config, draw(st.integers(0, 999))


def given_to(config: SerpentBenchConfig, seed: int, device: str) -> list[Tensor]:
    """The bench's operands in float64, with x and logits of another seed."""
    tensors = leaves(config, config.batch, config.length, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for tensor in tensors[:2]:
        tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    return [tensor.to(device) for tensor in tensors]


def without_ties(spans: Intervals) -> bool:
    """Whether no two tokens are as far from a point, nor two points from a token: the table takes either then."""
    half = spans.times_bl % (TICKS // 2)
    return bool((half != 0).all()) and all(
        len({min(t % TICKS, TICKS - t % TICKS) for t in row}) == len(row) for row in spans.times_bl.tolist()
    )


@settings(deadline=None)
@given(case=cases())
def test_maps_are_those_of_the_table(device, case):
    config, seed = case
    spans = intervals(given_to(config, seed, device)[1], config.compression, 1.0)
    assume(without_ties(spans))
    index, table = resample_index(spans, config.window, "nearest"), direct_index(spans, config.window)
    valid = index.valid_bk
    assert torch.equal(valid, table.valid_bk)
    slots = torch.arange(config.window, device=device)
    assert index.inside_bkw[valid].all()
    assert torch.equal((index.start_bk[..., None] + slots)[valid], table.token_bkw[valid])
    assert torch.equal(index.point_bl - 1, table.point_bl)
    close(index.distance_bkw[valid], table.distance_bkw[valid])


@settings(deadline=None)
@given(case=cases())
def test_values_and_gradients_are_those_of_the_table(device, case):
    """Of the index stage, of a branch, and of the layer that the add-on builds, in float64."""
    config, seed = case
    config = SerpentBenchConfig(**{**vars(config), "device": device})
    tensors = given_to(config, seed, device)
    x, logits, w, b = tensors[:4]
    assume(all(without_ties(intervals(of, config.compression, 1.0)) for of in (logits, x @ w + b)))
    for stage in parts(config):
        found, expected = (values(hand, tensors) for hand in (stage.ours, stage.direct))
        close(found[0], expected[0])
        # Terms of a gradient's sum may cancel: within a share of the largest of all.
        one, other = (torch.cat([value.flatten() for value in those]) for those in (found, expected))
        close(one, other)
