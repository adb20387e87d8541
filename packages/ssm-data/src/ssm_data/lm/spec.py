"""Knobs that all language-modelling tasks have; loads neither torch nor numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssm_core.plugin.config import config


@config
class LanguageConfig:
    """Knobs of a language-modelling task.

    Attributes:
        length: Tokens a row.
        sampling: Which rows the training split has. "tiles": windows end to end, each token predicted once an epoch;
            "random": windows that begin anywhere, drawn by the seed; "streams": the corpus in `streams` long rows,
            whose batches continue each other and carry the state. Validation and test are tiles, or streams too.
        streams: Rows that run side by side with sampling = streams; train.batch_size has to be the same number.
        roll: With sampling = streams, begin each epoch but the first at another place of the corpus, drawn by the seed,
            so that rows are cut elsewhere.
        n_windows: Training rows with sampling = random; 0 is as many as there are tiles.
        eval_context: Tokens at the start of every validation and test row, but the first, that are read and not scored;
            those rows overlap by so many tokens, and every token is still scored once.
        reset: Begin each document with a state of zeros.
        tied: The head takes the embedding's weights.
        dropout_input: Dropout rate of the embedded tokens.
        dropout_output: Dropout rate before the softmax.
        seed: Seed of what is drawn: the windows of sampling = random, and which documents go to which split.
        cache: Folder of prepared data; by default the one that SSM_DATA_DIR names, else ~/.cache/ssm/data.
    """

    length: int = 256
    sampling: Literal["tiles", "random", "streams"] = "tiles"
    streams: int = 16
    roll: bool = False
    n_windows: int = 0
    eval_context: int = 0
    reset: bool = False
    tied: bool = False
    dropout_input: float = 0.0
    dropout_output: float = 0.0
    seed: int = 0
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a knob is out of its range, or contradicts another.
        """
        if self.length < 1 or self.streams < 1:
            raise ValueError("length and streams must be at least 1")
        if min(self.n_windows, self.seed) < 0:
            raise ValueError("n_windows and seed must not be negative")
        if self.n_windows and self.sampling != "random":
            raise ValueError(
                f"n_windows is for sampling = random; with {self.sampling} the corpus gives the number"
            )
        if self.roll and self.sampling != "streams":
            raise ValueError(f"roll is for sampling = streams, and sampling is {self.sampling}")
        if not 0 <= self.eval_context < self.length:
            raise ValueError(
                f"eval_context = {self.eval_context} leaves nothing to score of length = {self.length}"
            )
        if self.eval_context and self.sampling == "streams":
            raise ValueError("eval_context is for windows: streams carry their context in the state")
        if not (0 <= self.dropout_input < 1 and 0 <= self.dropout_output < 1):
            raise ValueError("dropout_input and dropout_output must be in [0, 1)")
