"""The text task: data, encoder, head."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ssm_core.protocols import Progress, Split
from ssm_data.classify import Classification, TokenEncoder
from ssm_data.lra_text.dataset import load_splits
from ssm_data.lra_text.spec import TextConfig
from ssm_data.on_paper import on_paper
from ssm_data.tokens import Alphabet, TokenSplit

PUBLISHED = 135
"""Ids of the published character vocabulary, padding and unknown included."""


def build(config: TextConfig) -> TextTask:
    """Build the task; no data is touched before it is asked for."""
    return TextTask(config)


class TextTask(Classification):
    """Say whether a film review is good or bad, letter by letter.

    Args:
        config: Knobs.
    """

    classes = 2

    def __init__(self, config: TextConfig) -> None:
        self.config = config
        self.max_length = config.max_length
        self._splits: dict[str, TokenSplit] = {}

    def prepare(self, progress: Progress | None = None) -> None:
        """Read the reviews if they are not cached yet; safe from several processes at once.

        Raises:
            UserError: If the reviews are not there or not sound, or the cache cannot be written.
        """
        self._splits = self._splits or load_splits(self.config, progress)

    def splits(self) -> Mapping[str, Split]:
        """Return ``train``, ``validation`` and ``test``, preparing them if :meth:`prepare` was not called."""
        self.prepare()
        return dict(self._splits)

    def encoder(self, d_model: int) -> nn.Module:
        """Return an embedding of the ids; which characters there are is known from the data only, bytes without."""
        if self.config.level == "byte":
            return TokenEncoder(len(Alphabet(None, self.config.append_eos).vocabulary), d_model)
        if not self._splits and (size := on_paper("lra-text", PUBLISHED)):
            return TokenEncoder(size, d_model)
        self.prepare()
        return TokenEncoder(len(self._splits["train"].vocabulary), d_model)
