"""Two causal mixers as a bidirectional one, against running each over a list of one row's valid elements."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ssm_core.backbones.s5.layer import S5
from ssm_core.backbones.s5.spec import S5Config
from ssm_core.both_ways import BothWays
from ssm_core.plugin.spec import Capabilities
from ssm_core.protocols import Mixer
from ssm_core.testing import MixerSuite, TinyMixer


class TestContract(MixerSuite):
    capabilities = Capabilities(causal=False, bidirectional=True, step=False, dt=True, state=False)
    widths = (1, 2)

    def make(self, width: int, causal: bool) -> Mixer:
        return BothWays(TinyMixer(width), TinyMixer(width))


def two(takes_dt: bool = True, width: int = 2) -> BothWays:
    torch.manual_seed(0)
    both = BothWays(TinyMixer(width, takes_dt=takes_dt), TinyMixer(width, takes_dt=takes_dt)).double()
    with torch.no_grad():
        for parameter in both.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return both


def by_hand(both: BothWays, x: Tensor, v: Tensor, dt: Tensor | None, scale: Tensor | None = None) -> Tensor:
    """One sequence (L, D) with gaps (L,): there, and back with the gap after each element, 1 after the last."""
    there = None if dt is None else dt[None]
    # Going back, the gap before an element is the one after it in time: 1 at first, then that of the element passed.
    back = None if dt is None else torch.cat([torch.ones_like(dt[:1]), dt.flip(0)[:-1]])[None]
    side, reversed_side = {}, {}
    if scale is not None:
        side, reversed_side = {"scale": scale[None]}, {"scale": scale.flip(0)[None]}
    y, _ = both.forwards(x[None], dt_bl=there, side=side)
    z, _ = both.backwards(v.flip(0)[None], dt_bl=back, side=reversed_side)
    return (y + z.flip(1))[0]


@pytest.mark.parametrize("takes_dt", [True, False])
@pytest.mark.parametrize("own", [False, True])
def test_it_is_one_there_and_one_back(takes_dt: bool, own: bool) -> None:
    both = two(takes_dt)
    x, v = torch.randn(2, 3, 7, 2, dtype=torch.float64)
    v = v if own else x
    dt = 0.3 + 2 * torch.rand(3, 7, dtype=torch.float64) if takes_dt else None
    y, state = both(x, dt_bl=dt, x_reverse_bld=v if own else None)
    expected = [by_hand(both, x[row], v[row], None if dt is None else dt[row]) for row in range(3)]
    torch.testing.assert_close(y, torch.stack(expected), rtol=1e-12, atol=1e-12)
    assert state == ()
    assert both.init_state(3) == ()


def test_masks_and_resets_bound_both_directions() -> None:
    """Each sequence of a row by itself, its masked elements taken out and their gaps handed on."""
    both = two()
    x, v, scale = torch.randn(3, 2, 9, 2, dtype=torch.float64)
    dt = 0.3 + 2 * torch.rand(2, 9, dtype=torch.float64)
    mask = torch.tensor([[1, 0, 1, 1, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0, 0, 1, 1]]).bool()
    reset = torch.tensor([[0, 0, 0, 1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1, 0, 1]]).bool()
    y, _ = both(x, dt_bl=dt, mask_bl=mask, reset_bl=reset, x_reverse_bld=v, side={"scale": scale})
    for row in range(2):
        starts = [0, *[t for t in range(1, 9) if reset[row, t]], 9]
        for start, stop in pairwise(starts):
            keep, gaps, held = [], [], 0.0
            for time in range(start, stop):
                held = held + dt[row, time]
                if mask[row, time]:
                    keep.append(time)
                    gaps.append(held)
                    held = 0.0
            if keep:
                expected = by_hand(
                    both, x[row, keep], v[row, keep], torch.stack(gaps), scale=scale[row, keep]
                )
                torch.testing.assert_close(y[row, keep], expected, rtol=1e-12, atol=1e-12)


def test_a_sequence_of_nothing_has_an_output_of_nothing() -> None:
    x = torch.zeros(2, 0, 2, dtype=torch.float64)
    torch.manual_seed(0)
    both = BothWays(*(S5(2, S5Config(state_size=4)).double() for _ in range(2)))
    assert both(x, dt_bl=x[..., 0])[0].shape == (2, 0, 2)


def test_what_looks_ahead_says_so() -> None:
    both, x = two(takes_dt=False), torch.randn(2, 4, 2, dtype=torch.float64)
    assert (both.causal, both.streaming, both.takes_dt, both.d_model) == (False, False, False, 2)
    with pytest.raises(ValueError, match="carries no state"):
        both(x, state=both.forwards.init_state(2))
    with pytest.raises(ValueError, match="cannot step"):
        both.step(x[:, 0], state=())
    with pytest.raises(ValueError, match=r"TinyMixer takes no gaps \(dt_bl\)"):
        both(x, dt_bl=torch.ones(2, 4))
    mixed = BothWays(TinyMixer(2), TinyMixer(2, takes_dt=False))
    assert not mixed.takes_dt
