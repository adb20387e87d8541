from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from probed import FIGURE_2, Fixed, Numbers, Read, Texts, model_of, read

from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_serpent.resample.elements import encode, row_of_text, texts
from ssm_serpent.resample.measure import probe
from ssm_serpent.resample.shades import STEPS, steps
from ssm_serpent.resample.spec import ResampleConfig


def test_the_example_of_the_paper():
    found = probe(model_of(), Texts(), ResampleConfig())
    assert found.text.splitlines() == [
        "sequence 0 of the test split",
        "layer 1, branch 1 (kappa 0.25): 3 points of 13 elements, 0.23; windows of 3, 4 of the elements in none",
        "[abcde|<>&|\\n\"' é]",
        "points: 1 [cde] 2 [<>&] 3 [' é]",
    ]
    (row,) = found.rows
    assert (row["layer"], row["branch"], row["tokens"], row["points"]) == (1, "1", 13, 3)
    assert row["compression"] == pytest.approx(3 / 13)
    assert row["mean interval"] == pytest.approx(sum(FIGURE_2) / 13, abs=1e-6)
    assert (row["min"], row["max"]) == pytest.approx((0.1, 0.5), abs=1e-6)


def test_charts_show_intervals_times_and_events():
    intervals, times = probe(model_of(), Texts(), ResampleConfig()).charts
    assert list(intervals.curves[0].y) == pytest.approx(FIGURE_2, abs=1e-6)
    line, points, windows = times.curves
    assert list(line.y) == pytest.approx(np.cumsum(FIGURE_2), abs=1e-5)
    assert list(points.x) == [4, 7, 12]
    assert list(points.y) == [line.y[4], line.y[7], line.y[12]]
    assert points.same_as == windows.same_as == line.label
    assert list(windows.x) == [1.5, 4.5, 4.5, 4.5, 7.5, 7.5, 9.5, 12.5, 12.5]
    assert list(windows.y) == [1, 1, None, 2, 2, None, 3, 3, None]


def test_the_page_has_every_element_once_and_nothing_of_the_text_is_markup():
    page = probe(model_of(), Texts(), ResampleConfig()).files["resample.html"]
    reader = read(page)
    assert "".join(reader.inside) == "abcde|<>&|\u21b5\n\"' é|"
    assert "script" not in reader.tags
    assert not re.search(r"(src|href)=", page)
    assert reader.titles[5] == (
        "element 5, interval 0.1000, time 1.200, in the window of point 2, reads point 1"
    )


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "</title>&amp;"])
def test_a_text_cannot_become_markup(text):
    dataset = Texts()
    dataset.vocabulary = [f"<0x{byte:02X}>" for byte in range(256)]
    found = probe(model_of(), dataset, ResampleConfig(text=text))
    reader = read(found.files["resample.html"])
    assert "".join(part for part in reader.inside if part != "|") == text
    assert "script" not in reader.tags


def test_elements_without_a_text_are_numbered():
    found = probe(model_of(), Numbers(), ResampleConfig())
    assert found.text.splitlines()[2] == "[0 1 2 3 4|5 6 7|8 9 10 11 12]"
    assert read(found.files["resample.html"]).inside[0] == " 0 "


def test_what_is_not_finished_comes_last_and_long_texts_are_cut():
    found = probe(model_of(), Texts(), ResampleConfig(index=-1))
    assert found.text.splitlines()[2] == "[abcde|<>&|\\n\"' ]"
    cut = probe(model_of(), Texts(), ResampleConfig(shown=6))
    assert cut.text.splitlines()[2:] == ["[abcde|<] and 7 more", "points: 1 [cde] and 2 more"]
    none = probe(model_of(), Texts(), ResampleConfig(shown=0))
    assert none.text.splitlines()[2:] == ["[] and 13 more", "points: and 3 more"]


def test_colours_are_codes_round_the_same_text():
    found = probe(model_of(), Texts(), ResampleConfig(color="always"))
    assert found.text.count("\x1b[0m") == 13 + 9
    assert found.text.count("\x1b[38;2;130;130;130") == 4
    assert re.sub(r"\x1b\[[0-9;]*m", "", found.text).splitlines()[2] == "[abcde|<>&|\\n\"' é]"


def test_no_colours_without_a_terminal(monkeypatch):
    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.__stdout__", None)
    assert "\x1b" not in probe(model_of(), Texts(), ResampleConfig()).text
    monkeypatch.setattr("sys.__stdout__", Terminal())
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" in probe(model_of(), Texts(), ResampleConfig()).text
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in probe(model_of(), Texts(), ResampleConfig()).text


def test_steps_reach_from_the_shortest_to_the_longest():
    assert steps([0.1, 0.5, 0.35]) == [0, STEPS - 1, 6]
    assert steps([0.2, 0.2]) == [0, 0]
    assert steps([]) == []


class Pieces:
    """A tokeniser of pairs of bytes."""

    spelled = (b"", b"ab", b"\xc3", b"\xa9")

    def load(self) -> Pieces:
        return self

    def encode(self, text: bytes) -> Any:
        return np.array([self.spelled.index(text[i : i + 2]) for i in range(0, len(text), 2)])


def test_a_text_becomes_ids_by_the_way_that_is_there():
    dataset = Texts()
    assert encode(Read(), dataset, "ab é") == [1, 2, 12, 13]
    dataset.vocabulary = ["a", "<0xC3>", "<0xA9>"]
    assert encode(Read(), dataset, "aé") == [0, 1, 2]
    dataset.tokenizer = Pieces()
    assert encode(Read(), dataset, "abab") == [1, 1]
    assert texts(dataset, np.array([1, 2, 3])) == ["ab", "\\xc3", "\\xa9"]
    task = Read()
    task.encode = lambda text: [len(text)]
    assert encode(task, dataset, "abab") == [4]


def test_words_are_looked_up_where_blanks_are_no_token():
    dataset = Texts()
    dataset.vocabulary = ["[MAX", "1", "12", "]"]
    assert encode(Read(), dataset, "[MAX 12 1 ]") == [0, 2, 1, 3]
    with pytest.raises(UserError, match="has no 'x'"):
        encode(Read(), dataset, "x")
    dataset.vocabulary = ["<unk>", "a"]
    assert encode(Read(), dataset, "ax") == [1, 0]


def test_a_row_of_a_text_is_like_the_others():
    row = row_of_text(Read(), Texts(), "abba")
    assert row["inputs"].tolist() == [1, 2, 2, 1]
    assert row["targets"].tolist() == [-100] * 4
    assert int(row["length"]) == 4
    assert {name: value.dtype for name, value in row.items()} == {
        name: value.dtype for name, value in Texts()[0].items()
    }
    found = probe(model_of(), Texts(), ResampleConfig(text="abbaab"))
    assert [found.text.splitlines()[i] for i in (0, 2)] == ["the text 'abbaab'", "[abbaa|b]"]


class Silent(Texts):
    vocabulary = None


@pytest.mark.parametrize(
    ("dataset", "knobs", "message"),
    [
        (Texts(), {"index": 2}, "no sequence 2"),
        (Numbers(), {"text": "a"}, "tokens"),
        (Silent(), {"text": "a"}, "neither tokenizer nor vocabulary"),
    ],
)
def test_what_cannot_be_shown_is_refused(dataset, knobs, message):
    with pytest.raises(UserError, match=message):
        probe(model_of(), dataset, ResampleConfig(**knobs))


def test_without_a_model_or_a_resampling_layer_it_says_what_to_do():
    with pytest.raises(UserError, match="ssm probe resample RUN"):
        probe(None, None, ResampleConfig())
    with pytest.raises(UserError, match="--addon serpent"):
        probe(model_of(), Texts(), ResampleConfig(layers="0"))


@pytest.mark.parametrize("knobs", [{"shown": -1}, {"text": ""}])
def test_knobs_out_of_range_are_refused(knobs):
    with pytest.raises(ValueError, match=next(iter(knobs))):
        ResampleConfig(**knobs)


@pytest.mark.parametrize("index", [0, 3])
def test_a_text_and_a_sequence_are_not_taken_together(index):
    with pytest.raises(ConfigError, match=f"text and index = {index} both say which sequence"):
        registry.configure("probe", "resample", {"text": "a", "index": index})
    assert registry.configure("probe", "resample", {"text": "a"}) == ResampleConfig(text="a")
    assert probe(model_of(), Texts(), ResampleConfig(index=0)) == probe(model_of(), Texts(), ResampleConfig())


@pytest.mark.parametrize("causal", [True, False])
def test_the_add_on_is_shown_as_it_resamples(causal):
    knobs = {"compression": [0.5, 0.3], "base": False, "window": 3}
    model = model_of([("serpent", knobs)], causal=causal)
    found = probe(model, Texts(), ResampleConfig())
    assert [(row["layer"], row["branch"], row["kappa"]) for row in found.rows] == [
        (0, "0", 0.5), (0, "1", 0.3), (1, "0", 0.5), (1, "1", 0.3)
    ]  # fmt: skip
    for row in found.rows:
        assert row["tokens"] == 13
        assert row["kappa"] <= row["min"] <= row["mean interval"] <= row["max"] <= 1
        total = row["mean interval"] * 13
        assert row["points"] == (int(total) if causal else max(1, int(np.ceil(total - 0.5))))
    lines = found.text.splitlines()[2::3]
    assert [line.replace("|", "") for line in lines] == ["[abcde<>&\\n\"' é]"] * 4
    for line, row in zip(lines, found.rows, strict=True):
        assert line.count("|") in (row["points"] - 1, row["points"])
    strokes = sum(min(row["points"], int(row["mean interval"] * 13)) for row in found.rows)
    assert read(found.files["resample.html"]).inside.count("|") == strokes
    assert len(found.charts) == 4


class Five(Texts):
    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {name: value[:5] if value.ndim else value for name, value in super().__getitem__(0).items()}


def test_a_point_beyond_the_end_is_told_and_not_shown_as_finished():
    """Five elements of 0.55: times .55 1.1 1.65 2.2 2.75, so the nearest points are 1, 2 and 3."""
    found = probe(model_of(fixed=Fixed([0.55] * 5, 3, "nearest")), Five(), ResampleConfig())
    assert found.text.splitlines()[1:] == [
        "layer 1, branch 1 (kappa 0.25): 3 points of 5 elements (one point beyond the end), 0.60; windows of 3",
        "[ab|cd|e]",
        "points: 1 [abc] 2 [cde] 3 [cde]",
    ]
    assert found.rows[0]["points"] == 3
    assert list(found.charts[1].curves[1].x) == [1, 3]
    page = found.files["resample.html"]
    assert "".join(read(page).inside) == "ab|cd|e"
    assert "3 points of 5 elements (one point beyond the end), 0.600 of them" in page


def test_a_model_is_asked_where_it_is(device):
    model = model_of([("serpent", {"window": 3})])
    here = probe(model, Texts(), ResampleConfig())
    assert probe(model.to(device), Texts(), ResampleConfig()).rows[0]["points"] == here.rows[0]["points"]


def test_the_model_is_left_as_it_was():
    model = model_of([("serpent", {"window": 3})]).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe(model, Texts(), ResampleConfig())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
