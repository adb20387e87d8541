from __future__ import annotations

import pytest
import torch
from torch import nn

from ssm_core.compose import Addon, Slots, check_used, describe, matching_layers, whole
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import LayerInfo


class Leaf(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.d_model = width


class Round(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class A(Round):
    pass


class B(Round):
    pass


def addon(kind: type[Round], slot: str = "ssm", layers: str = "*") -> Addon:
    return Addon(kind.__name__.lower(), slot, lambda make, width, layer: kind(make(width)), layers)


def layer(index: int = 0, n_layers: int = 4) -> LayerInfo:
    return LayerInfo(index=index, n_layers=n_layers, d_model=8)


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("*", {0, 1, 2, 3}),
        (" * ", {0, 1, 2, 3}),
        ("0", {0}),
        ("0,2", {0, 2}),
        (" 0 , 2 ", {0, 2}),
        ("-1", {3}),
        ("1::2", {1, 3}),
        ("::2", {0, 2}),
        (":2", {0, 1}),
        ("-2:", {2, 3}),
        ("::-1", {0, 1, 2, 3}),
        ("1:9", {1, 2, 3}),
    ],
)
def test_patterns_select_layers(pattern: str, chosen: set[int]) -> None:
    assert matching_layers(pattern, 4, "smr") == chosen


@pytest.mark.parametrize(
    "pattern", ["", "4", "-5", "4,9", "9:", "2:2", "x", "1.0", "0;1", "::0", "1:2:3:4", "0,,1"]
)
def test_patterns_that_select_nothing_are_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="of smr selects none of the 4 layers"):
        matching_layers(pattern, 4, "smr")


@pytest.mark.parametrize(("pattern", "outside"), [("0,4", "4"), ("-5,1", "-5"), ("7,0,9", "7, 9")])
def test_layers_that_are_not_there_are_named(pattern: str, outside: str) -> None:
    with pytest.raises(
        ConfigError, match=f"of smr names layer {outside}, and there are 4 layers\n.*from 0 to 3"
    ):
        matching_layers(pattern, 4, "smr")


def test_add_ons_on_one_slot_nest_in_their_order() -> None:
    mixer = whole(Leaf, Slots([addon(A), addon(B)], layer()), 8)
    assert describe(mixer) == "B(A(Leaf))"
    mixer = whole(Leaf, Slots([addon(B), addon(A)], layer()), 8)
    assert describe(mixer) == "A(B(Leaf))"


def test_the_slot_mixer_is_outside_the_slot_ssm() -> None:
    mixer = whole(Leaf, Slots([addon(A, "mixer"), addon(B, "ssm")], layer()), 8)
    assert describe(mixer) == "A(B(Leaf))"


def test_an_add_on_goes_on_its_layers_only() -> None:
    chosen = [describe(whole(Leaf, Slots([addon(A, layers="1::2")], layer(i)), 8)) for i in range(4)]
    assert chosen == ["Leaf", "A(Leaf)", "Leaf", "A(Leaf)"]


def test_a_pattern_that_selects_nothing_is_told_by_any_layer() -> None:
    with pytest.raises(ConfigError, match="of a selects none"):
        Slots([addon(A, layers="7")], layer(0))


def test_make_builds_at_another_width_and_more_than_once() -> None:
    class Halves(nn.Module):
        def __init__(self, make, width: int) -> None:
            super().__init__()
            self.branches = nn.ModuleList([make(width // 2), make(width // 2)])

    halves = Addon("halves", "mixer", lambda make, width, layer: Halves(make, width))
    mixer = whole(Leaf, Slots([addon(A), halves], layer()), 8)
    assert [describe(branch) for branch in mixer.branches] == ["A(Leaf)", "A(Leaf)"]
    assert [branch.inner.d_model for branch in mixer.branches] == [4, 4]
    assert mixer.branches[0] is not mixer.branches[1]


def test_taking_an_add_on_off_is_a_change_of_prefix() -> None:
    class Weighty(Leaf):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.w = nn.Parameter(torch.ones(width))

    bare = whole(Weighty, Slots([], layer()), 8).state_dict()
    wrapped = whole(Weighty, Slots([addon(A), addon(B)], layer()), 8).state_dict()
    assert set(wrapped) == {f"inner.inner.{name}" for name in bare}


def test_a_slot_may_be_missing_from_some_blocks_but_not_from_all() -> None:
    """A backbone whose recurrence stands in its first layer only takes an add-on there."""
    once = addon(A, layers="*")
    slots = [Slots([once], layer(index)) for index in range(2)]
    slots[0]("ssm", Leaf, 4)
    slots[1]("mixer", Leaf, 4)
    check_used([once], slots, "sparse")
    later = addon(A, layers="1")
    late = [Slots([later], layer(index)) for index in range(2)]
    late[1]("mixer", Leaf, 4)
    with pytest.raises(ConfigError, match=r"'ssm', and sparse offers only mixer in layers '1'"):
        check_used([later], late, "sparse")
