"""Builds SeRpEnt round a mixer: how wide its branches are, what they see, and what they are told of time."""

from __future__ import annotations

from torch import nn

from ssm_core.protocols import LayerInfo, Make, Mixer, Wrap
from ssm_serpent.branch import Base
from ssm_serpent.compressed import Compressed
from ssm_serpent.encoder import Encoder
from ssm_serpent.index import Mode
from ssm_serpent.interval_map import IntervalMap
from ssm_serpent.layer import SeRpEnt
from ssm_serpent.resampler import Resampler, Told
from ssm_serpent.spec import SerpentConfig


def build(config: SerpentConfig) -> Wrap:
    """Return the wrapper that puts SeRpEnt round one mixer."""

    def wrap(make: Make, width: int, layer: LayerInfo) -> Mixer:
        """Build n branches; ``make`` is called once for each.

        Raises:
            ValueError: If the width does not divide into branches.
        """
        h, m = _widths(config, width)
        slices = config.split == "slice" or (config.split == "auto" and width != layer.d_model)
        seen = h if slices else width
        branches: list[Base | Compressed] = []
        if config.base:
            into = None if slices and m == h else nn.Linear(seen, m)
            branches.append(Base(make(m), into, _back(m, h)))
        for number in range(len(config.compression)):
            inner = make(m)
            resampler = _resampler(config, number, seen, inner, causal=_mode(config, layer) == "causal")
            branches.append(Compressed(resampler, inner, _back(m, h)))
        return SeRpEnt(branches, config, width, slices=slices)

    return wrap


def _widths(config: SerpentConfig, width: int) -> tuple[int, int]:
    """Return the width h of a branch and m of its mixer."""
    n, h = config.branches, width // config.branches
    if width % n:
        raise ValueError(
            f"serpent: the width {width} does not divide into {n} branches "
            f"({'the base and ' if config.base else ''}{len(config.compression)} compressed): choose model.d_model (or "
            f"the backbone's expand) so that it is a multiple of {n}, or another number of values for "
            "addons.serpent.compression"
        )
    m = config.expand * h
    if m != int(m):
        raise ValueError(
            f"serpent: expand {config.expand:g} times the branch width {h} is {m:g}, not a whole number: --set "
            "addons.serpent.expand"
        )
    return h, int(m)


def _mode(config: SerpentConfig, layer: LayerInfo) -> Mode:
    if config.mode != "auto":
        return config.mode
    return "causal" if layer.causal else "nearest"


def _back(m: int, h: int) -> nn.Linear | None:
    return None if m == h else nn.Linear(m, h)


def _resampler(config: SerpentConfig, number: int, seen: int, inner: Mixer, *, causal: bool) -> Resampler:
    # Of fixed intervals a range of one value: the map's weights stay, without effect, and so does their number.
    lo, hi = config.branch_range(number)
    start = config.start[number] if config.start else None
    told: Told = "nothing"
    if inner.takes_dt and (causal or config.times == "elapsed"):
        told = "elapsed" if config.times == "elapsed" else "ones"
    # Windows span W units of time at most: all before the point, but for its own token, or to both sides of it.
    window = config.window
    lowest, highest = (1 - window, 1) if causal else (-window / 2, window / 2)
    encoder = Encoder(
        seen,
        inner.d_model,
        window,
        config.basis,
        lowest=lowest,
        highest=highest,
        train_width=config.train_width,
    )
    interval_map = IntervalMap(seen, lo, hi, start)
    return Resampler(
        interval_map, encoder, mode="causal" if causal else "nearest", told=told, grad=config.grad
    )
