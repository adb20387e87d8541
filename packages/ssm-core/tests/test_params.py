from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ssm_core import build_model
from ssm_core.params import cast_model, gather_hints, groups
from ssm_core.protocols import Hint


class Slow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(3))
        self.b = nn.Parameter(torch.zeros(2, 2))
        self.scale = nn.Parameter(torch.zeros(()))

    def param_hints(self) -> dict[str, Hint]:
        return {"a": Hint(lr_scale=0.25, weight_decay=0.0, dtype=torch.float32)}


def model() -> nn.Module:
    return nn.ModuleDict({"slow": Slow(), "linear": nn.Linear(4, 5), "norm": nn.LayerNorm(5)})


def test_hints_are_gathered_by_full_name() -> None:
    hints = gather_hints(model())
    assert hints["slow.a"] == Hint(lr_scale=0.25, weight_decay=0.0, dtype=torch.float32)
    assert hints["slow.b"] == hints["linear.weight"] == Hint()
    plain = {name for name, hint in hints.items() if hint == Hint(weight_decay=0.0)}
    assert plain == {"slow.scale", "linear.bias", "norm.weight", "norm.bias"}


TORCH_NORMS = (
    nn.BatchNorm1d(4),
    nn.BatchNorm2d(4),
    nn.BatchNorm3d(4),
    nn.SyncBatchNorm(4),
    nn.InstanceNorm1d(4, affine=True),
    nn.InstanceNorm2d(4, affine=True),
    nn.InstanceNorm3d(4, affine=True),
    nn.GroupNorm(2, 4),
)


@pytest.mark.parametrize("norm", TORCH_NORMS, ids=lambda norm: type(norm).__name__)
def test_norms_of_torch_get_no_decay(norm: nn.Module) -> None:
    assert gather_hints(norm) == {"weight": Hint(weight_decay=0.0), "bias": Hint(weight_decay=0.0)}


@pytest.mark.parametrize(
    "module", [nn.GRU(2, 3, bidirectional=True), nn.MultiheadAttention(4, 2, add_bias_kv=True)]
)
def test_biases_of_torch_get_no_decay_whatever_they_are_called(module: nn.Module) -> None:
    hints = gather_hints(module)
    spared = {name for name, hint in hints.items() if hint.weight_decay == 0}
    assert spared == {name for name in hints if "bias" in name}
    assert len(spared) == 4


def test_hints_survive_a_copy_and_another_device() -> None:
    built = model()
    assert gather_hints(copy.deepcopy(built)) == gather_hints(built)
    assert gather_hints(built.to("meta")) == gather_hints(model())


def test_a_hint_for_nothing_is_an_error() -> None:
    class Wrong(Slow):
        def param_hints(self) -> dict[str, Hint]:
            return {"c": Hint()}

    with pytest.raises(KeyError, match=r"Wrong\.param_hints names 'c', which is not its parameter"):
        gather_hints(nn.Sequential(Wrong()))


def test_groups_hold_every_parameter_once_and_the_fastest_first() -> None:
    built = model()
    found = groups(built, lr=0.4, weight_decay=0.1)
    assert [(group.lr, group.weight_decay) for group in found] == [(0.4, 0.1), (0.4, 0.0), (0.1, 0.0)]
    names = [name for group in found for name in group.names]
    assert sorted(names) == sorted(name for name, _ in built.named_parameters())
    assert [group.size for group in found] == [4 + 20, 1 + 5 + 10, 3]
    assert found[2].names == ("slow.a",)


def test_without_decay_what_would_not_decay_is_no_group_of_its_own() -> None:
    assert [(group.lr, group.weight_decay) for group in groups(model(), 0.4, 0.0)] == [(0.4, 0.0), (0.1, 0.0)]


def test_frozen_parameters_are_left_out() -> None:
    built = model()
    built["linear"].requires_grad_(False)
    assert not any(name.startswith("linear") for group in groups(built, 0.1, 0.1) for name in group.names)


def test_a_shared_module_is_counted_once() -> None:
    linear = nn.Linear(2, 2)
    (only, bias) = groups(nn.Sequential(linear, linear), 0.1, 0.1)
    assert (only.names, bias.names) == (("0.weight",), ("0.bias",))


def test_casting_leaves_hinted_parameters_in_their_type() -> None:
    built = cast_model(model(), torch.bfloat16)
    wide = {name for name, parameter in built.named_parameters() if parameter.dtype == torch.float32}
    assert wide == {"slow.a"}
    assert {p.dtype for p in cast_model(model(), torch.float64).parameters()} == {torch.float64}


def test_a_cast_model_computes_what_the_wide_one_does() -> None:
    torch.manual_seed(0)
    built = build_model("s5", d_input=3, d_model=8, n_layers=2, backbone_config={"blocks": 1})
    x = torch.randn(2, 50, 3)
    wide, _ = built(x)
    narrow, _ = cast_model(built, torch.bfloat16)(x.bfloat16())
    assert narrow.dtype == torch.bfloat16
    assert (narrow - wide).norm() < 0.05 * wide.norm()
