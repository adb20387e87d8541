"""Copied, saved, built without memory, compiled: the same mixer."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ssm_core.params import gather_hints
from ssm_core.testing.cases import Case, Inputs
from ssm_core.testing.subject import Form, Subject, forms, gradients, project, run
from ssm_core.testing.trees import leaves

SAMPLE = Case(2, 9, 0, 8, torch.float32, True, True)


class Storage(Subject):
    """Checks of copying, saving, meta-initialisation and compilation."""

    @forms
    def test_a_copy_is_equal_and_its_own(self, form: Form) -> None:
        """``copy.deepcopy`` gives the same outputs and hints, and shares no memory."""
        mixer = self.built(form, self.widths[-1], torch.float32)
        twin = copy.deepcopy(mixer)
        expected = self._sample(mixer)
        assert torch.equal(self._sample(twin), expected)
        assert gather_hints(twin) == gather_hints(mixer)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.fill_(0.5)
        assert torch.equal(self._sample(mixer), expected), "changing the copy changes the mixer"

    @forms
    def test_saved_weights_are_the_whole_mixer(self, form: Form, tmp_path: Path) -> None:
        """Through safetensors into one that started from another seed."""
        mixer, other = (self.built(form, self.widths[-1], torch.float32, seed=seed) for seed in (0, 1))
        self._save(mixer, tmp_path / "weights.safetensors")
        other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
        assert torch.equal(self._sample(other), self._sample(mixer))

    @forms
    @pytest.mark.parametrize("assign", [False, True])
    def test_it_can_be_built_on_the_meta_device(self, form: Form, assign: bool, tmp_path: Path) -> None:
        """Build without memory, then load: no value may live outside the weights."""
        mixer = self.built(form, self.widths[-1], torch.float32)
        self._save(mixer, tmp_path / "weights.safetensors")
        with torch.device("meta"):
            empty: Any = self.make(self.widths[-1], form == "causal")
        assert all(p.is_meta for p in empty.parameters()), "a parameter was built off the meta device"
        empty.to_empty(device="cpu")
        with torch.no_grad():
            for tensor in (*empty.parameters(), *empty.buffers()):
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)
        empty.load_state_dict(load_file(tmp_path / "weights.safetensors"), assign=assign)
        assert torch.equal(self._sample(empty.eval()), self._sample(mixer))
        assert gather_hints(empty) == gather_hints(mixer)

    @forms
    def test_it_compiles_in_one_graph(self, form: Form) -> None:
        """``torch.compile(fullgraph=True)`` gives the values and the gradients of eager execution."""
        self.honours("compile")
        if form == "bidirectional" and self.claims().causal and not self.exhaustive:
            pytest.skip("needs exhaustive = True")
        mixer = self.built(form, self.widths[-1], torch.float32)
        plain = self.inputs(replace(SAMPLE, mask=False, dt=False), mixer)
        self._check_compiled(mixer, [plain])

    @forms
    def test_it_compiles_with_everything_given(self, form: Form) -> None:
        """The same with gaps, mask and resets, at several lengths, and step by step."""
        self.honours("compile")
        if not self.exhaustive:
            pytest.skip("needs exhaustive = True")
        mixer = self.built(form, self.widths[-1], torch.float32)
        resets, lengths = "reset" not in self.denies, (9, 10, 16, 33)
        whole = form not in self.splits_at_resets
        given = [self.inputs(SAMPLE, mixer, reset=resets and whole, length=length) for length in lengths]
        self._check_compiled(mixer, given)
        if resets and not whole:
            self._check_compiled(mixer, [self.inputs(SAMPLE, mixer, reset=True)], fullgraph=False)
        if mixer.streaming:
            step = torch.compile(mixer.step, fullgraph=True, backend="aot_eager")
            x, state = given[0].x[:, 0].detach(), mixer.init_state(2)
            self.same(step(x, state=state)[0], mixer.step(x, state=state)[0], "compiled step")

    def _check_compiled(self, mixer: Any, given: list[Inputs], *, fullgraph: bool = True) -> None:
        torch._dynamo.reset()
        compiled = torch.compile(mixer, fullgraph=fullgraph, backend="aot_eager")
        for inputs in given:
            x = inputs.x.requires_grad_()
            found = []
            for each in (compiled, mixer):
                with warnings.catch_warnings():
                    # Behind a break torch's compiler looks at it itself, and hides what is said of it, but not errors.
                    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
                    y, state = run(each, inputs)
                reached = gradients(project(y, inputs.mask), x, *mixer.parameters())
                found.append([y, *leaves(state), *reached])
            for value, expected in zip(*found, strict=True):
                self.same(value, expected, "compiled beside eager")

    def _sample(self, mixer: Any) -> torch.Tensor:
        with torch.no_grad():
            return run(mixer, self.inputs(SAMPLE, mixer))[0]

    @staticmethod
    def _save(mixer: nn.Module, path: Path) -> None:
        save_file({name: value.contiguous() for name, value in mixer.state_dict().items()}, path)
