"""What modules inside a model were called with, and a change of what one of them answers: by hooks, while they last."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Call:
    """One call of a mixer.

    Attributes:
        x_bld: Its input (B, L, D).
        dt_bl: Gaps (B, L), or None.
        mask_bl: True where valid (B, L), or None.
        side: What came beside x, by name.
    """

    x_bld: Tensor
    dt_bl: Tensor | None
    mask_bl: Tensor | None
    side: Mapping[str, Tensor]


@contextlib.contextmanager
def first_calls(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Call]]:
    """Note the first call of each module, by the name it is given here."""
    calls: dict[str, Call] = {}

    def noting(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
            if name not in calls:
                x_bld = args[0] if args else given["x_bld"]
                beside = given.get("side") or {}
                calls[name] = Call(x_bld, given.get("dt_bl"), given.get("mask_bl"), beside)

        return note

    hooks = [
        module.register_forward_pre_hook(noting(name), with_kwargs=True) for name, module in modules.items()
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def answering_less(module: nn.Module, less_pld: Tensor) -> Iterator[None]:
    """Subtract from what a mixer answers to its next call; the first P rows, if it is called with more."""
    answered = False

    def change(module: nn.Module, args: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any] | None:
        nonlocal answered
        if answered:
            return None
        answered = True
        y_bld = output[0].clone()
        y_bld[: len(less_pld)] -= less_pld.to(y_bld)
        return y_bld, output[1]

    hook = module.register_forward_hook(change)
    try:
        yield
    finally:
        hook.remove()
