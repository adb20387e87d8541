"""Reading a study: from its file to a checked :class:`ssm_train.study.definition.Study`, without torch."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ssm_core.plugin.config import Tree, check, merge
from ssm_core.plugin.errors import ConfigError, UserError, did_you_mean
from ssm_core.run.recipes import ShippedStudy, study
from ssm_train.study.definition import TESTS, Compare, Places, Study, as_list

AS_TRAINED = "as trained"
"""Name of the condition without settings, where the study gives it no other."""


def find_study(name: str) -> Study:
    """Return a shipped study by its name, or one's own by the path of its file.

    Raises:
        PluginError: If there is none of that name.
        ConfigError: If the file cannot be read, or something in it is wrong.
    """
    if not name.endswith(".toml"):
        return read_study(study(name))
    path = Path(name)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the study {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    return read_study(ShippedStudy(name=path.stem, dist="", summary="", tree=tree))


def read_study(shipped: ShippedStudy) -> Study:
    """Check a study's file.

    Raises:
        ConfigError: For unknown or missing entries, and names of axes, levels and conditions that there are not.
    """
    whose = f"study {shipped.dist}/{shipped.name}" if shipped.dist else f"study {shipped.name}"
    tree = {"name": shipped.name, **shipped.tree}
    for key, names in (("tests", ("name", "x")), ("when", ("at",))):
        entries = tree.get(key, [])
        if isinstance(entries, list) and all(isinstance(entry, Mapping) for entry in entries):
            # What stands beside the name is the settings: they need no table of their own in the file.
            tree[key] = [_with_settings(entry, names) for entry in entries]
    tests = tree.get("tests", [])
    given = tree.get("settings", {})
    if isinstance(tests, list) and not any(_own(test, given) for test in tests if isinstance(test, dict)):
        tree["tests"] = [{"name": AS_TRAINED}, *tests]
    made = check(Study, tree, "study", whose)
    _check_names(made, whose)
    return made


def _own(test: Mapping[str, Any], given: Any) -> bool:
    """Say whether a test is the runs' own: it changes nothing, or says what the settings of all runs say."""
    wanted = test.get("settings", {})
    return not wanted or (isinstance(given, Mapping) and merge(given, wanted) == given)


def _with_settings(entry: Mapping[str, Any], names: Iterable[str]) -> Tree:
    own = {key: entry[key] for key in names if key in entry}
    return {**own, "settings": {key: value for key, value in entry.items() if key not in own}}


def _check_names(study: Study, whose: str) -> None:
    names = [axis.name for axis in study.axes]
    if not names or len({*names, TESTS}) != len(names) + 1:
        raise ConfigError(f"{whose} needs axes with different names, none of them '{TESTS}'")
    for axis in study.axes:
        if not axis.levels:
            raise ConfigError(f"axis '{axis.name}' of {whose} has no levels", "write [axes.levels.NAME]")
    for word, values in ((f"'{TESTS}'", study.levels(TESTS)), ("'seeds'", study.seeds)):
        if not values or len(set(values)) != len(values):
            raise ConfigError(f"{word} of {whose} is empty or names something twice")
    for places in (*study.skip, *(when.at for when in study.when)):
        check_places(study, places, whose)
    for compare in study.compare:
        for places in (compare.of, compare.against, compare.within):
            check_places(study, places, f"a comparison of {whose}")
        if compare.of.keys() != compare.against.keys() or not compare.of:
            raise ConfigError(f"'of' and 'against' of a comparison of {whose} have to name the same axes")
        free = set(names) - compare.of.keys() - compare.between.keys()
        _known(compare.pool, free, "axis to pool", whose)
        _check_between(study, compare, whose)
        _known(compare.tests, study.levels(TESTS), "test", whose)
    _check_thresholds(study, whose)
    figure = study.figure
    shown = [*([figure.x] if figure.x else []), *figure.lines, *figure.panels]
    _known(shown, {*names, TESTS}, "axis", f"the figure of {whose}")
    _known(figure.tests, study.levels(TESTS), "test", f"the figure of {whose}")


def _check_between(study: Study, compare: Compare, whose: str) -> None:
    check_places(study, compare.between, f"a comparison of {whose}")
    for name, levels in compare.between.items():
        if len(compare.between) > 1 or len(set(levels)) != 2 or len(levels) != 2 or name in compare.of:
            raise ConfigError(
                f"'between' of a comparison of {whose} takes one axis that is not in 'of', and two of its levels",
                f'such as between = {{ {name} = ["one", "other"] }}',
            )


def _check_thresholds(study: Study, whose: str) -> None:
    places = {condition.name: condition.x for condition in study.tests}
    for asked in study.threshold:
        _known(asked.tests, places, "test", f"threshold '{asked.name}' of {whose}")
        sizes = [places[name] for name in asked.tests]
        known = [size for size in sizes if size is not None]
        if len(known) < max(2, len(sizes)) or known != sorted(set(known)):
            raise ConfigError(
                f"threshold '{asked.name}' of {whose} needs two tests at least, each with a larger x than the "
                "one before",
                f"it has {', '.join(f'{n}: {x}' for n, x in zip(asked.tests, sizes, strict=True)) or 'none'}",
            )
        if asked.factor <= 1:
            raise ConfigError(
                f"factor = {asked.factor} of threshold '{asked.name}' of {whose} has to be above 1"
            )


def check_places(study: Study, places: Mapping[str, Any], whose: str) -> None:
    """Check that axes and levels exist.

    Raises:
        ConfigError: Naming the first that does not, and the nearest that does.
    """
    for name, levels in places.items():
        _known([name], [axis.name for axis in study.axes], "axis", whose)
        _known(as_list(levels), study.levels(name), f"level of '{name}'", whose)


def _known(words: Iterable[str], known: Iterable[str], what: str, whose: str) -> None:
    known = list(known)
    for word in words:
        if word not in known:
            raise ConfigError(
                f"{whose} names the {what} '{word}', which there is not", did_you_mean(word, known)
            )


def parse_only(study: Study, words: Iterable[str]) -> Places:
    """Read ``--only gate=none``; one axis named twice takes both levels.

    Raises:
        UserError: If a word has no ``=``, or axis or level do not exist.
    """
    places: dict[str, list[str]] = {}
    for word in words:
        name, found, level = word.partition("=")
        if not found:
            raise UserError(
                f"--only takes AXIS=LEVEL, not '{word}'", f"axes: {', '.join(a.name for a in study.axes)}"
            )
        check_places(study, {name: level}, "--only")
        places.setdefault(name, []).append(level)
    return dict(places)
