"""The ts task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssm_core.protocols import Progress
from ssm_data.series.goals import Classes, Values
from ssm_data.series.split import SeriesSplit
from ssm_data.series.task import SeriesTask
from ssm_data.ts.data import load_splits, read_questions
from ssm_data.ts.spec import TsConfig


def build(config: TsConfig) -> TsTask:
    """Build the task; no data is touched before it is asked for."""
    return TsTask(config)


class TsTask(SeriesTask):
    """Name the class of a series, or a number that belongs to it.

    Args:
        config: Knobs.
    """

    def __init__(self, config: TsConfig) -> None:
        self.config = config
        super().__init__(config, (Classes if config.target == "class" else Values)("series", config.pooling))

    def load(self, progress: Progress | None) -> dict[str, SeriesSplit]:
        """Return all splits, reading what the cache lacks."""
        return load_splits(self.config, progress)

    def read(self, path: Path) -> list[dict[str, Any]]:
        """Return the series of another .ts file; what its rows end with is not looked at.

        Raises:
            UserError: If it is damaged, or its series are of another kind than those that the model has learned from.
        """
        return read_questions(path, self.facts)
