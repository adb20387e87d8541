"""Index maps: backends agree bit for bit, with brute force too, and a sequence in chunks has the maps of the whole."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssm_core.opkit.dispatch import numba_problem
from ssm_core.ops import available_backends
from ssm_serpent.index import Index, max_points, resample_index
from ssm_serpent.intervals import TICKS, Intervals, fixed_point, intervals
from ssm_serpent.memory import Memory
from ssm_serpent.ops import encode, spread
from ssm_serpent.testing import assert_same, from_ticks

unhurried = settings(deadline=None)
each_mode = pytest.mark.parametrize("mode", ["nearest", "causal"])
TICK_VALUES = st.sampled_from([n * TICKS // 8 for n in range(1, 9)]) | st.integers(1, TICKS)
BATCHES = st.lists(st.lists(TICK_VALUES, max_size=30), min_size=1, max_size=4)


def on_cpu(index: Index) -> Index:
    return Index(*(field.cpu() for field in index))


@each_mode
@unhurried
@given(batch=BATCHES, window=st.integers(1, 9), spare=st.integers(0, 2))
def test_every_backend_equals_brute_force_bit_for_bit(where, mode, batch, window, spare):
    spans = from_ticks(batch, where.device, padding=spare)
    found = resample_index(spans, window, mode, backend=where.backend)
    assert_same(on_cpu(found), on_cpu(resample_index(spans, window, mode, backend="reference")))
    size = found.start_bk.shape[1] + spare
    wide = resample_index(spans, window, mode, max_points=size, backend=where.backend)
    expected = resample_index(spans, window, mode, max_points=size, backend="reference")
    assert_same(on_cpu(wide), on_cpu(expected))


def test_long_rows_are_the_same_bits_on_every_backend(where):
    logits = torch.randn(3, 3000, generator=torch.Generator().manual_seed(0)).to(where.device)
    mask_bl = torch.arange(3000, device=where.device) < torch.tensor(
        [[3000], [1], [1777]], device=where.device
    )
    for mode in ("nearest", "causal"):
        spans = intervals(logits, 0.1, 1.0, mask_bl)
        found = resample_index(spans, 6, mode, backend=where.backend)
        expected = Intervals(*(x.cpu() for x in spans))
        assert_same(on_cpu(found), resample_index(expected, 6, mode, backend="torch"))


def behind(ticks_bp: Tensor, spans: Intervals) -> Intervals:
    """Intervals of a chunk with those of earlier tokens before them."""
    ticks_bw = torch.cat([torch.zeros_like(ticks_bp.sum(1, keepdim=True)), ticks_bp], 1)
    return Memory(ticks_bp[..., None].double(), ticks_bw, ticks_bw.double() / TICKS).before_spans(spans)


class Chunks:
    """A causal sequence handed over piece by piece, each row with pieces of its own lengths."""

    def __init__(self, window: int, rows: int, device: str, width: int = 2) -> None:
        self.window, self.past = window, window - 1
        self.phase_b = torch.zeros(rows, dtype=torch.int64, device=device)
        self.ticks_bp = torch.zeros(rows, self.past, dtype=torch.int64, device=device)
        self.x_bpd = torch.full((rows, self.past, width), torch.nan, dtype=torch.float64, device=device)

    def take(
        self, ticks: list[list[int]], x_bld: Tensor, static: bool, backend: str | None
    ) -> tuple[Index, Tensor]:
        """Maps of the next piece, and its tokens behind those of the history."""
        device = x_bld.device
        lengths = torch.tensor([len(row) for row in ticks], device=device)
        u_bl = torch.zeros(x_bld.shape[:2], dtype=torch.float64, device=device)
        for row, values in zip(u_bl, ticks, strict=True):
            row[: len(values)] = torch.tensor(values, dtype=torch.float64) / TICKS
        spans = fixed_point(u_bl, 0.0, 1.0, torch.arange(u_bl.shape[1], device=device) < lengths[:, None])
        size = max_points(u_bl.shape[1], 1.0, "causal", phase=True) if static else None
        index = resample_index(
            behind(self.ticks_bp, spans),
            self.window,
            "causal",
            max_points=size,
            phase_b=self.phase_b,
            history=self.past,
            backend=backend,
        )
        x_bnd = torch.cat([self.x_bpd, x_bld], 1)
        last_bp = lengths[:, None] + torch.arange(self.past, device=device)
        self.ticks_bp = torch.cat([self.ticks_bp, spans.ticks_bl], 1).gather(1, last_bp)
        self.x_bpd = x_bnd.gather(1, last_bp[..., None].expand(-1, -1, x_bnd.shape[2]))
        self.phase_b = (self.phase_b + spans.ticks_bl.sum(1)) % TICKS
        return index, x_bnd


@st.composite
def pieces(draw: st.DrawFn) -> list[list[list[int]]]:
    """Rows, each cut into the same number of pieces, empty ones among them."""
    count = draw(st.integers(1, 4))
    piece = st.lists(TICK_VALUES, max_size=8)
    return draw(st.lists(st.lists(piece, min_size=count, max_size=count), min_size=1, max_size=3))


@unhurried
@given(rows=pieces(), window=st.integers(1, 6), static=st.booleans())
def test_chunks_have_the_maps_the_points_and_the_outputs_of_the_whole(where, rows, window, static):
    whole_ticks = [[t for piece in row for t in piece] for row in rows]
    whole = on_cpu(resample_index(from_ticks(whole_ticks, where.device), window, "causal"))
    width, length = 2, max(map(len, whole_ticks))
    x_bld = torch.randn(len(rows), length, width, dtype=torch.float64, device=where.device)
    weight = torch.randn(3, window, width + 1, dtype=torch.float64, device=where.device)
    rest = weight, weight[:, 0, 0].clone(), weight[0, 0, :1].clone(), weight[0, 0, :1].clone()
    places = (field.to(where.device) for field in (whole.start_bk, whole.inside_bkw, whole.distance_bkw))
    expected = spread(encode(x_bld, *places, *rest, backend=where.backend), whole.point_bl.to(where.device))

    chunks = Chunks(window, len(rows), where.device)
    tokens, points = [0] * len(rows), [0] * len(rows)
    held_bh = torch.zeros(len(rows), 3, dtype=torch.float64, device=where.device)
    for piece in zip(*rows, strict=True):
        longest = max(map(len, piece))
        x_blc = torch.full((len(rows), longest, width), torch.nan, dtype=torch.float64, device=where.device)
        for b, ticks in enumerate(piece):
            x_blc[b, : len(ticks)] = x_bld[b, tokens[b] : tokens[b] + len(ticks)]
        index, x_bnd = chunks.take(list(piece), x_blc, static, where.backend)
        y_bkh = encode(
            x_bnd, index.start_bk, index.inside_bkw, index.distance_bkw, *rest, backend=where.backend
        )
        out_blh = spread(y_bkh, index.point_bl, before_bh=held_bh, backend=where.backend)
        held_bh = spread(y_bkh, index.count_b[:, None], before_bh=held_bh, backend=where.backend)[:, 0]
        index = on_cpu(index)
        for b, ticks in enumerate(piece):
            n, k, shift = int(index.count_b[b]), points[b], tokens[b] - (window - 1)
            assert torch.equal(index.event_bk[b, :n] + shift, whole.event_bk[b, k : k + n])
            assert torch.equal(index.start_bk[b, :n] + shift, whole.start_bk[b, k : k + n])
            assert torch.equal(index.inside_bkw[b, :n], whole.inside_bkw[b, k : k + n])
            assert torch.equal(index.distance_bkw[b, :n], whole.distance_bkw[b, k : k + n])
            assert index.valid_bk[b].tolist() == [i < n for i in range(index.valid_bk.shape[1])]
            here = slice(tokens[b], tokens[b] + len(ticks))
            assert torch.equal(index.point_bl[b, : len(ticks)] + k, whole.point_bl[b, here])
            assert not index.point_bl[b, len(ticks) :].any()
            torch.testing.assert_close(out_blh[b, : len(ticks)], expected[b, here], rtol=1e-12, atol=1e-12)
            tokens[b] += len(ticks)
            points[b] += n
    assert points == whole.count_b.tolist()


@unhurried
@given(
    ticks=st.lists(TICK_VALUES, min_size=1, max_size=20),
    window=st.integers(1, 6),
    history=st.integers(0, 8),
    phase=st.integers(0, TICKS - 1),
    missing=st.integers(0, 3),
)
def test_a_history_of_any_length_equals_brute_force(where, ticks, window, history, phase, missing):
    history = min(history, len(ticks))
    later = from_ticks([ticks[history:]], where.device) if history < len(ticks) else None
    if later is None:
        empty = torch.zeros(1, 0, dtype=torch.float64, device=where.device)
        later = fixed_point(empty, 0.0, 1.0)
    past = torch.tensor([[0] * missing + ticks[:history]], dtype=torch.int64, device=where.device)
    given = {"phase_b": torch.tensor([phase], device=where.device), "history": history + missing}
    spans = behind(past, later)
    found = resample_index(spans, window, "causal", **given, backend=where.backend)
    assert_same(on_cpu(found), on_cpu(resample_index(spans, window, "causal", **given, backend="reference")))
    assert found.point_bl.shape == (1, len(ticks) - history)


@unhurried
@given(
    ticks=st.lists(TICK_VALUES, min_size=1, max_size=20),
    spacing=st.floats(1e-3, 1e3),
    scale=st.floats(1e-3, 1e3),
)
def test_13_scaling_all_intervals_and_the_spacing_changes_nothing(device, ticks, spacing, scale):
    delta_bl = torch.tensor([ticks], dtype=torch.float64, device=device) / TICKS * spacing
    plain = resample_index(fixed_point(delta_bl / spacing, 0.0, 1.0), 4, "nearest")
    scaled = resample_index(fixed_point(scale * delta_bl / (scale * spacing), 0.0, 1.0), 4, "nearest")
    assert_same(plain, scaled)


def test_chunks_of_one_token_are_a_step(device):
    """The phase and the windows' tokens are all a stream has to keep."""
    ticks = [TICKS // 2, TICKS // 2, TICKS, TICKS // 4, TICKS * 3 // 4]
    chunks, made = Chunks(2, 1, device), []
    for l, tick in enumerate(ticks):
        x_b1d = torch.full((1, 1, 2), float(l), dtype=torch.float64, device=device)
        index, x_bnd = chunks.take([[tick]], x_b1d, True, None)
        made += [x_bnd[0, index.start_bk[0, 0] :, 0].tolist()] if int(index.count_b) else []
    assert made == [[0.0, 1.0], [1.0, 2.0], [3.0, 4.0]]


@pytest.mark.skipif(bool(numba_problem()), reason="numba does not run here")
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_threads_change_nothing(rows):
    logits = torch.randn(rows, 9000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            index = resample_index(intervals(logits, 0.2, 1.0), 5, "nearest", backend="numba")
            (grad,) = torch.autograd.grad(index.distance_bkw.square().sum(), logits)
            found.append((index, grad))
    finally:
        torch.set_num_threads(1)
    assert_same(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_doctor_sees_it():
    status = available_backends("resample_index")
    assert status["reference"] == status["torch"] == "ok"
    assert numba_problem() or status["numba"] == "ok"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "nearest"}, "history and phase_b continue a sequence, which only mode='causal' can do"),
        ({"history": 9}, r"history=9 must lie in 0\.\.8"),
        ({"history": -1}, r"history=-1 must lie in 0\.\.8"),
        ({"phase_b": torch.tensor([0.5])}, r"phase_b must be int64 of shape \(1,\), got torch.float32"),
        ({"phase_b": torch.tensor([0, 0])}, r"got torch.int64 of shape \(2,\)"),
        ({"phase_b": torch.tensor([TICKS])}, "phase_b must lie in 0"),
        ({"grad": "none"}, "grad='none' is neither 'full'"),
        ({"backend": "fast"}, "backend is 'fast'"),
    ],
)
def test_refusals_say_what_to_do(change, message):
    arguments = {"mode": "causal", "history": 2, "phase_b": torch.tensor([0]), **change}
    with pytest.raises(ValueError, match=message):
        resample_index(intervals(torch.zeros(1, 8), 0.5, 1.0), 3, **arguments)


def test_a_hole_in_the_history_is_refused():
    spans = behind(torch.tensor([[5, 0]]), intervals(torch.zeros(1, 3), 0.5, 1.0))
    with pytest.raises(ValueError, match="have them on the right, next to the chunk"):
        resample_index(spans, 3, "causal", history=2)


def test_static_bound_with_a_phase(device):
    assert [max_points(10, hi, "causal", phase=True) for hi in (1.0, 0.25)] == [10, 3]
    assert [max_points(10, hi, "causal") for hi in (1.0, 0.25)] == [10, 2]
    spans = intervals(torch.full((1, 10), 50.0, device=device), 0.25, 0.25)
    phase_b = torch.tensor([TICKS - 1], device=device)
    index = resample_index(spans, 2, "causal", phase_b=phase_b)
    assert int(index.count_b) == 3
    assert [b - a for a, b in pairwise(index.event_bk[0].tolist())] == [4, 4]
