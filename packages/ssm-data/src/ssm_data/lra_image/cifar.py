"""CIFAR-10 in the three forms it is kept in: the Python files, the binary files, the hub's.

The Python files are pickles, which can run anything when they are read. Here they are read by an unpickler that knows
the three names that the official files use, and puts plain records in their place.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError
from ssm_data import files
from ssm_data.lra_image.grey import Grey, grey_of

PLANES = 3 * 1024
"""Bytes of a picture: all of red, then green, then blue, each row by row."""

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = ("test_batch",)

OFFICIAL = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
"""md5 of the official Python files."""

HUB = "uoft-cs/cifar10"
REVISION = "0b2714987fa478483af9968de7c934580d0bb9a2"


@dataclass
class Pictures:
    """Pictures with their labels.

    Attributes:
        inputs: uint8 (n, 1024), grey, row by row.
        targets: uint8 (n,), the numbers of the classes.
    """

    inputs: NDArray[np.uint8]
    targets: NDArray[np.uint8]

    def arrays(self) -> dict[str, NDArray]:
        """Return both by name."""
        return {"inputs": self.inputs, "targets": self.targets}


def together(pieces: list[Pictures]) -> Pictures:
    """Return pictures of several files as one."""
    return Pictures(
        np.concatenate([piece.inputs for piece in pieces]),
        np.concatenate([piece.targets for piece in pieces]),
    )


def read_python(path: Path, grey: Grey) -> Pictures:
    """Read a file of ``cifar-10-batches-py``.

    Raises:
        UserError: If it is damaged, or is a pickle of anything else.
    """
    try:
        with path.open("rb") as file:
            record = _Unpickler(file, encoding="bytes").load()
        named = {key.decode() if isinstance(key, bytes) else key: value for key, value in record.items()}
        data, labels = named["data"].array(), named["labels"]
        if data.ndim != 2 or data.shape[1] != PLANES:
            raise ValueError(f"its data have the shape {data.shape}, not (rows, {PLANES})")
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged pickle can fail in any way
        reason = str(error) or type(error).__name__
        raise UserError(
            f"{path} is not a whole CIFAR-10 file: {reason}",
            "unpack the official cifar-10-python.tar.gz again",
        ) from None
    return _pictures(path, data, labels, grey)


def read_binary(path: Path, grey: Grey) -> Pictures:
    """Read a file of ``cifar-10-batches-bin``: for each picture its label, then its planes.

    Raises:
        UserError: If it cannot be read or does not hold whole pictures, or a label is out of range.
    """
    content = np.frombuffer(files.content(path), np.uint8)
    if not content.size or content.size % (1 + PLANES):
        raise UserError(
            f"{path} has {content.size} bytes, which are not whole pictures of {1 + PLANES}",
            "unpack the official cifar-10-binary.tar.gz again",
        )
    rows = content.reshape(-1, 1 + PLANES)
    return _pictures(path, rows[:, 1:], rows[:, 0], grey)


def read_hub(revision: str, split: str, grey: Grey) -> Pictures:
    """Download a split of CIFAR-10, or take it from the cache of ``datasets``.

    Raises:
        UserError: If the hub cannot be reached, or gives something else.
    """
    import datasets

    where = f"{HUB} at revision {revision}, split {split}"
    try:
        found: Any = datasets.load_dataset(HUB, "plain_text", split=split, revision=revision)
        planes = np.empty((len(found), 32, 32, 3), np.uint8)
        labels = np.empty(len(found), np.int64)
        for i, row in enumerate(found):
            planes[i], labels[i] = np.asarray(row["img"], np.uint8), row["label"]
    except Exception as error:  # noqa: BLE001 - the hub's errors are of many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{where} cannot be had: {reason}",
            "check the connection (HF_HUB_OFFLINE must not be set), or put the files on disk: --set task.source=local",
        ) from None
    return _pictures(where, planes.transpose(0, 3, 1, 2).reshape(len(planes), PLANES), labels, grey)


def is_official(folder: Path) -> bool:
    """Whether all files of ``cifar-10-batches-py`` are, bit for bit, the published ones."""
    return all(_md5(folder / name) == expected for name, expected in OFFICIAL.items())


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _pictures(where: Path | str, planes: NDArray, labels: Any, grey: Grey) -> Pictures:
    if not len(planes):
        raise UserError(f"{where} holds no pictures")
    if len(labels) != len(planes):
        raise UserError(f"{where} holds {len(planes)} pictures and {len(labels)} labels")
    return Pictures(grey_of(planes, grey), check_labels(where, np.asarray(labels), len(CLASSES)))


def check_labels(where: Path | str, labels: NDArray, classes: int) -> NDArray[np.uint8]:
    """Return labels (n,) as uint8.

    Raises:
        UserError: If one is not the number of a class; names file and row.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"the labels of {where} are not a row of whole numbers")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        row = int(wrong[0])
        raise UserError(f"{where}, row {row}: label {labels[row]} is not one of 0 to {classes - 1}")
    return labels.astype(np.uint8)


class _Dtype:
    """Stands in for numpy.dtype in a pickle."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode() if isinstance(code, bytes) else str(code)

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which bytes do not have."""


class _Array:
    """Stands in for numpy.ndarray in a pickle."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> NDArray[np.uint8]:
        """Return what was pickled, if it is an array of bytes."""
        _, shape, dtype, by_columns, content = self.state
        if dtype.code not in ("u1", "|u1", "uint8"):
            raise ValueError(f"its data are of type {dtype.code}, not u1")
        flat = np.frombuffer(content, np.uint8)
        return flat.reshape(shape, order="F" if by_columns else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes into a pickle of protocol 2."""
    return text.encode("latin1")


KNOWN: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return KNOWN[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module_name}.{global_name}, which CIFAR-10 files have no use for"
            ) from None


def forms() -> Iterator[tuple[str, str, Any]]:
    """Yield folder, ending and reader of each form on disk."""
    yield "cifar-10-batches-py", "", read_python
    yield "cifar-10-batches-bin", ".bin", read_binary
