"""What the text-lm task says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import TaskSpec
from ssm_data.lm.spec import LanguageConfig


@config
class TextLMConfig(LanguageConfig):
    """Knobs of the text-lm task.

    Attributes:
        path: A text file, or a folder of them; .gz files are unpacked. By default the help texts that come with Python,
            a small corpus for demonstrations.
        pattern: Which files of a folder and the folders in it, such as "*.txt,*.md"; hidden ones are left out.
        documents: What a document is: a file, or what stands between blank lines.
        split_by: How splits are made: "position" takes validation and test from the end; "documents" takes whole
            documents at even distances.
        validation: Share of the bytes, or of the documents, for validation.
        test: Share of them for testing.
        level: What a token is: one of the 256 bytes, or a piece of sentencepiece's byte-pair encoding, learned from the
            training split.
        vocab_size: Number of pieces with level = bpe; fewer if the text is too small for so many.
        sample_mb: Millions of bytes that the pieces are learned from, taken from all over the training split.
    """

    path: Path | None = None
    pattern: str = "*.txt"
    documents: Literal["file", "blank_lines"] = "file"
    split_by: Literal["position", "documents"] = "position"
    validation: float = 0.05
    test: float = 0.05
    level: Literal["byte", "bpe"] = "byte"
    vocab_size: int = 4096
    sample_mb: float = 10.0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a knob is out of its range, or contradicts another.
        """
        super().__post_init__()
        if not (self.validation > 0 and self.test > 0 and self.validation + self.test < 1):
            raise ValueError("validation and test have to be above 0, and leave something to train on")
        if not 300 <= self.vocab_size <= 1 << 20:
            raise ValueError("vocab_size has to lie in [300, 1048576]: 256 pieces are the bytes")
        if self.sample_mb <= 0:
            raise ValueError("sample_mb must be above 0")


SPEC = TaskSpec(
    api=1,
    name="text-lm",
    summary="the next byte or piece of any text, of any size; by default of Python's help texts",
    config=TextLMConfig,
    build="ssm_data.text_lm.task:build",
)
