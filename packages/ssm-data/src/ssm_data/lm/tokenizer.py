"""Tokenisers that lose nothing: bytes as they are, and sentencepiece's byte-pair encoding on any bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError

LONGEST = 1 << 16
"""Bytes after which text without a place to cut is cut between two characters."""

LINE = 1 << 13
"""Bytes of a line given to sentencepiece at once: its cost grows faster than the length."""


class Tokenizer(Protocol):
    """Turns bytes into ids.

    Attributes:
        vocabulary: A name for each id, as text.
        spelled: The bytes that each id stands for; none for one that only ends documents.
        end: Id that ends a document, or None.
    """

    vocabulary: list[str]
    spelled: list[bytes]
    end: int | None

    def cut(self, text: bytes) -> int:
        """Return how many of the bytes can be encoded without knowing what follows them."""
        ...

    def encode(self, text: bytes) -> NDArray:
        """Return the ids (n,) of some bytes, of the smallest unsigned type that holds the vocabulary."""
        ...


def id_type(size: int) -> np.dtype:
    """Return the smallest of uint8, uint16 and uint32 that holds ids below ``size``."""
    kinds = (np.uint8, np.uint16, np.uint32)
    return np.dtype(next(kind for kind in kinds if size <= np.iinfo(kind).max + 1))


def decode(tokenizer: Tokenizer, ids: Sequence[int] | NDArray) -> bytes:
    """Return the bytes that ids stand for."""
    return b"".join(tokenizer.spelled[int(i)] for i in ids)


def between_characters(text: bytes, place: int) -> int:
    """Return the last place, at or before the given one, that does not lie within a UTF-8 character."""
    for back in range(min(4, place)):
        if place - back == len(text) or text[place - back] & 0xC0 != 0x80:
            return place - back
    return place


class ByteTokenizer:
    """The 256 bytes, each its own id; documents follow each other without a mark."""

    def __init__(self) -> None:
        self.end: int | None = None
        self.spelled = [bytes([i]) for i in range(256)]
        self.vocabulary = [chr(i) if 32 <= i < 127 else f"<0x{i:02X}>" for i in range(256)]

    def cut(self, text: bytes) -> int:
        """Return all of it."""
        return len(text)

    def encode(self, text: bytes) -> NDArray[np.uint8]:
        """Return the bytes (n,)."""
        return np.frombuffer(text, np.uint8)


APART = re.compile("([\udc80-\udcff\0\u2581]+)")
"""What sentencepiece does not keep: bytes that are no UTF-8, zero, and the sign that it writes for a blank."""


class BpeTokenizer:
    """sentencepiece's byte-pair encoding with settings under which every text comes back, byte by byte.

    What sentencepiece itself would change goes in as single bytes.

    Args:
        model: The trained model's file, from :func:`train_bpe`.
    """

    def __init__(self, model: bytes) -> None:
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        size = self._pieces.get_piece_size()
        self.vocabulary = [self._pieces.id_to_piece(i) for i in range(size)]
        self.spelled = [self._spell(i) for i in range(size)]
        self.end: int | None = self._pieces.eos_id()
        self._dtype = id_type(size)
        self._bytes = [self._pieces.piece_to_id(f"<0x{i:02X}>") for i in range(256)]

    def cut(self, text: bytes) -> int:
        """Return the place after the last line, or before the last blank, or in a long word between characters."""
        place = max(text.rfind(b"\n") + 1, text.rfind(b" "))
        return place if place > 0 or len(text) < LONGEST else between_characters(text, len(text) - 4)

    def encode(self, text: bytes) -> NDArray:
        """Return the ids (n,) of any bytes."""
        found: list[int] = []
        parts = APART.split(text.decode("utf-8", "surrogateescape"))
        for plain, apart in zip(parts[::2], [*parts[1::2], ""], strict=True):
            for ids in self._pieces.encode(list(_short_lines(plain)), out_type=int):
                found += ids
            found += [self._bytes[byte] for byte in apart.encode("utf-8", "surrogateescape")]
        return np.array(found, self._dtype)

    def _spell(self, index: int) -> bytes:
        piece = self._pieces.id_to_piece(index)
        if self._pieces.is_byte(index):
            return bytes([int(piece[3:5], 16)])
        if self._pieces.is_control(index) or self._pieces.is_unknown(index):
            return b""
        return piece.replace("\u2581", " ").encode()


def _short_lines(text: str) -> Iterator[str]:
    # No piece reaches over a newline or into a word from before it, so cutting there changes no ids.
    for line in re.findall("[^\n]*\n|[^\n]+", text):
        while len(line) > LINE:
            place = line.rfind(" ", 1, LINE)
            place = place if place > 0 else LINE
            yield line[:place]
            line = line[place:]
        yield line


def train_bpe(lines: Iterator[str], vocab_size: int, whose: str) -> bytes:
    """Train byte-pair encoding.

    Args:
        lines: The text, a line an item; sentencepiece keeps them all in memory.
        vocab_size: Number of ids; fewer if the text is too small for so many.
        whose: Where the text comes from, for messages.

    Returns:
        The model's file; the same for the same text.

    Raises:
        UserError: If there is nothing to learn from.
    """
    file = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=file,
            vocab_size=vocab_size,
            model_type="bpe",
            hard_vocab_limit=False,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            user_defined_symbols=["\n"],
            max_sentence_length=1 << 20,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            num_threads=1,  # the file, which the cache is named after, tells their number
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"no byte-pair encoding can be learned from {whose}: {reason}", "give it more text"
        ) from None
    return file.getvalue()
