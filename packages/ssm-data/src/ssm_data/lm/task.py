"""What language-modelling tasks have in common: rows, batches, softmax, loss and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.protocols import Batch, Loss, Needs, Output, Progress, Split, State, Task
from ssm_data.cache import Part
from ssm_data.lm.corpus import read_blocks
from ssm_data.lm.heads import SoftmaxHead, TokenEmbedding
from ssm_data.lm.measure import Measure
from ssm_data.lm.packing import TokenizerPlace
from ssm_data.lm.spec import LanguageConfig
from ssm_data.lm.split import IGNORED, Rows, TokenSplit
from ssm_data.on_paper import on_paper


class LanguageModel(Task):
    """Predict each next token. A subclass says in :meth:`load` where the packed corpus is.

    Args:
        config: Knobs.
    """

    metrics = ("perplexity", "bits_per_byte", "word_perplexity")
    primary = ("bits_per_byte", "min")
    count_newlines = False
    """Whether a newline counts as a word."""

    def __init__(self, config: LanguageConfig) -> None:
        self.config = config
        self.needs = Needs(causal=True, carry_state=config.sampling == "streams")
        self.max_length = config.length
        self._place: TokenizerPlace | None = None
        self._splits: dict[str, TokenSplit] = {}
        self._measure: Measure | None = None

    def load(self, progress: Progress | None) -> tuple[TokenizerPlace, Mapping[str, Part]]:
        """Return the tokeniser's place and the packed splits, making them if they are not cached."""
        raise NotImplementedError

    def published_size(self) -> int:
        """Return how many ids the task's source gives, or the knobs; 0 if neither says."""
        return 0

    def prepare(self, progress: Progress | None = None) -> None:
        """Read, learn a vocabulary and encode, if it is not cached yet; safe from several processes at once.

        Raises:
            UserError: If the text cannot be read, or the cache cannot be written.
        """
        if not self._splits:
            self._place, parts = self.load(progress)
            self._splits = {
                name: TokenSplit(part, self._rows(name), self._place) for name, part in parts.items()
            }
            self._measure = Measure(self._place.load(), self.count_newlines)
            self.labels = self._place.load().vocabulary

    def splits(self) -> Mapping[str, Split]:
        """Return ``train``, ``validation`` and ``test``, making them if :meth:`prepare` was not called."""
        self.prepare()
        return dict(self._splits)

    @property
    def vocabulary_size(self) -> int:
        """Number of ids; the data is prepared to know it, unless the model is only counted."""
        if not self._splits and (size := on_paper(type(self).__name__, self.published_size())):
            return size
        self.prepare()
        assert self._place is not None
        return len(self._place.load().vocabulary)

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack rows: inputs (B, T), uint8 if they are so and int32 otherwise, targets int64 (B, T), resets or None."""
        inputs = np.stack([row["inputs"] for row in rows])
        # torch knows uint16 and uint32 by name only.
        inputs = inputs if inputs.dtype == np.uint8 else inputs.astype(np.int32)
        targets = np.stack([row["targets"] for row in rows]).astype(np.int64)
        resets = torch.from_numpy(np.stack([row["reset"] for row in rows])) if "reset" in rows[0] else None
        return Batch(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets), reset_bl=resets)

    def encoder(self, d_model: int) -> nn.Module:
        """Return an embedding."""
        config = self.config
        return TokenEmbedding(self.vocabulary_size, d_model, config.dropout_input, config.tied)

    def head(self, d_model: int) -> nn.Module:
        """Return a softmax over the vocabulary."""
        return SoftmaxHead(d_model, self.vocabulary_size, self.config.dropout_output, self.config.tied)

    def run(self, model: Any, batch: Batch, state: State | None = None) -> Output:
        """Run the model; a tied head is handed the encoder. The output is the log-probability (B, T) of each target.

        Raises:
            ConfigError: If the state is not that of as many rows as the batch has.
        """
        rows = _rows_of(state)
        if rows is not None and len(batch.inputs) != rows:
            raise ConfigError(
                f"a batch of {len(batch.inputs)} rows cannot go on from the state of {rows}",
                f"--set train.batch_size={self.config.streams}, the number of task.streams",
            )
        x_bld = model.encoder(batch)
        y_bld, state = model.stack(x_bld, reset_bl=batch.reset_bl, state=state)
        handed = (model.encoder,) if self.config.tied else ()
        return Output(model.head(y_bld, batch, *handed), state)

    def loss(self, output: Output, batch: Batch) -> Loss:
        """Return the cross-entropy in nats, summed over the scored tokens, and their number."""
        total = -output.head.sum()
        return Loss(total, (batch.targets != IGNORED).sum().to(total.dtype))

    def predictions(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        """Return ``prediction``, the log-probability of each scored token (N,), ``target``, its id, and its ``bytes``
        and ``words``.
        """
        assert self._measure is not None, "prepare() comes first"
        scored = batch.targets != IGNORED
        targets, before = batch.targets[scored], batch.inputs[scored]
        return {
            "prediction": output.head[scored],
            "target": targets,
            "bytes": self._measure.bytes(targets),
            "words": self._measure.words(before, targets),
        }

    def read(self, path: Path) -> list[dict[str, Any]]:
        """Return a text file's tokens in rows of ``length``, each of which begins with nothing before it.

        Raises:
            UserError: If it cannot be read, or has fewer than two tokens.
        """
        self.prepare()
        assert self._place is not None
        tokens = self._place.load().encode(b"".join(read_blocks(path)))
        if len(tokens) < 2:
            raise UserError(
                f"{path} has fewer than two tokens: there is none to foretell", "give a longer text"
            )
        rows = [
            tokens[start : start + self.config.length + 1]
            for start in range(0, len(tokens) - 1, self.config.length)
        ]
        return [{"inputs": row[:-1], "targets": row[1:].astype(np.int32)} for row in rows]

    def question(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a row that asks how probable each next token was: the last has none, unless the row has targets."""
        inputs = np.asarray(row["inputs"])
        targets = row.get("targets", np.append(inputs[1:].astype(np.int32), np.int32(IGNORED)))
        begins = {"reset": np.arange(len(inputs)) == 0} if self.config.reset else {}
        return {**begins, **row, "targets": targets}

    def _rows(self, split: str) -> Rows:
        config = self.config
        trains = split == "train"
        return Rows(
            length=config.length,
            sampling=config.sampling if trains or config.sampling == "streams" else "tiles",
            streams=config.streams,
            n=config.n_windows if trains else 0,
            context=0 if trains else config.eval_context,
            seed=config.seed,
            reset=config.reset,
            roll=config.roll and trains,
        )


def _rows_of(state: State | None) -> int | None:
    """Return the batch size of a state: that of its first tensor; None if it has none."""
    if isinstance(state, Tensor):
        return len(state)
    parts = state.values() if isinstance(state, Mapping) else state or ()
    return next((rows for part in parts if (rows := _rows_of(part)) is not None), None)
