"""The irregular-csv task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssm_core.protocols import Progress
from ssm_data.irregular_csv.data import load_splits, read_questions
from ssm_data.irregular_csv.spec import IrregularCsvConfig
from ssm_data.series.goals import Classes, Values
from ssm_data.series.split import SeriesSplit
from ssm_data.series.task import SeriesTask


def build(config: IrregularCsvConfig) -> IrregularCsvTask:
    """Build the task; no data is touched before it is asked for."""
    return IrregularCsvTask(config)


class IrregularCsvTask(SeriesTask):
    """Numbers or classes, of each element or of each series, of one's own table.

    Args:
        config: Knobs.
    """

    def __init__(self, config: IrregularCsvConfig) -> None:
        self.config = config
        super().__init__(
            config, (Classes if config.target == "class" else Values)(config.per, config.pooling)
        )

    def load(self, progress: Progress | None) -> dict[str, SeriesSplit]:
        """Return all splits, reading what the cache lacks."""
        return load_splits(self.config, progress)

    def read(self, path: Path) -> list[dict[str, Any]]:
        """Return the series of another table, which needs no columns of targets and of splits.

        Raises:
            UserError: If it is damaged, or lacks a column that the model has learned from.
        """
        return read_questions(self.config, path, self.facts.channels)
