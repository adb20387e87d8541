"""The comparisons of a study: which cells are set against which, what their runs say, what could come out at all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ssm_core.plugin.config import plain
from ssm_eval.stats import least_effect, paired
from ssm_train.study.definition import Compare, Places, as_list, matches
from ssm_train.study.plan import Cell, Plan, key

Row: TypeAlias = dict[str, Any]
Levels: TypeAlias = Mapping[str, str]

LEVEL = 0.95
"""Confidence level of the intervals."""


@dataclass(frozen=True)
class Comparison:
    """One comparison, a row of the table to be.

    Attributes:
        compare: The block that it is of.
        of: Axis -> level in question.
        against: Axis -> level that it is compared with.
        at: Levels of the axes that are neither compared nor pooled.
        test: The condition.
        sets: Places among the plan's cells: of, against; then, where the block has ``between``, those at its second
            level. Every seed of each makes one pair.
    """

    compare: Compare
    of: Levels
    against: Levels
    at: Levels
    test: str
    sets: tuple[tuple[int, ...], ...]


def planned(plan: Plan) -> list[list[Comparison]]:
    """Return the comparisons of each block: for each level in question, combination of the other axes, and condition.

    The same runs are compared once: cells that share their runs make one pair, and one row.
    """
    keys = [key(cell.config.to_tree()) for cell in plan.cells]
    return [list(_block(compare, plan, keys)) for compare in plan.study.compare]


def _block(compare: Compare, plan: Plan, keys: Sequence[str]) -> Iterator[Comparison]:
    held = {*compare.of, *compare.pool, *compare.between}
    axes = [axis.name for axis in plan.study.axes if axis.name not in held]
    fixed = dict.fromkeys(tuple(cell.levels[name] for name in axes) for cell in plan.cells)
    conditions = compare.tests or [condition.name for condition in plan.study.tests]
    for of, against in itertools.product(_each(compare.of), _each(compare.against)):
        seen = set[frozenset[tuple[str, ...]]]()
        for at in {} if of == against else fixed:
            places = dict(zip(axes, at, strict=True))
            sets = _sets(compare, plan.cells, of, against, places)
            runs = {runs: each for each in reversed(sets) if _differ(runs := tuple(keys[i] for i in each))}
            if not runs or frozenset(runs) in seen:
                continue
            seen.add(frozenset(runs))
            for condition in conditions:
                yield Comparison(compare, of, against, places, condition, tuple(sorted(runs.values())))


def _each(places: Places) -> list[Levels]:
    return [
        dict(zip(places, levels, strict=True)) for levels in itertools.product(*map(as_list, places.values()))
    ]


def _sets(
    compare: Compare, cells: Iterable[Cell], of: Levels, against: Levels, at: Levels
) -> list[tuple[int, ...]]:
    """Return the cells that differ in the compared axes alone, each with its partners."""
    inside = {
        frozenset(cell.levels.items()): (place, cell.levels)
        for place, cell in enumerate(cells)
        if matches(cell.levels, at) and matches(cell.levels, compare.within)
    }
    moves: list[Levels] = [{}, against]
    first: dict[str, str] = {}
    for name, (one, other) in compare.between.items():
        first, moves = {name: one}, [{}, against, {name: other}, {**against, name: other}]
    found = []
    for _, levels in inside.values():
        if matches(levels, {**of, **first}):
            wanted = [frozenset({**levels, **move}.items()) for move in moves]
            if all(each in inside for each in wanted):
                found.append(tuple(inside[each][0] for each in wanted))
    return found


def _differ(runs: tuple[str, ...]) -> bool:
    """Say whether something is compared: a run is not compared with itself, nor a pair of runs."""
    pairs = [runs[start : start + 2] for start in range(0, len(runs), 2)]
    return all(one != other for one, other in pairs) and len(set(pairs)) == len(pairs)


def compared(comparison: Comparison, cells: Sequence[Row], metric: str) -> Row:
    """Return what the runs say.

    Args:
        comparison: What is compared.
        cells: The rows of the plan's cells in the results.
        metric: The study's.

    Returns:
        ``{of, against, between, at, test, metric, n, not_finite, asked, on, difference, low, high, ratio, ratio_low,
        ratio_high, p}``: the pairs; the runs ``[of, against]`` whose value is not finite, which make none; whether p
        was to be of a difference or a ratio, and what it is of (a ratio is asked of values above 0 alone).
    """
    compare, test = comparison.compare, comparison.test
    metric = compare.metric or metric
    sets = list[tuple[float, ...]]()
    lost: tuple[set[str], set[str]] = (set(), set())
    for places in comparison.sets:
        members = [(cells[place]["runs"], cells[place]["tests"][test].get(metric)) for place in places]
        for side, (runs, value) in enumerate(members):
            lost[side % 2].update(runs[seed] for seed in (value or {}).get("lost", ()))
        values = [value["values"] if value else {} for _, value in members]
        for seed in values[0]:
            each = tuple(found for by_seed in values if (found := by_seed.get(seed)) is not None)
            if len(each) == len(values):
                sets.append(each)
    return {
        "of": dict(comparison.of),
        "against": dict(comparison.against),
        "between": plain(compare.between),
        "at": dict(comparison.at),
        "test": test,
        "metric": metric,
        "n": len(sets),
        "not_finite": [len(side) for side in lost],
        "asked": compare.on,
        **_tested(sets, compare.on),
    }


def _tested(sets: Sequence[tuple[float, ...]], on: Literal["difference", "ratio"]) -> Row:
    """Return what pairs say, or fours: then the first pair's difference (ratio) less (over) that of the second."""
    ratios = bool(sets) and min(map(min, sets)) > 0
    on = on if ratios or not sets else "difference"
    found: dict[str, Row] = {}
    if sets and len(sets[0]) == 2:
        found = dict.fromkeys(
            ("difference", "ratio"), plain(paired(*zip(*sets, strict=True), level=LEVEL, on=on))
        )
    elif sets:
        gaps = [(a - b, c - d) for a, b, c, d in sets]
        found["difference"] = plain(paired(*zip(*gaps, strict=True), level=LEVEL))
        if ratios:
            gains = [(a / b, c / d) for a, b, c, d in sets]
            found["ratio"] = plain(paired(*zip(*gains, strict=True), level=LEVEL, on="ratio"))
    row: Row = {"on": on}
    for kind, names in (
        ("difference", ("difference", "low", "high")),
        ("ratio", ("ratio", "ratio_low", "ratio_high")),
    ):
        row |= {name: found.get(kind, {}).get(name) for name in names}
    return {**row, "p": found.get(on, {}).get("p")}


def title(row: Mapping[str, Any]) -> str:
    """Return what a comparison is of: ``smr against none, N 256 against 4``."""
    parts = [f"{', '.join(row['of'].values())} against {', '.join(row['against'].values())}"]
    parts += [f"{name} {one} against {other}" for name, (one, other) in row["between"].items()]
    return ", ".join(parts)


def outlook(plan: Plan) -> list[Row]:
    """Return for each block what could come out at all with the plan's seeds.

    Returns:
        ``{block, comparisons, pairs, least}``: the number of comparisons, which are corrected together; the fewest and
        the most pairs of one of them; and for each of these two the least ``|mean| / std`` of the differences (or log
        ratios) with which it can be the first to come out at 0.05, None if it cannot.
    """
    rows = list[Row]()
    for number, block in enumerate(planned(plan), 1):
        pairs = sorted({len(each.sets) * len(plan.seeds) for each in block})
        ends = [pairs[0], pairs[-1]] if pairs else []
        least = [least_effect(n, len(block), round(1 - LEVEL, 12)) for n in ends]
        rows.append({"block": number, "comparisons": len(block), "pairs": ends, "least": least})
    return rows


def outlook_lines(plan: Plan) -> list[str]:
    """Return :func:`outlook` in words, a line a block; nothing if nothing is compared."""
    lines = list[str]()
    for row, compare in zip(outlook(plan), plan.study.compare, strict=True):
        shown = title(
            {"of": _shown(compare.of), "against": _shown(compare.against), "between": compare.between}
        )
        ends = dict(zip(row["pairs"], row["least"], strict=True))
        least = [
            f"of {n} pair{'s' if n > 1 else ''}, "
            + ("too few for a p" if x is None else f"can come out (p 0.05) from |mean|/sd {_up(x)} on")
            for n, x in ends.items()
        ]
        together = f"{row['comparisons']} comparisons corrected together"
        lines.append(f"block {row['block']} ({shown}): {together}; {'; '.join(least)}")
    return lines


def _up(value: float) -> str:
    """Return two decimals, rounded up: what is said to be enough has to be."""
    return f"{math.ceil(100 * value) / 100:.2f}"


def _shown(places: Places) -> dict[str, str]:
    return {name: " or ".join(as_list(levels)) for name, levels in places.items()}
