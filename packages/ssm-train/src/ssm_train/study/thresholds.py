"""The size of a condition at which a metric reaches a multiple of what it is without it, for every cell of a study."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ssm_train.study.comparisons import Row
from ssm_train.study.definition import Study, Threshold


def thresholds(study: Study, cells: Sequence[Row], metric: str) -> list[Row]:
    """Return a row for each threshold asked for and each cell with a run that tells it.

    Args:
        study: The study; its ``threshold`` entries are answered.
        cells: Cells of its results, as :func:`ssm_train.study.analysis.analyse` returns them.
        metric: The metric where an entry names none.

    Returns:
        Rows ``{name, metric, factor, levels, largest, values, median, low, high}``. ``values`` is a size a seed, None
        where the multiple is not reached up to ``largest``, the largest size tested; ``median``, ``low`` and ``high``
        are over the seeds, with None for above ``largest``. Seeds without a value under some condition below their
        size are left out.
    """
    rows = []
    for asked in study.threshold:
        for cell in cells:
            row = _row(study, asked, cell, asked.metric or metric)
            if row["values"]:
                rows.append(row)
    return rows


def crossing(sizes: Sequence[float], values: Sequence[float | None], factor: float) -> float | None:
    """Return the size at which values first reach `factor` times the first of them.

    Between sizes the logarithm of the values is taken to be linear, or the values themselves where not all are above 0.

    Args:
        sizes: Growing sizes.
        values: A value each; None for one that is not known.
        factor: Above 1.

    Returns:
        The size; infinity if it is not reached, None if that cannot be told because a value is missing.
    """
    start = values[0]
    if start is None or start <= 0:
        return None
    last = start
    for place in range(1, len(sizes)):
        value = values[place]
        if value is None:
            return None
        if value >= factor * start:
            logs = last > 0
            a, b, wanted = (math.log(v) if logs else v for v in (last, value, factor * start))
            return sizes[place - 1] + (wanted - a) / (b - a) * (sizes[place] - sizes[place - 1])
        last = value
    return math.inf


def _row(study: Study, asked: Threshold, cell: Row, metric: str) -> Row:
    conditions = {condition.name: condition for condition in study.tests}
    sizes = [float(conditions[name].x or 0.0) for name in asked.tests]
    found = {}
    for seed in _seeds(cell, asked.tests[0], metric):
        values = [cell["tests"][name].get(metric, {}).get("values", {}).get(seed) for name in asked.tests]
        size = crossing(sizes, values, asked.factor)
        if size is not None:
            found[seed] = size
    known = sorted(found.values())
    median = statistics.median_high(known) if known else math.inf
    return {
        "name": asked.name,
        "metric": metric,
        "factor": asked.factor,
        "levels": dict(cell["levels"]),
        "largest": sizes[-1],
        "values": {seed: _finite(size) for seed, size in found.items()},
        "median": _finite(median),
        "low": _finite(known[0]) if known else None,
        "high": _finite(known[-1]) if known else None,
    }


def _seeds(cell: Mapping[str, Any], test: str, metric: str) -> list[str]:
    return list(cell["tests"][test].get(metric, {}).get("values", {}))


def _finite(size: float) -> float | None:
    return size if math.isfinite(size) else None
