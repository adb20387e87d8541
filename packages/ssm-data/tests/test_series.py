"""Series of numbers: what the readers of files and tables make of anything, the scale, the split, what is missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError
from ssm_data.series.encoder import forward_filled
from ssm_data.series.facts import Facts, median_gap, scale
from ssm_data.series.split import chosen, held_out
from ssm_data.ts import read as reader
from ssm_data.ts.numbers import BLOCK, numbers, of_words

HEAD = "@univariate false\n@dimensions 2\n@classLabel true up down\n@data\n"

number = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    arrays(
        np.float32, st.tuples(st.integers(1, 20), st.integers(1, 3)), elements=st.floats(-100, 100, width=32)
    )
)
def test_the_scale_is_that_of_numpy_without_what_is_missing(values: np.ndarray) -> None:
    wide = values.astype(np.float64)
    mean, std = scale(values)
    assert np.allclose(mean, wide.mean(0), atol=1e-9)
    flat = wide.std(0) <= 1e-7 * np.abs(wide.mean(0))
    assert np.allclose(np.array(std)[~flat], wide.std(0)[~flat], atol=1e-9)
    assert (np.array(std)[flat] == 1).all()
    holes = np.concatenate([values, np.full((3, values.shape[1]), np.nan, np.float32)])
    # Not bit by bit: more rows are added up in another order.
    assert np.allclose(scale(holes), (mean, std), rtol=1e-12, atol=1e-12)


def test_nothing_seen_has_a_scale_too() -> None:
    assert scale(np.full((4, 2), np.nan)) == ((0.0, 0.0), (1.0, 1.0))


@given(st.lists(st.lists(st.floats(0.01, 100), max_size=6), min_size=1, max_size=6))
def test_the_median_gap_is_of_gaps_inside_series(series: list[list[float]]) -> None:
    times = [np.cumsum([0, *gaps]) for gaps in series]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in times])])
    inside = [gap for gaps in series for gap in gaps]
    found = median_gap(np.concatenate(times), offsets)
    assert found == (pytest.approx(np.median(inside)) if inside else None)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.data())
def test_chosen_series_are_the_same_in_their_new_order(lengths: list[int], data: st.DataObject) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values, targets = np.arange(offsets[-1])[:, None], np.arange(len(lengths))
    rows = np.array(data.draw(st.permutations(range(len(lengths)))), np.int64)[: data.draw(st.integers(0, 8))]
    found = chosen({"offsets": offsets, "values": values, "targets": targets}, rows)
    assert found["targets"].tolist() == rows.tolist()
    for place, row in enumerate(rows):
        piece = found["values"][found["offsets"][place] : found["offsets"][place + 1]]
        assert np.array_equal(piece, values[offsets[row] : offsets[row + 1]])


@given(st.lists(st.none() | number, min_size=1, max_size=12))
def test_the_last_value_seen_stands_where_none_is(values: list[float | None]) -> None:
    seen = torch.tensor([value is not None for value in values])[None, :, None]
    x = torch.tensor([math.nan if value is None else value for value in values])[None, :, None]
    last, expected = 0.0, []
    for value in values:
        last = last if value is None else value
        expected.append(last)
    assert forward_filled(x, seen).flatten().tolist() == pytest.approx(expected)


def test_facts_come_back_as_they_were() -> None:
    facts = Facts(
        channels=("a",), longest=3, ragged=True, missing=False, mean=(0.1,), std=(2.0,), classes=("x", "ü")
    )
    assert Facts.read(facts.stored()) == facts


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.01, 0.99), st.integers(0, 5))
def test_what_is_held_out_is_the_same_share_of_every_label(
    labels: list[int], share: float, seed: int
) -> None:
    out = held_out(np.array(labels), share, seed)
    for label in set(labels):
        mine = np.array(labels) == label
        assert abs(out[mine].sum() - share * mine.sum()) <= 1 + 1e-9
        assert not out[mine].all(), "every label keeps one"
    if max(labels.count(label) for label in labels) > 1:
        assert out.any()


@given(st.lists(st.one_of(number, st.none()), min_size=1, max_size=30))
def test_numbers_come_back(values: list[float | None]) -> None:
    text = ",".join("?" if v is None else repr(v) for v in values)
    found = numbers(text, "it")
    for value, expected in zip(found.tolist(), values, strict=True):
        assert math.isnan(value) if expected is None else value == expected


@pytest.mark.parametrize(
    "word", ["-?", "+?", "?5", "?(a)", "? 2", "1 2", "-nan", "1_0", "", "inf", "x" * 999]
)
@pytest.mark.parametrize("before", [0, 3, BLOCK + 2])
def test_a_word_that_is_no_number_is_named_wherever_it_stands(word: str, before: int) -> None:
    text = ",".join([*["1", "?", " nan "] * (before // 3), *["2"] * (before % 3), word, "?"])
    with pytest.raises(ValueError, match=rf"value {before + 1} of it is '.{{0,40}}', not a finite number"):
        numbers(text, "it")
    good = [*["1.5", " ? ", "nan"] * (before // 3), "2"]
    assert np.array_equal(of_words(good, "it"), numbers(",".join(good), "it"), equal_nan=True)


@given(st.text(alphabet="0123456789.,:()?-+einfax_ @#\t", max_size=40))
def test_any_row_is_read_or_named(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "Any_TRAIN.ts"
    path.write_text(HEAD + text)
    try:
        found = list(reader.read(path)[1])
    except UserError as error:
        told = str(error)
    else:
        told = str(path)
        assert all(np.isfinite(each.values).any() or "?" in text or "nan" in text for each in found)
    assert str(path) in told


@given(
    st.lists(
        st.lists(st.tuples(st.floats(1e-3, 1e3), st.none() | number), min_size=1, max_size=6),
        min_size=3,
        max_size=8,
    )
)
def test_any_series_come_back(
    tmp_path_factory: pytest.TempPathFactory, series: list[list[tuple[float, float | None]]]
) -> None:
    path = tmp_path_factory.mktemp("any") / "t.csv"
    lines, expected = ["id,time,x,target,part"], []
    for i, elements in enumerate(series):
        times = np.cumsum([gap for gap, _ in elements]).tolist()
        part = ("train", "validation", "test")[min(i, 2)]
        for time, (_, value) in zip(times, elements, strict=True):
            lines.append(f"s{i},{time!r},{'' if value is None else repr(value)},1,{part}")
        expected.append((times, [math.nan if v is None else v for _, v in elements]))
    path.write_text("\n".join(lines))
    splits = registry.build_task("irregular-csv", {"path": str(path), "split_column": "part"}).splits()
    rows = [row for split in splits.values() for row in split]
    for row, (times, values) in zip(rows, expected, strict=True):
        assert row["time_points"].tolist() == times
        assert np.array_equal(row["inputs"][:, 0], np.array(values, np.float32), equal_nan=True)
