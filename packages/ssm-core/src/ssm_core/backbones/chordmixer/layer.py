"""The ChordMixer layer: x <- x + Rotate(MLP(norm(x))).

T = ceil(log2 L_max) + 1 tracks share the D channels. Track 0 stays; track i takes its values from 2^(i-1) elements
later, circularly within each row's own length.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.backbones.chordmixer.spec import ChordMixerConfig
from ssm_core.block import Dropout, ResidualBlock
from ssm_core.compose import whole
from ssm_core.norms import make_norm, normalise
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import Block, LayerInfo, Side, SlotFn, State
from ssm_core.ragged import over_valid


class ChordMixer(nn.Module):
    """Two linear maps with a GELU between on each element, then the rotation of the tracks.

    Args:
        d_model: Width D, shared out to the tracks evenly; if it does not divide, the first ones get a channel more.
        tracks: Number of tracks T.
        hidden: Width between the two maps.
        dropout: Rate after the GELU.
        tie_dropout: Share the dropout mask over time.
    """

    causal = False
    streaming = False
    takes_dt = False

    def __init__(
        self, d_model: int, tracks: int, hidden: int, *, dropout: float = 0.0, tie_dropout: bool = False
    ) -> None:
        super().__init__()
        if d_model < tracks:
            raise ConfigError(
                f"chordmixer needs at least one channel for each of its {tracks} tracks, but its width is {d_model}",
                "--set model.d_model higher (published: a multiple of the tracks), or backbone.max_length lower",
            )
        self.d_model = d_model
        self.tracks = tracks
        self.up = nn.Linear(d_model, hidden)
        self.down = nn.Linear(hidden, d_model)
        self.dropout = Dropout(dropout, tie_dropout)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw matrices by Xavier's uniform rule; biases start at zero."""
        for part in (self.up, self.down):
            if not part.weight.is_meta:
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return nothing: what looks ahead carries no state."""
        return ()

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
        """Mix a sequence (B, L, D); see :class:`ssm_core.protocols.Mixer`.

        Raises:
            ValueError: For gaps, side inputs or a state.
        """
        if dt_bl is not None:
            raise ValueError("chordmixer takes no gaps (dt_bl): --set task.time=ignored or appended")
        if side:
            raise ValueError(f"chordmixer uses no side inputs, but got {sorted(side)}")
        if state:
            raise ValueError("chordmixer looks ahead and carries no state: take another backbone to stream")
        return over_valid(self._rows, x_bld, mask_bl=mask_bl, reset_bl=reset_bl)

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Refuse: what looks ahead cannot step."""
        raise ValueError("chordmixer looks ahead and cannot step: take another backbone to stream")

    def _rows(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **beside: Tensor,
    ) -> tuple[Tensor, State]:
        """Mix rows whose valid elements come first; see :class:`ssm_core.ragged.Core`."""
        y_bld = self.down(self.dropout(F.gelu(self.up(x_bld))))
        return rotate(y_bld, self.tracks, lengths_b), ()


def rotate(x_bld: Tensor, tracks: int, lengths_b: Tensor | None) -> Tensor:
    """Move track i = 1, 2, ... of each row to 2^(i-1) elements earlier, circularly; track 0 stays.

    Args:
        x_bld: Rows (B, L, D).
        tracks: Number of tracks.
        lengths_b: Number of elements of each row that count (B,), the first ones; None if all do.

    Returns:
        (B, L, D), with anything behind a row's end.
    """
    first, *rest = x_bld.tensor_split(tracks, -1)
    if lengths_b is None:
        return torch.cat([first, *(part.roll(-(2**i), 1) for i, part in enumerate(rest))], -1)
    time = torch.arange(x_bld.shape[1], device=x_bld.device)
    size = lengths_b.clamp(min=1)[:, None]
    moved = [first]
    for i, part in enumerate(rest):
        index = (time + 2**i) % size
        moved.append(part.gather(1, index[..., None].expand_as(part)))
    return torch.cat(moved, -1)


class NormAfter(nn.Module):
    """A norm that closes a block.

    Args:
        kind: Kind of norm, as in :func:`ssm_core.norms.make_norm`.
        d_model: Width.
    """

    def __init__(self, kind: str, d_model: int) -> None:
        super().__init__()
        self.norm = make_norm(kind, d_model)

    def forward(self, x: Tensor, mask_bl: Tensor | None = None) -> Tensor:
        """Normalise (B, L, D) or (B, D)."""
        return normalise(self.norm, x, mask_bl)


def number_of_tracks(max_length: int) -> int:
    """Return ceil(log2 max_length) + 1."""
    return (max_length - 1).bit_length() + 1


def build(config: ChordMixerConfig, layer: LayerInfo, slot: SlotFn) -> Block:
    """Build one block; its two slots coincide."""
    if layer.causal:
        raise ConfigError("chordmixer has no causal form", "--set model.causal=false")
    longest = config.max_length or layer.max_length
    if longest is None:
        raise ConfigError(
            "chordmixer needs the longest length to number its tracks, and it is not known",
            "--set backbone.max_length=..., or build the model with max_length=...",
        )

    if layer.index == 0 and 1 < layer.n_layers < number_of_tracks(longest) - 1:
        warnings.warn(
            f"chordmixer: {layer.n_layers} layers bring together {2**layer.n_layers} elements at most, of {longest}; "
            f"--set model.n_layers={number_of_tracks(longest) - 1} reaches all",
            stacklevel=2,
        )

    def make(width: int) -> ChordMixer:
        return ChordMixer(
            width,
            number_of_tracks(longest),
            config.hidden or width,
            dropout=layer.dropout,
            tie_dropout=layer.tie_dropout,
        )

    after = None if config.norm_after == "none" else NormAfter(config.norm_after, layer.d_model)
    return ResidualBlock(whole(make, slot, layer.d_model), layer, "none", then=after)
