"""Masked elements are as if they were not there, resets as if a new sequence began, and rows are strangers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ssm_core.testing.cases import Case, Inputs, draw, sweep
from ssm_core.testing.subject import Form, Subject, forms, gradients, project, row, run


class Masks(Subject):
    """Checks of batch rows, padding, interior masks and resets."""

    @forms
    @sweep()
    def test_rows_are_independent(self, form: Form, case: Case) -> None:
        """No gradient passes between rows, and permuting the batch permutes the output."""
        mixer = self.built(form, self.width(case), case.dtype)
        inputs = self.inputs(replace(case, b=3), mixer)
        inputs.x.requires_grad_()
        y, _ = run(mixer, inputs)
        (gradient,) = gradients(project(y[1:2]), inputs.x)
        assert not gradient[[0, 2]].any(), "a row depends on another row"
        order = torch.tensor([2, 0, 1])
        self.same(run(mixer, inputs[order])[0], y[order], "output of the permuted batch")

    @forms
    @sweep(20)
    def test_masked_elements_are_as_if_removed(self, form: Form, case: Case) -> None:
        """Padding or holes: outputs, state and gradients are those without them, gaps handed to the next valid one.

        NaN stands in every masked place, and must neither show nor reach a gradient.
        """
        self.honours("mask")
        mixer = self.built(form, self.width(case), case.dtype)
        inputs = draw(case, mixer.d_model, dt=case.dt and mixer.takes_dt, mask=True)
        self._check_removed(mixer, inputs)

    @forms
    @sweep(20)
    def test_right_padding_changes_nothing(self, form: Form, case: Case) -> None:
        """Rows of different lengths in one padded batch equal each row alone, final state included."""
        self.honours("mask")
        mixer = self.built(form, self.width(case), case.dtype)
        lengths = torch.randint(0, case.l + 1, (case.b, 1), generator=case.generator())
        inputs = draw(case, mixer.d_model, dt=case.dt and mixer.takes_dt)
        self._check_removed(mixer, Inputs(inputs.x, inputs.dt, torch.arange(case.l) < lengths))

    def _check_removed(self, mixer: Any, inputs: Inputs) -> None:
        poisoned, clean = _poisoned(inputs)
        mask = inputs.mask
        assert mask is not None
        y, after = run(mixer, poisoned)
        assert y.isfinite().all(), "NaN from masked places shows in the output"
        y, expected = torch.where(mask[..., None], y, 0), torch.zeros_like(y)
        for index in range(len(y)):
            alone, pending = clean.compacted(index, mixer.takes_dt)
            state = None
            if mask[index].any():
                y_alone, state = run(mixer, alone)
                expected = expected.index_put((torch.tensor(index), mask[index]), y_alone[0])
            held = pending if mixer.takes_dt else 0.0
            self.same_future(mixer, row(after, index), state, "state after masked elements", held)
        self.same(y, expected, "output at valid elements")
        found = gradients(project(y), poisoned.x, *mixer.parameters())
        wanted = gradients(project(expected), clean.x, *mixer.parameters())
        assert not found[0][~mask].any(), "a gradient reaches a masked element"
        for g, e in zip(found, wanted, strict=True):
            assert g.isfinite().all(), "NaN from masked places reaches a gradient"
            self.same(g, e, "gradient beside masked elements", slack=10)

    @forms
    @sweep(5)
    def test_a_mask_of_all_true_is_no_mask(self, form: Form, case: Case) -> None:
        """Nor are resets that are all false resets."""
        self.honours("mask")
        mixer = self.built(form, self.width(case), case.dtype)
        plain = draw(case, mixer.d_model, dt=case.dt and mixer.takes_dt)
        everything = torch.ones(case.b, case.l, dtype=torch.bool)
        reset = None if "reset" in self.denies else ~everything
        y, after = run(mixer, plain)
        y_masked, after_masked = run(mixer, Inputs(plain.x, plain.dt, everything, reset))
        self.same(y_masked, y, "output under a mask of all true")
        for index in range(case.b):
            self.same_future(
                mixer, row(after_masked, index), row(after, index), "state under a mask of all true"
            )

    @forms
    @sweep(20)
    def test_a_reset_begins_a_new_sequence(self, form: Form, case: Case) -> None:
        """A row with resets equals its pieces run apart, both ways where the mixer looks both ways."""
        self.honours("reset")
        mixer = self.built(form, self.width(case), case.dtype)
        inputs = self.inputs(case, mixer, reset=True)
        assert inputs.reset is not None
        y, after = run(mixer, inputs)
        for index in range(case.b):
            starts = [t for t in range(1, case.l) if inputs.reset[index, t]]
            pieces, state = [], None
            for start, stop in zip([0, *starts], [*starts, case.l], strict=True):
                piece = inputs[index : index + 1, start:stop]
                y_piece, state = run(mixer, Inputs(piece.x, piece.dt, piece.mask))
                pieces.append(y_piece)
            expected = torch.cat(pieces, 1)
            self.same(
                _valid(y[index : index + 1], inputs.mask, index),
                _valid(expected, inputs.mask, index),
                f"output of a row with resets at {starts}",
            )
            self.same_future(mixer, row(after, index), state, "state after resets")

    @sweep(5)
    def test_a_reset_forgets_a_carried_state(self, case: Case) -> None:
        """At the first element, in the rows that ask for it and in no other."""
        self.honours("reset")
        mixer = self.stateful(self.width(case), case.dtype)
        before, inputs = self.inputs(case, mixer), self.inputs(case, mixer)
        _, state = run(mixer, before)
        reset = torch.zeros(case.b, case.l, dtype=torch.bool)
        reset[-1, 0] = True
        y, _ = run(mixer, Inputs(inputs.x, inputs.dt, inputs.mask, reset), state)
        expected = torch.cat([run(mixer, inputs, state)[0][:-1], run(mixer, inputs)[0][-1:]])
        if inputs.mask is not None:
            y, expected = (torch.where(inputs.mask[..., None], each, 0) for each in (y, expected))
        self.same(y, expected, "output after a reset at the first element")


def _poisoned(inputs: Inputs) -> tuple[Inputs, Inputs]:
    """Return the inputs with NaN in masked places, and those to compare with.

    A gap inside a row counts towards the next valid element, so only the padding that ends it may hold nonsense; it
    counts as 0.
    """
    assert inputs.mask is not None
    x = inputs.x.masked_fill(~inputs.mask[..., None], torch.nan)
    dt, dt_clean = None, None
    if inputs.dt is not None:
        dt, dt_clean = (inputs.dt.masked_fill(inputs.padding(), value) for value in (torch.nan, 0))
    clean = Inputs(inputs.x.clone().requires_grad_(), dt_clean, inputs.mask)
    return Inputs(x.requires_grad_(), dt, inputs.mask), clean


def _valid(y: Tensor, mask: Tensor | None, index: int) -> Tensor:
    return y if mask is None else y[:, mask[index]]
