"""State that goes from batch to batch: each slice of a batch hands its own on, cut off from the gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.protocols import State


class Carried:
    """The states with which the slices of this process's next batch begin, by the slice's number.

    A batch is always cut the same way, so slice i of a process has the same streams at every step.
    """

    def __init__(self) -> None:
        self._states: dict[int, State] = {}

    def get(self, index: int) -> State | None:
        """Return the state that a slice goes on from; None at the beginning of an epoch."""
        return self._states.get(index)

    def keep(self, index: int, state: State) -> None:
        """Keep the state after a slice for the next batch, without its history (truncated backpropagation).

        Raises:
            ConfigError: If there is none: the model forgets.
        """
        if not flat(state, "")[0]:
            raise ConfigError(
                "the task carries state from batch to batch, and the model gave none to carry",
                "use a backbone with a state, or another sampling of the task",
            )
        self._states[index] = mapped(Tensor.detach, state)

    def drop(self) -> None:
        """Forget everything: an epoch begins."""
        self._states.clear()

    def stored(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors on the CPU by ``<slice>/<path>``, and the forms that they are to be put back into."""
        tensors, forms = {}, {}
        for index, state in self._states.items():
            found, forms[str(index)] = flat(state, str(index))
            tensors |= {path: tensor.cpu() for path, tensor in found.items()}
        return tensors, forms

    def load(
        self, tensors: Mapping[str, Tensor], forms: Mapping[str, Any], device: torch.device | str
    ) -> None:
        """Put back what :meth:`stored` returned."""
        self._states = {
            int(index): mapped(lambda leaf: leaf.to(device), unflat(tensors, form, index))
            for index, form in forms.items()
        }


def mapped(change: Callable[[Tensor], Tensor], state: State) -> State:
    """Return a state with each of its tensors changed."""
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, Mapping):
        return {key: mapped(change, value) for key, value in state.items()}
    if isinstance(state, tuple | list):
        return type(state)(mapped(change, value) for value in state)
    return state


def flat(state: State, path: str) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors of a state by path, complex ones as pairs of real ones, and its form as plain data.

    Raises:
        UserError: If it holds what a checkpoint cannot.
    """
    if state is None:
        return {}, None
    if isinstance(state, Tensor):
        real = torch.view_as_real(state.detach().resolve_conj()) if state.is_complex() else state.detach()
        return {path: real}, "complex" if state.is_complex() else "tensor"
    kind = type(state).__name__
    if kind not in ("dict", "tuple", "list"):
        raise UserError(f"a state holds dicts, tuples and lists of tensors only, not {type(state).__name__}")
    items = state.items() if kind == "dict" else ((str(i), value) for i, value in enumerate(state))
    tensors: dict[str, Tensor] = {}
    forms: dict[str, Any] = {}
    for name, value in items:
        if not isinstance(name, str) or "/" in name:
            raise UserError(f"the parts of a state have names without a slash, not {name!r}")
        found, forms[name] = flat(value, f"{path}/{name}")
        tensors |= found
    return tensors, {kind: forms}


def unflat(tensors: Mapping[str, Tensor], form: Any, path: str) -> State:
    """Return the state that :func:`flat` took apart under a path."""
    if form is None:
        return None
    if isinstance(form, str):
        return torch.view_as_complex(tensors[path]) if form == "complex" else tensors[path]
    ((kind, forms),) = form.items()
    parts = {name: unflat(tensors, part, f"{path}/{name}") for name, part in forms.items()}
    return parts if kind == "dict" else tuple(parts.values()) if kind == "tuple" else list(parts.values())
