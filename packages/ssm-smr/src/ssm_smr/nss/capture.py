"""Looking into a model while it runs, and changing what it sees, by hooks that are gone afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Side
from ssm_core.recurrence import LinearRecurrence, Recurrence
from ssm_smr.layer import SMR
from ssm_smr.nss.grids import interpolate


@dataclass(frozen=True)
class Call:
    """What one layer's recurrence was given in a forward pass.

    Attributes:
        module: The recurrence.
        x_bld: Its input (B, L, D).
        dt_bl: Its gaps (B, L), or None.
        side: What came beside x.
        length: Elements before the first that is masked or begins anew.
    """

    module: LinearRecurrence
    x_bld: Tensor
    dt_bl: Tensor | None
    side: Side | None
    length: int

    def recurrence(self, most: int) -> Recurrence | None:
        """Return the recurrence over the first elements, `most` of them at most; None if it has none.

        Raises:
            UserError: If no element is left.
        """
        n = min(most, self.length)
        if n == 0:
            raise UserError(
                "probe nss reads the elements before the first masked one, and there are none",
                "look at `ssm data info TASK`",
            )
        dt_bl = None if self.dt_bl is None else self.dt_bl[:, :n]
        side = None if self.side is None else {name: value[:, :n] for name, value in self.side.items()}
        return self.module.recurrence(self.x_bld[:, :n], dt_bl=dt_bl, side=side)


def recurrences(block: nn.Module) -> list[nn.Module]:
    """Return the parts of a block that can lay their recurrence open."""
    return [part for part in block.modules() if isinstance(part, LinearRecurrence)]


@contextlib.contextmanager
def hooked(hooks: list[Any]) -> Iterator[None]:
    """Take hooks away at the end."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def listen(model: Any, run: Callable[[], Any]) -> tuple[dict[nn.Module, Call], Tensor, Any]:
    """Run a model and listen.

    Args:
        model: A :class:`ssm_core.model.SequenceModel`.
        run: Runs it.

    Returns:
        The first call of each recurrence, the features (B, L, D) of the stack's first call, and what `run` returned.
    """
    calls: dict[nn.Module, Call] = {}
    features: list[Tensor] = []

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        if module not in calls:
            x_bld, mask, reset = args[0], kwargs.get("mask_bl"), kwargs.get("reset_bl")
            given = {"dt_bl": kwargs.get("dt_bl"), "side": kwargs.get("side")}
            calls[module] = Call(module=module, x_bld=x_bld, length=_whole(x_bld, mask, reset), **given)

    hooks = [
        part.register_forward_pre_hook(keep, with_kwargs=True)
        for block in model.stack.blocks
        for part in recurrences(block)
    ]
    hooks.append(model.stack.register_forward_hook(lambda _, __, out: features.append(out[0])))
    with hooked(hooks), torch.no_grad():
        out = run()
    return calls, features[0], out


def _whole(x_bld: Tensor, mask_bl: Tensor | None, reset_bl: Tensor | None) -> int:
    length = x_bld.shape[1]
    if mask_bl is not None:
        length = min(length, int(mask_bl.all(0).long().cumprod(0).sum()))
    if reset_bl is not None and reset_bl[:, 1:].any():
        length = min(length, 1 + int(reset_bl[:, 1:].any(0).long().argmax()))
    return length


def gates(model: nn.Module) -> list[SMR]:
    """Return the SMR gates of a model."""
    return [part for part in model.modules() if isinstance(part, SMR)]


@contextlib.contextmanager
def gates_at_one(model: nn.Module) -> Iterator[None]:
    """Give what SMR goes round its raw input while this lasts, u' = u, all weights staying as they are."""
    raw: dict[nn.Module, Tensor] = {}

    def remember(gate: Any, args: Any) -> None:
        raw[gate.inner] = args[0]

    def replace(inner: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        back = {"x_reverse_bld": raw[inner]} if "x_reverse_bld" in kwargs else {}
        return (raw[inner], *args[1:]), {**kwargs, **back}

    hooks: list[Any] = []
    for gate in gates(model):
        hooks.append(gate.register_forward_pre_hook(remember))
        inner: Any = gate.inner
        hooks.append(inner.register_forward_pre_hook(replace, with_kwargs=True, prepend=True))
    with hooked(hooks):
        yield


@contextlib.contextmanager
def encoded_at(model: Any, place: Tensor) -> Iterator[None]:
    """Read what the encoder gives between its elements, at points in steps (L,), while this lasts.

    Raises:
        UserError: If what it gives is no sequence of vectors.
    """

    def move(_: Any, __: Any, x_bld: Any) -> Tensor:
        if not isinstance(x_bld, Tensor) or x_bld.ndim != 3 or x_bld.shape[1] < len(place):
            raise UserError(
                "the encoder of this task gives no sequence that could be read between its elements",
                "--set 'shift=[\"KNOB=VALUE\"]' with a knob of the task that changes the sampling points",
            )
        return interpolate(x_bld, place)

    with hooked([model.encoder.register_forward_hook(move)]):
        yield
