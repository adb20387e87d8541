"""Words as tokens: text that is cut at blanks already, each line closed by <eos>, ids in order of frequency."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ssm_data.lm.tokenizer import id_type

EOS, UNKNOWN = "<eos>", "<unk>"


class WordTokenizer:
    """Words between blanks and line ends.

    Args:
        model: The vocabulary as JSON, from :func:`learn_words`.
    """

    def __init__(self, model: bytes) -> None:
        self.end: int | None = None
        self.vocabulary: list[str] = json.loads(model)
        # Lines of such files begin with a blank: each line end brings that of the next line, and no byte is lost.
        self.spelled = [b"\n " if word == EOS else word.encode() + b" " for word in self.vocabulary]
        self._ids = {word.encode(): index for index, word in enumerate(self.vocabulary)}
        self._unknown = self._ids[UNKNOWN.encode()]
        self._eos = self._ids[EOS.encode()]
        self._dtype = id_type(len(self.vocabulary))

    def cut(self, text: bytes) -> int:
        """Return the place after the last line, else after the last blank."""
        return text.rfind(b"\n") + 1 or text.rfind(b" ") + 1

    def encode(self, text: bytes) -> NDArray:
        """Return the ids (n,) of the words, an <eos> for each newline; words not in the vocabulary are <unk>."""
        found: list[int] = []
        look, unknown, eos = self._ids.get, self._unknown, self._eos
        *lines, rest = text.split(b"\n")
        for line in lines:
            found += [look(word, unknown) for word in line.split()]
            found.append(eos)
        found += [look(word, unknown) for word in rest.split()]
        return np.array(found, self._dtype)


def learn_words(blocks: Iterable[bytes]) -> bytes:
    """Return the vocabulary of a text as JSON: <eos>, then words by frequency, equals by first occurrence."""
    counts: Counter[bytes] = Counter()
    held = b""
    for block in blocks:
        text = held + block
        place = max(text.rfind(b" "), text.rfind(b"\n")) + 1
        counts.update(text[:place].split())
        held = text[place:]
    counts.update(held.split())
    words = [word.decode("utf-8", "replace") for word, _ in counts.most_common() if word != EOS.encode()]
    if UNKNOWN not in words:
        words.append(UNKNOWN)
    return json.dumps([EOS, *dict.fromkeys(words)], ensure_ascii=False).encode()
