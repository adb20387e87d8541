"""The digits task."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ssm_core.protocols import Needs, Progress, Split
from ssm_data.classify import Classification, ValueEncoder
from ssm_data.digits.data import DigitsSplit, load_splits
from ssm_data.digits.spec import DigitsConfig

MEAN, STD = 4.884, 6.017
"""Of all grey values; constants, so that the scale does not hang on the draw of the splits."""


def build(config: DigitsConfig) -> DigitsTask:
    """Build the task; no data is touched before it is asked for."""
    return DigitsTask(config)


class DigitsTask(Classification):
    """Name the digit from its 64 grey values, one a step.

    Args:
        config: Knobs.
    """

    needs = Needs()
    classes = 10
    max_length = 64

    def __init__(self, config: DigitsConfig) -> None:
        self.config = config
        self.pooling = config.pooling
        self._splits: dict[str, DigitsSplit] = {}

    def prepare(self, progress: Progress | None = None) -> None:
        """Prepare the data if it is not cached yet (a second); safe from several processes at once.

        Raises:
            UserError: If scikit-learn's file is damaged, or the cache cannot be written.
        """
        self._splits = self._splits or load_splits(self.config, progress)

    def splits(self) -> Mapping[str, Split]:
        """Return ``train``, ``validation`` and ``test``, preparing them if :meth:`prepare` was not called."""
        self.prepare()
        return dict(self._splits)

    def encoder(self, d_model: int) -> nn.Module:
        """Return a linear map of the standardised grey value."""
        return ValueEncoder(1, d_model, MEAN, STD)
