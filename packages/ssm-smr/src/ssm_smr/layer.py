"""SMR as a mixer round another: the gate, its memory, then the inner recurrence on the gated input."""

from __future__ import annotations

import inspect
import warnings

import torch
from torch import Tensor, nn

from ssm_core.gaps import check_shapes
from ssm_core.opkit.checks import compute_dtype
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import LayerInfo, Make, Mixer, Side, State, Wrap
from ssm_core.ragged import with_open_gap
from ssm_smr.gate import Gate
from ssm_smr.ops import smr_gate
from ssm_smr.sequences import Sequences
from ssm_smr.spec import SMRConfig

DENSE_WARNING_WIDTH = 256
"""Widest layer for which dense mode keeps quiet: beyond it, the gate outweighs most recurrences."""

GAP_FLOOR = 1e-3
"""Gaps below this, 0 among them, count as this where the gate takes their logarithm."""


class SMR(Gate):
    """State Memory Replay round an inner mixer.

    Its state is ``{"memory": (B, tau-1, H), "inner": ...}``, the memory holding raw inputs u, not gated ones. A gate
    that sees gaps also remembers their logarithms, ``"log_gaps"`` (B, tau-1), and after a call with a mask the time
    since each row's last valid element, ``"gap"`` (B,).

    Args:
        inner: What receives the gated input.
        config: Memory length, mode, start.
        layer: Where it stands; None for a place that nothing is known about.

    Raises:
        ConfigError: If the inner mixer takes no gaps, or no input of its own for the reverse direction, and the config
            needs it.
    """

    def __init__(self, inner: Mixer, config: SMRConfig, layer: LayerInfo | None = None) -> None:
        _check(inner, config, layer)
        super().__init__(inner.d_model, config)
        self.inner = inner
        mirrored = config.reverse == "mirrored" and not inner.causal
        self.reverse = Gate(inner.d_model, config) if mirrored else None
        if config.mode == "dense" and self.d_model > DENSE_WARNING_WIDTH:
            warnings.warn(_too_wide(self), stacklevel=2)

    @property
    def d_model(self) -> int:
        """Width H."""
        return self.inner.d_model

    @property
    def causal(self) -> bool:
        """The gate looks back only, and a second one ahead only with the inner mixer, which so decides."""
        return self.inner.causal

    @property
    def streaming(self) -> bool:
        """The gate can always step, so the inner mixer decides."""
        return self.inner.streaming

    @property
    def takes_dt(self) -> bool:
        """Gaps go on to the inner mixer, whether the gate sees them or not."""
        return self.inner.takes_dt

    @property
    def wants_dt(self) -> str:
        """What to do where no gaps are given, if the gate reads them."""
        return "--set task.time=true to give them, or addons.smr.gap=false" if self.config.gap else ""

    @property
    def side_widths(self) -> dict[str, int]:
        """Widths of what the inner mixer needs beside x, by name; the gate passes it on."""
        return dict(getattr(self.inner, "side_widths", {}))

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return an empty memory and the inner state; nothing if the inner mixer carries no state."""
        inner = self.inner.init_state(batch_size, device=device, dtype=dtype)
        if not self.causal:
            return ()
        shape, own = (batch_size, 0, self.d_model), self.weight
        like = torch.empty(shape, device=device or own.device, dtype=dtype or own.dtype)
        return {**self.empty(like), "inner": inner}

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
        """Gate a sequence (B, L, H) and run the inner mixer on it; see :class:`ssm_core.protocols.Mixer`."""
        if not self.causal and state:
            raise ValueError(
                "smr round a bidirectional mixer carries no state: build the model with causal=True"
            )
        check_shapes(x_bld, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl)
        own, given = dict(state or {}), {"dt_bl": dt_bl, "mask_bl": mask_bl, "reset_bl": reset_bl}
        inner = own.pop("inner", None)
        gated, own = self._gate(x_bld, **given, own=own)
        y_bld, inner = self.inner(gated.pop("x_bld"), **gated, **given, side=side, state=inner)
        return y_bld, ({**own, "inner": inner} if self.causal else ())

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Gate one element (B, H) and step the inner mixer: O(tau H), or O(tau H^2) if dense."""
        if not self.streaming:
            raise ValueError(
                "smr round a mixer that looks ahead cannot step: build the model with causal=True"
            )
        own, dt_bl = {n: v for n, v in state.items() if n != "inner"}, None if dt_b is None else dt_b[:, None]
        gated, own = self._gate(x_bd[:, None], dt_bl=dt_bl, mask_bl=None, reset_bl=None, own=own)
        y_bd, inner = self.inner.step(gated["x_bld"][:, 0], dt_b=dt_b, side=side, state=state["inner"])
        return y_bd, {**own, "inner": inner}

    def _gate(
        self,
        u: Tensor,
        *,
        dt_bl: Tensor | None,
        mask_bl: Tensor | None,
        reset_bl: Tensor | None,
        own: State,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the inner mixer's inputs, u' by the names of its arguments, and the gate's state after the call."""
        if mask_bl is None and reset_bl is None and self.is_plain and self.reverse is None:
            memory = own.get("memory")
            gated, memory = smr_gate(u, self.weight, self.bias, memory, gate_scale=self.config.scale)
            return {"x_bld": gated}, {"memory": memory.to(u)}
        gaps, pending = None, None
        if self.config.gap:
            own, pending, gaps = with_open_gap(u, dt_bl, mask_bl, reset_bl, own)
            gaps = u.new_ones(u.shape[:2], dtype=compute_dtype(u)) if gaps is None else gaps
        before = {name: own.get(name, value).to(value) for name, value in self.empty(u).items()}
        held = {} if pending is None or (mask_bl is None and u.shape[1]) else {"gap": pending}
        if u.shape[1] == 0:
            return {"x_bld": u} | ({} if self.reverse is None else {"x_reverse_bld": u}), before | held
        gated, after = _over_sequences(self, self.reverse, u, gaps, before, Sequences(mask_bl, reset_bl))
        return gated, after | held


def _over_sequences(
    forwards: Gate,
    backwards: Gate | None,
    u: Tensor,
    gaps_bl: Tensor | None,
    before: dict[str, Tensor],
    sequences: Sequences,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gate each sequence by itself, in reverse too if there is a gate for that; return u' and the memory at the end."""
    u, segment = sequences.pack(u), sequences.segment_bl
    gaps_bl = None if gaps_bl is None else sequences.pack(gaps_bl)
    log_gaps = None if gaps_bl is None else _log(gaps_bl)
    gated = {"x_bld": sequences.unpack(forwards.gated(u, before, log_gaps, segment))}
    after = {"memory": sequences.last(before["memory"], u)}
    if log_gaps is not None:
        after["log_gaps"] = sequences.last(before["log_gaps"][..., None], log_gaps[..., None])[..., 0]
    if backwards is not None:
        log_gaps = None if gaps_bl is None else sequences.flip(_log(sequences.gaps_after(gaps_bl)))
        segment = None if segment is None else sequences.flip(segment)
        back = backwards.gated(sequences.flip(u), backwards.empty(u), log_gaps, segment)
        gated["x_reverse_bld"] = sequences.unpack(sequences.flip(back))
    return gated, after


def _log(gaps_bl: Tensor) -> Tensor:
    return gaps_bl.clamp(min=GAP_FLOOR).log()


def _check(inner: Mixer, config: SMRConfig, layer: LayerInfo | None) -> None:
    """Refuse what this inner mixer cannot give the gate.

    Raises:
        ConfigError: Naming the knob.
    """
    what = type(inner).__name__
    if config.gap and not inner.takes_dt:
        raise ConfigError(
            f"smr: with gap = true the gate reads the gaps between elements, and {what} takes none",
            "--set addons.smr.gap=false, or a backbone and settings that take gaps",
        )
    if config.reverse == "mirrored":
        if layer is not None and layer.causal:
            raise ConfigError(
                "smr: reverse = mirrored is for models that look both ways, and this one is causal",
                "--set model.causal=false or addons.smr.reverse=shared",
            )
        if not inner.causal and "x_reverse_bld" not in inspect.signature(inner.forward).parameters:
            raise ConfigError(
                f"smr: reverse = mirrored needs a second input for the reverse direction, and {what} takes none",
                "--set addons.smr.reverse=shared",
            )


def _too_wide(smr: SMR) -> str:
    """Return what a dense gate weighs, and what a depthwise one would: their convolutions alone differ."""
    own = sum(p.numel() for name, p in smr.named_parameters() if not name.startswith("inner."))
    weights = [gate.weight for gate in (smr, smr.reverse) if gate is not None]
    saved = sum(weight.numel() - weight.numel() // smr.d_model for weight in weights)
    return (
        f"smr: a dense gate at width {smr.d_model} has {own:,} parameters a layer; "
        f"--set addons.smr.mode=depthwise has {own - saved:,}"
    )


def gates(model: nn.Module) -> list[SMR]:
    """Return the gates of a model, first layer first."""
    return [part for part in model.modules() if isinstance(part, SMR)]


def build(config: SMRConfig) -> Wrap:
    """Return the wrapper that puts SMR round one recurrence."""

    def wrap(make: Make, width: int, layer: LayerInfo) -> Mixer:
        return SMR(make(width), config, layer)

    return wrap
