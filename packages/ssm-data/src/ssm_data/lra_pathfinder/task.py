"""The Pathfinder task, at any size: data, and modules round the backbone."""

from __future__ import annotations

from collections.abc import Mapping

from ssm_core.protocols import Progress, Split
from ssm_data.lra_pathfinder.dataset import load_splits
from ssm_data.lra_pathfinder.spec import PathfinderConfig, PathfinderKnobs
from ssm_data.pixels import PixelSplit, PixelTask


def build(config: PathfinderConfig) -> PathfinderTask:
    """Build the task; no data is touched before it is asked for."""
    return PathfinderTask("lra-pathfinder", config, config.resolution)


class PathfinderTask(PixelTask):
    """Tell whether two discs lie on one curve.

    Args:
        name: Name of the task, for messages.
        config: Knobs.
        resolution: Pixels of a side.
    """

    classes = 2

    def __init__(self, name: str, config: PathfinderKnobs, resolution: int) -> None:
        super().__init__(config, resolution**2)
        self.name, self.config, self.resolution = name, config, resolution
        self._splits: dict[str, PixelSplit] = {}

    def prepare(self, progress: Progress | None = None) -> None:
        """Read or make the data if they are not cached yet; safe from several processes at once, goes on if stopped.

        Raises:
            UserError: If files are asked for and nowhere, or damaged, or the cache cannot be written.
        """
        self._splits = self._splits or load_splits(
            self.config, self.resolution, self.name, self.vocabulary, progress
        )

    def splits(self) -> Mapping[str, Split]:
        """Return ``train``, ``validation`` and ``test``, making them if :meth:`prepare` was not called."""
        self.prepare()
        return dict(self._splits)
