"""What a study is: axes, what does not go together, conditions to test under, comparisons, a figure.

The form of the file is in the docs, ``docs/how-to/studies.md``; :mod:`ssm_train.study.reading` checks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Literal, TypeAlias

from ssm_core.plugin.config import Tree, config

Places: TypeAlias = dict[str, str | list[str]]
"""Axis -> the level, or levels, that are meant."""

TESTS = "tests"
"""What the figure calls the conditions, as if they were an axis."""


@config
class Axis:
    """One thing that varies.

    Attributes:
        name: What it is called.
        levels: Level -> its settings, a tree as in a configuration file.
    """

    name: str
    levels: dict[str, Tree]


@config
class When:
    """Settings of the cells that have certain levels, laid over those of the levels themselves.

    Attributes:
        at: The levels.
        settings: A tree as in a configuration file.
    """

    at: Places
    settings: Tree


@config
class Condition:
    """Settings under which the best weights of every run are tested, without further training.

    Attributes:
        name: What it is called.
        settings: What is laid over the run's own; what changes nothing is the run's own test.
        x: Its place on the figure's abscissa, if that is a number.
    """

    name: str
    settings: Tree = field(default_factory=dict)
    x: float | None = None


@config
class Compare:
    """A comparison of levels, paired by seed, for each combination of the other axes and each condition.

    Attributes:
        of: The levels in question; a list asks the question for each.
        against: What they are compared with.
        metric: The metric; the study's if empty.
        within: Limits the other axes.
        tests: Limits the conditions; all if empty.
        pool: Axes whose levels are pairs of one comparison, rather than comparisons of their own.
        on: Whether the test asks for a difference, or for a ratio (of values above 0), which suits pooled scales.
        between: One more axis and two of its levels, ``{N = ["256", "4"]}``: what is asked is whether the difference
            (or ratio) at the first is another than at the second, still paired by seed.
    """

    of: Places
    against: Places
    metric: str = ""
    within: Places = field(default_factory=dict)
    tests: list[str] = field(default_factory=list)
    pool: list[str] = field(default_factory=list)
    on: Literal["difference", "ratio"] = "difference"
    between: dict[str, list[str]] = field(default_factory=dict)


@config
class Threshold:
    """How large a condition may be before a metric is a multiple of what it is without it, asked of every cell.

    Attributes:
        name: What grows.
        tests: Conditions with growing ``x``; the first is what the others are measured by.
        metric: The metric, which has to be above 0; the study's if empty.
        factor: The multiple, above 1.
    """

    name: str
    tests: list[str]
    metric: str = ""
    factor: float = 2.0


@config
class Figure:
    """How the picture is laid out; ``tests`` stands for the conditions. Axes that are named nowhere become lines.

    Attributes:
        x: What runs along the abscissa; by default the conditions, or the first axis if there is only one condition.
        lines: What distinguishes the lines of a panel.
        panels: What distinguishes the panels.
        tests: The conditions shown; all if empty.
        x_label: Label of the abscissa.
        log_x: Logarithmic abscissa.
        log_y: Logarithmic ordinate.
    """

    x: str = ""
    lines: list[str] = field(default_factory=list)
    panels: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)
    x_label: str = ""
    log_x: bool = False
    log_y: bool = False


@config
class Study:
    """Many runs, and what to make of them.

    Attributes:
        name: Name of its file.
        summary: One line for listings.
        question: What it asks.
        recipe: Recipe under all runs, ``<task>/<name>``.
        seeds: One run of every cell for each.
        metric: The metric of table and figure; by default the one that selects checkpoints.
        settings: Settings of all runs, laid over the recipe's.
        axes: What varies; the cells are all combinations.
        skip: Combinations that are left out.
        when: Settings of certain combinations.
        tests: Conditions of the tests; one without settings, or with those of ``settings``, is always among them.
        compare: Blocks of comparisons; the p values of a block are corrected together.
        threshold: Sizes of conditions that are asked for.
        figure: The picture.
    """

    name: str
    summary: str = ""
    question: str = ""
    recipe: str = ""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    metric: str = ""
    settings: Tree = field(default_factory=dict)
    axes: list[Axis]
    skip: list[Places] = field(default_factory=list)
    when: list[When] = field(default_factory=list)
    tests: list[Condition] = field(default_factory=list)
    compare: list[Compare] = field(default_factory=list)
    threshold: list[Threshold] = field(default_factory=list)
    figure: Figure = field(default_factory=Figure)

    def levels(self, name: str) -> list[str]:
        """Return the levels of an axis, or the names of the conditions for ``tests``."""
        if name == TESTS:
            return [condition.name for condition in self.tests]
        return next(list(axis.levels) for axis in self.axes if axis.name == name)


def as_list(levels: str | list[str]) -> list[str]:
    """Return one level, or several, as a list."""
    return [levels] if isinstance(levels, str) else levels


def matches(levels: Mapping[str, str], places: Mapping[str, str | list[str]]) -> bool:
    """Say whether a cell with these levels is among those meant."""
    return all(levels[name] in as_list(wanted) for name, wanted in places.items())
