"""What every check has in common: how the mixer is built, what it claims, and how it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

from ssm_core.compose import Addon, Slots
from ssm_core.plugin import registry
from ssm_core.plugin.spec import BackboneSpec, Capabilities
from ssm_core.protocols import LayerInfo, Make, Mixer, State
from ssm_core.testing.cases import Case, Inputs, draw
from ssm_core.testing.trees import assert_close, rows

Form = Literal["causal", "bidirectional"]

forms = pytest.mark.parametrize("form", ["causal", "bidirectional"])
"""Run a check on both forms; the one that the mixer denies is skipped."""


class Subject:
    """The mixer under test. Set ``backbone`` (and ``config``), or override :meth:`make`.

    Attributes:
        backbone: Registered name of the backbone.
        config: Its knobs.
        part: What to test: the whole ``block``, or what its slot ``mixer`` or ``ssm`` holds.
        capabilities: What it can honour; None takes what the registered spec says.
        widths: Widths D to draw from.
        tolerance: Largest error, relative to the largest value, by precision. Make it smaller, never larger.
        causal_tolerance: Largest gradient that may reach back from the future: 0, or 1e-6 for mixers by FFT.
        jitter: Noise added to all parameters before most checks, since starts at zero can hide mistakes.
        zero_gap_is_noop: An element with gap 0 leaves the state as it was. Not so for a memory that counts elements.
        jumps: Share of elements, in reduced precision, at which rounding the input may turn a decision of the mixer
            (an index) the other way; 0 for what is continuous.
        reaches_all: One layer alone brings every element to every other, within its direction.
        denies: What its calls refuse with an error: ``"mask"``, ``"reset"``; ``"compile"``; and ``"gradcheck"``, where
            values are rounded on purpose and the gradient passes straight through.
        splits_at_resets: Forms whose compiled graph breaks where resets are given: how many sequences they begin is
            read from the data.
        exhaustive: Run the heavy variants too.
    """

    backbone: ClassVar[str] = ""
    config: ClassVar[Mapping[str, Any]] = {}
    part: ClassVar[Literal["block", "mixer", "ssm"]] = "block"
    capabilities: ClassVar[Capabilities | None] = None
    widths: ClassVar[tuple[int, ...]] = (1, 2, 3, 6)
    tolerance: ClassVar[Mapping[torch.dtype, float]] = {torch.float32: 1e-4, torch.float64: 1e-9}
    causal_tolerance: ClassVar[float] = 0.0
    jitter: ClassVar[float] = 0.1
    zero_gap_is_noop: ClassVar[bool] = True
    jumps: ClassVar[float] = 0.0
    reaches_all: ClassVar[bool] = True
    denies: ClassVar[frozenset[str] | tuple[str, ...]] = ()
    splits_at_resets: ClassVar[tuple[Form, ...]] = ()
    exhaustive: ClassVar[bool] = False

    def make(self, width: int, causal: bool) -> Mixer:
        """Build the mixer, freshly initialised; override this for one that is not registered."""
        assert self.backbone, f"{type(self).__name__} has to set 'backbone' or override 'make'"
        parts = build_parts(self.backbone, self.config, self.layer(width, causal))
        assert self.part in parts, f"{self.backbone} offers no slot '{self.part}'"
        return parts[self.part]

    def layer(self, width: int, causal: bool) -> LayerInfo:
        """Return where the block under test stands: alone, without dropout."""
        return LayerInfo(index=0, n_layers=1, d_model=width, causal=causal)

    def claims(self) -> Capabilities:
        """Return what the mixer claims to honour."""
        if self.capabilities is not None:
            return self.capabilities
        if not self.backbone:
            return Capabilities()
        _, spec = registry.describe("backbone", self.backbone)
        assert isinstance(spec, BackboneSpec)
        return spec.capabilities

    def built(self, form: Form, width: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
        """Return the mixer in one of its forms, ready to be checked; skips the check if it denies that form."""
        claims = self.claims()
        if not getattr(claims, form):
            pytest.skip(f"has no {form} form")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            mixer = self.make(width, form == "causal")
        assert isinstance(mixer, nn.Module), "a mixer is a torch.nn.Module"
        noise = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for parameter in mixer.parameters():
                parameter.add_(self.jitter * torch.randn(parameter.shape, generator=noise).to(parameter))
        return mixer.to(dtype).eval()

    def streaming(self, width: int, dtype: torch.dtype = torch.float64) -> Any:
        """Return the causal form if it claims to step; skips the check otherwise."""
        mixer = self.built("causal", width, dtype)
        if not mixer.streaming:
            pytest.skip("denies streaming")
        return mixer

    def stateful(self, width: int, dtype: torch.dtype = torch.float64) -> Any:
        """Return the causal form if it claims to take and return its state; skips the check otherwise."""
        if not self.claims().state:
            pytest.skip("denies taking a state")
        return self.built("causal", width, dtype)

    def width(self, case: Case) -> int:
        """Return the width a case draws."""
        return self.widths[case.width % len(self.widths)]

    def inputs(self, case: Case, mixer: Mixer, *, reset: bool = False, length: int | None = None) -> Inputs:
        """Return a case's inputs with the gaps and the mask it asks for, as far as the mixer takes them."""
        dt, mask = case.dt and mixer.takes_dt, case.mask and "mask" not in self.denies
        return draw(case, mixer.d_model, dt=dt, mask=mask, reset=reset, length=length)

    def honours(self, *arguments: str) -> None:
        """Skip the check if the mixer denies one of these arguments."""
        for name in arguments:
            if name in self.denies:
                pytest.skip(f"denies {name}")

    def honours_gaps(self, mixer: Mixer) -> None:
        """Skip the check if the mixer denies gaps."""
        if not mixer.takes_dt:
            pytest.skip("denies gaps")

    def same(self, actual: Tensor, expected: Tensor, what: str, slack: float = 1.0) -> None:
        """Compare two tensors within the suite's tolerance; gradients get a ``slack``, being sums of many terms."""
        dtype = expected.dtype.to_real() if expected.is_complex() else expected.dtype
        if dtype not in self.tolerance:
            assert torch.equal(actual, expected), what
            return
        assert_close(actual, expected, self.tolerance[dtype] * slack, what)

    def same_future(
        self, mixer: Any, actual: State, expected: State, what: str, pending: Tensor | float = 0.0
    ) -> None:
        """Check that two states of one row mean the same: what follows comes out equal.

        States are the mixer's own affair and may differ in form; only what they lead to counts.

        Args:
            mixer: The mixer.
            actual: One state, one row.
            expected: The other.
            what: Said in the message.
            pending: Gap that ``actual`` holds open and ``expected`` does not.
        """
        if not (mixer.causal and self.claims().state):
            return
        like = next(mixer.parameters())
        probe = torch.linspace(-1, 1, 3 * mixer.d_model, dtype=like.dtype).view(1, 3, mixer.d_model)
        dt = like.new_tensor([[0.7, 1.3, 1.0]]) if mixer.takes_dt else None
        later = None
        if dt is not None:
            later = dt.clone()
            later[:, 0] += pending
        y, _ = run(mixer, Inputs(probe, dt), actual)
        y_expected, _ = run(mixer, Inputs(probe, later), expected)
        self.same(y, y_expected, f"{what}: what follows from the state")


def build_parts(
    backbone: str, config: Mapping[str, Any], layer: LayerInfo, addons: Sequence[Addon] = ()
) -> dict[str, Mixer]:
    """Build one block of a registered backbone; return it as ``block``, and what its slots hold by their names."""
    _, build = registry.builder("backbone", backbone)
    parts: dict[str, Mixer] = {}

    def slot(name: str, make: Make, width: int) -> Mixer:
        parts[name] = Slots(addons, layer)(name, make, width)
        return parts[name]

    parts["block"] = build(registry.configure("backbone", backbone, config), layer, slot)
    return parts


def run(mixer: Any, inputs: Inputs, state: State | None = None) -> tuple[Tensor, State]:
    """Call a mixer's parallel pass."""
    return mixer(inputs.x, dt_bl=inputs.dt, mask_bl=inputs.mask, reset_bl=inputs.reset, state=state)


def row(state: State, index: int) -> State:
    """Return one batch row of a state, keeping the axis."""
    return rows(state, slice(index, index + 1))


def project(y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return a scalar in which every valid output has its own weight."""
    weights = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape)
    if mask is not None:
        y = torch.where(mask[..., None], y, torch.zeros_like(y))
    return (y * weights).sum()


def gradients(scalar: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Return the gradients, zeros where a tensor has no part in the scalar."""
    if not scalar.requires_grad:
        return [torch.zeros_like(t) for t in tensors]
    found = torch.autograd.grad(scalar, tensors, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)]
