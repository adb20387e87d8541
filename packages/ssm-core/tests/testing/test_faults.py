"""The suite for mixers finds the faults it is there to find: each is built into a mixer that is right otherwise."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from _pytest.outcomes import Skipped
from torch import nn

from ssm_core.plugin.spec import Capabilities
from ssm_core.protocols import Hint
from ssm_core.testing import MixerSuite, TinyMixer
from ssm_core.testing.cases import Case


class IgnoresGapsInStep(TinyMixer):
    def step(self, x_bd: Any, *, dt_b: Any = None, **kwargs: Any) -> Any:
        return super().step(x_bd, **kwargs)


class ReturnsTheStateItGot(TinyMixer):
    def forward(self, x_bld: Any, *, state: Any = None, **kwargs: Any) -> Any:
        y, after = super().forward(x_bld, state=state, **kwargs)
        return y, after if state is None else state


class DetachesItsState(TinyMixer):
    def forward(self, x_bld: Any, **kwargs: Any) -> Any:
        y, after = super().forward(x_bld, **kwargs)
        return y, {name: value.detach() for name, value in after.items()} if after else after


class LooksAhead(TinyMixer):
    def forward(self, x_bld: Any, **kwargs: Any) -> Any:
        y, after = super().forward(x_bld, **kwargs)
        return y + 1e-6 * torch.where(y.isfinite(), y, 0).roll(-1, 1), after


class MixesRows(TinyMixer):
    def forward(self, x_bld: Any, **kwargs: Any) -> Any:
        return super().forward(x_bld - 1e-6 * x_bld.mean(0), **kwargs)


class LetsPaddingThrough(TinyMixer):
    def forward(self, x_bld: Any, *, mask_bl: Any = None, **kwargs: Any) -> Any:
        x = x_bld if mask_bl is None else torch.where(mask_bl[..., None], x_bld, 0)
        return super().forward(x, **kwargs)


class DropsMaskedGaps(TinyMixer):
    def forward(self, x_bld: Any, *, dt_bl: Any = None, mask_bl: Any = None, **kwargs: Any) -> Any:
        if mask_bl is not None:
            dt = torch.ones_like(x_bld[..., 0]) if dt_bl is None else dt_bl
            dt_bl = torch.where(mask_bl, dt, 0)
        return super().forward(x_bld, dt_bl=dt_bl, mask_bl=mask_bl, **kwargs)


class NaNInMaskedOutputs(TinyMixer):
    def forward(self, x_bld: Any, *, mask_bl: Any = None, **kwargs: Any) -> Any:
        y, after = super().forward(x_bld, mask_bl=mask_bl, **kwargs)
        return (y if mask_bl is None else y.masked_fill(~mask_bl[..., None], torch.nan)), after


class IgnoresResets(TinyMixer):
    def forward(self, x_bld: Any, *, reset_bl: Any = None, **kwargs: Any) -> Any:
        return super().forward(x_bld, **kwargs)


class ResetsAllRows(TinyMixer):
    def forward(self, x_bld: Any, *, reset_bl: Any = None, **kwargs: Any) -> Any:
        reset = None if reset_bl is None else reset_bl.any(0, keepdim=True).expand_as(reset_bl)
        return super().forward(x_bld, reset_bl=reset, **kwargs)


class IgnoresGaps(TinyMixer):
    def forward(self, x_bld: Any, *, dt_bl: Any = None, **kwargs: Any) -> Any:
        return super().forward(x_bld, **kwargs)


class IgnoresAState(TinyMixer):
    def forward(self, x_bld: Any, *, state: Any = None, **kwargs: Any) -> Any:
        return super().forward(x_bld, state=state if self.causal else None, **kwargs)


class StretchesResets(TinyMixer):
    def forward(self, x_bld: Any, *, reset_bl: Any = None, **kwargs: Any) -> Any:
        reset = None if reset_bl is None else reset_bl[:, :1].expand(x_bld.shape[:2])
        return super().forward(x_bld, reset_bl=reset, **kwargs)


class KeepsItsState(TinyMixer):
    def forward(self, x_bld: Any, **kwargs: Any) -> Any:
        y, after = super().forward(x_bld, **kwargs)
        self.last = y.detach()
        return y, after


class WritesToItsState(TinyMixer):
    def forward(self, x_bld: Any, *, state: Any = None, **kwargs: Any) -> Any:
        y, after = super().forward(x_bld, state=state, **kwargs)
        if state:
            state["h"].add_(1)
        return y, after


class HintsAtNothing(TinyMixer):
    def param_hints(self) -> dict[str, Hint]:
        return {"rate": Hint()}


class KeepsValuesOutsideItsWeights(TinyMixer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("factor", torch.full((self.d_model,), 2.0), persistent=False)

    def forward(self, x_bld: Any, **kwargs: Any) -> Any:
        return super().forward(x_bld * self.factor.to(x_bld), **kwargs)


class DrawsItsOwnValues(TinyMixer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.factor = torch.rand(()).item()

    def forward(self, x_bld: Any, **kwargs: Any) -> Any:
        return super().forward(x_bld * self.factor, **kwargs)


class AlwaysFloat32(TinyMixer):
    def forward(self, x_bld: Any, **kwargs: Any) -> Any:
        y, after = super().forward(x_bld, **kwargs)
        return y.float(), after


class LowStateUnderAutocast(TinyMixer):
    def forward(self, x_bld: Any, **kwargs: Any) -> Any:
        y, after = super().forward(x_bld, **kwargs)
        low = torch.is_autocast_enabled("cpu")
        return y, {name: value.bfloat16() for name, value in after.items()} if low and after else after


class WrongGradient(TinyMixer):
    def forward(self, x_bld: Any, **kwargs: Any) -> Any:
        y, after = super().forward(x_bld, **kwargs)
        return y + 0.1 * (x_bld - x_bld.detach()), after


class BatchSecond(TinyMixer):
    def forward(self, x_bld: Any, **kwargs: Any) -> Any:
        y, after = super().forward(x_bld, **kwargs)
        return y, {**after, "h": after["h"].T} if after else after


class SharesItsParameters(TinyMixer):
    def __deepcopy__(self, memo: Any) -> Any:
        return self


class BreaksTheGraph(TinyMixer):
    def forward(self, x_bld: Any, **kwargs: Any) -> Any:
        y, after = super().forward(x_bld, **kwargs)
        return y * (1.0 if y.detach().sum().item() > 0 else 2.0), after


class OneWay(TinyMixer):
    def __init__(self, d_model: int, *, causal: bool = True) -> None:
        super().__init__(d_model, causal=True)
        self.causal = self.streaming = causal

    def init_state(self, *args: Any, **kwargs: Any) -> Any:
        return super().init_state(*args, **kwargs)


class ReadsPaddingBackwards(TinyMixer):
    def forward(self, x_bld: Any, *, mask_bl: Any = None, **kwargs: Any) -> Any:
        y, after = super().forward(x_bld, mask_bl=mask_bl, **kwargs)
        if not self.causal and mask_bl is not None:
            y = y + 1e-3 * mask_bl.shape[1]
        return y, after


FAULTS: dict[type[TinyMixer], str] = {
    IgnoresGapsInStep: "test_step_equals_forward",
    ReturnsTheStateItGot: "test_pieces_with_carried_state_equal_the_whole",
    DetachesItsState: "test_gradient_flows_through_the_final_state",
    LooksAhead: "test_nothing_depends_on_the_future",
    MixesRows: "test_rows_are_independent",
    LetsPaddingThrough: "test_right_padding_changes_nothing",
    DropsMaskedGaps: "test_masked_elements_are_as_if_removed",
    NaNInMaskedOutputs: "test_masked_elements_are_as_if_removed",
    IgnoresResets: "test_a_reset_begins_a_new_sequence",
    ResetsAllRows: "test_a_reset_forgets_a_carried_state",
    IgnoresGaps: "test_gaps_have_an_effect_and_a_gradient",
    IgnoresAState: "test_a_state_is_refused_by_the_bidirectional_form",
    StretchesResets: "test_wrong_lengths_are_refused",
    KeepsItsState: "test_a_call_leaves_module_and_arguments_as_they_were",
    WritesToItsState: "test_a_call_leaves_module_and_arguments_as_they_were",
    HintsAtNothing: "test_hints_name_real_parameters",
    KeepsValuesOutsideItsWeights: "test_it_can_be_built_on_the_meta_device",
    DrawsItsOwnValues: "test_saved_weights_are_the_whole_mixer",
    AlwaysFloat32: "test_output_has_the_shape_and_dtype_of_the_input",
    LowStateUnderAutocast: "test_autocast_keeps_its_islands",
    WrongGradient: "test_gradients_are_those_of_finite_differences",
    BatchSecond: "test_state_is_a_tree_of_tensors_with_the_batch_first",
    SharesItsParameters: "test_a_copy_is_equal_and_its_own",
    BreaksTheGraph: "test_it_compiles_in_one_graph",
    OneWay: "test_the_bidirectional_form_looks_both_ways",
    ReadsPaddingBackwards: "test_right_padding_changes_nothing",
}


def runs(check: Any, tmp_path: Any) -> Any:
    """Yield a call for each form and drawn case: the check's own parameters, without hypothesis's search."""
    inner = getattr(check, "hypothesis", None)
    names = (inner.inner_test if inner else check).__code__.co_varnames
    forms = [{"form": form} for form in ("causal", "bidirectional")] if "form" in names[:3] else [{}]
    cases = (
        [Case(3, 9, 3, seed, torch.float64, seed % 2 == 0, seed % 3 == 0) for seed in range(6)]
        if inner
        else [None]
    )
    for form in forms:
        for case in cases:
            given: dict[str, Any] = dict(form)
            given |= {"case": case} if case else {}
            given |= {"tmp_path": tmp_path} if "tmp_path" in names[:4] else {}
            given |= {"assign": False} if "assign" in names[:4] else {}
            given |= {"argument": "reset"} if "argument" in names[:4] else {}
            yield given


@pytest.mark.parametrize("fault", FAULTS, ids=lambda kind: kind.__name__)
def test_a_fault_is_found_out(fault: type[TinyMixer], tmp_path: Any) -> None:
    class Suite(MixerSuite):
        capabilities: ClassVar = Capabilities(bidirectional=True, dt=True)

        def make(self, width: int, causal: bool) -> nn.Module:
            return fault(width, causal=causal)

    check = getattr(MixerSuite, FAULTS[fault])
    call = check.hypothesis.inner_test if hasattr(check, "hypothesis") else check
    found = []
    for given in runs(check, tmp_path):
        try:
            call(Suite(), **given)
        except Skipped:
            continue
        except BaseException as error:  # noqa: BLE001  pytest.raises failing, compile errors, assertions alike
            found.append(error)
    assert found, f"{fault.__name__} passes {FAULTS[fault]}"
