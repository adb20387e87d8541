"""A corpus as ids end to end in one file a split, with the places where documents begin; made from a stream."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress
from ssm_data import cache
from ssm_data.lm.corpus import Dealt
from ssm_data.lm.tokenizer import LONGEST, BpeTokenizer, ByteTokenizer, Tokenizer, id_type
from ssm_data.lm.words import WordTokenizer

PACKING = 2
"""Raised when the same text gives other arrays; old caches are then left alone and new ones made."""

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class TokenizerPlace:
    """Where a tokeniser lies; small to pickle.

    Attributes:
        level: Its kind.
        part: Its model in the cache; None for bytes, which need none.
    """

    level: Literal["byte", "bpe", "word"]
    part: cache.Part | None = None

    def load(self) -> Tokenizer:
        """Return the tokeniser; the last few are kept."""
        return _load(self.level, None if self.part is None else self.part.folder)


@lru_cache(maxsize=4)
def _load(level: str, folder: Path | None) -> Tokenizer:
    if folder is None:
        return ByteTokenizer()
    model = np.load(folder / "model.npy").tobytes()
    return BpeTokenizer(model) if level == "bpe" else WordTokenizer(model)


def obtain_tokenizer(
    base: Path,
    task: str,
    level: Literal["bpe", "word"],
    identity: Mapping[str, Any],
    train: Callable[[], bytes],
) -> TokenizerPlace:
    """Return a trained tokeniser from the cache, training it if it is not there.

    Args:
        base: The cache folder.
        task: Name of the task.
        level: Kind of tokeniser.
        identity: All that it depends on, the text's hashes included.
        train: Trains it and returns its file.

    Raises:
        UserError: If it cannot be trained or stored.
    """

    def make(_: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
        model = np.frombuffer(train(), np.uint8)
        yield "tokenizer", {"model": model}, f"{level} vocabulary learned by ssm_data.lm, packing {PACKING}"

    whole = {"packing": PACKING, "tokenizer": level, **identity}
    return TokenizerPlace(
        level, cache.obtain(base, f"{task}-tokenizers", whole, ["tokenizer"], make)["tokenizer"]
    )


class Packer:
    """Writes one split's ids as they come.

    Args:
        folder: Where its two files are written.
        name: Name of the split.
        tokenizer: Turns text into ids.
    """

    def __init__(self, folder: Path, name: str, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.dtype = tokenizer, id_type(len(tokenizer.vocabulary))
        self._paths = folder / f"{name}.tokens", folder / f"{name}.documents"
        self._tokens, self._documents = (path.open("wb") for path in self._paths)
        self._held: list[bytes] = []
        self._waiting = 0
        self._open = False
        self.count = 0

    def add(self, text: bytes, begins: bool) -> None:
        """Take a part of a document, or the beginning of the next."""
        if begins or not self._open:
            self._finish()
            self._documents.write(np.int64(self.count).tobytes())
            self._open = True
        self._held.append(text)
        self._waiting += len(text)
        if self._waiting >= LONGEST:
            whole = b"".join(self._held)
            place = self.tokenizer.cut(whole)
            self._encode(whole[:place])
            self._held, self._waiting = [whole[place:]], len(whole) - place

    def close(self) -> dict[str, NDArray]:
        """Write what is left and return ``tokens`` (N,) and ``documents`` int64 (D + 1,), mapped into memory."""
        self._finish()
        self._documents.write(np.int64(self.count).tobytes())
        self.release()
        kinds = (self.dtype, np.dtype(np.int64))
        names = ("tokens", "documents")
        return {name: _mapped(path, kind) for name, path, kind in zip(names, self._paths, kinds, strict=True)}

    def release(self) -> None:
        """Close the files."""
        for file in (self._tokens, self._documents):
            file.close()

    def _finish(self) -> None:
        if not self._open:
            return
        self._encode(b"".join(self._held))
        if self.tokenizer.end is not None:
            self._write(np.array([self.tokenizer.end]))
        self._held, self._waiting, self._open = [], 0, False

    def _encode(self, text: bytes) -> None:
        if text:
            self._write(self.tokenizer.encode(text))

    def _write(self, ids: NDArray) -> None:
        self._tokens.write(np.ascontiguousarray(ids, self.dtype).data)
        self.count += len(ids)


def _mapped(path: Path, dtype: np.dtype) -> NDArray:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)


def pack(
    base: Path,
    task: str,
    identity: Mapping[str, Any],
    tokenizer: TokenizerPlace,
    deal: Callable[[], Iterable[Dealt]],
    provenance: Callable[[str, Mapping[str, NDArray]], str],
    total: int = 0,
    progress: Progress | None = None,
    place: str = "",
    otherwise: str = "",
) -> dict[str, cache.Part]:
    """Return the packed splits from the cache, encoding the corpus if they are not there.

    Args:
        base: The cache folder.
        task: Name of the task.
        identity: All that the ids depend on beside the tokeniser.
        tokenizer: Turns text into ids.
        deal: Returns the corpus as a stream, from its beginning.
        provenance: Says in words where a split, given by name and arrays, comes from, without naming a place.
        total: Bytes of the corpus, for the progress; 0 if not known.
        progress: Told of the bytes done.
        place: Where the corpus was found this time. The cache goes by content and does not know of it: the same text
            may lie elsewhere the next time.
        otherwise: What the user can do about a split that gets nothing, beside giving more text.

    Raises:
        UserError: If the text cannot be read, gives a split without tokens, or the cache cannot be written.
    """
    learned = "" if tokenizer.part is None else tokenizer.part.fingerprint
    whole = {"packing": PACKING, "level": tokenizer.level, "tokenizer": learned, **identity}
    work = base / task / f".{cache.fingerprint(whole)[:16]}.packing"

    def make(missing: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
        with _scratch(work):
            packed = _pack_all(work, task, tokenizer.load(), deal(), total, progress, otherwise)
            for name in missing:
                yield name, packed[name], provenance(name, packed[name])

    def read_now(name: str, part: cache.Part) -> cache.Part:
        said = provenance(name, {array: part.open(array) for array in ("tokens", "documents")})
        return replace(part, provenance=f"{said}; read from {place}" if place else said)

    return {
        name: read_now(name, part) for name, part in cache.obtain(base, task, whole, SPLITS, make).items()
    }


def _pack_all(
    work: Path,
    task: str,
    tokenizer: Tokenizer,
    dealt: Iterable[Dealt],
    total: int,
    progress: Progress | None,
    otherwise: str,
) -> dict[str, dict[str, NDArray]]:
    packers = {name: Packer(work, name, tokenizer) for name in SPLITS}
    done = 0
    try:
        for split, text, begins in dealt:
            packers[split].add(text, begins)
            done += len(text)
            if progress is not None:
                progress(f"{task} data: encoding", done, max(done, total))
        packed = {name: packer.close() for name, packer in packers.items()}
    finally:
        for packer in packers.values():
            packer.release()
    for name, arrays in packed.items():
        if len(arrays["tokens"]) < 2:
            raise UserError(
                f"{task}: the {name} split gets {len(arrays['tokens'])} tokens, and a language model needs two or more",
                f"give it more text{otherwise}",
            )
    return packed


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[None]:
    """Make an empty folder for the time of the packing. The caller holds the data set's lock, so it is alone here."""
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a killed process
        folder.mkdir(parents=True)
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}",
            "make room or get write access there, or name another folder: SSM_DATA_DIR=... or --set task.cache=...",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
