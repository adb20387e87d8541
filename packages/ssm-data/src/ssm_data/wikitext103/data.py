"""From WikiText-103's files, or the hub's, to packed splits; an article is a document."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress
from ssm_data import cache, sources
from ssm_data.lm import corpus
from ssm_data.lm.corpus import Block, Dealt
from ssm_data.lm.packing import SPLITS, TokenizerPlace, obtain_tokenizer, pack
from ssm_data.lm.survey import survey, told
from ssm_data.lm.text import learning, sampled_lines
from ssm_data.lm.tokenizer import train_bpe
from ssm_data.lm.words import learn_words
from ssm_data.sources import counted
from ssm_data.wikitext103.spec import REVISION, WikiText103Config

TASK = "wikitext103"
HUB = "Salesforce/wikitext"
FOLDERS = ("wikitext-103-raw", "wikitext-103", "wikitext103", "wt103")
LAYOUTS = {"tokens": ("wiki.{}.tokens", "{}.txt"), "raw": ("wiki.{}.raw",)}
STEMS = {"train": "train", "validation": "valid", "test": "test"}

PUBLISHED = {"train": 103_227_021, "validation": 217_646, "test": 245_569}
"""Words of each split, line ends included."""

TITLE = re.compile(rb" = (?!=).*(?<!=) = *\n?")
"""The heading of an article; those of its sections have two signs or more."""


@dataclass(frozen=True)
class Found:
    """The corpus as it was found.

    Attributes:
        blocks: Returns a split's text as a stream, from its beginning.
        identity: What it is.
        words: The same in words.
        size: Its bytes, 0 if not known.
        texts: What tells each split's file from others, in words.
        place: Folder of the files.
    """

    blocks: Callable[[str], Iterator[bytes]]
    identity: Mapping[str, Any]
    words: str
    size: int = 0
    texts: Mapping[str, str] = field(default_factory=dict)
    place: str = ""


def load(
    config: WikiText103Config, progress: Progress | None = None
) -> tuple[TokenizerPlace, dict[str, cache.Part]]:
    """Return the tokeniser's place and the packed splits, making what the cache lacks.

    Raises:
        UserError: If the text is not there or cannot be read, or the cache cannot be written.
    """
    found = find_hub(config) if config.source == "hub" else find_local(config, progress)
    base = cache.root(config.cache)
    training = lambda: found.blocks("train")  # noqa: E731
    place = TokenizerPlace("byte")
    if config.level == "word":
        place = obtain_tokenizer(base, TASK, "word", found.identity, lambda: learn_words(training()))
    elif config.level == "bpe":
        learned = {**found.identity, "vocab_size": config.vocab_size, "sample_mb": config.sample_mb}
        lines = lambda: sampled_lines(training, config.sample_mb)  # noqa: E731
        pieces = lambda text: train_bpe(text, config.vocab_size, found.place or found.words)  # noqa: E731
        sample = round(config.sample_mb * 1e6)
        train = lambda: learning(pieces, lines(), TASK, sample, progress)  # noqa: E731
        place = obtain_tokenizer(base, TASK, "bpe", learned, train)

    def provenance(name: str, arrays: Mapping[str, NDArray]) -> str:
        n, articles = len(arrays["tokens"]), len(arrays["documents"]) - 1
        text = f", {name}: {found.texts[name]}" if found.texts else ""
        said = f"{found.words}{text}; {counted(articles, 'article')}, {counted(n, 'token')} at {config.level} level"
        if config.level != "word" or config.text != "tokens":
            return said
        return f"{said}; {'the' if n == PUBLISHED[name] else 'NOT the'} published number of words"

    return place, pack(
        base,
        TASK,
        found.identity,
        place,
        lambda: _deal(found),
        provenance,
        found.size,
        progress,
        found.place,
    )


def find_local(config: WikiText103Config, progress: Progress | None = None) -> Found:
    """Return the corpus as files.

    Raises:
        UserError: If they are not there or cannot be read.
    """
    # Any text may lie in ./data as train.txt: only a root that the user names is taken for the folder itself.
    folders = FOLDERS if config.root is None else (*FOLDERS, ".")
    for layout in LAYOUTS[config.text]:
        names = {split: layout.format(stem) for split, stem in STEMS.items()}
        folder = sources.find(folders, names.values(), config.root)
        if folder is None:
            continue
        paths = {split: folder / name for split, name in names.items()}
        base = cache.root(config.cache)
        files = {split: survey([path], TASK, base, progress)[0] for split, path in paths.items()}
        cache.log.info("wikitext103: the text is that of %s", folder)
        return Found(
            blocks=lambda split, paths=paths: corpus.read_blocks(paths[split]),
            identity={"files": {split: file.sha256 for split, file in files.items()}},
            words=f"local files {layout.format('{train,valid,test}')}",
            size=sum(file.size for file in files.values()),
            texts={split: told([file]) for split, file in files.items()},
            place=str(folder),
        )
    wanted = " or ".join(layout.format("{train,valid,test}") for layout in LAYOUTS[config.text])
    looked = sources.candidates(folders, config.root)
    raise sources.missing(TASK, looked, files=f"files {wanted}", hub=f"{HUB}, {_hub_name(config)}, 315 MB")


def find_hub(config: WikiText103Config) -> Found:
    """Return the corpus as a data set of the hub, downloaded if it was not before.

    Raises:
        UserError: If the hub cannot be reached, or has something else.
    """
    name = _hub_name(config)
    held: dict[str, Any] = {}

    def blocks(split: str) -> Iterator[bytes]:
        if not held:
            held.update(_download(name, config.revision))
        for rows in held[split].iter(batch_size=1000):
            # A blank line of the files, which is " \n", is an empty row there.
            yield "".join(text or " \n" for text in rows["text"]).encode()

    return Found(
        blocks=blocks,
        identity={"hub": HUB, "name": name, "revision": config.revision},
        words=f"{sources.kind_of(config.revision, REVISION)}, from the hub: {HUB}, {name}, revision {config.revision}",
    )


def _download(name: str, revision: str) -> Mapping[str, Any]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        found = datasets.load_dataset(HUB, name, revision=revision)
        return {split: found[split] for split in SPLITS}
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{TASK} cannot be had from the hub ({HUB}, {name}, revision {revision}): {reason}",
            "fetch the files otherwise, and name their folder: --set task.source=local and --set task.root=...",
        ) from None


def _hub_name(config: WikiText103Config) -> str:
    return "wikitext-103-v1" if config.text == "tokens" else "wikitext-103-raw-v1"


def _deal(found: Found) -> Iterator[Dealt]:
    for split in SPLITS:
        for text, begins in articles(found.blocks(split)):
            yield Dealt(split, text, begins)


def articles(blocks: Iterable[bytes]) -> Iterator[Block]:
    """Cut a text before the heading of each article: a line `` = Title = `` after a blank one.

    Args:
        blocks: The text, cut anywhere.

    Yields:
        Parts of articles.
    """
    held, begins, blank, whole, seen = b"", True, True, True, False
    for block in blocks:
        *lines, held = (held + block).split(b"\n")
        ready: list[bytes] = []
        for line in lines:
            # A line that was too long to wait for is no heading, and its end is none either.
            if seen and whole and blank and TITLE.fullmatch(line):
                if ready:
                    yield Block(b"".join(ready), begins)
                ready, begins = [], True
            ready.append(line + b"\n")
            blank, whole = whole and not line.strip(), True
            seen = seen or not blank
        if len(held) >= corpus.BLOCK:
            ready.append(held)
            held, whole, seen = b"", False, True
        if ready:
            yield Block(b"".join(ready), begins)
            begins = False
    if held:
        yield Block(held, begins)
