"""A new number of what makes arrays gives new arrays in the cache, and leaves the old ones unread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssm_core.plugin import registry

SYNTHETIC = ("mqar", "induction-heads", "selective-copying")
SMALL = {"n_train": 3, "n_validation": 2, "n_test": 2}


def drawn(_: Path) -> dict[str, Any]:
    return SMALL


def no_files(_: Path) -> dict[str, Any]:
    return {"source": "generate", **SMALL}


def texts(root: Path) -> dict[str, Any]:
    (root / "book.txt").write_text("".join(f"line {i} of a book\n" for i in range(200)))
    return {"path": str(root), "level": "bpe", "vocab_size": 300}


def reviews(root: Path) -> dict[str, Any]:
    for part in ("train", "test"):
        for group in ("neg", "pos"):
            folder = root / "aclImdb" / part / group
            folder.mkdir(parents=True)
            for i in range(3):
                (folder / f"{i}_5.txt").write_text(f"{part} {group} {i}")
    return {"root": str(root), "source": "local"}


def pictures(root: Path) -> dict[str, Any]:
    (root / "cifar-10-batches-bin").mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        rows = np.random.default_rng(0).integers(0, 10, (10, 3073), np.uint8)
        rows.tofile(root / "cifar-10-batches-bin" / f"{name}.bin")
    return {"root": str(root), "source": "local"}


def papers(root: Path) -> dict[str, Any]:
    (root / "aan").mkdir()
    for name in ("train", "eval", "test"):
        rows = "".join(f"{i % 2}.0\t{i}\t{i + 1}\tpaper {i} of {name}\tanother\n" for i in range(6))
        (root / "aan" / f"new_aan_pairs.{name}.tsv").write_text(rows)
    return {"root": str(root)}


def vowels(root: Path) -> dict[str, Any]:
    (root / "Two").mkdir()
    head = "@problemName Two\n@timeStamps false\n@univariate true\n@classLabel true a b\n@data\n"
    for part in ("TRAIN", "TEST"):
        (root / "Two" / f"Two_{part}.ts").write_text(
            head + "".join(f"1,{i},{2 * i}:{'ab'[i % 2]}\n" for i in range(8))
        )
    return {"root": str(root), "dataset": "Two"}


def table(root: Path) -> dict[str, Any]:
    rows = (f"{i},{k},{i * k % 7},{i % 3}\n" for i in range(12) for k in range(4))
    (root / "mine.csv").write_text("id,time,value,target\n" + "".join(rows))
    return {"path": str(root / "mine.csv")}


NUMBERS = [
    *((name, f"ssm_data.{name.replace('-', '_')}.task.GENERATOR", drawn) for name in SYNTHETIC),
    ("sine", "ssm_data.sine.data.GENERATOR", drawn),
    ("pendulum", "ssm_data.pendulum.dataset.GENERATOR", drawn),
    ("lra-pathfinder", "ssm_data.lra_pathfinder.dataset.GENERATOR", no_files),
    ("lra-image", "ssm_data.lra_image.dataset.READER", pictures),
    ("lra-retrieval", "ssm_data.lra_retrieval.dataset.READER", papers),
    ("ts", "ssm_data.ts.data.READER", vowels),
    ("irregular-csv", "ssm_data.irregular_csv.data.READER", table),
    ("text-lm", "ssm_data.lm.packing.PACKING", texts),
    ("lra-text", "ssm_data.lra_text.dataset.BUILDER", reviews),
    ("lra-listops", "ssm_data.lra_listops.dataset.GENERATOR", no_files),
]


@pytest.mark.parametrize(("task", "number", "write"), NUMBERS, ids=[number for _, number, _ in NUMBERS])
def test_a_new_number_makes_all_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, number: str, write: Any
) -> None:
    (tmp_path / "in").mkdir()
    given = {**write(tmp_path / "in"), "cache": str(tmp_path / "cache")}

    def parts() -> dict[str, Any]:
        built = registry.build_task(task, given)
        found = {
            name: split.blocks[0] if hasattr(split, "blocks") else split.part
            for name, split in built.splits().items()
        }
        if task == "text-lm":
            found["tokenizer"] = built.splits()["train"].tokenizer.part
        return found

    def files(folders: list[Path]) -> dict[Path, bytes]:
        return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}

    before = parts()
    assert parts() == before, "with the same number it is read from the cache"
    folders = [part.folder for part in before.values()]
    # What is read of the old ones from now on would be told by the parts' own words and hashes.
    for manifest in {folder / "manifest.json" for folder in folders}:
        manifest.write_text(manifest.read_text().replace('"provenance": "', '"provenance": "old: '))
    held = files(folders)
    monkeypatch.setattr(number, 99)
    after = parts()
    assert files(folders) == held, "what an older version made is its own"
    for name, part in after.items():
        assert part.folder != before[name].folder, name
        assert part.fingerprint != before[name].fingerprint, name
        assert not part.provenance.startswith("old: "), name
        assert part.content == before[name].content, "of this number nothing else has changed"
