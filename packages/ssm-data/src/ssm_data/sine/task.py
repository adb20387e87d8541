"""The sine task: data, modules round the backbone, loss, metric and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.protocols import BandPlot, Batch, Loss, Needs, Output, Progress, Split, Task
from ssm_data.sine.data import SineSplit, drawn
from ssm_data.sine.spec import SineConfig

SHOWN = 4
"""Sequences in the picture of predictions."""


def build(config: SineConfig) -> SineTask:
    """Build the task; no data is made before it is asked for."""
    return SineTask(config)


class SineTask(Task):
    """Foretell a signal from its noisy past.

    Args:
        config: Knobs.
    """

    metrics = ("mse",)
    primary = ("mse", "min")

    def __init__(self, config: SineConfig) -> None:
        self.config = config
        self.needs = Needs(dt=config.time == "true", causal=True)
        self.max_length = config.length  # the same on every grid: some models are built by it
        self._splits: dict[str, SineSplit] = {}

    def prepare(self, progress: Progress | None = None) -> None:
        """Make the data if it is not cached yet (seconds); safe from several processes at once.

        Raises:
            UserError: If the cache cannot be written.
        """
        if not self._splits:
            parts = drawn(self.config).parts(self.config.cache, progress)
            self._splits = {name: SineSplit(part) for name, part in parts.items()}

    def splits(self) -> Mapping[str, Split]:
        """Return ``train``, ``validation`` and ``test``, making them if :meth:`prepare` was not called."""
        self.prepare()
        return dict(self._splits)

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack rows: float32 inputs and targets (B, L, 1), and gaps (B, L) in nominal steps if time is "true"."""
        inputs, targets, times = (
            torch.from_numpy(np.stack([row[name] for row in rows]))
            for name in ("inputs", "targets", "time_points")
        )
        gap_bl = gaps(times, self.config.step)
        return Batch(
            inputs=inputs,
            targets=targets,
            dt_bl=gap_bl if self.config.time == "true" else None,
            extra={"time_points": times, "gaps": gap_bl},
        )

    def encoder(self, d_model: int) -> nn.Module:
        """Return a linear map; it takes the gaps in as a second channel if time is "appended"."""
        return SineEncoder(d_model, append_gap=self.config.time == "appended")

    def head(self, d_model: int) -> nn.Module:
        """Return a linear map to one value."""
        return SineHead(d_model)

    def loss(self, output: Output, batch: Batch) -> Loss:
        """Return the squared error summed over all elements, and their number."""
        kind = torch.promote_types(output.head.dtype, torch.float32)
        total = F.mse_loss(output.head.to(kind), batch.targets.to(kind), reduction="sum")
        return Loss(total, total.new_tensor(float(batch.targets.numel())))

    def predictions(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        """Return ``prediction`` and ``target``, each (N, 1) over all elements."""
        return {"prediction": output.head.flatten(0, 1), "target": batch.targets.flatten(0, 1)}

    def plots(self, output: Output, batch: Batch) -> Sequence[BandPlot]:
        """Return the first sequences over their time points."""
        times = batch.extra["time_points"].cpu()
        truth, mean = (t.detach().double().cpu()[..., 0] for t in (batch.targets, output.head))
        ahead = self.config.horizon * self.config.step
        return [
            BandPlot(
                title=f"sequence {i}, {self.config.grid} grid",
                x=(times[i] + ahead).tolist(),
                truth=truth[i].tolist(),
                mean=mean[i].tolist(),
                x_label="time (s)",
                y_label="u",
            )
            for i in range(min(SHOWN, len(times)))
        ]


class SineEncoder(nn.Module):
    """A linear map of the value, and of the gap if asked: (B, L, 1) to (B, L, D).

    Args:
        d_model: Width D.
        append_gap: Take the gap before each point in as a second channel.
    """

    def __init__(self, d_model: int, append_gap: bool = False) -> None:
        super().__init__()
        self.append_gap = append_gap
        self.linear = nn.Linear(1 + append_gap, d_model)

    def forward(self, batch: Batch) -> Tensor:
        """Encode a batch's inputs."""
        x = batch.inputs.to(self.linear.weight.dtype)
        if self.append_gap:
            x = torch.cat([x, batch.extra["gaps"].to(x.dtype)[..., None]], dim=-1)
        return self.linear(x)


class SineHead(nn.Module):
    """A linear map to one value an element: (B, L, D) to (B, L, 1).

    Args:
        d_model: Width D.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model, 1)

    def forward(self, y_bld: Tensor, batch: Batch) -> Tensor:
        """Return values (B, L, 1)."""
        return self.linear(y_bld)


def gaps(time_points_bl: Tensor, step: float) -> Tensor:
    """Return the gap before each time point (B, L) in nominal steps, float32; the first is 1 by convention."""
    gap_bl = torch.diff(time_points_bl, dim=1, prepend=time_points_bl[:, :1] - step) / step
    return gap_bl.to(torch.float32)
