"""What layers say of themselves while they are evaluated: :class:`ssm_core.protocols.Observed`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ssm_train import rng


@contextlib.contextmanager
def observing(model: nn.Module) -> Iterator[dict[str, float]]:
    """Ask every module that has a method ``observe`` once, with the arguments of its next forward pass.

    Neither random numbers nor gradients are touched.

    Args:
        model: The model. Yields a mapping that fills as it runs: ``<path of the module>.<key>`` to a number.
    """
    found: dict[str, float] = {}
    handles = [_watch(module, name, found) for name, module in model.named_modules() if _offers(module)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _offers(module: nn.Module) -> bool:
    return callable(getattr(module, "observe", None))


def _watch(module: nn.Module, name: str, found: dict[str, float]) -> RemovableHandle:
    asked = False

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        nonlocal asked
        if asked:
            return
        asked = True  # first, so that a module which runs itself is not asked again
        before = rng.capture()
        with torch.no_grad():
            said = module.observe(*args, **kwargs)
        rng.restore(*before)
        found.update({f"{name}.{key}" if name else key: float(value) for key, value in said.items()})

    return module.register_forward_hook(hook, with_kwargs=True)
