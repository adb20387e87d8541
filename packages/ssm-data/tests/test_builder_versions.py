"""A new number of what makes arrays gives new arrays in the cache, and leaves the old ones unread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssm_core.plugin import registry


def no_files(_: Path) -> dict[str, Any]:
    return {"source": "generate", "n_train": 3, "n_validation": 2, "n_test": 2}


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


NUMBERS = [
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
        found = {name: split.part for name, split in built.splits().items()}
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
