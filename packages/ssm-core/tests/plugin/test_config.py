from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_core.plugin.config import (
    check,
    config,
    field_docs,
    knobs,
    merge,
    parse_set,
    plain,
    read_file,
    table,
    to_toml,
)
from ssm_core.plugin.errors import ConfigError, did_you_mean


@config
class Inner:
    """Part of another.

    Attributes:
        depth: How deep.
    """

    depth: int = 1


@config
class Knobs:
    """One knob of every kind.

    Attributes:
        count: A number
            of things: whole ones.
        rate: A share.
        on: Whether at all.
        name: What it is called.
        kind: One of two.
        place: Where it lies.
        sizes: Some numbers.
        limit: Largest number; none is no limit.
        inner: A part.

    Raises:
        ValueError: If there is nothing of what is on.
    """

    count: int = 3
    rate: float = 0.5
    on: bool = True
    name: str = "x"
    kind: Literal["a", "b"] = "a"
    place: Path = Path("here/there")
    sizes: tuple[int, ...] = (1, 2)
    limit: int | None = None
    inner: Inner = Inner()

    def __post_init__(self) -> None:
        if self.on and self.count == 0:
            raise ValueError("count must not be 0 while on")


@config
class Demanding:
    """Has no default.

    Attributes:
        must: Has to be given.
    """

    must: int


def checked(**values: Any) -> Knobs:
    return check(Knobs, values, "task", "task dist/thing")


def test_values_are_taken_and_defaults_kept() -> None:
    made = checked(count=7, place="elsewhere", sizes=[4], inner={"depth": 5})
    assert (made.count, made.place, made.sizes, made.inner.depth) == (7, Path("elsewhere"), (4,), 5)
    assert made.rate == 0.5


def test_a_config_is_frozen_and_keyword_only() -> None:
    with pytest.raises(AttributeError):
        Knobs().count = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        Knobs(4)  # type: ignore[misc]


def test_an_unknown_knob_names_its_owner_and_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"task dist/thing has no setting 'task\.cuont'\n.*did you mean 'count'\?"
    ):
        checked(cuont=3)


def test_an_unknown_knob_near_to_none_lists_all() -> None:
    with pytest.raises(ConfigError, match="known: count, inner, kind"):
        checked(zzz=3)


def test_an_unknown_knob_of_a_part_is_refused_too() -> None:
    with pytest.raises(ConfigError, match=r"task\.inner\.width"):
        checked(inner={"width": 3})


def test_words_that_toml_reads_as_values_are_words_again():
    """``--set task.name=true`` and ``--set task.name=3`` where the knob takes text."""
    assert checked(name=True).name == "true"
    assert checked(name=3).name == "3"


@pytest.mark.parametrize(
    ("values", "path", "given"),
    [
        ({"count": "many"}, "task.count", "'many'"),
        ({"count": 1.5}, "task.count", "1.5"),
        ({"rate": "fast"}, "task.rate", "'fast'"),
        ({"on": "perhaps"}, "task.on", "'perhaps'"),
        ({"name": [3]}, "task.name", "[3]"),
        ({"kind": "c"}, "task.kind", "'c'"),
        ({"sizes": [1, "x"]}, "task.sizes.1", "'x'"),
        ({"inner": {"depth": "x"}}, "task.inner.depth", "'x'"),
    ],
)
def test_a_wrong_value_is_shown_with_its_place_and_its_documentation(
    values: dict[str, Any], path: str, given: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(**values)
    message = str(caught.value)
    assert f"'{path}'" in message
    assert f"(given: {given})" in message
    knob = next(iter(values))
    assert f"{knob}: {field_docs(Knobs)[knob]}" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan"])
def test_numbers_are_finite(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"'task\.rate' of task dist/thing.*finite"):
        checked(rate=value)


@pytest.mark.parametrize("knob", ["count", "rate", "limit"])
def test_true_is_not_a_number(knob: str) -> None:
    with pytest.raises(ConfigError, match=rf"'task\.{knob}' of task dist/thing is a number \(given: true\)"):
        checked(**{knob: True})


def test_none_gives_back_a_default_that_is_none() -> None:
    assert checked(limit="none").limit is None
    with pytest.raises(ConfigError, match=r"'task\.count'"):
        checked(count="none")
    assert checked(name="none").name == "none"


def test_contradicting_values_give_the_class_own_message() -> None:
    with pytest.raises(
        ConfigError, match=r"task dist/thing: count must not be 0 while on \(given: task\.count = 0\)\n"
    ):
        checked(count=0)


def test_a_missing_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'task\.must' of task dist/thing.*\n.*must: Has to be given\."):
        check(Demanding, {}, "task", "task dist/thing")


def test_every_knob_is_described() -> None:
    rows = {row["name"]: row for row in knobs(Knobs)}
    assert rows["count"] == {
        "name": "count",
        "type": "int",
        "default": 3,
        "required": False,
        "doc": "A number of things: whole ones.",
    }
    assert rows["place"]["default"] == "here/there"
    assert rows["inner"]["default"] == {"depth": 1}
    assert rows["inner"]["doc"] == "A part."
    assert all(row["doc"] for row in rows.values())
    assert knobs(Demanding)[0]["required"]


def test_documentation_is_inherited() -> None:
    @config
    class Child(Inner):
        """A child.

        Attributes:
            width: How wide.
        """

        width: int = 2

    assert field_docs(Child) == {"depth": "How deep.", "width": "How wide."}


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
anything = st.builds(
    Knobs,
    count=st.integers(1, 2**62),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    on=st.booleans(),
    name=names,
    kind=st.sampled_from(["a", "b"]),
    place=names.filter(lambda text: "\0" not in text).map(Path),
    sizes=st.lists(st.integers(-5, 5)).map(tuple),
    limit=st.none() | st.integers(0, 9),
    inner=st.builds(Inner, depth=st.integers(0, 9)),
)


@given(anything)
def test_printed_knobs_read_back_the_same(made: Knobs) -> None:
    text = table(Knobs, plain(made), "task")
    assert checked(**tomllib.loads(text)["task"]) == made


def test_a_part_without_a_value_reads_back_the_same() -> None:
    assert tomllib.loads(f"x = {to_toml({'a': None, 'b': 2})}") == {"x": {"b": 2}}


def test_printed_knobs_show_documentation_type_and_absent_values() -> None:
    text = table(Knobs, {}, "task")
    assert text.startswith("[task]\n# A number of things: whole ones.  (int)\ncount = 3\n")
    assert "# Largest number; none is no limit.  (int | None)\n# limit =\n" in text


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("a.b=1e-3", 1e-3),
        ("a.b=7", 7),
        ("a.b=true", True),
        ("a.b=[1, 2]", [1, 2]),
        ('a.b="7"', "7"),
        ("a.b=bf16", "bf16"),
        ("a.b=/some/path", "/some/path"),
        ("a.b=1::2", "1::2"),
        ("a.b=x=y", "x=y"),
        ("a.b=", ""),
        ("a.b=two words", "two words"),
    ],
)
def test_set_reads_toml_and_else_text(assignment: str, value: Any) -> None:
    assert parse_set([assignment]) == {"a": {"b": value}}


def test_later_settings_win_and_tables_grow() -> None:
    assert parse_set(["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}


@pytest.mark.parametrize("assignment", ["a.b", "=3", "a..b=3", ".a=3"])
def test_a_setting_that_is_none_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(assignment)):
        parse_set([assignment])


def test_merge_lays_tables_over_each_other_and_changes_neither() -> None:
    base, over = {"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"c": [3]}, "d": {"e": 2}}
    assert merge(base, over) == {"a": {"b": 1, "c": [3]}, "d": {"e": 2}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert over == {"a": {"c": [3]}, "d": {"e": 2}}


trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=6
).map(lambda value: value if isinstance(value, dict) else {"a": value})


@given(trees, trees, trees)
def test_merge_is_associative_with_the_empty_tree_as_unit(a: dict, b: dict, c: dict) -> None:
    assert merge(a, {}) == merge({}, a) == a
    # A value that hides a table, itself hidden by a table, is where grouping matters: those trees are left out.
    if not _hides(a, b) and not _hides(b, c):
        assert merge(merge(a, b), c) == merge(a, merge(b, c))


def _hides(a: Any, b: Any) -> bool:
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return isinstance(a, dict) != isinstance(b, dict)
    return any(_hides(a[key], b[key]) for key in a.keys() & b.keys())


def test_files_are_read_by_their_ending(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[optim]\nlr = 1e-3\n")
    (tmp_path / "a.json").write_text('{"optim": {"lr": 0.001}}')
    assert read_file(tmp_path / "a.toml") == read_file(tmp_path / "a.json") == {"optim": {"lr": 1e-3}}


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.toml: No such file"):
        read_file(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("a = 1\nb = = 2\n")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML: .*line 2"):
        read_file(tmp_path / "bad.toml")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match=r"bad\.json is not valid JSON: .*line 1"):
        read_file(tmp_path / "bad.json")
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"\n')
    with pytest.raises(ConfigError, match=r"latin\.toml"):
        read_file(tmp_path / "latin.toml")


def test_suggestions() -> None:
    assert did_you_mean("pendulm", ["pendulum", "listops"]) == "did you mean 'pendulum'?"
    assert did_you_mean("x", ["b", "a"]) == "known: a, b"
    assert did_you_mean("x", []) == "none is installed"
