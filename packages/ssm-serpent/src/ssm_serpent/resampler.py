"""From tokens to points: intervals, index maps, encoding, and the time from point to point."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ssm_core.ragged import valid
from ssm_serpent.at_points import elapsed, nearest_tokens
from ssm_serpent.encoder import Encoder
from ssm_serpent.index import Index, Mode, max_points, resample_index
from ssm_serpent.interval_map import IntervalMap
from ssm_serpent.intervals import TICKS, Intervals
from ssm_serpent.memory import Memory

Told = Literal["elapsed", "ones", "nothing"]
"""What a branch's mixer is told of the time between points: nothing is equal steps, and so are ones, which say besides
that no time passes behind a row's last point."""


class Points(NamedTuple):
    """The points of a chunk of tokens.

    Attributes:
        index: Index maps. In mode "causal" windows and events count tokens from the oldest one remembered.
        token_bk: (B, K) int64, the token of the chunk that a point stands for.
        gaps_bk: (B, K), the time since the point before as the mixer is told it, or None.
        x_bnd: (B, N, D), the tokens that windows count: those remembered, if any, and the chunk's.
    """

    index: Index
    token_bk: Tensor
    gaps_bk: Tensor | None
    x_bnd: Tensor


class Resampler(nn.Module):
    """Eqs. (11) to (13).

    Args:
        interval_map: From tokens of width D to intervals.
        encoder: From windows of them to points of width m.
        mode: "causal" or "nearest".
        told: What the mixer is told of the time between points.
        grad: Which tokens' intervals a distance has a gradient to.
    """

    def __init__(
        self,
        interval_map: IntervalMap,
        encoder: Encoder,
        *,
        mode: Mode,
        told: Told,
        grad: Literal["full", "local"],
    ) -> None:
        super().__init__()
        self.interval_map = interval_map
        self.encoder = encoder
        self.mode: Mode = mode
        self.told: Told = told
        self.grad: Literal["full", "local"] = grad

    @property
    def window(self) -> int:
        """W."""
        return self.encoder.weight.shape[1]

    def start(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """Return what is remembered before the first token: the fields of `Memory`, and ``since`` (B,) if told."""
        weight, window = self.encoder.weight, self.window
        device = device or weight.device
        wide = torch.promote_types(torch.promote_types(dtype or weight.dtype, weight.dtype), torch.float32)
        memory = {
            "x_bwd": torch.zeros(batch, window - 1, len(self.interval_map.weight), device=device, dtype=wide),
            "ticks_bw": torch.zeros(batch, window, device=device, dtype=torch.int64),
            "u_bw": torch.zeros(batch, window, device=device, dtype=wide),
        }
        if self.told != "elapsed":
            return memory
        return memory | {"since": torch.zeros(batch, device=device, dtype=wide)}

    def forward(
        self,
        x_bld: Tensor,
        gaps_bl: Tensor | None = None,
        lengths_b: Tensor | None = None,
        before: dict[str, Any] | None = None,
    ) -> tuple[Points, Tensor, dict[str, Tensor]]:
        """Find and encode the points of tokens (B, L, D), L > 0; see :meth:`find`.

        Returns:
            Where the points are, the points (B, K, m), and what is to be remembered.
        """
        points, after = self.find(x_bld, gaps_bl, lengths_b, before)
        return points, self.encode(points), after

    def encode(self, points: Points) -> Tensor:
        """Make the points (B, K, m) that were found."""
        return self.encoder(points.x_bnd, points.index)

    def find(
        self,
        x_bld: Tensor,
        gaps_bl: Tensor | None = None,
        lengths_b: Tensor | None = None,
        before: dict[str, Any] | None = None,
    ) -> tuple[Points, dict[str, Tensor]]:
        """Find the points of tokens (B, L, D), L > 0, without making them.

        Args:
            x_bld: The tokens.
            gaps_bl: Gap before each (B, L), zero behind a row's end; None is 1.
            lengths_b: Number of tokens that count (B,), or None if all do.
            before: What is remembered, as :meth:`start` gives it; None is that. For mode "causal".

        Returns:
            Where the points are, at least one row of them, and what is to be remembered.
        """
        mask = None if lengths_b is None else valid(x_bld, lengths_b)
        spans = self.interval_map(x_bld, mask)
        before = before or self.start(len(x_bld), device=x_bld.device, dtype=x_bld.dtype)
        if self.mode == "causal":
            memory = Memory(before["x_bwd"], before["ticks_bw"], before["u_bw"])
            index = self._continued(spans, memory)
            x, token = memory.before(x_bld), (index.event_bk - (self.window - 1)).clamp(min=0)
            after = memory.after(x_bld, spans, index.count_b, lengths_b)._asdict()
        else:
            index = self.index(spans)
            x, token, after = x_bld, nearest_tokens(index), {}
        gaps_bk = None
        if self.told == "elapsed":
            gaps = gaps_bl
            if gaps is None:
                gaps = (torch.ones_like(x_bld[..., 0], dtype=torch.bool) if mask is None else mask).to(
                    spans.u_bl
                )
            gaps_bk, after["since"] = elapsed(gaps, token, index, before["since"])
        elif self.told == "ones":
            gaps_bk = index.valid_bk.to(spans.u_bl)
        return Points(index, token, gaps_bk, x), after

    def index(self, spans: Intervals) -> Index:
        """Return the index maps of whole sequences, with one row of points at least."""
        size = None
        if torch.compiler.is_compiling():
            size = max(1, max_points(spans.ticks_bl.shape[1], self.interval_map.hi, self.mode))
        index = resample_index(spans, self.window, self.mode, max_points=size, grad=self.grad)
        if index.start_bk.shape[1]:
            return index
        return resample_index(spans, self.window, self.mode, max_points=1, grad=self.grad)

    def _continued(self, spans: Intervals, memory: Memory) -> Index:
        """Return the index maps of a chunk, windows reaching into what is remembered; one row of points at least."""
        length, phase_b = spans.ticks_bl.shape[1], memory.phase_b
        # One token finishes one point at most: nothing to count, so a step on a GPU waits for nothing.
        if torch.compiler.is_compiling() or length == 1:
            size = max_points(length, self.interval_map.hi, "causal", phase=True)
        else:
            count_b = (phase_b + spans.ticks_bl.sum(1)) // TICKS
            size = int(count_b.max()) if len(count_b) else 0
        index = resample_index(
            memory.before_spans(spans),
            self.window,
            "causal",
            max_points=max(size, 1),
            phase_b=phase_b,
            history=self.window - 1,
            grad=self.grad,
        )
        return memory.reach_back(index) if self.grad == "full" else index
