"""What a mixer says of itself is so: shapes, flags, and refusals that are errors, never silence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from ssm_core.params import gather_hints
from ssm_core.plugin.errors import UserError
from ssm_core.testing.cases import Case, draw, sweep
from ssm_core.testing.subject import Form, Subject, forms, run
from ssm_core.testing.trees import leaves, mapped


@contextmanager
def refusal(words: str) -> Iterator[None]:
    """Expect an error that the user can understand: of a fitting type, and naming what is refused."""
    with pytest.raises((UserError, ValueError, NotImplementedError)) as caught:
        yield
    assert re.search(words, str(caught.value), re.IGNORECASE), (
        f"the error names none of {words}: {caught.value}"
    )


class Claims(Subject):
    """Checks of shapes, flags and refusals."""

    @forms
    def test_flags_are_what_was_asked_for_and_declared(self, form: Form) -> None:
        """``d_model``, ``causal``, ``streaming`` and ``takes_dt`` agree with the capability record."""
        mixer, claims = self.built(form, self.widths[-1]), self.claims()
        assert mixer.d_model == self.widths[-1]
        assert mixer.causal is (form == "causal")
        assert mixer.streaming is (form == "causal" and claims.step)
        assert mixer.takes_dt is claims.dt

    @forms
    @sweep()
    def test_output_has_the_shape_and_dtype_of_the_input(self, form: Form, case: Case) -> None:
        """At every size, one element and one channel included."""
        mixer = self.built(form, self.width(case), case.dtype)
        x = draw(case, mixer.d_model).x
        y, _ = mixer(x)
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        assert y.isfinite().all()

    def test_state_is_a_tree_of_tensors_with_the_batch_first(self) -> None:
        """Both the initial state and the one handed back, where a requested device is honoured."""
        mixer = self.stateful(self.widths[-1])
        _, after = mixer(torch.randn(3, 5, mixer.d_model, dtype=torch.float64))
        for state in (mixer.init_state(3), after):
            assert all(leaf.shape[:1] == (3,) for leaf in leaves(state)), "axis 0 of a state is the batch"
        assert all(leaf.is_meta for leaf in leaves(mixer.init_state(2, device="meta")))

    @forms
    def test_a_call_leaves_module_and_arguments_as_they_were(self, form: Form) -> None:
        """State is handed back, never stored; nothing is written in place; a second call repeats the first."""
        mixer = self.built(form, self.widths[-1])
        inputs = draw(Case(2, 7, 0, 0, torch.float64, False, False), mixer.d_model, dt=mixer.takes_dt)
        state = mixer.init_state(2) if form == "causal" and self.claims().state else None
        before, kept = _contents(mixer), (inputs.x.clone(), mapped(torch.clone, state or ()))
        first, _ = run(mixer, inputs, state)
        if mixer.streaming:
            mixer.step(inputs.x[:, 0], state=mixer.init_state(2))
        second, _ = run(mixer, inputs, state)
        assert torch.equal(first, second), "a second call gives another output"
        assert torch.equal(inputs.x, kept[0]), "the input was written to"
        assert all(map(torch.equal, leaves(state or ()), leaves(kept[1]))), "the state was written to"
        after = _contents(mixer)
        assert before.keys() == after.keys(), f"a call made {sorted(after.keys() - before.keys())}"
        assert all(torch.equal(before[name], after[name]) for name in before), "a call changed the module"

    @forms
    def test_hints_name_real_parameters(self, form: Form) -> None:
        """``param_hints`` names parameters of its own module, so that each gets a hint of its own."""
        mixer = self.built(form, self.widths[-1])
        assert gather_hints(mixer).keys() == dict(mixer.named_parameters()).keys()

    @forms
    def test_gaps_are_refused_by_what_takes_none(self, form: Form) -> None:
        """An error in words, not a quiet equal step."""
        mixer = self.built(form, self.widths[-1])
        if mixer.takes_dt:
            pytest.skip("takes gaps")
        x = torch.randn(2, 4, mixer.d_model, dtype=torch.float64)
        with refusal("dt|gap|time"):
            mixer(x, dt_bl=torch.ones(2, 4, dtype=torch.float64))

    @forms
    def test_steps_are_refused_by_what_cannot_stream(self, form: Form) -> None:
        """An error in words, not a wrong answer."""
        mixer = self.built(form, self.widths[-1])
        if mixer.streaming:
            pytest.skip("steps")
        with refusal("step|stream"):
            mixer.step(torch.randn(2, mixer.d_model, dtype=torch.float64), state=mixer.init_state(2))

    def test_a_state_is_refused_by_the_bidirectional_form(self) -> None:
        """What looks ahead cannot go on from a state."""
        mixer, causal = (self.built(form, self.widths[-1]) for form in ("bidirectional", "causal"))
        state = causal.init_state(2)
        if not list(leaves(state)):
            pytest.skip("has no memory")
        with refusal("state"):
            mixer(torch.randn(2, 4, mixer.d_model, dtype=torch.float64), state=state)

    def test_a_state_is_refused_by_what_denies_taking_one(self) -> None:
        """An error in words, not a start from zero."""
        mixer = self.built("causal", self.widths[-1])
        if self.claims().state:
            pytest.skip("takes a state")
        with refusal("state"):
            mixer(torch.randn(2, 4, mixer.d_model, dtype=torch.float64), state={"h": torch.ones(2, 1)})

    @forms
    @pytest.mark.parametrize("argument", ["mask", "reset"])
    def test_denied_arguments_are_refused(self, form: Form, argument: str) -> None:
        """A mask or resets that cannot be honoured raise at the call."""
        mixer = self.built(form, self.widths[-1])
        if argument not in self.denies:
            pytest.skip(f"honours {argument}")
        given = draw(Case(2, 9, 0, 1, torch.float64, False, True), mixer.d_model, mask=True, reset=True)
        with refusal(argument):
            run(mixer, replace(given, **{"reset" if argument == "mask" else "mask": None}))

    @forms
    @pytest.mark.parametrize("argument", ["dt", "mask", "reset"])
    def test_wrong_lengths_are_refused(self, form: Form, argument: str) -> None:
        """Gaps, mask and resets of another length than x raise, rather than being stretched."""
        mixer = self.built(form, self.widths[-1])
        self.honours(argument)
        if argument == "dt":
            self.honours_gaps(mixer)
        inputs = draw(
            Case(2, 9, 0, 1, torch.float64, True, True), mixer.d_model, dt=True, mask=True, reset=True
        )
        for stop in (8, 1):
            wrong = {"x": inputs.x, argument: getattr(inputs, argument)[:, :stop]}
            with pytest.raises((UserError, ValueError, RuntimeError, IndexError)):
                run(mixer, type(inputs)(**wrong))


def _contents(module: nn.Module) -> dict[str, Any]:
    """Return every tensor held anywhere in a module, by path."""
    return {
        f"{path}.{name}": value.detach().clone()
        for path, part in module.named_modules()
        for name, value in [*vars(part).items(), *part._parameters.items(), *part._buffers.items()]
        if isinstance(value, torch.Tensor)
    }
