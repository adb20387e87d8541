"""Files and folders that cannot be read are told by name, whichever task looks for them, and not as a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError
from ssm_data import files, sources
from ssm_data.lra_image import cifar, idx
from ssm_data.lra_text import spam

BATCHES = [*cifar.TRAIN, *cifar.TEST]


def folders(root: Path, *names: str) -> Path:
    """Make folders, also where files should be; return the first. The right to read would not stop who is root."""
    for name in names:
        (root / name).mkdir(parents=True)
    return root / names[0]


def reviews(root: Path) -> Path:
    first, *_ = [
        folders(root, f"aclImdb/{part}/{name}") for part in ("train", "test") for name in ("neg", "pos")
    ]
    return folders(first, "0_1.txt")


def no_folder(root: Path) -> Path:
    folders(root, "aclImdb/train/pos", "aclImdb/test/neg", "aclImdb/test/pos")
    (root / "aclImdb/train/neg").touch()
    return root / "aclImdb/train/neg"


def no_group(root: Path) -> Path:
    folders(root, *(group for group in spam.GROUPS if group != "spam-2"), "spam-1/more")
    (root / "spam-2").touch()
    (root / "spam-1/more").rmdir()
    return root / "spam-2"


FASHION = [name for pair in idx.FILES.values() for name in pair]

CASES = {
    "python": ("lra-image", {}, lambda root: folders(root, *(f"cifar-10-batches-py/{b}" for b in BATCHES))),
    "binary": (
        "lra-image",
        {},
        lambda root: folders(root, *(f"cifar-10-batches-bin/{b}.bin" for b in BATCHES)),
    ),
    "idx": (
        "lra-image",
        {"dataset": "fashion-mnist"},
        lambda root: folders(root, *(f"fashion-mnist/{name}" for name in FASHION)),
    ),
    "review": ("lra-text", {}, reviews),
    "no folder": ("lra-text", {}, no_folder),
    "no group": ("lra-text", {"dataset": "spam"}, no_group),
    "list": (
        "lra-pathfinder",
        {},
        lambda root: folders(root, "pathfinder32/curv_contour_length_14/metadata/0.npy"),
    ),
    "lists": (
        "lra-listops",
        {},
        lambda root: folders(root, *(f"listops/basic_{part}.tsv" for part in ("train", "val", "test"))),
    ),
    "pairs": (
        "lra-retrieval",
        {},
        lambda root: folders(root, *(f"aan/new_aan_pairs.{part}.tsv" for part in ("train", "eval", "test"))),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_read_is_named(tmp_path: Path, case: str) -> None:
    task, knobs, make = CASES[case]
    odd = make(tmp_path)
    given = {**knobs, "root": str(tmp_path), "cache": str(tmp_path / "cache")}
    with pytest.raises(UserError, match=r"cannot be read: (Is|Not) a directory|cannot be read \(Is") as told:
        registry.build_task(task, given).prepare()
    assert str(odd) in told.value.what


def test_a_batch_of_pictures_that_goes_while_it_is_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"test_batch\.bin cannot be read: No such file"):
        cifar.read_binary(tmp_path / "test_batch.bin", "pillow")


def test_no_right_to_look_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(UserError, match=r"listops/a\.tsv cannot be read: Permission denied"):
        sources.find(["listops"], ["a.tsv"], tmp_path)
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(UserError, match="cannot be read: Permission denied"):
        files.stamp([tmp_path])
