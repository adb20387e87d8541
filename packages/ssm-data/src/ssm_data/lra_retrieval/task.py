"""The retrieval task: data, two towers in one batch, head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.protocols import Batch, Output, Progress, Split, State
from ssm_data.classify import Classification, TokenEncoder, pool
from ssm_data.lra_retrieval.dataset import PairSplit, load_splits
from ssm_data.lra_retrieval.spec import RetrievalConfig
from ssm_data.on_paper import on_paper
from ssm_data.ragged import pad
from ssm_data.tokens import Alphabet

PUBLISHED = 98
"""Ids of the published character vocabulary, padding and unknown included."""


def build(config: RetrievalConfig) -> RetrievalTask:
    """Build the task; no data is touched before it is asked for."""
    return RetrievalTask(config)


class PairHead(nn.Module):
    """Pools both texts of a pair and compares them: features [a, b, a - b, a * b], a hidden layer, two logits.

    Args:
        d_model: Width D.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(4 * d_model, d_model)
        self.out = nn.Linear(d_model, 2)

    def forward(self, y_bld: Tensor, batch: Batch) -> Tensor:
        """Map features (2B, L, D), the second texts behind the first, to logits (B, 2)."""
        a, b = pool(y_bld, batch.mask_bl, "mean").chunk(2)
        return self.out(F.gelu(self.hidden(torch.cat([a, b, a - b, a * b], dim=-1))))


class RetrievalTask(Classification):
    """Say whether one paper cites the other.

    Args:
        config: Knobs.
    """

    classes = 2

    def __init__(self, config: RetrievalConfig) -> None:
        self.config = config
        self.max_length = config.max_length
        self._splits: dict[str, PairSplit] = {}

    def prepare(self, progress: Progress | None = None) -> None:
        """Read the pairs if they are not cached yet (minutes); safe from several processes at once.

        Raises:
            UserError: If the files are not there or not sound, or the cache cannot be written.
        """
        self._splits = self._splits or load_splits(self.config, progress)

    def splits(self) -> Mapping[str, Split]:
        """Return ``train``, ``validation`` and ``test``, preparing them if :meth:`prepare` was not called."""
        self.prepare()
        return dict(self._splits)

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Pad all texts of the rows to the longest.

        Returns:
            ``inputs`` (B, L) in their own dtype and its mask, targets int64 (B,), and in ``extra`` the second texts:
            ``inputs_2`` (B, L) and ``mask_2`` (B, L). Without masks if all texts are as long.
        """
        both = [{"inputs": row[key]} for key in ("inputs", "inputs_2") for row in rows]
        inputs, mask = pad(both)
        targets = torch.from_numpy(np.array([row["targets"] for row in rows], dtype=np.int64))
        first, second = inputs.chunk(2)
        if mask is None:
            return Batch(inputs=first, targets=targets, extra={"inputs_2": second})
        ours, theirs = mask.chunk(2)
        extra = {"inputs_2": second, "mask_2": theirs}
        return Batch(inputs=first, targets=targets, mask_bl=ours, extra=extra)

    def encoder(self, d_model: int) -> nn.Module:
        """Return an embedding of the ids; which characters there are is known from the data only, bytes without."""
        if self.config.level == "byte":
            return TokenEncoder(len(Alphabet(None, self.config.append_eos).vocabulary), d_model)
        if not self._splits and (size := on_paper("lra-retrieval", PUBLISHED)):
            return TokenEncoder(size, d_model)
        self.prepare()
        return TokenEncoder(len(self._splits["train"].vocabulary), d_model)

    def head(self, d_model: int) -> nn.Module:
        """Return the comparison of two texts."""
        return PairHead(d_model)

    def run(self, model: Any, batch: Batch, state: State | None = None) -> Output:
        """Run both texts through one model, as 2B rows of one batch, so that norms over the batch see both."""
        mask = None
        if batch.mask_bl is not None:
            mask = torch.cat([batch.mask_bl, batch.extra["mask_2"]])
        joint = Batch(
            inputs=torch.cat([batch.inputs, batch.extra["inputs_2"]]), targets=batch.targets, mask_bl=mask
        )
        y_bld, state = model.stack(model.encoder(joint), mask_bl=mask, state=state)
        return Output(model.head(y_bld, joint), state)
