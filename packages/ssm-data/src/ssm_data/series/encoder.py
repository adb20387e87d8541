"""From series of numbers to the model's width: scaled, with what is missing filled in and marked."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from ssm_core.protocols import Batch
from ssm_data.series.facts import Facts

Missing: TypeAlias = Literal["mask", "forward"]


class SeriesEncoder(nn.Module):
    """A linear map of scaled values: (B, L, C) to (B, L, D).

    Mean, deviation and the unit of gaps are buffers: they are saved with the weights, so that a trained model reads
    other data on the scale that it was trained on.

    Args:
        facts: Channels and their scale. If some values are missing, each channel gets a second one: 1 where it is seen.
        d_model: Width D.
        missing: What stands where a value is missing: the mean ("mask"), or the last value seen ("forward").
        append_gap: Take the gap before each element in as one more channel.
        scaled: Subtract the mean and divide by the deviation.
    """

    mean: Tensor
    std: Tensor
    unit: Tensor

    def __init__(
        self,
        facts: Facts,
        d_model: int,
        *,
        missing: Missing = "mask",
        append_gap: bool = False,
        scaled: bool = True,
    ) -> None:
        super().__init__()
        channels = len(facts.channels)
        self.marks, self.missing, self.append_gap = facts.missing, missing, append_gap
        mean, std = (facts.mean, facts.std) if scaled else ((0.0,) * channels, (1.0,) * channels)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.register_buffer("unit", torch.tensor(1.0 if facts.unit is None else facts.unit))
        self.linear = nn.Linear(channels * (1 + facts.missing) + append_gap, d_model)

    def forward(self, batch: Batch) -> Tensor:
        """Encode a batch's inputs; what is missing is so in ``batch.extra["seen"]`` (B, L, C)."""
        x = (batch.inputs.to(self.mean.dtype) - self.mean) / self.std
        if self.marks:
            seen = batch.extra["seen"]
            x = torch.cat(
                [forward_filled(x, seen) if self.missing == "forward" else x.where(seen, 0.0), seen], -1
            )
        if self.append_gap:
            x = torch.cat([x, batch.extra["gaps"].to(x.dtype)[..., None]], dim=-1)
        return self.linear(x.to(self.linear.weight.dtype))


def forward_filled(x_blc: Tensor, seen_blc: Tensor) -> Tensor:
    """Return (B, L, C) with the last seen value of the channel where none is seen, and 0 before the first."""
    place = torch.arange(x_blc.shape[1], device=x_blc.device)[:, None].expand_as(x_blc)
    last = place.where(seen_blc, -1).cummax(dim=1).values
    return x_blc.gather(1, last.clamp(min=0)).where(last >= 0, 0.0)
