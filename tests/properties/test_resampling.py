"""Selective resampling's index maps: the properties of spec/serpent.md section 8 that concern them, by number.

Intervals are drawn in ticks and fed exactly, so every comparison is an equality. kappa L is taken as the exact
product of L and the float kappa. Where a property holds in one mode only, the test names it. Properties 18 and 19, on
distances and their gradient, are in packages/ssm-serpent/tests/test_distances.py.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ssm_serpent.index import Index, max_points, resample_index
from ssm_serpent.intervals import TICKS, intervals, tick_range
from ssm_serpent.reference import reference_index
from ssm_serpent.testing import assert_same, from_ticks, windows_of

MODES = ["nearest", "causal"]
KAPPAS = [1.0, 0.7, 0.5, 1 / 3, 0.3, 0.2, 0.1]

each_mode = pytest.mark.parametrize("mode", MODES)
# A machine shared by several workers stalls; a deadline would turn that into a failure.
unhurried = settings(deadline=None)


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; none is visible to torch")
    return request.param


def tick_values(least: int = 1, most: int = TICKS) -> st.SearchStrategy[int]:
    """Ticks of one interval: any, the bounds, and coarse fractions, whose sums hit grid points and ties exactly."""
    coarse = [n * TICKS // 8 for n in range(1, 9) if least <= n * TICKS // 8 <= most]
    return st.one_of(st.sampled_from([least, most, *coarse]), st.integers(least, most))


def rows(least: int = 1, *, min_size: int = 1, max_size: int = 40) -> st.SearchStrategy[list[int]]:
    return st.lists(tick_values(least), min_size=min_size, max_size=max_size)


@st.composite
def compressed_rows(draw: st.DrawFn, max_size: int = 40) -> tuple[float, list[int]]:
    """A compression kappa and a row whose intervals keep to [kappa, 1]."""
    kappa = draw(st.sampled_from(KAPPAS))
    return kappa, draw(rows(tick_range(kappa, 1.0)[0], max_size=max_size))


def index_of(ticks: list[int], window: int, mode: str, device: str) -> tuple[list[int], Index]:
    """Times in ticks and the index maps of one row, on the CPU."""
    spans = from_ticks([ticks], device)
    index = resample_index(spans, window, mode)
    return spans.times_bl[0].tolist(), Index(*(field.cpu() for field in index))


def longest_gap(kappa: float) -> int:
    """Tokens from one event to the next, at most: ceil(1 / kappa)."""
    return math.ceil(1 / Fraction(kappa))


# --- definition ------------------------------------------------------------------------------------------------


@each_mode
@unhurried
@given(batch=st.lists(rows(min_size=0), min_size=1, max_size=4), window=st.integers(1, 9))
def test_equals_brute_force_on_ragged_batches(device, mode, batch, window):
    """Definition, and property 4: the nearest set is contiguous, sorted, with ties to the earlier token."""
    index = Index(*(field.cpu() for field in resample_index(from_ticks(batch, device), window, mode)))
    for b, ticks in enumerate(batch):
        expected = reference_index(ticks, window, mode)
        count = int(index.count_b[b])
        assert count == expected.n_points == int(index.valid_bk[b].sum())
        assert index.event_bk[b, :count].tolist() == expected.events
        assert windows_of(index, b) == expected.windows
        assert index.point_bl[b, : len(ticks)].tolist() == expected.points
        assert not index.point_bl[b, len(ticks) :].any()
        got = [
            (d[inside] * TICKS).tolist()
            for d, inside in zip(index.distance_bkw[b, :count], index.inside_bkw[b, :count], strict=True)
        ]
        assert got == expected.distances
        assert not index.distance_bkw[b].masked_select(~index.inside_bkw[b]).any()
        starts = index.start_bk[b, :count]
        assert bool((starts.diff() >= 0).all())


@each_mode
@unhurried
@given(batch=st.lists(rows(min_size=0), min_size=1, max_size=3), window=st.integers(1, 9))
def test_static_buffer_holds_the_same_rows(device, mode, batch, window):
    spans = from_ticks(batch, device)
    tight = resample_index(spans, window, mode)
    size = max_points(spans.u_bl.shape[1], 1.0, mode)
    wide = resample_index(spans, window, mode, max_points=size)
    n = tight.valid_bk.shape[1]
    assert wide.valid_bk.shape == (len(batch), size)
    assert not wide.valid_bk[:, n:].any()
    cut = (field if field.ndim == 1 else field[:, :n] for field in wide[:-1])
    assert_same(Index(*cut, wide.point_bl), tight)


# --- times and counts ------------------------------------------------------------------------------------------


@unhurried
@given(
    logits=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    kappa=st.sampled_from(KAPPAS),
    reading=st.sampled_from("ab"),
)
def test_1_times_increase_by_intervals_within_bounds(device, logits, kappa, reading):
    lo, hi = (kappa, 1.0) if reading == "a" else (0.0, kappa)
    spans = intervals(torch.tensor([logits], device=device), lo, hi)
    u = [Fraction(x) for x in spans.u_bl[0].tolist()]
    assert [x * TICKS for x in u] == spans.ticks_bl[0].tolist()
    assert all(Fraction(lo) <= x <= Fraction(hi) for x in u)
    assert min(spans.times_bl[0].diff(prepend=spans.times_bl.new_zeros(1)).tolist()) > 0


@unhurried
@given(case=compressed_rows())
def test_2_number_of_points_reading_a(device, case):
    """Of the specification's rules the floor and the rounding one; the ceil rule is not here: no mode rounds up."""
    kappa, ticks = case
    length, least = len(ticks), Fraction(kappa) * len(ticks)
    _, causal = index_of(ticks, 1, "causal", device)
    _, nearest = index_of(ticks, 1, "nearest", device)
    assert math.floor(least) <= int(causal.count_b) <= length
    assert max(1, math.ceil(least - Fraction(1, 2))) <= int(nearest.count_b) <= length


@unhurried
@given(kappa=st.sampled_from(KAPPAS), data=st.data())
def test_2_number_of_points_reading_b_and_static_bound(device, kappa, data):
    """As above, without the ceil rule."""
    least, most = tick_range(0.0, kappa)
    ticks = data.draw(st.lists(tick_values(least, most), min_size=1, max_size=40))
    cap = Fraction(kappa) * len(ticks)
    _, causal = index_of(ticks, 1, "causal", device)
    _, nearest = index_of(ticks, 1, "nearest", device)
    assert int(causal.count_b) <= max_points(len(ticks), kappa, "causal") <= math.floor(cap)
    rounded = max(1, math.ceil(cap - Fraction(1, 2)))
    assert int(nearest.count_b) <= max_points(len(ticks), kappa, "nearest") <= rounded


@unhurried
@given(case=compressed_rows())
def test_3_at_most_one_event_a_token_and_gaps_are_bounded(device, case):
    kappa, ticks = case
    times, index = index_of(ticks, 1, "causal", device)
    floors = [0, *(time // TICKS for time in times)]
    assert {b - a for a, b in pairwise(floors)} <= {0, 1}
    events = index.event_bk[0].tolist()
    assert all(1 <= b - a <= longest_gap(kappa) for a, b in pairwise(events))
    assert not events or events[0] + 1 <= longest_gap(kappa)


# --- decompression map -----------------------------------------------------------------------------------------


@unhurried
@given(ticks=rows())
def test_5_nearest_points_and_tokens_are_close(device, ticks):
    times, index = index_of(ticks, 1, "nearest", device)
    for time, q in zip(times, index.point_bl[0].tolist(), strict=True):
        off = abs(time - q * TICKS)
        assert off < TICKS
        assert off <= TICKS // 2 or time < TICKS // 2
    assume(times[-1] >= TICKS // 2)
    assert bool((index.distance_bkw.abs() <= 0.5).all())


@unhurried
@given(ticks=rows())
def test_5_causal_points_have_a_token_within_half_and_tokens_lag_less_than_one(device, ticks):
    times, index = index_of(ticks, 1, "causal", device)
    for k in range(1, int(index.count_b) + 1):
        assert min(abs(time - k * TICKS) for time in times) <= TICKS // 2
    for time, q in zip(times, index.point_bl[0].tolist(), strict=True):
        assert 0 <= time - q * TICKS < TICKS


@each_mode
@unhurried
@given(case=compressed_rows())
def test_6_map_is_monotone_and_onto_and_no_point_serves_too_many(device, mode, case):
    kappa, ticks = case
    _, index = index_of(ticks, 1, mode, device)
    points = index.point_bl[0].tolist()
    count = int(index.count_b)
    assert points == sorted(points)
    assert set(points) - {0} == set(range(1, count + 1))
    served = [points.count(k) for k in range(1, count + 1)]
    assert all(n <= longest_gap(kappa) for n in served[1:-1])
    if mode == "nearest":  # one point alone included: S_L is at most 3/2 then
        assert served[0] <= math.floor(Fraction(3, 2) / Fraction(kappa))


@each_mode
@unhurried
@given(ticks=rows())
def test_7_and_10_every_token_reads_a_point_once_one_is_there(device, mode, ticks):
    _, index = index_of(ticks, 3, mode, device)
    assert index.point_bl.shape == (1, len(ticks))
    first = 0 if mode == "nearest" else int(index.event_bk[0, 0]) if int(index.count_b) else len(ticks)
    assert [q > 0 for q in index.point_bl[0].tolist()] == [l >= first for l in range(len(ticks))]


@each_mode
@unhurried
@given(length=st.integers(1, 40), logit=st.floats(-50, 50))
def test_8_no_compression_is_the_identity(device, mode, length, logit):
    spans = intervals(torch.full((1, length), logit, device=device), 1.0, 1.0)
    index = resample_index(spans, 1, mode)
    tokens = torch.arange(length, device=device)
    assert int(index.count_b) == length
    assert torch.equal(index.start_bk[0], tokens)
    assert torch.equal(index.event_bk[0], tokens)
    assert torch.equal(index.point_bl[0], tokens + 1)
    assert not index.distance_bkw.any()


@each_mode
@unhurried
@given(ticks=rows())
def test_9_a_point_reads_the_token_that_reads_it_back(device, mode, ticks):
    _, index = index_of(ticks, 1, mode, device)
    for k, (token,) in enumerate(windows_of(index), start=1):
        tie = mode == "nearest" and abs(float(index.distance_bkw[0, k - 1, 0])) == 0.5
        assert tie or int(index.point_bl[0, token]) == k


# --- windows ---------------------------------------------------------------------------------------------------


@unhurried
@given(case=compressed_rows(), extra=st.integers(0, 2))
def test_11_nearest_windows_cover(device, case, extra):
    kappa, ticks = case
    times, index = index_of(ticks, longest_gap(kappa) + 1 + extra, "nearest", device)
    covered = {token for block in windows_of(index) for token in block}
    assert covered >= {l for l, time in enumerate(times) if time >= TICKS // 2}
    _, index = index_of(ticks, math.ceil(2 / Fraction(kappa)) + extra, "nearest", device)
    assert {token for block in windows_of(index) for token in block} == set(range(len(ticks)))


@unhurried
@given(case=compressed_rows(), extra=st.integers(0, 2))
def test_11_trailing_windows_cover_up_to_the_last_event(device, case, extra):
    kappa, ticks = case
    _, index = index_of(ticks, longest_gap(kappa) + extra, "causal", device)
    covered = {token for block in windows_of(index) for token in block}
    last = int(index.event_bk[0, -1]) + 1 if int(index.count_b) else 0
    assert covered == set(range(last))


@each_mode
@unhurried
@given(ticks=rows(), window=st.integers(1, 9))
def test_12_windows_that_hold_a_token_are_consecutive(device, mode, ticks, window):
    _, index = index_of(ticks, window, mode, device)
    blocks = windows_of(index)
    for token in range(len(ticks)):
        holders = [k for k, block in enumerate(blocks) if token in block]
        assert holders == list(range(holders[0], holders[0] + len(holders))) if holders else True


# --- causality, streaming, padding, batching -------------------------------------------------------------------


@unhurried
@given(ticks=rows(min_size=2), window=st.integers(1, 9), data=st.data())
def test_14_causal_prefix_is_bit_exact_whatever_follows(device, ticks, window, data):
    cut = data.draw(st.integers(1, len(ticks)))
    future = data.draw(rows(min_size=0, max_size=10))
    _, whole = index_of(ticks[:cut] + future, window, "causal", device)
    _, prefix = index_of(ticks[:cut], window, "causal", device)
    n = int(prefix.count_b)
    kept = (field[:, :n] for field in whole[1:-1])
    assert_same(Index(prefix.count_b, *kept, whole.point_bl[:, :cut]), prefix)


@unhurried
@given(case=compressed_rows(), window=st.integers(1, 9), data=st.data())
def test_14_nearest_look_ahead_is_bounded(device, case, window, data):
    """What a token reads back (point, window, distances) ignores the intervals of tokens further than the bound."""
    kappa, ticks = case
    times, index = index_of(ticks, window, "nearest", device)
    token = data.draw(st.integers(0, len(ticks) - 1))
    early = times[token] < TICKS // 2
    ahead = window - 1 + math.ceil((1 if early else Fraction(1, 2)) / Fraction(kappa))
    q = int(index.point_bl[0, token])
    if len(ticks) >= window:
        assert windows_of(index)[q - 1][-1] <= max(token + ahead, window - 1)
    cut = token + ahead + 1
    tail = data.draw(
        st.lists(tick_values(tick_range(kappa, 1.0)[0]), min_size=len(ticks[cut:]), max_size=len(ticks[cut:]))
    )
    _, other = index_of(ticks[:cut] + tail, window, "nearest", device)
    assert int(other.point_bl[0, token]) == q
    assert int(other.start_bk[0, q - 1]) == int(index.start_bk[0, q - 1])
    assert torch.equal(other.distance_bkw[0, q - 1], index.distance_bkw[0, q - 1])


@unhurried
@given(ticks=rows(), window=st.integers(1, 9))
def test_15_streaming_equals_parallel(device, ticks, window):
    """One token at a time, holding S, k and a ring of the last W tokens."""
    _, index = index_of(ticks, window, "causal", device)
    time, k, ring = 0, 0, []
    events, blocks, gaps, points = [], [], [], []
    for l, tick in enumerate(ticks):
        time += tick
        ring = [*ring, (l, time)][-window:]
        if time >= (k + 1) * TICKS:
            k += 1
            events.append(l)
            blocks.append([token for token, _ in ring])
            gaps.append([0.0] * (window - len(ring)) + [(s - k * TICKS) / TICKS for _, s in ring])
        points.append(k)
    assert index.event_bk[0].tolist() == events
    assert windows_of(index) == blocks
    assert index.distance_bkw[0].tolist() == gaps
    assert index.point_bl[0].tolist() == points


@unhurried
@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
)
def test_15_fixed_point_times_are_associative(device, logits, cuts):
    """Chunks, added up in any grouping, give the times of the whole bit for bit, from the logits on."""
    x_bl = torch.tensor([logits], device=device)
    whole = intervals(x_bl, 0.2, 1.0).times_bl
    carried, pieces = 0, []
    edges = sorted({0, *(c for c in cuts if c < len(logits)), len(logits)})
    for a, b in pairwise(edges):
        piece = intervals(x_bl[:, a:b], 0.2, 1.0).times_bl + carried
        carried = piece[:, -1:]
        pieces.append(piece)
    assert torch.equal(torch.cat(pieces, 1), whole)


@each_mode
@unhurried
@given(ticks=rows(min_size=0), padding=st.integers(1, 20), window=st.integers(1, 9))
def test_16_padding_changes_nothing(device, mode, ticks, padding, window):
    alone = resample_index(from_ticks([ticks], device), window, mode)
    padded = resample_index(from_ticks([ticks], device, padding=padding), window, mode)
    assert not padded.point_bl[:, len(ticks) :].any()
    assert_same(padded._replace(point_bl=padded.point_bl[:, : len(ticks)]), alone)


@each_mode
@unhurried
@given(batch=st.lists(rows(min_size=0), min_size=2, max_size=4), window=st.integers(1, 9), data=st.data())
def test_17_rows_do_not_see_each_other(device, mode, batch, window, data):
    together = resample_index(from_ticks(batch, device), window, mode)
    order = data.draw(st.permutations(range(len(batch))))
    permuted = resample_index(from_ticks([batch[b] for b in order], device), window, mode)
    assert_same(permuted, Index(*(field[order] for field in together)))
    for b, ticks in enumerate(batch):
        alone = resample_index(from_ticks([ticks], device), window, mode)
        n = int(alone.count_b)
        kept = (field[b : b + 1, :n] for field in together[1:-1])
        point_bl = together.point_bl[b : b + 1, : len(ticks)]
        assert_same(Index(together.count_b[b : b + 1], *kept, point_bl), alone)
