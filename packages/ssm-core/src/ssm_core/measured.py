"""What is measured, as plain values: who measures does not draw.

Tasks return the panels of their predictions, probes and benches a :class:`Result`; ``ssm_eval`` draws, the command line
writes. All of it can be had from :mod:`ssm_core.protocols` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class BandPlot:
    """Data of a picture: truth against prediction with its uncertainty, over (irregular) time.

    Attributes:
        title: Title of the panel.
        x: Time points (n,).
        truth: True values (n,).
        mean: Predicted mean (n,).
        std: Predicted standard deviation (n,), or None.
        x_label: Label of the time axis, with its unit.
        y_label: Label of the value axis.
    """

    title: str
    x: Sequence[float]
    truth: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float] | None = None
    x_label: str = "time"
    y_label: str = ""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line, or one cloud of points, of a chart.

    Attributes:
        label: What the legend calls it.
        x: Abscissas (n,).
        y: Ordinates (n,); None or NaN where there is none.
        style: How it is drawn.
        low: Lower ends of an interval round each point (n,), if there is one.
        high: Upper ends.
        same_as: Label of an earlier curve whose colour it shares.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    style: Literal["line", "dashed", "points", "line and points"] = "line"
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    same_as: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One panel of a picture, as plain values: who measures does not draw.

    Attributes:
        title: Title of the panel.
        curves: What is in it.
        x_label: Label of the abscissa, with its unit.
        y_label: Label of the ordinate, with its unit.
        log_x: Logarithmic abscissa.
        log_y: Logarithmic ordinate.
        equal: One scale on both axes, so that a circle is round.
    """

    title: str
    curves: Sequence[Curve]
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    equal: bool = False


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a probe or a bench found, as plain values: the command line prints it as text and tables, or as JSON.

    Attributes:
        text: What it means, in a line or a few.
        figures: Single numbers by name.
        rows: A table; every row has the same keys.
        charts: Panels of one picture, which the command line draws.
        files: Further texts by file name (a page of HTML), which the command line writes beside the picture.
    """

    text: str = ""
    figures: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    charts: Sequence[Chart] = ()
    files: Mapping[str, str] = field(default_factory=dict)
