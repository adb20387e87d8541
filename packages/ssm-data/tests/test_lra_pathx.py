from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ssm_core.block import ResidualBlock
from ssm_core.model import SequenceModel
from ssm_core.plugin import registry
from ssm_core.plugin.config import field_docs, knobs
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import LayerInfo
from ssm_core.stack import Stack
from ssm_core.testing import TaskSuite
from ssm_data.lra_pathfinder.generate import picture, recipe
from ssm_data.lra_pathx.spec import SPEC, PathXConfig

# Six dashes find room at once; fourteen take hundreds of attempts, which are slow before they are compiled.
SMALL: dict[str, Any] = {
    "contour_length": 6,
    "n_train": 4,
    "n_validation": 2,
    "n_test": 2,
    "source": "generate",
}


class Averages(nn.Module):
    """Each step with the mean of those before it: the suite's own mixer loops over 16,384 steps in Python."""

    d_model, causal, streaming, takes_dt = 4, True, False, False

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, self.d_model))

    def forward(self, x_bld: torch.Tensor, **_: Any) -> tuple[torch.Tensor, tuple[()]]:
        steps = torch.arange(1, x_bld.shape[1] + 1)[:, None]
        return x_bld + self.gain * x_bld.cumsum(1) / steps, ()


class TestTask(TaskSuite):
    task = "lra-pathx"
    config: ClassVar = SMALL
    d_model, n_rows = Averages.d_model, 2

    def model(self, task: Any) -> SequenceModel:
        torch.manual_seed(0)
        layer = LayerInfo(index=0, n_layers=1, d_model=self.d_model, causal=True)
        stack = Stack([ResidualBlock(Averages(), layer)], self.d_model, "layer")
        return SequenceModel(task.encoder(self.d_model), stack, task.head(self.d_model), task).eval()


def test_rows_are_of_16384_pixels_and_the_same_as_pathfinders() -> None:
    task = registry.build_task("lra-pathx", SMALL)
    row = task.splits()["test"][1]
    assert (row["inputs"].dtype, row["inputs"].shape, task.max_length) == (np.uint8, (16384,), 16384)
    assert np.array_equal(row["inputs"], picture(recipe(128, 6, 0, "published"), "test", 1).pixels.ravel())
    assert len(pickle.dumps(task.splits()["test"])) < 1500
    twin = registry.build_task("lra-pathfinder", {**SMALL, "resolution": 128}).splits()["test"]
    assert twin.blocks[0].folder == task.splits()["test"].blocks[0].folder


def test_pictures_have_the_larger_measures() -> None:
    found = [picture(recipe(128, 6, 0, "published"), "train", i) for i in range(8)]
    assert {p.margin for p in found} == {2, 3}
    assert all(p.pixels.shape == (128, 128) and p.pixels.max() == 255 for p in found)
    assert all(p.distractors.shape[1] == 2 and len(p.distractors) >= 15 for p in found)
    beginnings = [np.hypot(*(p.targets[0, 0, :2] - p.targets[1, 0, :2])) for p in found]
    assert np.allclose(beginnings, 20, atol=1)


def test_released_files_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "pathfinder128" / "curv_contour_length_14"
    (folder / "imgs/0").mkdir(parents=True)
    (folder / "metadata").mkdir()
    lines = []
    for i in range(10):
        Image.new("L", (128, 128), i).save(folder / f"imgs/0/sample_{i}.png")
        lines.append(f"imgs/0 sample_{i}.png {i} {i % 2} 1.8 14 4 5 1.5 2 1\n")
    (folder / "metadata/0.npy").write_text("".join(lines))
    task = registry.build_task(
        "lra-pathx", {"root": str(tmp_path), "expected_rows": 10, "split": "contiguous"}
    )
    assert [int(row["inputs"][-1]) for row in task.splits()["validation"]] == [8]


@pytest.mark.slow
def test_the_benchmarks_own_pictures_are_made() -> None:
    p = picture(recipe(128, 14, 0, "published"), "train", 0, compiled=True)
    assert p.targets.shape == (2, 14, 3)
    assert 0.03 < (p.pixels > 51).mean() < 0.08


def test_knobs() -> None:
    names = {knob["name"] for knob in knobs(PathXConfig)}
    assert set(field_docs(PathXConfig)) == names
    assert "resolution" not in names
    with pytest.raises(ConfigError, match=r"lra-pathx has no setting 'task\.resolution'"):
        registry.build_task("lra-pathx", {"resolution": 32})
    assert {row.backbone: row.value for row in SPEC.published}["s5"] == 0.9858
