from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssm_core.model import SequenceModel, build_stack
from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Batch, Loss, Needs, Output, Task
from ssm_core.run.config import Choice, ModelConfig
from ssm_serpent.index import Index, resample_index
from ssm_serpent.intervals import Intervals, fixed_point
from ssm_serpent.resample.elements import encode, row_of_text, texts
from ssm_serpent.resample.measure import probe
from ssm_serpent.resample.shades import STEPS, steps
from ssm_serpent.resample.spec import ResampleConfig

FIGURE_2 = (0.1, 0.2, 0.2, 0.4, 0.2, 0.1, 0.5, 0.5, 0.1, 0.1, 0.2, 0.2, 0.4)
"""The intervals of the paper's example: points are finished at tokens 5, 8 and 13."""

WORDS = "abcde<>&\n\"' é"
VOCABULARY = ["<pad>", *WORDS, *(f"<0x{byte:02X}>" for byte in range(192, 256)), "<0xA9>"]


class Told(NamedTuple):
    branch: int
    compression: float
    spans: Intervals
    index: Index


class Fixed(nn.Module):
    """A mixer that says it resamples, with the intervals of the example for as many elements as there are."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model, self.causal, self.streaming, self.takes_dt = d_model, True, True, False

    def forward(self, x_bld: Tensor, **given: Any) -> Any:
        return torch.zeros_like(x_bld), ()

    def trace(self, x_bld: Tensor, mask_bl: Tensor | None = None) -> list[Told]:
        count = x_bld.shape[1] if mask_bl is None else int(mask_bl.sum())
        u_bl = torch.tensor([(FIGURE_2 * 9)[:count]], dtype=torch.float64)
        spans = fixed_point(u_bl, 0.0, 1.0)
        return [Told(1, 0.25, spans, resample_index(spans, 3, "causal"))]


class Texts:
    """Rows of ids that a vocabulary names."""

    vocabulary = VOCABULARY

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        ids = np.arange(1, 14 - index, dtype=np.uint8)
        return {
            "inputs": ids,
            "targets": np.roll(ids, -1).astype(np.int32),
            "length": np.int64(len(ids)).reshape(()),
        }


class Numbers(Texts):
    vocabulary = None

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {"inputs": np.zeros((13, 2), np.float32), "targets": np.zeros((), np.int64)}


class Read(Task):
    def splits(self) -> Mapping[str, Any]:
        return {"test": Texts()}

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        inputs = torch.from_numpy(np.stack([row["inputs"] for row in rows]))
        padded = nn.functional.pad(inputs, (0, 2) if inputs.ndim == 2 else (0, 0, 0, 2))
        mask = torch.arange(padded.shape[1]).expand(len(rows), -1) < inputs.shape[1]
        return Batch(inputs=padded, targets=torch.zeros(len(rows)), mask_bl=mask)

    def encoder(self, d_model: int) -> nn.Module:
        return Encoder(d_model)

    def head(self, d_model: int) -> nn.Module:
        return Head()

    def loss(self, output: Output, batch: Batch) -> Loss:
        raise NotImplementedError


class Encoder(nn.Module):
    def __init__(self, d_model: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(256, d_model)

    def forward(self, batch: Batch) -> Tensor:
        ids = batch.inputs if batch.inputs.ndim == 2 else batch.inputs[..., 0]
        return self.embedding(ids.long())


class Head(nn.Module):
    def forward(self, y_bld: Tensor, batch: Batch) -> Tensor:
        return y_bld


def model_of(addons: Sequence[tuple[str, dict[str, Any]]] = (), *, causal: bool = True) -> SequenceModel:
    """Two layers; without add-ons the second is the fixed one."""
    torch.manual_seed(0)
    task = Read()
    chosen = [Choice.of("addon", name, knobs, "addons") for name, knobs in addons]
    model = ModelConfig(d_model=8, n_layers=2, causal=causal)
    s5 = Choice.of("backbone", "s5", {"state_size": 4, "blocks": 1}, "backbone")
    stack = build_stack(s5, chosen, model, Needs(), None)
    if not addons:
        stack.blocks[1].mixer = Fixed(8)
    return SequenceModel(task.encoder(8), stack, task.head(8), task).eval()


class Reader(HTMLParser):
    """Reads a page back: its elements, and how often a point was finished after each."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.titles: list[str] = []
        self.inside: list[str] = []
        self.span = False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.span = tag == "span" and "title" in dict(attrs)
        if self.span:
            self.titles.append(dict(attrs)["title"])
            self.inside.append("")
        if tag == "b":
            self.inside.append("|")

    def handle_endtag(self, tag):
        self.span = False

    def handle_data(self, data):
        if self.span:
            self.inside[-1] += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_the_example_of_the_paper():
    found = probe(model_of(), Texts(), ResampleConfig())
    assert found.text.splitlines() == [
        "sequence 0 of the test split",
        "layer 1, branch 1 (kappa 0.25): 3 points of 13 elements, 0.23",
        "[abcde|<>&|\\n\"' é]",
    ]
    (row,) = found.rows
    assert (row["layer"], row["branch"], row["tokens"], row["points"]) == (1, "1", 13, 3)
    assert row["compression"] == pytest.approx(3 / 13)
    assert row["mean interval"] == pytest.approx(sum(FIGURE_2) / 13, abs=1e-6)
    assert (row["min"], row["max"]) == pytest.approx((0.1, 0.5), abs=1e-6)


def test_charts_show_intervals_times_and_events():
    intervals, times = probe(model_of(), Texts(), ResampleConfig()).charts
    assert list(intervals.curves[0].y) == pytest.approx(FIGURE_2, abs=1e-6)
    line, points = times.curves
    assert list(line.y) == pytest.approx(np.cumsum(FIGURE_2), abs=1e-5)
    assert list(points.x) == [4, 7, 12]
    assert list(points.y) == [line.y[4], line.y[7], line.y[12]]
    assert points.same_as == line.label


def test_the_page_has_every_element_once_and_nothing_of_the_text_is_markup():
    page = probe(model_of(), Texts(), ResampleConfig()).files["resample.html"]
    reader = read(page)
    assert "".join(reader.inside) == "abcde|<>&|\u21b5\n\"' é|"
    assert "script" not in reader.tags
    assert not re.search(r"(src|href)=", page)
    assert reader.titles[5] == "element 5, interval 0.1000, time 1.200, part of point 2, reads 1"


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
    assert cut.text.splitlines()[2] == "[abcde|<] and 7 more"
    none = probe(model_of(), Texts(), ResampleConfig(shown=0))
    assert none.text.splitlines()[2] == "[] and 13 more"


def test_colours_are_codes_round_the_same_text():
    found = probe(model_of(), Texts(), ResampleConfig(color="always"))
    assert found.text.count("\x1b[0m") == 13
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
    assert found.text.splitlines()[::2] == ["the text 'abbaab'", "[abbaa|b]"]


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
    lines = found.text.splitlines()[2::2]
    assert [line.replace("|", "") for line in lines] == ["[abcde<>&\\n\"' é]"] * 4
    for line, row in zip(lines, found.rows, strict=True):
        assert line.count("|") in (row["points"] - 1, row["points"])
    strokes = sum(min(row["points"], int(row["mean interval"] * 13)) for row in found.rows)
    assert read(found.files["resample.html"]).inside.count("|") == strokes
    assert len(found.charts) == 4


class Ahead(Fixed):
    """Five elements of 0.55: times .55 1.1 1.65 2.2 2.75, so the nearest points are 1, 2 and 3."""

    def trace(self, x_bld: Tensor, mask_bl: Tensor | None = None) -> list[Told]:
        spans = fixed_point(torch.full((1, 5), 0.55, dtype=torch.float64), 0.0, 1.0)
        return [Told(1, 0.5, spans, resample_index(spans, 3, "nearest"))]


class Five(Texts):
    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {name: value[:5] if value.ndim else value for name, value in super().__getitem__(0).items()}


def test_a_point_beyond_the_end_is_told_and_not_shown_as_finished():
    model = model_of()
    model.stack.blocks[1].mixer = Ahead(8)
    found = probe(model, Five(), ResampleConfig())
    assert found.text.splitlines()[1:] == [
        "layer 1, branch 1 (kappa 0.5): 3 points of 5 elements (one point beyond the end), 0.60",
        "[ab|cd|e]",
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
