"""One element at a time, in pieces or as a whole: the same values, the same gradients, the same state."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ssm_core.protocols import State
from ssm_core.testing.cases import Case, Inputs, sweep
from ssm_core.testing.subject import Subject, gradients, project, row, run
from ssm_core.testing.trees import leaves, mapped


class Streaming(Subject):
    """Checks of ``step`` and of state carried between calls."""

    @sweep()
    def test_step_equals_forward(self, case: Case) -> None:
        """Stepping through a sequence gives the outputs and the state of the parallel pass."""
        mixer = self.streaming(self.width(case), case.dtype)
        whole = self.inputs(case, mixer)
        inputs = Inputs(whole.x, whole.dt)
        y, after = run(mixer, inputs)
        stepped, state = _steps(mixer, inputs, mixer.init_state(case.b))
        self.same(stepped, y, "stepped output")
        for index in range(case.b):
            self.same_future(mixer, row(state, index), row(after, index), "state after stepping")

    @sweep(5)
    def test_steps_go_on_from_the_parallel_pass(self, case: Case) -> None:
        """A prompt in parallel, masked places and all, then steps: equals the whole."""
        self.streaming(self.width(case))
        mixer = self.stateful(self.width(case), case.dtype)
        prompt = self.inputs(case, mixer)
        ahead = self.inputs(replace(case, seed=case.seed + 1, mask=False), mixer, length=3)
        _, state = run(mixer, prompt)
        y, _ = _steps(mixer, ahead, state)
        expected, _ = run(mixer, ahead, state)
        self.same(y, expected, "output of steps after a prompt")

    @sweep(5, dtypes=(torch.float64,))
    def test_step_has_the_gradient_of_forward(self, case: Case) -> None:
        """Of inputs and parameters."""
        mixer = self.streaming(self.width(case), case.dtype)
        whole = self.inputs(case, mixer)
        inputs = Inputs(whole.x[:, :7].requires_grad_(), None if whole.dt is None else whole.dt[:, :7])
        stepped, _ = _steps(mixer, inputs, mixer.init_state(case.b))
        wanted = [inputs.x, *mixer.parameters()]
        expected = gradients(project(run(mixer, inputs)[0]), *wanted)
        for g, e in zip(gradients(project(stepped), *wanted), expected, strict=True):
            self.same(g, e, "gradient of stepping", slack=10)

    @sweep(20)
    def test_pieces_with_carried_state_equal_the_whole(self, case: Case) -> None:
        """Cut anywhere: outputs, final state and all gradients."""
        mixer = self.stateful(self.width(case), case.dtype)
        inputs = self.inputs(case, mixer, reset="reset" not in self.denies and case.seed % 2 == 1)
        inputs.x.requires_grad_()
        wanted = [inputs.x, *mixer.parameters()]
        y, after = run(mixer, inputs)
        pieces, state = _in_pieces(mixer, inputs, _cuts(case))
        if inputs.mask is not None:
            y, pieces = (torch.where(inputs.mask[..., None], each, 0) for each in (y, pieces))
        self.same(pieces, y, "output in pieces")
        for index in range(case.b):
            self.same_future(mixer, row(state, index), row(after, index), "state after the pieces")
        expected = gradients(project(y), *wanted)
        for g, e in zip(gradients(project(pieces), *wanted), expected, strict=True):
            self.same(g, e, "gradient through carried state", slack=10)

    @sweep(5, dtypes=(torch.float64,))
    def test_gradient_flows_through_the_final_state(self, case: Case) -> None:
        """What the last output owes to the first input arrives also by way of the state alone."""
        mixer = self.stateful(self.width(case))
        inputs = self.inputs(case, mixer)
        later = torch.ones(case.b, 1, mixer.d_model, dtype=case.dtype)
        x = inputs.x.requires_grad_()
        _, state = run(mixer, inputs)
        split = gradients(project(mixer(later, state=state)[0]), x)[0]
        dt = None if inputs.dt is None else torch.cat([inputs.dt, torch.ones_like(inputs.dt[:, :1])], 1)
        mask = (
            None if inputs.mask is None else torch.cat([inputs.mask, torch.ones_like(inputs.mask[:, :1])], 1)
        )
        joined, _ = run(mixer, Inputs(torch.cat([x, later], 1), dt, mask))
        self.same(split, gradients(project(joined[:, -1:]), x)[0], "gradient by way of the state", slack=10)

    def test_rows_of_a_state_can_be_picked_and_detached(self) -> None:
        """The loop detaches states for truncated backpropagation, and a sampler reorders their rows."""
        mixer = self.stateful(self.widths[-1])
        first, then = torch.randn(2, 3, 6, mixer.d_model, dtype=torch.float64).unbind()
        order = torch.tensor([2, 0, 0])
        _, state = mixer(first)
        picked = mapped(lambda leaf: leaf.detach()[order], state)
        assert not any(leaf.requires_grad for leaf in leaves(picked))
        self.same(mixer(then, state=picked)[0], mixer(then, state=mixer(first[order])[1])[0], "picked rows")

    @sweep(5)
    def test_no_state_is_the_initial_state(self, case: Case) -> None:
        """``state=None`` and ``init_state`` start alike."""
        mixer = self.stateful(self.width(case), case.dtype)
        inputs = self.inputs(case, mixer)
        self.same(
            run(mixer, inputs, mixer.init_state(case.b))[0], run(mixer, inputs)[0], "from the initial state"
        )


def _steps(mixer: Any, inputs: Inputs, state: State) -> tuple[Tensor, State]:
    out = []
    for time in range(inputs.x.shape[1]):
        dt = None if inputs.dt is None else inputs.dt[:, time]
        y, state = mixer.step(inputs.x[:, time], dt_b=dt, state=state)
        out.append(y)
    return torch.stack(out, 1), state


def _cuts(case: Case) -> list[int]:
    """Return where to cut: up to three places drawn from the case's seed, so that pieces of one element come up."""
    places = torch.randint(0, case.l + 1, (3,), generator=case.generator())
    return sorted({0, case.l, *places.tolist()})


def _in_pieces(mixer: Any, inputs: Inputs, cuts: list[int]) -> tuple[Tensor, State]:
    out, state = [], None
    for start, stop in pairwise(cuts):
        y, state = run(mixer, inputs[:, start:stop], state)
        out.append(y)
    return torch.cat(out, 1), state
