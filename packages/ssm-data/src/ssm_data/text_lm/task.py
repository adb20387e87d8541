"""The text-lm task."""

from __future__ import annotations

from collections.abc import Mapping

from ssm_core.protocols import Progress
from ssm_data.cache import Part
from ssm_data.lm.packing import TokenizerPlace
from ssm_data.lm.task import LanguageModel
from ssm_data.text_lm import data
from ssm_data.text_lm.spec import TextLMConfig


def build(config: TextLMConfig) -> TextLM:
    """Build the task; no data is touched before it is asked for."""
    return TextLM(config)


class TextLM(LanguageModel):
    """Predict the next byte or piece of a text.

    Args:
        config: Knobs.
    """

    config: TextLMConfig

    def load(self, progress: Progress | None) -> tuple[TokenizerPlace, Mapping[str, Part]]:
        """Return the tokeniser's place and the packed splits, making them if they are not cached."""
        return data.load(self.config, progress)
