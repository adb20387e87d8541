"""What the probe can look into: recurrences that tell their intervals, and layers that resample.

A *recurrence* is any mixer with a method ``intervals(x_bld, *, dt_bl, side) -> (B, L, 1) or (B, L, D)`` whose state
obeys h_l = exp(D_l A) h_(l-1) + (something of element l alone). A *resampler* is any mixer with a method
``trace(x_bld, mask_bl)``, which gives a :class:`ssm_serpent.layer.Trace` for each branch. No layer is known by name.

Both are asked the same: without element n, how does the last state change, and what the mixer answers at every
element? In float64, on a copy, with what came in as it was in the trained model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ssm_core.recurrence import LinearRecurrence
from ssm_core.trees import leaves
from ssm_serpent.information.calls import Call

ROUNDING = 1e-12
"""Share of a state below which a difference of two such states in float64 is no finding."""


class Change(NamedTuple):
    """What leaving out one element changes, for P elements, each by itself.

    Attributes:
        state_p: Distance of the last states (P,); NaN where no state is carried, or where it is below `ROUNDING` of
            the norm of the last state with the element.
        answer_pld: Answer with the element less the one without it (P, L, D).
        channel_pd: The same of each channel (P, D), if channels have intervals of their own.
    """

    state_p: Tensor
    answer_pld: Tensor
    channel_pd: Tensor | None = None


class Subject(Protocol):
    """A part of a trained model on one sequence.

    Attributes:
        definitions: The ways in which it can leave out an element.
        places: Elements that can be left out.
    """

    definitions: tuple[str, ...]
    places: Tensor

    def intervals(self) -> dict[str, Tensor]:
        """Return the interval (L,) of each element, by the name of what it belongs to."""
        ...

    def change(self, definition: str, at_p: Tensor) -> Change:
        """Leave out each of the elements ``at_p`` (P,) by itself."""
        ...


class Copy:
    """A mixer in float64 with what it was called with, run on P sequences that differ in what is masked.

    Args:
        mixer: The mixer, left as it is.
        call: What it was called with; its first row counts.
    """

    def __init__(self, mixer: nn.Module, call: Call) -> None:
        self.mixer: Any = copy.deepcopy(mixer).double()
        self.x_bld = call.x_bld[:1].double()
        one_each = torch.ones_like(self.x_bld[..., 0])
        self.gaps = one_each if call.dt_bl is None else call.dt_bl[:1].double()
        self.valid = one_each.bool() if call.mask_bl is None else call.mask_bl[:1]
        self.side = {name: value[:1].double() for name, value in call.side.items()}
        self.places = self.valid[0].nonzero()[:, 0]
        self.time = torch.arange(one_each.shape[1], device=one_each.device)

    def run(
        self, seen_pl: Tensor, *, x_pld: Tensor | None = None, gaps_pl: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Return answers (P, L, D), zero where unseen, and the last states; unseen elements take no time.

        A masked element would hand its gap to the next one, whose own interval would grow by it. Its gap is 0
        instead: nothing but the element goes.
        """
        rows = len(seen_pl)
        x_pld = self.x_bld.expand(rows, -1, -1) if x_pld is None else x_pld
        side = {name: value.expand(rows, *value.shape[1:]) for name, value in self.side.items()}
        given: dict[str, Any] = {"mask_bl": seen_pl & self.valid, "side": side or None}
        if self.mixer.takes_dt:
            gaps_pl = self.gaps.expand(rows, -1) if gaps_pl is None else gaps_pl
            given["dt_bl"] = torch.where(seen_pl, gaps_pl, 0.0)
        with torch.no_grad():
            y_pld, state = self.mixer(x_pld, **given)
        return torch.where(given["mask_bl"][..., None], y_pld, 0.0), state


class Recurrence:
    """A recurrence whose intervals are its elements' own.

    *removed*: the element and its interval go. *masked*: what the element puts into the state goes, its interval
    stays, as in the paper's proof. Zeroing the input would not do: the interval and B are computed from it. But the
    state is linear in what is put in, so the part that element n puts in is the state of a sequence that begins with
    n, less that of one that begins after n.

    Args:
        mixer: Has ``intervals``.
        call: What it was called with in the trained model.
    """

    definitions = ("removed", "masked")

    def __init__(self, mixer: nn.Module, call: Call) -> None:
        self.copy = Copy(mixer, call)
        self.places = self.copy.places

    def intervals(self) -> dict[str, Tensor]:
        """Return the intervals, averaged over channels."""
        return {"": self.by_channel().mean(1)}

    def by_channel(self) -> Tensor:
        """Return the intervals of each element and channel (L, D); one channel if all have the same."""
        own = self.copy
        with torch.no_grad():
            return own.mixer.intervals(own.x_bld, dt_bl=own.gaps, side=own.side or None)[0].flatten(1)

    def bounds(self) -> Tensor | None:
        """Return max |D_l a| / 2 of each element and channel (L, D), the bound of Proposition 1; a-bar is exp(D_l a).

        None if the mixer does not lay its recurrence open as one diagonal for each element and channel.
        """
        own = self.copy
        if not isinstance(own.mixer, LinearRecurrence):
            return None
        with torch.no_grad():
            found = own.mixer.recurrence(own.x_bld, dt_bl=own.gaps, side=own.side or None)
        if found is None or found.dense or found.a.shape[:3] != (1, *self.by_channel().shape):
            return None
        return found.a[0].flatten(2).log().abs().amax(2) / 2

    def change(self, definition: str, at_p: Tensor, share: float = 1.0) -> Change:
        """Leave out each of the elements ``at_p``, after making their intervals ``share`` of what they are."""
        own, at_p1 = self.copy, at_p[:, None]
        gaps_pl = torch.where(own.time == at_p1, share * own.gaps, own.gaps)
        if definition == "removed":
            whole, end = own.run(torch.ones_like(gaps_pl, dtype=torch.bool), gaps_pl=gaps_pl)
            lacking, other_end = own.run(own.time != at_p1)
        else:
            whole, end = own.run(own.time >= at_p1, gaps_pl=gaps_pl)
            lacking, other_end = own.run(own.time > at_p1)
        channels = _by_channel(end, other_end, self.by_channel().shape[1])
        return Change(distance(end, other_end), whole - lacking, channels)


class Resampler:
    """A layer that computes an interval for each element and branch, and resamples by them.

    *removed*: the element goes from every branch, all later times move. *zeroed*: its input is 0; the layer computes
    an interval for that, so this is not the masking of the proof. Its state is all it carries: those of its branches'
    mixers, the points they hold, the tokens they remember.

    Args:
        mixer: Has ``trace``.
        call: What it was called with in the trained model.
    """

    definitions = ("removed", "zeroed")

    def __init__(self, mixer: nn.Module, call: Call) -> None:
        self.copy = Copy(mixer, call)
        self.places = self.copy.places

    def intervals(self) -> dict[str, Tensor]:
        """Return the intervals of each branch, in units of the grid's spacing."""
        own, found = self.copy, {}
        with torch.no_grad():
            traces = own.mixer.trace(own.x_bld, mask_bl=own.valid)
        for trace in traces:
            # A trace counts valid elements only.
            interval_l = torch.full_like(own.gaps[0], torch.nan)
            interval_l[self.places] = trace.spans.u_bl[0, : len(self.places)].double()
            found[f"branch {trace.branch}"] = interval_l
        return found

    def change(self, definition: str, at_p: Tensor) -> Change:
        """Leave out each of the elements ``at_p``."""
        own, at_p1 = self.copy, at_p[:, None]
        everything = torch.ones_like(own.time != at_p1)
        whole, end = own.run(everything)
        if definition == "removed":
            lacking, other_end = own.run(own.time != at_p1)
        else:
            zeroed = own.x_bld.masked_fill((own.time == at_p1)[..., None], 0.0)
            lacking, other_end = own.run(everything, x_pld=zeroed)
        return Change(distance(end, other_end), whole - lacking)


def distance(state: Any, other: Any) -> Tensor:
    """Return the Euclidean distance (B,) of a state from another over all their numbers but open gaps.

    It is NaN where it is below `ROUNDING` of the norm of the first, and, of shape (), if they have no numbers.
    """
    pairs = list(zip(numbers(state), numbers(other), strict=True))
    if not pairs:
        return torch.tensor(torch.nan, device="cpu")
    apart, whole = (
        torch.stack([value.abs().square().reshape(len(value), -1).sum(1) for value in values]).sum(0).sqrt()
        for values in ([a - b for a, b in pairs], [a for a, _ in pairs])
    )
    return _found(apart, whole)


def _by_channel(state: Any, other: Any, channels: int) -> Tensor | None:
    """Return the distance of each channel's states (B, D), if they are one tensor (B, D, ...)."""
    found, others = list(numbers(state)), list(numbers(other))
    if len(found) != 1 or channels == 1 or found[0].shape[1:2] != (channels,):
        return None
    return _found((found[0] - others[0]).flatten(2).norm(dim=2), found[0].flatten(2).norm(dim=2))


def _found(apart: Tensor, whole: Tensor) -> Tensor:
    """Return distances, NaN where they are what rounding makes of a state of norm `whole`."""
    return torch.where(apart > ROUNDING * whole, apart, torch.nan)


def numbers(state: Any) -> Iterator[Tensor]:
    """Yield the floating or complex tensors of a state but its open gaps."""
    return (x for x in leaves(state, without=("gap",)) if x.is_floating_point() or x.is_complex())


def offers(module: nn.Module, method: str) -> bool:
    """Return whether a module's class has a method of this name; a part that it holds under the name does not count."""
    return callable(getattr(type(module), method, None))
