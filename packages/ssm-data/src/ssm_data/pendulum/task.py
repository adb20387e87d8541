"""The pendulum task: data, modules round the backbone, loss, metrics and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssm_core.protocols import BandPlot, Batch, Loss, Needs, Output, Progress, Split, Task
from ssm_data.pendulum.dataset import PendulumSplit, load_splits
from ssm_data.pendulum.encoder import ComponentsEncoder, FrameEncoder, gaps
from ssm_data.pendulum.head import FLOOR, GaussianHead, gaussian_nll
from ssm_data.pendulum.spec import PendulumConfig

SHOWN = 3
"""Sequences in the picture of predictions."""


def build(config: PendulumConfig) -> PendulumTask:
    """Build the task; no data is touched before it is asked for."""
    return PendulumTask(config)


class PendulumTask(Task):
    """Regress (sin, cos) of a pendulum's angle, with its uncertainty, at every seen frame.

    Args:
        config: Knobs.
    """

    metrics = ("mse", "nll")
    primary = ("mse", "min")
    labels = ("sin", "cos")

    def __init__(self, config: PendulumConfig) -> None:
        self.config = config
        self.needs = Needs(dt=config.time == "true")
        self.max_length = config.n_frames
        self._splits: dict[str, PendulumSplit] = {}

    def prepare(self, progress: Progress | None = None) -> None:
        """Make the data if it is not cached yet (seconds); safe from several processes at once.

        Raises:
            UserError: If the cache cannot be written.
        """
        self._splits = self._splits or load_splits(self.config, progress)

    def splits(self) -> Mapping[str, Split]:
        """Return ``train``, ``validation`` and ``test``, making them if :meth:`prepare` was not called."""
        self.prepare()
        return dict(self._splits)

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack rows: inputs, uint8 (B, L, 24, 24) or float32 (B, L, 48); targets, float32 (B, L, 2); gaps (B, L).

        Gaps only if time is "true".
        """
        time_points = torch.from_numpy(np.stack([row["time_points"] for row in rows]))
        return Batch(
            inputs=torch.from_numpy(np.stack([row["inputs"] for row in rows])),
            targets=torch.from_numpy(np.stack([row["targets"] for row in rows]).astype(np.float32)),
            dt_bl=gaps(time_points) if self.config.time == "true" else None,
            extra={"time_points": time_points},
        )

    def encoder(self, d_model: int) -> nn.Module:
        """Return the encoder of images or components; it takes the gaps in as a feature if time is "appended"."""
        kind = FrameEncoder if self.config.frames == "images" else ComponentsEncoder
        return kind(d_model, append_gap=self.config.time == "appended")

    def head(self, d_model: int) -> nn.Module:
        """Return the Gaussian head."""
        return GaussianHead(d_model)

    def loss(self, output: Output, batch: Batch) -> Loss:
        """Return the Gaussian negative log likelihood, summed over the valid elements, and their number."""
        nll_bl = gaussian_nll(output.head, batch.targets)
        if batch.mask_bl is None:
            return Loss(nll_bl.sum(), nll_bl.new_tensor(nll_bl.numel()))
        # `where`, not a product: NaN at a masked place must not come through.
        valid = torch.where(batch.mask_bl, nll_bl, 0.0)
        return Loss(valid.sum(), batch.mask_bl.sum().to(nll_bl.dtype))

    def predictions(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        """Return ``prediction``, ``target`` and ``variance``, each (N, 2) over the valid elements."""
        mean, variance = output.head
        valid = (
            batch.mask_bl if batch.mask_bl is not None else torch.ones_like(mean[..., 0], dtype=torch.bool)
        )
        return {
            "prediction": mean[valid],
            "target": batch.targets[valid],
            "variance": variance[valid].clamp_min(FLOOR),
        }

    def plots(self, output: Output, batch: Batch) -> Sequence[BandPlot]:
        """Return sine and cosine of the first sequences, with one standard deviation, over their time points."""
        values = [t.detach().double().cpu().numpy() for t in (batch.targets, *output.head)]
        times = batch.extra["time_points"].cpu().numpy()
        panels = []
        for i in range(min(SHOWN, len(times))):
            valid = slice(None) if batch.mask_bl is None else batch.mask_bl[i].cpu().numpy()
            for j, name in enumerate(("sin", "cos")):
                truth, mean, variance = (value[i, valid, j] for value in values)
                panels.append(
                    BandPlot(
                        title=f"sequence {i}: {name} of the angle",
                        x=times[i, valid].tolist(),
                        truth=truth.tolist(),
                        mean=mean.tolist(),
                        std=np.sqrt(variance).tolist(),
                        x_label="time (frames)",
                        y_label=f"{name} θ",
                    )
                )
        return panels
