"""The speech-commands task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ssm_core.protocols import Batch, Needs, Progress, Split
from ssm_data.classify import Classification
from ssm_data.ragged import pad
from ssm_data.series.encoder import SeriesEncoder
from ssm_data.series.facts import Facts
from ssm_data.speech_commands.data import ClipSplit, load_splits
from ssm_data.speech_commands.spec import SpeechCommandsConfig


def build(config: SpeechCommandsConfig) -> SpeechCommandsTask:
    """Build the task; no data is touched before it is asked for."""
    return SpeechCommandsTask(config)


class SpeechCommandsTask(Classification):
    """Name the word that is spoken.

    Args:
        config: Knobs.
    """

    def __init__(self, config: SpeechCommandsConfig) -> None:
        self.config = config
        self.pooling, self.classes = config.pooling, config.classes
        self.needs = Needs(dt=config.time == "true", mask=config.pad == "mask")
        self.max_length = config.length
        self._splits: dict[str, ClipSplit] = {}

    def prepare(self, progress: Progress | None = None) -> None:
        """Read the clips if they are not cached yet; safe from several processes at once.

        Raises:
            UserError: If the clips are nowhere or damaged, or the cache cannot be written.
        """
        self._splits = self._splits or load_splits(self.config, progress)
        self.labels = self._splits["train"].vocabulary

    def splits(self) -> Mapping[str, Split]:
        """Return ``train``, ``validation`` and ``test``, reading them if :meth:`prepare` was not called."""
        self.prepare()
        return dict(self._splits)

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack clips: int16 inputs (B, L, 1), targets int64 (B,), mask (B, L) with pad = mask, gaps (B, L) if told.

        The gap is the same before every sample, the first too: the whole wave is seen at another rate.
        """
        inputs, mask = pad(rows)
        if self.config.pad == "mask":
            mask = torch.ones(inputs.shape, dtype=torch.bool) if mask is None else mask
        else:
            inputs = nn.functional.pad(inputs, (0, self.config.length - inputs.shape[1]))
            mask = None
        told = self.config.time == "true"
        return Batch(
            inputs=inputs[..., None],
            targets=torch.from_numpy(np.array([row["targets"] for row in rows], np.int64)),
            dt_bl=torch.full(inputs.shape, float(self.config.stride)) if told else None,
            mask_bl=mask,
        )

    def encoder(self, d_model: int) -> nn.Module:
        """Return a linear map of the scaled sample."""
        self.prepare()
        mean, std = self._splits["train"].scale() if self.config.scaled else (0.0, 1.0)
        facts = Facts(
            channels=("wave",),
            longest=self.config.length,
            ragged=True,
            missing=False,
            mean=(mean,),
            std=(std,),
        )
        return SeriesEncoder(facts, d_model)
