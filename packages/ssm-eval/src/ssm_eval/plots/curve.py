"""How a run went: training loss, validation metric with its best epoch, test result, published figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssm_core.plugin.errors import UserError
from ssm_core.plugin.spec import Published
from ssm_core.run.folder import RunFolder, read_json
from ssm_eval.plots import style
from ssm_eval.published import nearest_published

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 10.0, 3.3
"""Inches of the picture's width and of one panel's height."""

Points = tuple[list[float], list[float]]
"""Abscissae and ordinates."""


@dataclass(frozen=True)
class History:
    """What a run has recorded.

    Attributes:
        rows: Finite rows of ``metrics.jsonl``.
        steps_per_epoch: Optimiser steps of an epoch.
        metric: The metric that selects the best checkpoint.
        best_step: Step of the best checkpoint, None without a validation split.
        title: Model, task and seed.
        published: The figure of the literature to put beside this run.
    """

    rows: list[dict[str, Any]]
    steps_per_epoch: float
    metric: str
    best_step: int | None
    title: str
    published: Published | None

    @classmethod
    def read(cls, run: RunFolder) -> History:
        """Read a run folder."""
        rows = [row for row in run.metrics() if math.isfinite(row["value"])]
        pointers = [read_json(f) for name in ("best", "latest") if (f := run.path / f"{name}.json").is_file()]
        metric = pointers[0].get("metric", "loss") if pointers else "loss"
        best = pointers[0].get("step") if (run.path / "best.json").is_file() else None
        config = run.config()
        task = config.task.short if config.task else "own task"
        title = f"{config.label()} on {task}, seed {config.seed}"
        noted = run.env().get("made", {}).get("steps_per_epoch")
        return cls(
            rows, noted or _steps_per_epoch(rows), metric, best, title, nearest_published(config, metric)
        )

    def series(self, split: str, name: str) -> Points:
        """Return one recorded value over epochs."""
        rows = [row for row in self.rows if (row["split"], row["name"]) == (split, name)]
        return [row["step"] / self.steps_per_epoch for row in rows], [row["value"] for row in rows]

    def epoch_means(self) -> Points:
        """Return the training loss averaged over each epoch, at the epoch's middle."""
        groups: dict[int, list[tuple[int, float]]] = {}
        for row in self.rows:
            if (row["split"], row["name"]) == ("train", "loss"):
                groups.setdefault(row["epoch"], []).append((row["step"], row["value"]))
        means = [np.mean(group, axis=0) for group in groups.values()]
        return [float(step) / self.steps_per_epoch for step, _ in means], [float(loss) for _, loss in means]

    def at_best(self, split: str) -> tuple[float, float] | None:
        """Return (epoch, value) of the selecting metric at the best checkpoint, None if it is not recorded."""
        points = zip(*self.series(split, self.metric), strict=True)
        best = None if self.best_step is None else self.best_step / self.steps_per_epoch
        return next((point for point in points if point[0] == best), None)


def _steps_per_epoch(rows: Iterable[Mapping[str, Any]]) -> float:
    """Return the steps of an epoch of a run that has not noted it: the second begins after so many.

    The first validation may stand inside an epoch: it tells nothing.
    """
    rows = [row for row in rows if row["split"] == "train"]
    later = (row["step"] - 1 for row in rows if row["epoch"] == 1)
    return next(later, max((row["step"] for row in rows), default=1))


def learning_curve(run: RunFolder | Path | str) -> Path:
    """Draw a run's learning curve into ``plots/learning_curve.png`` of its folder and return the path.

    Above, the training loss of each step and of each epoch, and the validation loss; below, the validation metric that
    selects the best checkpoint, that checkpoint, its test result, and the published figure if there is one.

    Raises:
        UserError: If the folder is no run, or has recorded nothing yet.
    """
    run = run if isinstance(run, RunFolder) else RunFolder.open(run)
    history = History.read(run)
    if not history.rows:
        raise UserError(f"{run.path} has recorded no metrics yet", "let it train a while")
    has_metric = history.metric != "loss" and bool(history.series("validation", history.metric)[0])
    figure = style.make_figure(WIDTH, HEIGHT * (1 + has_metric) + 0.3)
    figure.suptitle(history.title, fontsize=style.TITLE, fontweight="bold")
    grid = figure.subplots(1 + has_metric, 1, sharex=True, squeeze=False).ravel()
    _draw_loss(grid[0], history)
    _draw_metric(grid[-1], history, line=has_metric)
    grid[-1].set_xlabel("epoch", fontsize=style.TEXT)
    grid[-1].set_xlim(left=0)
    grid[-1].xaxis.get_major_locator().set_params(integer=True)
    for axes in grid:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=style.SMALL, frameon=False)
    return style.save(figure, run.path / "plots" / "learning_curve.png")


def _draw_loss(axes: Axes, history: History) -> None:
    x, y = history.series("train", "loss")
    axes.plot(x, y, color=style.SKY, linewidth=0.7, alpha=0.8, label="training, each step")
    axes.plot(*history.epoch_means(), color=style.BLUE, linewidth=2, label="training, mean of epoch")
    validation = history.series("validation", "loss")
    if validation[0]:
        axes.plot(*validation, color=style.VERMILION, linewidth=2, marker=".", label="validation")
    if y:
        # The first steps may stand so high that nothing else could be seen.
        low, high = min(y + validation[1]), float(np.quantile(y, 0.98))
        high = max([high, *validation[1]])
        margin = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)
    style.dress(axes, y_label=style.label("loss"))


def _draw_metric(axes: Axes, history: History, *, line: bool) -> None:
    name = history.metric
    x, y = history.series("validation", name)
    if line:
        axes.plot(x, y, color=style.VERMILION, linewidth=2, marker=".", label="validation")
        style.dress(axes, y_label=style.label(name))
    if best := history.at_best("validation"):
        text = f"best validation: {best[1]:.3g} (epoch {best[0]:.4g})"
        ring = {"markerfacecolor": "none", "markeredgecolor": style.BLACK, "markeredgewidth": 1.8}
        axes.plot(*best, linestyle="none", marker="o", markersize=11, label=text, zorder=4, **ring)
    if test := history.at_best("test"):
        text = f"test at that epoch: {test[1]:.3g}"
        axes.plot(*test, linestyle="none", marker="*", markersize=13, color=style.GREEN, label=text, zorder=5)
    published = history.published
    if published is not None:
        spread = "" if published.std is None else f" ± {published.std:.2g}"
        text = f"published, {published.model}: {published.value:.3g}{spread}"
        axes.axhline(published.value, color=style.GREY, linestyle="--", linewidth=1.5, label=text)
    if line and name in style.LOGARITHMIC and min(y) > 0:
        style.logarithmic(axes)
