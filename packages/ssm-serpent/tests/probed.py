"""What the tests of the probe `resample` share: a layer with given intervals, rows to look at, pages read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ssm_core.model import SequenceModel, build_stack
from ssm_core.protocols import Batch, Loss, Needs, Output, Task
from ssm_core.run.config import Choice, ModelConfig
from ssm_serpent.index import Index, Mode, resample_index
from ssm_serpent.intervals import Intervals, fixed_point

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

    def __init__(self, u: Sequence[float] = FIGURE_2 * 9, window: int = 3, mode: Mode = "causal") -> None:
        super().__init__()
        self.d_model, self.causal, self.streaming, self.takes_dt = 8, True, True, False
        self.u, self.window, self.mode = u, window, mode

    def forward(self, x_bld: Tensor, **given: Any) -> Any:
        return torch.zeros_like(x_bld), ()

    def trace(self, x_bld: Tensor, mask_bl: Tensor | None = None) -> list[Told]:
        count = x_bld.shape[1] if mask_bl is None else int(mask_bl.sum())
        u_bl = torch.tensor([self.u[:count]], dtype=torch.float64)
        spans = fixed_point(u_bl, 0.0, 1.0)
        return [Told(1, 0.25, spans, resample_index(spans, self.window, self.mode))]


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

    def __init__(self, count: int = 13) -> None:
        self.count = count

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {"inputs": np.zeros((self.count, 2), np.float32), "targets": np.zeros((), np.int64)}


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


def model_of(
    addons: Sequence[tuple[str, dict[str, Any]]] = (), *, causal: bool = True, fixed: Fixed | None = None
) -> SequenceModel:
    """Two layers; without add-ons the second is the one given, or the fixed one."""
    torch.manual_seed(0)
    task = Read()
    chosen = [Choice.of("addon", name, knobs, "addons") for name, knobs in addons]
    model = ModelConfig(d_model=8, n_layers=2, causal=causal)
    s5 = Choice.of("backbone", "s5", {"state_size": 4, "blocks": 1}, "backbone")
    stack = build_stack(s5, chosen, model, Needs(), None)
    if not addons:
        stack.blocks[1].mixer = fixed or Fixed()
    return SequenceModel(task.encoder(8), stack, task.head(8), task).eval()


class Reader(HTMLParser):
    """Reads a page back: its elements, how often a point was finished after each, and what points are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.crossed: list[bool] = []
        self.points: list[str] = []
        self.listed = False
        self.titles: list[str] = []
        self.inside: list[str] = []
        self.span = False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.span = tag == "span" and "title" in dict(attrs)
        if self.span:
            self.titles.append(dict(attrs)["title"])
            self.crossed.append("none" in dict(attrs)["class"].split())
            self.inside.append("")
        if tag == "b":
            self.inside.append("|")
        if tag == "li":
            self.listed = True
            self.points.append("")

    def handle_endtag(self, tag):
        self.span = False
        self.listed = self.listed and tag != "li"

    def handle_data(self, data):
        if self.span:
            self.inside[-1] += data
        if self.listed:
            self.points[-1] += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader
