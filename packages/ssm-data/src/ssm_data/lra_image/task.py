"""The image task: data, and modules round the backbone."""

from __future__ import annotations

from collections.abc import Mapping

from ssm_core.protocols import Progress, Split
from ssm_data.lra_image.dataset import load_splits
from ssm_data.lra_image.spec import LENGTH, LRAImageConfig
from ssm_data.pixels import PixelSplit, PixelTask


def build(config: LRAImageConfig) -> LRAImageTask:
    """Build the task; no data is touched before it is asked for."""
    return LRAImageTask(config)


class LRAImageTask(PixelTask):
    """Tell which of ten kinds of things a picture shows.

    Args:
        config: Knobs.
    """

    classes = 10

    def __init__(self, config: LRAImageConfig) -> None:
        super().__init__(config, LENGTH)
        self.config = config
        self._splits: dict[str, PixelSplit] = {}

    def prepare(self, progress: Progress | None = None) -> None:
        """Read the data if they are not cached yet; safe from several processes at once.

        Raises:
            UserError: If the data are nowhere or damaged, or the cache cannot be written.
        """
        self._splits = self._splits or load_splits(self.config, self.vocabulary, progress)

    def splits(self) -> Mapping[str, Split]:
        """Return ``train``, ``validation`` and ``test``, reading them if :meth:`prepare` was not called."""
        self.prepare()
        return dict(self._splits)
