"""Precision and gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from ssm_core.params import gather_hints
from ssm_core.testing.cases import Case, Inputs, draw, sweep
from ssm_core.testing.subject import Form, Subject, forms, gradients, project, run
from ssm_core.testing.trees import leaves

BF16_ERROR = 0.1
"""Largest error of outputs under bfloat16, relative to the largest output; its epsilon is 1/128."""


SAMPLE = Case(2, 65, 0, 4, torch.float32, dt=False, mask=False)


class Numbers(Subject):
    """Checks of gradients and of reduced precision."""

    @forms
    def test_gradients_are_those_of_finite_differences(self, form: Form) -> None:
        """In float64, of inputs, gaps and every parameter, with and without a mask."""
        self.honours("gradcheck")
        mixer = self.built(form, self.widths[-1])
        for mask in (False, True):
            case = Case(2, 5, 0, 11, torch.float64, mixer.takes_dt, mask and "mask" not in self.denies)
            self._gradcheck(mixer, self.inputs(case, mixer))

    def _gradcheck(self, mixer: Any, inputs: Inputs) -> None:
        names = [name for name, _ in mixer.named_parameters()]
        dt = [] if inputs.dt is None else [inputs.dt]

        def function(x: Tensor, *rest: Tensor) -> Tensor:
            gaps = rest[0] if dt else None
            given = dict(zip(names, rest[len(dt) :], strict=True))
            call = {"dt_bl": gaps, "mask_bl": inputs.mask}
            y, state = functional_call(mixer, given, (x,), call)
            tail = sum(
                (leaf.abs().square().sum() for leaf in leaves(state) if _differentiable(leaf)),
                x.new_zeros(()),
            )
            return torch.cat([y.flatten(), tail.reshape(1)])

        tensors = [inputs.x, *dt, *(p.detach().clone() for p in mixer.parameters())]
        assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in tensors], fast_mode=True)

    @forms
    @sweep(5, dtypes=(torch.float32,))
    def test_float32_is_near_float64(self, form: Form, case: Case) -> None:
        """Outputs and gradients, which are finite besides."""
        mixer, exact = (self.built(form, self.width(case), d) for d in (torch.float32, torch.float64))
        inputs = self.inputs(case, mixer)
        double = Inputs(inputs.x.double(), None if inputs.dt is None else inputs.dt.double(), inputs.mask)
        found = []
        for each, given in ((mixer, inputs), (exact, double)):
            x = given.x.requires_grad_()
            y, _ = run(each, given)
            found.append([y, *gradients(project(y, given.mask), x, *each.parameters())])
        for g, e in zip(*found, strict=True):
            assert g.isfinite().all()
            self.same(g, e.float(), "float32 beside float64", slack=10)

    @forms
    def test_long_sequences_stay_finite(self, form: Form) -> None:
        """Outputs and gradients over 700 elements with large inputs and gaps, at the start as it is drawn."""
        mixer = self.built(form, self.widths[-1], torch.float32)
        case = Case(1, 701, 0, 2, torch.float32, mixer.takes_dt, False)
        inputs = self.inputs(case, mixer)
        large = Inputs((10 * inputs.x).requires_grad_(), None if inputs.dt is None else 5 * inputs.dt)
        y, _ = run(mixer, large)
        for value in (y, *gradients(project(y), large.x, *mixer.parameters())):
            assert value.isfinite().all()

    @forms
    def test_autocast_keeps_its_islands(self, form: Form) -> None:
        """Under bfloat16 autocast the state keeps its precision and the output stays near the exact one."""
        mixer = self.built(form, self.widths[-1], torch.float32)
        x = draw(SAMPLE, mixer.d_model).x
        exact, _ = mixer(x)
        with torch.autocast("cpu", torch.bfloat16):
            y, state = mixer(x)
        self._check_reduced(mixer, y, exact, state)

    @forms
    def test_bfloat16_keeps_hinted_parameters(self, form: Form) -> None:
        """Cast to bfloat16 but for what hints hold back: output in bfloat16, near the exact one, state as it starts."""
        mixer = self.built(form, self.widths[-1], torch.float32)
        x = draw(SAMPLE, mixer.d_model).x
        exact, _ = mixer(x)
        hints = gather_hints(mixer)
        for name, parameter in mixer.named_parameters():
            if hints[name].dtype is None:
                parameter.data = parameter.data.bfloat16()
        y, state = mixer(x.bfloat16())
        assert y.dtype == torch.bfloat16
        self._check_reduced(mixer, y, exact, state)

    def _check_reduced(self, mixer: Any, y: Tensor, exact: Tensor, state: Any) -> None:
        errors = (y.float() - exact).abs().amax(-1).flatten().sort(descending=True).values
        error = errors[int(self.jumps * len(errors))] / exact.abs().max().clamp(min=1.0)
        assert error < BF16_ERROR, f"relative error {error:.3f}"
        if mixer.causal and self.claims().state:
            start = {leaf.dtype for leaf in leaves(mixer.init_state(len(y)))}
            found = {leaf.dtype for leaf in leaves(state)}
            assert found <= start, f"the state starts as {start} and becomes {found}"


def _differentiable(leaf: Tensor) -> bool:
    return leaf.requires_grad and (leaf.is_floating_point() or leaf.is_complex())
