"""Add-ons round slots, by composition only: no backbone knows an add-on and no add-on knows a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import LayerInfo, Make, Mixer, SlotFn, Wrap

MARK = "_addon"
"""Attribute of a module that an add-on put round another: the add-on's name."""


@dataclass(frozen=True)
class Addon:
    """An add-on that has been built and waits for its slots.

    Attributes:
        name: Its name, for messages.
        slot: The slot it wraps.
        wrap: Its builder's result.
        layers: Which blocks it applies to: ``"*"``, ``"0,2"`` or a slice such as ``"1::2"``.
    """

    name: str
    slot: str
    wrap: Wrap
    layers: str = "*"


def matching_layers(pattern: str, n_layers: int, whose: str) -> frozenset[int]:
    """Return the block indices that a pattern selects; negative ones count from the end.

    Raises:
        ConfigError: If the pattern cannot be read or selects nothing.
    """
    everything, outside = range(n_layers), ""
    try:
        if pattern.strip() == "*":
            chosen = list(everything)
        elif ":" in pattern:
            parts = [int(part) if part.strip() else None for part in pattern.split(":")]
            chosen = list(everything[slice(*parts)])
        else:
            asked = [int(part) for part in pattern.split(",")]
            chosen = [everything[index] for index in asked if -n_layers <= index < n_layers]
            outside = ", ".join(str(index) for index in asked if not -n_layers <= index < n_layers)
    except (ValueError, TypeError):
        chosen = []
    if not chosen:
        raise ConfigError(
            f"'layers = \"{pattern}\"' of {whose} selects none of the {n_layers} layers",
            'patterns: "*", "0,2", "1::2", "-1"',
        )
    if outside:
        raise ConfigError(
            f"'layers = \"{pattern}\"' of {whose} names layer {outside}, and there are {n_layers} layers",
            f"they are counted from 0 to {n_layers - 1}, or from -1 at the end",
        )
    return frozenset(chosen)


class Slots:
    """The slot function of one block: ``--addon a --addon b`` on one slot gives b(a(x)).

    Args:
        addons: All add-ons of the run, innermost first.
        layer: The block.
    """

    def __init__(self, addons: Sequence[Addon], layer: LayerInfo) -> None:
        self.layer = layer
        self.active = [a for a in addons if layer.index in matching_layers(a.layers, layer.n_layers, a.name)]
        self.offered: set[str] = set()

    def __call__(self, name: str, make: Make, width: int) -> Mixer:
        """Return what stands in a slot: the backbone's own part with the add-ons round it."""
        self.offered.add(name)
        for addon in self.active:
            if addon.slot == name:
                make = _wrapped(addon, make, self.layer)
        return make(width)


def check_used(addons: Sequence[Addon], slots: Sequence[Slots], backbone: str) -> None:
    """Check that every add-on went round something in some block: not every block need offer every slot.

    Raises:
        ConfigError: Naming the first that is nowhere in the model.
    """
    for addon in addons:
        active = [slot for slot in slots if addon in slot.active]
        if all(addon.slot not in slot.offered for slot in active):
            offered = sorted(set().union(*(slot.offered for slot in active)))
            raise ConfigError(
                f"add-on {addon.name} goes round the slot '{addon.slot}', and {backbone} offers only "
                f"{', '.join(offered) or 'none'} in layers '{addon.layers}'",
                "drop the add-on, choose other layers, or another backbone",
            )


def _wrapped(addon: Addon, make: Make, layer: LayerInfo) -> Make:
    def build(width: int) -> Mixer:
        inside: list[Mixer] = []

        def kept(inner: int) -> Mixer:
            inside.append(make(inner))
            return inside[-1]

        mixer = addon.wrap(kept, width, layer)
        if all(mixer is not part for part in inside):
            setattr(mixer, MARK, addon.name)
        return mixer

    return build


def of_addons(stack: nn.Module) -> set[str]:
    """Return the names of the parameters and buffers that add-ons brought, not those of what they go round."""
    paths = tuple(path and f"{path}." for path, module in stack.named_modules() if hasattr(module, MARK))
    return {
        name
        for name in stack.state_dict()
        for path in paths
        if name.startswith(path) and "inner" not in name.removeprefix(path).split(".")
    }


def whole(make: Make, slot: SlotFn, width: int) -> Mixer:
    """Build a mixer whose two slots coincide: there is nothing round the recurrence that shares its time axis."""
    return slot("mixer", lambda inner: slot("ssm", make, inner), width)


def describe(mixer: nn.Module) -> str:
    """Return a mixer's nesting as text, outermost first: ``SMR(S5)``."""
    inner = getattr(mixer, "inner", None)
    name = type(mixer).__name__
    return f"{name}({describe(inner)})" if isinstance(inner, nn.Module) else name
