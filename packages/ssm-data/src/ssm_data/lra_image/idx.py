"""Fashion-MNIST from its idx files, packed or not, given the frame that makes it the size of CIFAR-10."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError
from ssm_data import files
from ssm_data.lra_image.cifar import Pictures, check_labels

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
SIDE, FRAME = 28, 2
CLASSES = 10

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where the package dataset-fashion-mnist of Debian puts it."""


def place(folder: Path, name: str) -> Path | None:
    """Return the file of that name in a folder, packed or not, or None."""
    return next((path for path in (folder / f"{name}.gz", folder / name) if files.is_there(path)), None)


def is_there(folder: Path) -> bool:
    """Whether a folder holds all four files."""
    return all(place(folder, name) for pair in FILES.values() for name in pair)


def read(folder: Path, split: str) -> Pictures:
    """Read a split.

    Args:
        folder: A folder that holds the files.
        split: ``"train"`` or ``"test"``.

    Raises:
        UserError: If a file is damaged, or is something else.
    """
    images_at, labels_at = (place(folder, name) or folder / name for name in FILES[split])
    images, labels = _idx(images_at, 3), _idx(labels_at, 1)
    if images.shape[1:] != (SIDE, SIDE) or not len(images):
        raise UserError(f"{images_at} holds pictures of the shape {images.shape}, not (n, {SIDE}, {SIDE})")
    if len(images) != len(labels):
        raise UserError(f"{images_at} holds {len(images)} pictures, {labels_at} {len(labels)} labels")
    framed = np.pad(images, ((0, 0), (FRAME, FRAME), (FRAME, FRAME)))
    return Pictures(framed.reshape(len(framed), -1), check_labels(labels_at, labels, CLASSES))


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    content = _content(path)
    head = 4 + 4 * dimensions
    magic = bytes([0, 0, 8, dimensions])  # 8: of bytes
    if len(content) < head or content[:4] != magic:
        raise UserError(
            f"{path} is not an idx file of {dimensions} dimensions: it begins {content[:4].hex()}, not {magic.hex()}"
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    expected = head + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise UserError(f"{path} has {len(content)} bytes where its head {shape} asks for {expected}")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be unpacked: {error}", "fetch it again") from None
