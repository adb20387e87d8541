"""The ListOps task: data, encoder, head."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ssm_core.protocols import Progress, Split
from ssm_data.classify import Classification, TokenEncoder
from ssm_data.lra_listops.dataset import load_splits
from ssm_data.lra_listops.spec import ListOpsConfig
from ssm_data.lra_listops.vocabulary import VOCABULARY
from ssm_data.tokens import TokenSplit


def build(config: ListOpsConfig) -> ListOpsTask:
    """Build the task; no data is touched before it is asked for."""
    return ListOpsTask(config)


class ListOpsTask(Classification):
    """Say what a nested list of operations comes to: one of ten digits.

    Args:
        config: Knobs.
    """

    classes = 10

    def __init__(self, config: ListOpsConfig) -> None:
        self.config = config
        self.max_length = config.max_length - 1 + config.append_eos
        self._splits: dict[str, TokenSplit] = {}

    def prepare(self, progress: Progress | None = None) -> None:
        """Read or make the data if it is not cached yet; safe from several processes at once.

        Raises:
            UserError: If files are asked for and are not there or not sound, or the cache cannot be written.
        """
        self._splits = self._splits or load_splits(self.config, progress)

    def splits(self) -> Mapping[str, Split]:
        """Return ``train``, ``validation`` and ``test``, preparing them if :meth:`prepare` was not called."""
        self.prepare()
        return dict(self._splits)

    def encoder(self, d_model: int) -> nn.Module:
        """Return an embedding of the 18 ids."""
        return TokenEncoder(len(VOCABULARY), d_model)
