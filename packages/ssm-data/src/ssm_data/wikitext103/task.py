"""The wikitext103 task."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ssm_core.protocols import Progress
from ssm_data.cache import Part
from ssm_data.lm.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from ssm_data.lm.packing import TokenizerPlace
from ssm_data.lm.task import LanguageModel
from ssm_data.wikitext103 import data
from ssm_data.wikitext103.spec import WikiText103Config

WORDS = 267_735
"""Words of the published training split, <unk> and the end of a line included."""


def build(config: WikiText103Config) -> WikiText103:
    """Build the task; no data is touched before it is asked for."""
    return WikiText103(config)


class WikiText103(LanguageModel):
    """Predict the next word, piece or byte of Wikipedia.

    Args:
        config: Knobs.
    """

    config: WikiText103Config
    count_newlines = True  # as the word-level files do, whose lines end in a token

    def __init__(self, config: WikiText103Config) -> None:
        super().__init__(config)
        # At word level that is what papers print; elsewhere it depends on the pieces.
        self.primary = ("perplexity" if config.level == "word" else "bits_per_byte", "min")

    def load(self, progress: Progress | None) -> tuple[TokenizerPlace, Mapping[str, Part]]:
        """Return the tokeniser's place and the packed splits, making them if they are not cached."""
        return data.load(self.config, progress)

    def published_size(self) -> int:
        """Return the published number of words, or that of pieces that the knobs ask for."""
        return {"word": WORDS, "bpe": self.config.vocab_size, "byte": 256}[self.config.level]

    def encoder(self, d_model: int) -> nn.Module:
        """Return an adaptive embedding, or a plain one with softmax = full."""
        config = self.config
        if config.softmax == "full":
            return super().encoder(d_model)
        return AdaptiveEmbedding(
            self.vocabulary_size, d_model, config.cutoffs, config.div_val, config.dropout_input
        )

    def head(self, d_model: int) -> nn.Module:
        """Return an adaptive softmax, or a plain one with softmax = full."""
        config = self.config
        if config.softmax == "full":
            return super().head(d_model)
        size = self.vocabulary_size
        return AdaptiveSoftmax(
            d_model, size, config.cutoffs, config.div_val, config.dropout_output, config.tied
        )
