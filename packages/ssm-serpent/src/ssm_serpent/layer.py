"""SeRpEnt as a mixer round others: branches of the sequence and of its compressed copies, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ssm_core.in_place import next_gap
from ssm_core.protocols import Side, State
from ssm_core.ragged import over_valid, valid
from ssm_core.rows import Front, apart
from ssm_core.trees import leaves
from ssm_serpent.branch import Base
from ssm_serpent.compressed import Compressed
from ssm_serpent.index import Index
from ssm_serpent.intervals import Intervals
from ssm_serpent.join import join
from ssm_serpent.side import side_of
from ssm_serpent.spec import SerpentConfig
from ssm_serpent.trees import fitted


class Trace(NamedTuple):
    """What a compressed branch makes of a batch.

    Attributes:
        branch: Its number among all branches, from 0; the base, where there is one, is 0.
        compression: kappa.
        spans: Intervals and running times of the tokens.
        index: Events, windows and the point that each token reads.
    """

    branch: int
    compression: float
    spans: Intervals
    index: Index


class SeRpEnt(nn.Module):
    """y = concat_i(branch_i(x)), the branches' part of eq. (15b); skip connection and norm are the block's.

    Its state is ``{"branches": (...)}``, one for each branch, the base first.

    Args:
        branches: The base, if there is to be one, and the compressed ones.
        config: Compression and what else was asked for.
        d_model: Width H.
        slices: Each branch sees its own H / n channels; otherwise all.
    """

    def __init__(
        self, branches: Sequence[Base | Compressed], config: SerpentConfig, d_model: int, *, slices: bool
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.config = config
        self.d_model = d_model
        self.slices = slices
        self.causal = all(branch.remembers for branch in branches)
        self.streaming = self.causal and all(branch.inner.streaming for branch in branches)
        self.takes_dt = _takes_dt(branches)
        if not self.causal and all(branch.inner.causal for branch in branches):
            self.way_out = "--set addons.serpent.mode=causal: points of mode nearest look ahead"
        # What starts without a place for anything has to grow, as the keys and values of attention do.
        inner = [branch.inner.init_state(1, device="meta") for branch in branches] if self.causal else []
        self._grows = any(leaf.numel() == 0 for state in inner for leaf in leaves(state))

    def each(self) -> list[Base | Compressed]:
        """Return the branches, typed as what they are."""
        return cast("list[Base | Compressed]", list(self.branches))

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return the branches' initial states; nothing if one of them looks ahead."""
        if not self.causal:
            return ()
        like = {"device": device, "dtype": dtype}
        return {"branches": tuple(branch.init_state(batch_size, **like) for branch in self.each())}

    def forward(
        self,
        x_bld: Tensor,
        *,
        dt_bl: Tensor | None = None,
        mask_bl: Tensor | None = None,
        reset_bl: Tensor | None = None,
        side: Side | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State]:
        """Run all branches on a sequence; see :class:`ssm_core.protocols.Mixer`.

        Args:
            x_bld: Input (B, L, H).
            dt_bl: Gap before each element (B, L). The base is given it as it is, a compressed branch the time from
                point to point. Learned intervals have no unit and do not depend on it.
            mask_bl: True where valid (B, L): points are made as if masked elements were not there.
            reset_bl: True where a new sequence begins (B, L), and with it a new grid.
            side: Tensors sampled together with x. A branch is given its own part of what is as wide as its mixer asks
                for n times over, all of what is as wide as it asks for; a compressed one at the points' tokens.
            state: State to go on from.
        """
        self._refuse(dt_bl, state)

        def fresh(rows: int) -> State:
            start = self.init_state(rows, device=x_bld.device, dtype=x_bld.dtype)
            return fitted(start, state, rows) if state and self._grows else start

        return over_valid(
            self._run,
            x_bld,
            dt_bl=dt_bl,
            mask_bl=mask_bl,
            reset_bl=reset_bl,
            state=state or None,
            init_state=fresh if self.causal else None,
            takes_dt=self.takes_dt,
            state_grows=self._grows,
            beside=side,
        )

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element (B, H): a compressed branch works only where a point is finished."""
        if not self.streaming:
            way_out = getattr(
                self, "way_out", "build the model with causal=True, and of layers that can step"
            )
            raise ValueError(f"serpent cannot step here: {way_out}")
        self._refuse(dt_b, None)
        dt_b = next_gap(dt_b, state.get("gap"))
        out, after = [], []
        parts = zip(self.each(), self._parts(x_bd), state["branches"], strict=True)
        for number, (branch, x, before) in enumerate(parts):
            beside = side_of(side, number, len(self.branches), branch.inner, self.d_model)
            dt = dt_b if branch.uses_gaps else None
            y, new = branch.step(x, dt_b=dt, side=beside, state=before)
            out.append(y)
            after.append(new)
        return torch.cat(out, -1).to(x_bd.dtype), {"branches": tuple(after)}

    def trace(self, x_bld: Tensor, mask_bl: Tensor | None = None) -> list[Trace]:
        """Say what the compressed branches make of a batch, without running their mixers.

        Args:
            x_bld: Input (B, L, H), as :meth:`forward` gets it.
            mask_bl: True where valid (B, L). Tokens are then counted without the masked ones, and these are padding at
                the end of each row.

        Returns:
            One record for each compressed branch, in their order.
        """
        if mask_bl is not None:
            rows = Front(mask_bl)
            x_bld, mask_bl = rows.pack(x_bld), valid(x_bld, rows.lengths)
        found = []
        for number, (branch, x) in enumerate(zip(self.each(), self._parts(x_bld), strict=True)):
            if isinstance(branch, Compressed):
                spans = branch.resampler.interval_map(x, mask_bl)
                kappa = self.config.compression[len(found)]
                found.append(Trace(number, kappa, spans, branch.resampler.index(spans)))
        return found

    def observe(
        self,
        x_bld: Tensor,
        *,
        mask_bl: Tensor | None = None,
        reset_bl: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, float]:
        """Return the compression reached on an input, points for each token, of each compressed branch by its number;
        see :class:`ssm_core.protocols.Observed`. A reset begins a new grid, as in :meth:`forward`.
        """
        mask = torch.ones_like(x_bld[..., 0], dtype=torch.bool) if mask_bl is None else mask_bl
        pieces = [(x_bld, mask)]
        if reset_bl is not None and x_bld.shape[1]:
            packed = [(group.pack(x_bld), group) for group in apart(mask, reset_bl, one_group=False)]
            pieces = [(x, valid(x, group.lengths)) for x, group in packed]
        tokens, points = Counter[int](), Counter[int]()
        for x, seen in pieces:
            for trace in self.trace(x, seen):
                tokens[trace.branch] += int(trace.spans.length_b.sum())
                points[trace.branch] += int(trace.index.count_b.sum())
        return {f"compression.{branch}": points[branch] / max(tokens[branch], 1) for branch in tokens}

    def _run(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **side: Tensor,
    ) -> tuple[Tensor, State]:
        holds: Sequence[State | None] = [None] * len(self.branches)
        if self.causal:
            start = state or self.init_state(len(x_bld), device=x_bld.device, dtype=x_bld.dtype)
            holds = start["branches"]
        out, after = [], []
        parts = zip(self.each(), self._parts(x_bld), holds, strict=True)
        for number, (branch, x, before) in enumerate(parts):
            beside = side_of(side, number, len(self.branches), branch.inner, self.d_model)
            gaps = gaps_bl if branch.uses_gaps else None
            y, new = branch(x, gaps_bl=gaps, lengths_b=lengths_b, side=beside, state=before)
            out.append(y)
            after.append(new)
        return join(out).to(x_bld.dtype), ({"branches": tuple(after)} if self.causal else ())

    def _parts(self, x: Tensor) -> Sequence[Tensor]:
        """Return what each branch sees of (..., H)."""
        n = len(self.branches)
        return x.chunk(n, -1) if self.slices else [x] * n

    def _refuse(self, dt: Tensor | None, state: State | None) -> None:
        if state and not self.causal:
            raise ValueError(
                f"serpent that looks ahead carries no state: {getattr(self, 'way_out', 'build the model causal')}"
            )
        if dt is not None and not self.takes_dt:
            raise ValueError(
                "serpent is given gaps (dt) that a mixer in it takes none of: --set task.time=ignored or appended; "
                "without a base branch, a mixer that takes them needs addons.serpent.times=elapsed"
            )


def _takes_dt(branches: Sequence[Base | Compressed]) -> bool:
    """Whether gaps reach some mixer, and all that they reach honour them."""
    reached = [branch.inner.takes_dt for branch in branches if isinstance(branch, Base) or branch.uses_gaps]
    return bool(reached) and all(reached)
