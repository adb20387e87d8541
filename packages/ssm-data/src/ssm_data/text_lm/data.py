"""From text files to packed splits."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ssm_core.protocols import Progress
from ssm_data import cache
from ssm_data.lm import corpus
from ssm_data.lm.corpus import Block, Dealt
from ssm_data.lm.packing import TokenizerPlace, obtain_tokenizer, pack
from ssm_data.lm.survey import survey, told
from ssm_data.lm.text import learning, sampled_lines
from ssm_data.lm.tokenizer import train_bpe
from ssm_data.sources import counted
from ssm_data.text_lm.spec import TextLMConfig

TASK = "text-lm"


@dataclass(frozen=True)
class Found:
    """A corpus that was found.

    Attributes:
        blocks: Returns it as a stream, from its beginning.
        size: Its bytes.
        identity: What it is, by content.
        words: The same in words.
        place: Where it was found; empty if it comes with Python.
    """

    blocks: Callable[[], Iterator[Block]]
    size: int
    identity: Mapping[str, Any]
    words: str
    place: str = ""


def load(
    config: TextLMConfig, progress: Progress | None = None
) -> tuple[TokenizerPlace, dict[str, cache.Part]]:
    """Return the tokeniser's place and the packed splits, making what the cache lacks.

    Raises:
        UserError: If the text is not there or cannot be read, or the cache cannot be written.
    """
    found = find(config, progress)
    base = cache.root(config.cache)
    dealt = {
        "corpus": found.identity,
        "documents": config.documents,
        "split_by": config.split_by,
        "shares": [config.validation, config.test],
        "seed": config.seed if config.split_by == "documents" else 0,
    }

    def deal() -> Iterable[Dealt]:
        if config.split_by == "documents":
            return corpus.deal_documents(found.blocks(), config.validation, config.test, config.seed)
        return corpus.deal_positions(found.blocks(), found.size, config.validation, config.test)

    def provenance(name: str, arrays: Mapping[str, NDArray]) -> str:
        n, documents = len(arrays["tokens"]), len(arrays["documents"]) - 1
        held = f"{counted(documents, 'document')}, {counted(n, 'token')} at {config.level} level"
        return f"{found.words}; {name} split by {config.split_by}: {held}"

    place = TokenizerPlace("byte")
    if config.level == "bpe":
        learned = {**dealt, "vocab_size": config.vocab_size, "sample_mb": config.sample_mb}
        training = lambda: (text for split, text, _ in deal() if split == "train")  # noqa: E731
        # About its size, whichever way it is split: to count it would be to read all once more.
        held = round(found.size * (1 - config.validation - config.test))
        lines = lambda: sampled_lines(training, config.sample_mb, held)  # noqa: E731
        pieces = lambda text: train_bpe(text, config.vocab_size, found.place or found.words)  # noqa: E731
        sample = min(held, round(config.sample_mb * 1e6))
        train = lambda: learning(pieces, lines(), TASK, sample, progress)  # noqa: E731
        place = obtain_tokenizer(base, TASK, "bpe", learned, train)
    otherwise = ", or larger shares: --set task.validation=... and --set task.test=..."
    if config.split_by == "documents":
        otherwise += ", or cut it elsewhere: --set task.split_by=position"
    return place, pack(
        base, TASK, dealt, place, deal, provenance, found.size, progress, found.place, otherwise
    )


def find(config: TextLMConfig, progress: Progress | None = None) -> Found:
    """Return the corpus that the knobs name.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    if config.path is None:
        return help_texts()
    there = corpus.find_files(config.path, config.pattern, TASK)
    files = survey(there, TASK, cache.root(config.cache), progress)
    paths = [file.path for file in files]
    cut = corpus.between_blank_lines if config.documents == "blank_lines" else corpus.whole_files
    return Found(
        blocks=lambda: cut(paths),
        size=sum(file.size for file in files),
        identity={"files": [[file.sha256, file.size] for file in files]},
        words=f"{counted(len(files), 'local file')}, {told(files)}",
        place=str(config.path.expanduser().absolute()),
    )


def help_texts() -> Found:
    """Return the English help texts of Python, a document each, runs of blanks made one."""
    from pydoc_data.topics import topics

    texts = [re.sub(" +", " ", topics[name]).encode() for name in sorted(topics)]
    version = platform.python_version()
    cache.log.info("text-lm: no path is given; the corpus is the help texts of Python %s", version)
    digest = cache.fingerprint({"texts": [text.decode() for text in texts]})
    return Found(
        blocks=lambda: (Block(text, True) for text in texts),
        size=sum(map(len, texts)),
        identity={"pydoc": digest},
        words=f"built-in demonstration corpus: the help texts of Python {version} (pydoc_data.topics)",
    )
