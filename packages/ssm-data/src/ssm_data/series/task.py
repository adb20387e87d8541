"""The task round series of numbers: batches with gaps and masks, the modules, the pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import BandPlot, Batch, Loss, Needs, Output, Progress, Split, State, Task
from ssm_data.ragged import pad
from ssm_data.series.encoder import Missing, SeriesEncoder
from ssm_data.series.facts import Facts
from ssm_data.series.goals import Goal, Values
from ssm_data.series.split import SeriesSplit

SHOWN = 4
"""Series in the picture of predictions."""


class SeriesKnobs(Protocol):
    """The knobs that all tasks on series have."""

    @property
    def time(self) -> Literal["true", "ignored", "appended"]:
        """What the model is told of the gaps."""
        ...

    @property
    def missing(self) -> Missing:
        """What stands where a value is missing."""
        ...

    @property
    def scaled(self) -> bool:
        """Whether values are scaled by the training split."""
        ...


class SeriesTask(Task):
    """Answer a question about series. A subclass says in :meth:`load` where they are.

    Args:
        knobs: How they are put in.
        goal: The question.
    """

    def __init__(self, knobs: SeriesKnobs, goal: Goal) -> None:
        self.knobs, self.goal = knobs, goal
        self.metrics, self.primary = goal.metrics, goal.primary
        # Whether a mask is needed is known from the data only; until then it is.
        self.needs = Needs(dt=knobs.time == "true", mask=True)
        self._splits: dict[str, SeriesSplit] = {}

    def load(self, progress: Progress | None) -> dict[str, SeriesSplit]:
        """Return all splits, preparing what the cache lacks."""
        raise NotImplementedError

    def prepare(self, progress: Progress | None = None) -> None:
        """Read the data if they are not cached yet; safe from several processes at once.

        Raises:
            UserError: If the data are nowhere or damaged, or the cache cannot be written.
        """
        if not self._splits:
            self._splits = self.load(progress)
            self.max_length = self.facts.longest
            self.needs = dataclasses.replace(self.needs, mask=self.facts.ragged)
            self.labels = self.facts.classes or self.facts.targets

    @property
    def facts(self) -> Facts:
        """Shapes and scale; the data are prepared to know them."""
        self.prepare()
        return self._splits["train"].facts

    def splits(self) -> Mapping[str, Split]:
        """Return ``train``, ``validation`` and ``test``, preparing them if :meth:`prepare` was not called."""
        self.prepare()
        return dict(self._splits)

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Pad rows to the longest: float32 inputs (B, L, C), the goal's targets, gaps (B, L) in units, mask (B, L).

        Where a value is missing the input is 0, and ``extra["seen"]`` (B, L, C) is False.
        """
        inputs, mask = pad(rows)
        if self.facts.ragged and mask is None:
            mask = torch.ones(inputs.shape[:2], dtype=torch.bool)
        extra = self.goal.targets(rows)
        if self.facts.missing:
            extra["seen"] = pad([{"seen": ~np.isnan(row["inputs"])} for row in rows], "seen")[0]
            inputs = inputs.where(extra["seen"], 0.0)
        if "time_points" in rows[0]:
            extra["time_points"] = pad(rows, "time_points")[0]
            extra["gaps"] = pad(
                [{"gaps": gaps(row["time_points"], self.facts.unit)} for row in rows], "gaps"
            )[0]
        return Batch(
            inputs=inputs,
            targets=extra.pop("targets"),
            dt_bl=extra["gaps"] if self.knobs.time == "true" else None,
            mask_bl=mask,
            extra=extra,
        )

    def encoder(self, d_model: int) -> nn.Module:
        """Return a linear map of the scaled values, of marks if some are missing, and of the gap if it is appended."""
        return SeriesEncoder(
            self.facts,
            d_model,
            missing=self.knobs.missing,
            append_gap=self.knobs.time == "appended",
            scaled=self.knobs.scaled,
        )

    def head(self, d_model: int) -> nn.Module:
        """Return the goal's head."""
        return self.goal.head(d_model, self.facts)

    def run(self, model: Any, batch: Batch, state: State | None = None) -> Output:
        """Run the model, with gaps in the unit that it was trained in: other data may have another median gap."""
        if "gaps" in batch.extra and isinstance(model.encoder, SeriesEncoder):
            trained = model.encoder.unit
            factor = trained.new_tensor(self.facts.unit or 1.0) / trained
            gap_bl = batch.extra["gaps"] * factor.to(batch.extra["gaps"].dtype)
            gap_bl = torch.cat(
                [batch.extra["gaps"][:, :1], gap_bl[:, 1:]], dim=1
            )  # the first is 1 by convention
            told = None if batch.dt_bl is None else gap_bl.to(batch.dt_bl.dtype)
            batch = dataclasses.replace(batch, dt_bl=told, extra={**batch.extra, "gaps": gap_bl})
        return super().run(model, batch, state)

    def loss(self, output: Output, batch: Batch) -> Loss:
        """Return the goal's loss as sum and weight."""
        return self.goal.loss(output, batch)

    def predictions(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        """Return what the goal's metrics read."""
        return self.goal.predictions(output, batch)

    def question(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a row in which everything is asked.

        Raises:
            UserError: If a value is missing, and the model has learned from data that lack none.
        """
        if not self.facts.missing and np.isnan(row["inputs"]).any():
            channel = self.facts.channels[int(np.argmax(np.isnan(row["inputs"]).any(axis=0)))]
            raise UserError(
                f"a value of {channel} is missing, and none was in what the model has learned from",
                "fill it in",
            )
        return {**row, "targets": self.goal.blank(len(row["inputs"]), self.facts)}

    def plots(self, output: Output, batch: Batch) -> Sequence[BandPlot]:
        """Return the first series' numbers over their times, if numbers are asked for at each element."""
        if not isinstance(self.goal, Values) or self.goal.per != "element":
            return ()
        value, truth = (t.detach().double().cpu() for t in (output.head.value, batch.targets))
        steps = torch.arange(truth.shape[1]).expand(truth.shape[:2])
        times = batch.extra["time_points"].cpu() if "time_points" in batch.extra else steps
        panels = []
        for i in range(min(SHOWN, len(truth))):
            for j, name in enumerate(self.facts.targets):
                asked = batch.extra["asked"][i, :, j].cpu()
                series = (times[i], truth[i, :, j], value[i, :, j])
                x, y, mean = (each[asked].tolist() for each in series)
                panels.append(BandPlot(title=f"series {i}: {name}", x=x, truth=y, mean=mean, y_label=name))
        return panels


def gaps(times: np.ndarray, unit: float | None) -> np.ndarray:
    """Return the gap before each time (L,) in units, float32; the first is 1 by convention."""
    out = np.ones(len(times), np.float32)
    out[1:] = np.diff(times) / (unit or 1.0)
    return out
