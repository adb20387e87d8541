"""What the wikitext103 task says about itself: knobs, and the figures of the literature."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import Paper, Published, TaskSpec
from ssm_data.lm.spec import LanguageConfig

REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
"""Of the hub's data set: what was looked at, and is called official."""


@config
class WikiText103Config(LanguageConfig):
    """Knobs of the wikitext103 task.

    Attributes:
        source: Where the text comes from: "local" files, the "hub", or "auto", which is the same as local: nothing is
            downloaded unasked.
        root: Folder of the files, or one above it; by default SSM_DATA_ROOT, DATA_PATH, ./data and ./raw_datasets.
        revision: Commit of the data set on the hub.
        text: "tokens": the published files, cut into words, rare ones <unk>; "raw": those before that.
        level: What a token is: a word, a piece of byte-pair encoding learned from the training split, or a byte. The
            perplexities of the first and the others do not compare; per word and in bits per byte they do, on one text.
        vocab_size: Number of pieces with level = bpe.
        sample_mb: Millions of bytes that the pieces are learned from.
        softmax: "adaptive": rare tokens get narrow vectors, in the embedding too; "full": all are alike.
        cutoffs: First id of each cluster of rarer tokens with softmax = adaptive.
        div_val: How many times narrower each cluster's vectors are than those before.
    """

    length: int = 512
    tied: bool = True
    source: Literal["auto", "local", "hub"] = "auto"
    root: Path | None = None
    revision: str = REVISION
    text: Literal["tokens", "raw"] = "tokens"
    level: Literal["word", "bpe", "byte"] = "word"
    vocab_size: int = 8192
    sample_mb: float = 10.0
    softmax: Literal["adaptive", "full"] = "adaptive"
    cutoffs: tuple[int, ...] = (20000, 60000)
    div_val: float = 4.0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a knob is out of its range.
        """
        super().__post_init__()
        if not 300 <= self.vocab_size <= 1 << 20:
            raise ValueError("vocab_size has to lie in [300, 1048576]: 256 pieces are the bytes")
        if self.sample_mb <= 0 or self.div_val < 1:
            raise ValueError("sample_mb must be above 0, and div_val at least 1")
        steps = (0, *self.cutoffs)
        if any(low >= high for low, high in zip(steps, self.cutoffs, strict=False)):
            raise ValueError(f"cutoffs {self.cutoffs} have to be above 0 and increase")


MEGALODON = "Megalodon (Ma et al., 2024), table 8"
HYENA = "Hyena (Poli et al., 2023), table 4.3"


def _row(model: str, value: float, source: str, backbone: str = "", level: str = "word") -> Published:
    """Make a row of test perplexity; at BPE level it is per piece of GPT-2's encoding, which is not ours."""
    settings = (("level", level),) if level == "word" else (("level", "GPT-2 BPE"),)
    return Published(
        model=model, metric="perplexity", value=value, source=source, backbone=backbone, settings=settings
    )


SPEC = TaskSpec(
    api=1,
    name="wikitext103",
    summary="the next word of Wikipedia articles, with adaptive softmax; pieces and bytes as options",
    config=WikiText103Config,
    build="ssm_data.wikitext103.task:build",
    paper=Paper(
        title="Pointer Sentinel Mixture Models",
        authors="Stephen Merity, Caiming Xiong, James Bradbury, Richard Socher",
        year=2017,
        arxiv="1609.07843",
        bibtex="""@inproceedings{merity2017pointer,
  title = {Pointer Sentinel Mixture Models},
  author = {Merity, Stephen and Xiong, Caiming and Bradbury, James and Socher, Richard},
  booktitle = {International Conference on Learning Representations},
  year = {2017},
}""",
    ),
    published=(
        _row("S4 (249M)", 20.95, MEGALODON, "s4"),
        _row("Transformer, adaptive (247M)", 18.66, MEGALODON, "transformer"),
        _row("Transformer-XL large (257M)", 18.30, MEGALODON),
        _row("Mega (252M)", 18.07, MEGALODON, "mega"),
        _row("Megalodon (252M)", 17.23, MEGALODON),
        _row("H3 hybrid (125M)", 18.5, HYENA, "h3", "bpe"),
        _row("Transformer (125M)", 18.6, HYENA, "transformer", "bpe"),
        _row("Hyena-3 (125M)", 18.6, HYENA, level="bpe"),
    ),
)
