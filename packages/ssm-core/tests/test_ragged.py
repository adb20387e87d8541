"""Rows of unequal length against loops over each row by itself: packing, resets, gaps, states and gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssm_core.ragged import flip_valid, gaps_after, last_inputs, over_valid, valid
from ssm_core.testing.subject import gradients

RATE = 0.3


def leaky(
    x_bld: Tensor,
    *,
    gaps_bl: Tensor | None,
    lengths_b: Tensor | None,
    state: Any,
    weight: Tensor | None = None,
) -> tuple[Tensor, Any]:
    """h <- exp(-RATE gap) h + weight x on rows whose valid elements come first; nonsense behind their ends."""
    h, count = state if state is not None else fresh(len(x_bld))["inner"]
    out = []
    for time in range(x_bld.shape[1]):
        here = torch.ones_like(count, dtype=torch.bool) if lengths_b is None else time < lengths_b
        gap = torch.ones_like(x_bld[:, 0, 0]) if gaps_bl is None else gaps_bl[:, time]
        u = x_bld[:, time] if weight is None else weight[:, time] * x_bld[:, time]
        h = torch.where(here[:, None], torch.exp(-RATE * gap)[:, None] * h + u, h)
        count = count + here
        out.append(torch.where(here[:, None], h, 1e30))
    return torch.stack(out, 1) if out else x_bld, (h, count)


def core(x_bld: Tensor, *, state: Any, **given: Any) -> tuple[Tensor, Any]:
    """The same with a tuple inside a dict as its state."""
    y_bld, inner = leaky(x_bld, state=None if state is None else state["inner"], **given)
    return y_bld, {"inner": inner}


def fresh(rows: int) -> Any:
    return {"inner": (torch.zeros(rows, 2, dtype=torch.float64), torch.zeros(rows, dtype=torch.long))}


@dataclass
class Drawn:
    """One call of over_valid."""

    x: Tensor
    dt: Tensor | None
    mask: Tensor | None
    reset: Tensor | None
    state: Any
    weight: Tensor | None
    takes_dt: bool

    def run(self) -> tuple[Tensor, Any]:
        return over_valid(
            core,
            self.x,
            dt_bl=self.dt,
            mask_bl=self.mask,
            reset_bl=self.reset,
            state=self.state,
            init_state=fresh,
            takes_dt=self.takes_dt,
            beside={"weight": self.weight},
        )

    def leaves(self) -> list[Tensor]:
        """What a gradient is asked of."""
        found = [self.x, self.weight, self.dt if self.takes_dt else None]
        found += [] if self.state is None else [self.state["inner"][0]]
        return [leaf for leaf in found if leaf is not None]

    def by_loop(self) -> tuple[Tensor, Tensor, list[int], Tensor]:
        """Return outputs, last h, number of elements and open gap of each row, element by element."""
        ys, hs, counts, pendings = [], [], [], []
        for row in range(len(self.x)):
            start = fresh(1)["inner"] if self.state is None else self.state["inner"]
            at = 0 if self.state is None else row
            h, count = start[0][at], int(start[1][at])
            held = self.state.get("gap") if self.state is not None and self.takes_dt else None
            pending = torch.zeros((), dtype=torch.float64) if held is None else held[row]
            y = []
            for time in range(self.x.shape[1]):
                if self.reset is not None and self.reset[row, time]:
                    h, count, pending = torch.zeros_like(h), 0, torch.zeros_like(pending)
                one = torch.ones_like(pending)
                gap = pending + (one if self.dt is None or not self.takes_dt else self.dt[row, time])
                if self.mask is not None and not self.mask[row, time]:
                    y.append(torch.zeros_like(h))
                    pending = gap if self.takes_dt else pending
                    continue
                u = self.x[row, time] if self.weight is None else self.weight[row, time] * self.x[row, time]
                h, count, pending = torch.exp(-RATE * gap) * h + u, count + 1, torch.zeros_like(pending)
                y.append(h)
            ys.append(torch.stack(y) if y else self.x[row])
            hs.append(h)
            counts.append(count)
            pendings.append(pending)
        return torch.stack(ys), torch.stack(hs), counts, torch.stack(pendings)


@st.composite
def calls(draw: Any) -> Drawn:
    b, l = draw(st.integers(1, 4)), draw(st.integers(0, 9))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    x, takes_dt = uniform(b, l, 2) - 0.5, draw(st.booleans())
    dt = 0.2 + 2 * uniform(b, l) if takes_dt and draw(st.booleans()) else None
    share = draw(st.sampled_from((0.0, 0.4, 1.0)))  # of masked elements: none, some, all
    mask = uniform(b, l) >= share if draw(st.booleans()) else None
    reset = uniform(b, l) < draw(st.sampled_from((0.0, 0.3, 1.0))) if draw(st.booleans()) else None
    state = None
    if draw(st.booleans()):
        state = {"inner": (uniform(b, 2), torch.randint(0, 9, (b,), generator=g))}
        if takes_dt and draw(st.booleans()):
            state["gap"] = 2 * uniform(b)
    weight = uniform(b, l, 2) if draw(st.booleans()) else None
    if mask is not None:  # whatever stands in masked places has no effect
        x = x.masked_fill(~mask[..., None], torch.nan)
        weight = None if weight is None else weight.masked_fill(~mask[..., None], torch.inf)
    return Drawn(x, dt, mask, reset, state, weight, takes_dt)


@given(calls())
def test_every_row_is_as_if_alone(call: Drawn) -> None:
    """Outputs, states and open gaps, for any mask, resets that follow each other or end a row, and no elements."""
    (y, after), (expected, h, counts, pending) = call.run(), call.by_loop()
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after["inner"][0], h, rtol=1e-12, atol=1e-12)
    assert after["inner"][1].tolist() == counts
    found = after.get("gap", torch.zeros_like(pending)) if call.takes_dt else torch.zeros_like(pending)
    torch.testing.assert_close(found, pending, rtol=1e-12, atol=1e-12)


@given(calls())
def test_gradients_are_those_of_the_loop(call: Drawn) -> None:
    """Of inputs, gaps, what comes beside and the carried state; none reaches a masked element."""
    leaves = [leaf.requires_grad_() for leaf in call.leaves()]
    (y, after), (expected, h, _, _) = call.run(), call.by_loop()
    found, wanted = (
        gradients(out.cos().sum() + last.square().sum(), *leaves)
        for out, last in ((y, after["inner"][0]), (expected, h))
    )
    for g, e in zip(found, wanted, strict=True):
        assert g.isfinite().all()
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-12)


@given(calls(), st.integers(0, 9))
def test_pieces_are_the_whole(call: Drawn, cut: int) -> None:
    """The state of a first piece, open gap included, is all that a second one has to know."""
    y, after = call.run()
    pieces, state = [], call.state
    for part in (slice(cut), slice(cut, None)):
        x, dt, mask, reset, weight = (
            None if each is None else each[:, part]
            for each in (call.x, call.dt, call.mask, call.reset, call.weight)
        )
        assert x is not None
        out, state = Drawn(x, dt, mask, reset, state, weight, call.takes_dt).run()
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, 1), y, rtol=1e-12, atol=1e-12)
    for name in ("h", "gap"):
        found, wanted = (
            each["inner"][0] if name == "h" else each.get("gap", torch.zeros(len(y), dtype=y.dtype))
            for each in (state, after)
        )
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_mask_of_all_true_and_resets_of_all_false_change_nothing() -> None:
    x = torch.randn(2, 6, 2, dtype=torch.float64)
    everything = torch.ones(2, 6, dtype=torch.bool)
    plain, _ = over_valid(core, x, init_state=fresh)
    for idle in ({"mask_bl": everything}, {"reset_bl": ~everything}):
        y, _ = over_valid(core, x, init_state=fresh, **idle)
        assert torch.equal(y, plain)


def spied(seen: list[dict[str, Any]]) -> Any:
    """Return a computation that changes nothing and writes down what it is given."""

    def spy(x_bld: Tensor, **given: Any) -> tuple[Tensor, Any]:
        seen.append({**given, "x": x_bld})
        return x_bld, ()

    return spy


def test_the_computation_sees_rows_that_are_zero_behind_their_ends() -> None:
    x, seen = torch.arange(1.0, 11).view(2, 5, 1), list[dict[str, Any]]()
    mask = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 1, 0, 0]]).bool()
    y, _ = over_valid(spied(seen), x, mask_bl=mask, beside={"other": 10 * x})
    (call,) = seen
    assert call["x"][..., 0].tolist() == [[2, 4, 5, 0, 0], [8, 0, 0, 0, 0]]
    assert call["other"][..., 0].tolist() == [[20, 40, 50, 0, 0], [80, 0, 0, 0, 0]]
    assert call["lengths_b"].tolist() == [3, 1]
    assert y[..., 0].tolist() == [[0, 2, 0, 4, 5], [0, 0, 8, 0, 0]]


def test_sequences_of_about_one_length_are_rows_of_one_call() -> None:
    x, seen = torch.arange(1.0, 11).view(2, 5, 1), list[dict[str, Any]]()
    mask = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 1, 0, 0]]).bool()
    reset = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]).bool()
    y, _ = over_valid(spied(seen), x, mask_bl=mask, reset_bl=reset)
    assert [call["x"][..., 0].tolist() for call in seen] == [[[2], [8], [0]], [[4, 5]]]
    assert [call["lengths_b"].tolist() for call in seen] == [[1, 1, 0], [2]]
    assert y[..., 0].tolist() == [[0, 2, 0, 4, 5], [0, 0, 8, 0, 0]]
    seen.clear()
    again, _ = over_valid(spied(seen), x, mask_bl=mask, reset_bl=reset, state_grows=True)
    assert [call["x"][..., 0].tolist() for call in seen] == [[[2, 0], [4, 5], [8, 0], [0, 0]]]
    assert torch.equal(again, y)


def test_one_long_sequence_among_short_ones_does_not_pad_them_all() -> None:
    """Places are at most twice the elements, where one row for each would be padded to the longest."""
    x, seen = torch.randn(1, 4096, 1), list[dict[str, Any]]()
    reset = torch.zeros(1, 4096, dtype=torch.bool)
    reset[0, 2048::32] = True
    y, _ = over_valid(spied(seen), x, reset_bl=reset)
    assert torch.equal(y, x)
    assert sum(call["x"].numel() for call in seen) <= 2 * x.numel()


@pytest.mark.parametrize("name", ["dt_bl", "mask_bl", "reset_bl"])
def test_what_would_be_stretched_to_fit_is_refused(name: str) -> None:
    x = torch.zeros(2, 4, 2, dtype=torch.float64)
    wrong = torch.ones(2, 1) if name == "dt_bl" else torch.ones(2, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=rf"{name} is \(B, L\) = \(2, 4\)"):
        over_valid(core, x, init_state=fresh, **{name: wrong})


@st.composite
def ragged(draw: Any) -> tuple[Tensor, Tensor | None]:
    b, l = draw(st.integers(1, 4)), draw(st.integers(0, 8))
    lengths = torch.tensor(draw(st.lists(st.integers(0, l), min_size=b, max_size=b)))
    x = torch.arange(1.0, 1 + b * l * 2).view(b, l, 2)
    return x, lengths if draw(st.booleans()) else None


def rows_of(x: Tensor, lengths: Tensor | None) -> list[int]:
    return [x.shape[1]] * len(x) if lengths is None else lengths.tolist()


@given(ragged())
def test_rows_are_reversed_within_their_lengths(drawn: tuple[Tensor, Tensor | None]) -> None:
    x, lengths = drawn
    y = flip_valid(x, lengths)
    for row, n in enumerate(rows_of(x, lengths)):
        assert y[row, :n].tolist() == x[row, :n].tolist()[::-1]
        assert torch.equal(y[row, n:], x[row, n:])
    assert torch.equal(flip_valid(y, lengths), x)
    assert torch.equal(flip_valid(x[..., 0], lengths), y[..., 0])


@given(ragged())
def test_the_gap_after_is_the_next_one_before(drawn: tuple[Tensor, Tensor | None]) -> None:
    x, lengths = drawn
    gaps = x[..., 0]
    found = gaps_after(gaps, lengths)
    for row, n in enumerate(rows_of(x, lengths)):
        wanted = [*gaps[row, 1:n].tolist(), 1.0][:n] + [0.0] * (x.shape[1] - n)
        assert found[row].tolist() == wanted


@given(ragged(), st.integers(0, 2**16))
def test_the_gap_after_the_last_of_a_sequence_is_one(drawn: tuple[Tensor, Tensor | None], seed: int) -> None:
    x, lengths = drawn
    gaps, begins = x[..., 0], torch.Generator().manual_seed(seed)
    sequence = (torch.rand(gaps.shape, generator=begins) < 0.4).long().cumsum(1)
    found = gaps_after(gaps, lengths, sequence)
    for row, n in enumerate(rows_of(x, lengths)):
        ends = [k + 1 == n or bool(sequence[row, k] != sequence[row, k + 1]) for k in range(n)]
        wanted = [1.0 if ended else gaps[row, k + 1].item() for k, ended in enumerate(ends)]
        assert found[row].tolist() == wanted + [0.0] * (x.shape[1] - n)


@given(ragged(), st.integers(0, 5))
def test_the_last_inputs_reach_back_before_the_call(drawn: tuple[Tensor, Tensor | None], width: int) -> None:
    x, lengths = drawn
    before = -1 - torch.arange(float(len(x) * width * 2)).view(len(x), width, 2)
    found = last_inputs(before, x, lengths)
    for row, n in enumerate(rows_of(x, lengths)):
        joined = [*before[row].tolist(), *x[row, :n].tolist()]
        assert found[row].tolist() == joined[len(joined) - width :]


def test_valid_marks_what_counts() -> None:
    x = torch.zeros(3, 4, 5)
    assert valid(x, torch.tensor([0, 2, 4])).tolist() == [[False] * 4, [True, True, False, False], [True] * 4]
