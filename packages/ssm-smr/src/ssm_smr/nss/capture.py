"""Looking into a model while it runs, and changing what it sees, by hooks that are gone afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.both_ways import BothWays
from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Side
from ssm_core.recurrence import LinearRecurrence, Recurrence
from ssm_smr.layer import gates
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
        """Return the recurrence over the first row's first elements, `most` of them at most; None if it has none.

        A task whose batches are pairs runs two rows where the batch has one.

        Raises:
            UserError: If no element is left.
        """
        n = min(most, self.length)
        if n == 0:
            raise UserError(
                "probe nss reads the elements before the first masked one, and there are none",
                "look at `ssm data info TASK`",
            )
        dt_bl = None if self.dt_bl is None else self.dt_bl[:1, :n]
        side = None if self.side is None else {name: value[:1, :n] for name, value in self.side.items()}
        return self.module.recurrence(self.x_bld[:1, :n], dt_bl=dt_bl, side=side)


def recurrences(block: nn.Module) -> list[nn.Module]:
    """Return the parts of a block that can lay their recurrence open, but for those that run from the end.

    They get their inputs in reverse, so that their elements are counted from where a sequence ends.
    """
    back = {
        inner
        for part in block.modules()
        if isinstance(part, BothWays) and isinstance(part.backwards, nn.Module)
        for inner in part.backwards.modules()
    }
    return [part for part in block.modules() if isinstance(part, LinearRecurrence) and part not in back]


def one_way_of_two(block: nn.Module, part: nn.Module) -> bool:
    """Whether a part of a block lays open one of two directions, in a layer of its own or within one."""
    pairs = (pair for pair in block.modules() if isinstance(pair, BothWays))
    return not getattr(part, "causal", True) or any(part in set(pair.modules()) for pair in pairs)


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
            calls[module] = Call(module=module, x_bld=x_bld, length=whole(x_bld, mask, reset), **given)

    hooks = [
        part.register_forward_pre_hook(keep, with_kwargs=True)
        for block in model.stack.blocks
        for part in recurrences(block)
    ]
    hooks.append(model.stack.register_forward_hook(lambda _, __, out: features.append(out[0])))
    with hooked(hooks), torch.no_grad():
        out = run()
    return calls, features[0], out


def whole(x_bld: Tensor, mask_bl: Tensor | None, reset_bl: Tensor | None) -> int:
    """Return how many elements of x (B, L, ...) come before the first that is masked or begins anew in any row."""
    length = x_bld.shape[1]
    if mask_bl is not None:
        length = min(length, int(mask_bl.all(0).long().cumprod(0).sum()))
    if reset_bl is not None and reset_bl[:, 1:].any():
        length = min(length, 1 + int(reset_bl[:, 1:].any(0).long().argmax()))
    return length


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


@contextlib.contextmanager
def cut(model: Any, length: int) -> Iterator[None]:
    """Let the stack see the first elements only while this lasts, `length` of them at most.

    What comes out of it is filled up with zeros, for heads that want all elements.
    """
    missing: list[int] = []

    def shorten(_: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        missing.append(max(args[0].shape[1] - length, 0))
        beside = {
            name: value[:, :length]
            if name in ("dt_bl", "mask_bl", "reset_bl") and value is not None
            else value
            for name, value in kwargs.items()
        }
        return (args[0][:, :length], *args[1:]), beside

    def fill(_: Any, __: Any, out: Any) -> Any:
        return F.pad(out[0], (0, 0, 0, missing.pop())), *out[1:]

    hooks = [
        model.stack.register_forward_pre_hook(shorten, with_kwargs=True),
        model.stack.register_forward_hook(fill),
    ]
    with hooked(hooks):
        yield
