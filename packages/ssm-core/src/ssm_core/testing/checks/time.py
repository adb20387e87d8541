"""The arrow of time, and gaps of any size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ssm_core.testing.cases import Case, Inputs, draw, sweep
from ssm_core.testing.subject import Form, Subject, forms, gradients, project, row, run


class Time(Subject):
    """Checks of causality and of gaps."""

    def rescaled(self, mixer: Any, factor: float) -> Any:
        """Return the mixer with its own step ``factor`` times as long; override where it has one.

        Scaling all gaps by the factor then has to do the same.
        """
        pytest.skip("does not say how to scale its step")

    @sweep()
    def test_nothing_depends_on_the_future(self, case: Case) -> None:
        """By gradient: the output at t owes nothing to any later input or gap, and something to the present."""
        mixer = self.built("causal", self.width(case), case.dtype)
        inputs = self.inputs(case, mixer)
        x = inputs.x.requires_grad_()
        time = case.seed % case.l
        wanted = [x] if inputs.dt is None else [x, inputs.dt.requires_grad_()]
        y, _ = run(mixer, inputs)
        found = gradients(project(y[:, time]), *wanted)
        for name, gradient in zip(("input", "gap"), found, strict=False):
            leak = gradient[:, time + 1 :].abs().max().item() if time + 1 < case.l else 0.0
            assert leak <= self.causal_tolerance, (
                f"the output at {time} depends on a later {name}: gradient {leak}"
            )

    def test_the_causal_form_looks_back(self) -> None:
        """The last output owes something to the first input, else the checks above would hold for no reason."""
        gradient = self._reach("causal", time=6)
        assert gradient[0] > 0, "the output does not depend on the past"
        assert gradient[6] > 0, "the output does not depend on the present"

    def test_the_bidirectional_form_looks_both_ways(self) -> None:
        """The middle output owes something to the first and to the last input."""
        gradient = self._reach("bidirectional", time=3)
        assert gradient[0] > 0, "the output does not depend on the past"
        assert gradient[6] > 0, "the output does not depend on the future"

    def _reach(self, form: Form, time: int) -> torch.Tensor:
        if not self.reaches_all:
            pytest.skip("takes several layers to see everything")
        mixer = self.built(form, self.widths[-1])
        x = draw(Case(2, 7, 0, 3, torch.float64, False, False), mixer.d_model).x.requires_grad_()
        return gradients(project(mixer(x)[0][:, time]), x)[0].abs().amax((0, 2))

    @forms
    @sweep(5)
    def test_gaps_of_one_are_no_gaps(self, form: Form, case: Case) -> None:
        """``dt_bl=None`` is 1 everywhere. What comes out at masked elements means nothing, and is not compared."""
        mixer = self.built(form, self.width(case), case.dtype)
        self.honours_gaps(mixer)
        inputs = self.inputs(replace(case, dt=False), mixer)
        ones = Inputs(inputs.x, torch.ones_like(inputs.x[..., 0]), inputs.mask)
        (y, after), (expected, after_expected) = run(mixer, ones), run(mixer, inputs)
        if inputs.mask is not None:
            y, expected = y[inputs.mask], expected[inputs.mask]
        self.same(y, expected, "output with gaps of 1")
        for index in range(case.b):
            self.same_future(mixer, row(after, index), row(after_expected, index), "state with gaps of 1")

    @forms
    def test_gaps_have_an_effect_and_a_gradient(self, form: Form) -> None:
        """Whoever claims to honour gaps responds to each of them."""
        mixer = self.built(form, self.widths[-1])
        self.honours_gaps(mixer)
        inputs = draw(Case(2, 6, 0, 5, torch.float64, True, False), mixer.d_model, dt=True)
        assert inputs.dt is not None
        dt = inputs.dt.requires_grad_()
        (gradient,) = gradients(project(run(mixer, inputs)[0]), dt)
        assert gradient.isfinite().all()
        assert gradient.ne(0).all(), "a gap has no effect"

    @sweep(5)
    def test_a_gap_of_zero_leaves_the_state(self, case: Case) -> None:
        """Elements in no time at all change nothing that comes after."""
        mixer = self.stateful(self.width(case), case.dtype)
        self.honours_gaps(mixer)
        if not self.zero_gap_is_noop:
            pytest.skip("counts elements as well as time")
        inputs = draw(case, mixer.d_model, dt=True)
        _, state = run(mixer, inputs)
        _, after = run(mixer, Inputs(inputs.x.flip(1), torch.zeros(case.b, case.l, dtype=case.dtype)), state)
        for index in range(case.b):
            self.same_future(mixer, row(after, index), row(state, index), "state after gaps of zero")

    @forms
    @sweep(5)
    def test_scaling_the_gaps_is_scaling_the_step(self, form: Form, case: Case) -> None:
        """Time has no unit of its own."""
        mixer = self.built(form, self.width(case), case.dtype)
        self.honours_gaps(mixer)
        factor = 0.25 + case.seed % 8 / 4
        inputs = draw(case, mixer.d_model, dt=True)
        assert inputs.dt is not None
        scaled = Inputs(inputs.x, inputs.dt * factor)
        if form == "bidirectional":
            # The gap after the last element is 1 by convention, which no scaling of the given gaps can reach.
            pytest.skip("its last gap is fixed")
        self.same(
            run(mixer, scaled)[0], run(self.rescaled(mixer, factor), inputs)[0], "output with scaled gaps"
        )
