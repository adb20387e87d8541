from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
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
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.protocols import LayerInfo
from ssm_core.stack import Stack
from ssm_core.testing import TaskSuite
from ssm_data import cache
from ssm_data.info import describe
from ssm_data.lra_pathfinder import dataset, reader
from ssm_data.lra_pathfinder.spec import SPEC, PathfinderConfig

SMALL: dict[str, Any] = {"resolution": 16, "contour_length": 4, "n_train": 6, "n_validation": 3, "n_test": 2}
ROWS = 20


class Averages(nn.Module):
    """Each step with the mean of those before it: the suite's own mixer loops over hundreds of steps in Python."""

    d_model, causal, streaming, takes_dt = 4, True, False, False

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, self.d_model))

    def forward(self, x_bld: torch.Tensor, **_: Any) -> tuple[torch.Tensor, tuple[()]]:
        steps = torch.arange(1, x_bld.shape[1] + 1)[:, None]
        return x_bld + self.gain * x_bld.cumsum(1) / steps, ()


class Suite(TaskSuite):
    task = "lra-pathfinder"
    d_model, n_rows = Averages.d_model, 3

    def model(self, task: Any) -> SequenceModel:
        torch.manual_seed(0)
        layer = LayerInfo(index=0, n_layers=1, d_model=self.d_model, causal=True)
        stack = Stack([ResidualBlock(Averages(), layer)], self.d_model, "layer")
        return SequenceModel(task.encoder(self.d_model), stack, task.head(self.d_model), task).eval()


class TestValues(Suite):
    config: ClassVar = {**SMALL, "source": "generate"}


class TestTokens(Suite):
    config: ClassVar = {**SMALL, "inputs": "tokens", "pooling": "last", "contrast": "equal"}


del Suite


def make(**given: Any) -> Any:
    return registry.build_task("lra-pathfinder", given)


def write_release(
    root: Path, rows: int = ROWS, kind: str = "text", size: int = 32, per_list: int = 8
) -> Path:
    """The official layout with few pictures; the lists as text or as arrays of strings."""
    folder = root / f"pathfinder{size}" / "curv_contour_length_14"
    (folder / "metadata").mkdir(parents=True)
    rng = np.random.default_rng(1)
    table = []
    for i in range(rows):
        batch, number = divmod(i, per_list)
        (folder / "imgs" / str(batch)).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (size, size), dtype=np.uint8)
        pixels[0, 0] = i
        Image.fromarray(pixels).save(folder / "imgs" / str(batch) / f"sample_{number}.png")
        table.append([f"imgs/{batch}", f"sample_{number}.png", number, i % 2, 1.0, 14, 4, 2, 0.5, 1, 1])
    for batch in range(-(-rows // per_list)):
        listed = table[batch * per_list : (batch + 1) * per_list]
        path = folder / "metadata" / f"{batch}.npy"
        if kind == "text":
            path.write_text("".join(" ".join(map(str, row)) + "\n" for row in listed))
        else:
            np.save(path, np.array(listed).astype("U32" if kind == "array" else "S32"))
    return folder


def pixel(split: Any) -> list[int]:
    return [int(row["inputs"][0]) for row in split]


@pytest.mark.parametrize("kind", ["text", "array", "bytes"])
def test_released_files_are_read_in_both_formats(kind: str, tmp_path: Path) -> None:
    folder = write_release(tmp_path, kind=kind)
    splits = make(root=str(tmp_path), expected_rows=ROWS, split="contiguous").splits()
    assert {name: pixel(split) for name, split in splits.items()} == {
        "train": list(range(16)),
        "validation": [16, 17],
        "test": [18, 19],
    }
    assert [row["targets"] for row in splits["validation"]] == [0, 1]
    last = np.asarray(Image.open(folder / "imgs/2/sample_3.png")).ravel()
    assert np.array_equal(splits["test"][1]["inputs"], last)
    assert splits["test"][1]["inputs"].dtype == np.uint8
    assert str(folder) in splits["train"].provenance


def test_lists_are_sorted_by_number_and_the_random_split_is_that_of_pytorch(tmp_path: Path) -> None:
    write_release(tmp_path / "lra_release" / "lra_release", rows=24, per_list=2)  # 12 lists: 10 comes after 9
    given = {"root": str(tmp_path), "expected_rows": 24}
    splits = make(**given).splits()
    expected = torch.utils.data.random_split(
        range(24), [20, 2, 2], generator=torch.Generator().manual_seed(42)
    )
    for name, subset in zip(("train", "validation", "test"), expected, strict=True):
        assert pixel(splits[name]) == list(subset)
    assert pixel(make(**given, split="contiguous").splits()["train"]) == list(range(20))


def test_blocks_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_release(tmp_path)
    monkeypatch.setitem(dataset.BLOCK_BYTES, "read", 3 * 1024)
    given = {"root": str(tmp_path), "expected_rows": 0, "cache": str(tmp_path / "cache")}
    split = make(**given).splits()["train"]
    assert len(split.blocks) == 7
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(42))[:16].tolist()
    assert pixel(split) == order
    assert split.arrays["inputs"][:, 0].tolist() == order
    again = pickle.loads(pickle.dumps(split))
    assert pixel(again) == order
    with pytest.raises(IndexError):
        split[16]


def test_a_part_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    write_release(tmp_path)
    with pytest.raises(UserError, match="have 20 pictures, not 200000"):
        make(root=str(tmp_path)).splits()
    with pytest.raises(UserError, match="have 20 pictures, not 19"):
        make(root=str(tmp_path), expected_rows=19).splits()


def test_the_known_empty_picture_is_left_out_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_release(tmp_path, per_list=200)
    root = tmp_path / "pathfinder32"
    (root / "curv_contour_length_14").rename(root / "curv_baseline")
    listed = root / "curv_baseline/metadata/0.npy"
    with listed.open("a") as file:
        file.write("imgs/0 sample_172.png 172 1 1.0 6 2 2 0.5 1 1\n")
    empty = root / "curv_baseline/imgs/0/sample_172.png"
    empty.touch()
    given = {"root": str(tmp_path), "contour_length": 6, "split": "contiguous"}
    with caplog.at_level(logging.INFO, logger="ssm_data"):
        splits = make(**given, expected_rows=21).splits()
    assert sum(len(split) for split in splits.values()) == 20
    assert "sample_172.png is left out" in caplog.text
    assert "20 pictures (NOT the release's 199,999)" in splits["train"].provenance
    monkeypatch.setattr(dataset, "ROWS", 21)
    whole = make(**given, expected_rows=21, cache=str(tmp_path / "whole")).splits()["train"].provenance
    assert "20 pictures: " in whole, "the whole release, less the empty one"
    (root / "curv_baseline/imgs/0/sample_3.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"sample_3\.png cannot be read: it is empty .*0\.npy, row 4"):
        make(**given, expected_rows=21, cache=str(tmp_path / "cache")).splits()


def bad_lists(kind: str) -> tuple[bytes, str]:
    line = "imgs/0 sample_0.png 0 1 1.0 14 4 2 0.5 1 1\n"

    return {
        "columns": ((line + "imgs/0 sample_1.png 1\n").encode(), "row 2 has 3 columns"),
        "label": (line.replace(" 0 1 ", " 0 2 ").encode(), "row 1: label '2'"),
        "outside": (line.replace("imgs/0", "../../x").encode(), "row 1: .* outside"),
        "absolute": (line.replace("imgs/0", "/etc").encode(), "row 1: .* outside"),
        "bytes": (b"\xff\xfe\x00\x01", "neither text nor an array"),
        "empty": (b"", "are empty"),
        "truncated": (b"\x93NUMPY\x01\x00v\x00", "damaged"),
        "gone": (line.replace("sample_0", "sample_99").encode(), r"sample_99\.png is not there .*row 1"),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["columns", "label", "outside", "absolute", "bytes", "empty", "truncated", "gone"]
)
def test_damaged_lists_are_told_and_leave_nothing(kind: str, tmp_path: Path) -> None:
    folder = write_release(tmp_path, rows=4)
    content, reason = bad_lists(kind)
    (folder / "metadata/0.npy").write_bytes(content)
    with pytest.raises(UserError, match=reason) as told:
        make(root=str(tmp_path), expected_rows=0, cache=str(tmp_path / "cache")).splits()
    assert str(folder) in told.value.what
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != ".lock"]
    assert left == []


def test_lists_of_objects_or_without_a_number_are_refused(tmp_path: Path) -> None:
    folder = write_release(tmp_path, rows=4)
    path = folder / "metadata/0.npy"
    np.save(path, np.array([["imgs/0", None]], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="damaged"):
        reader.listed(folder, 0)
    np.save(path, np.zeros((2, 11)))
    with pytest.raises(UserError, match="not rows of strings"):
        reader.listed(folder, 0)
    path.rename(path.with_name("zero.npy"))
    with pytest.raises(UserError, match="not named by a number"):
        reader.listed(folder, 0)
    (folder / "metadata/zero.npy").unlink()
    with pytest.raises(UserError, match="holds no lists"):
        reader.listed(folder, 0)


def test_damaged_pictures_are_told_with_file_and_row(tmp_path: Path) -> None:
    folder = write_release(tmp_path, rows=12)
    path = folder / "imgs/1/sample_2.png"
    whole = path.read_bytes()
    Image.new("L", (31, 32)).save(tmp_path / "narrow.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "colour.png")
    for content, reason in (
        (whole[: len(whole) // 2], "cannot be read"),
        (b"not a picture", "cannot be read"),
        ((tmp_path / "narrow.png").read_bytes(), r"is \(31, 32\) in mode L"),
        ((tmp_path / "colour.png").read_bytes(), "in mode RGB"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=reason) as told:
            make(root=str(tmp_path), expected_rows=12).splits()
        assert str(path) in told.value.what
        assert "1.npy, row 3" in told.value.what


def test_what_is_nowhere_is_told_or_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = {**SMALL, "resolution": 32, "contour_length": 14, "root": str(tmp_path)}
    with pytest.raises(UserError) as told:
        make(source="local", root=str(tmp_path)).splits()
    assert str(tmp_path / "pathfinder32") in told.value.hint
    assert "(and so below lra_release and lra_release/lra_release)" in told.value.hint
    assert "task.source=generate" in told.value.hint
    with caplog.at_level(logging.WARNING, logger="ssm_data"):
        split = make(**given).splits()["train"]
    assert "pictures are made here" in caplog.text
    assert split.provenance.startswith("regenerated")
    write_release(tmp_path)
    found = make(root=str(tmp_path), expected_rows=ROWS).splits()["train"]
    assert "official release's layout" in found.provenance
    assert np.array_equal(make(**given, source="generate").splits()["train"][3]["inputs"], split[3]["inputs"])


def test_knobs_of_made_pictures_are_never_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_release(tmp_path)
    sizes = {"n_train": 5, "n_validation": 1, "n_test": 1}
    with caplog.at_level(logging.WARNING, logger="ssm_data"):
        split = make(root=str(tmp_path), expected_rows=ROWS, contrast="equal", **sizes).splits()["train"]
    assert len(split) == 5
    assert split.provenance.startswith("regenerated")
    assert "n_train, n_validation, n_test, contrast ask for made ones" in caplog.text
    for task in ("lra-pathfinder", "lra-pathx"):
        with pytest.raises(ConfigError, match="leave out n_train, seed"):
            registry.build_task(task, {"source": "local", "n_train": 3, "seed": 7})


def test_a_root_that_is_named_is_not_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "_made", lambda *_: {})
    monkeypatch.chdir(tmp_path)
    for task in ("lra-pathfinder", "lra-pathx"):
        with pytest.raises(UserError, match=rf"{task} found no Pathfinder"):
            registry.build_task(task, {"root": str(tmp_path / "nowhere")}).splits()
    for given, why in (
        ({}, "no official files were found"),
        ({"contour_length": 10}, "contour_length = 10 asks for made ones"),
        ({"root": str(tmp_path), "contour_length": 10}, "contour_length = 10 asks for made ones"),
        (
            {"root": str(tmp_path), "resolution": 16, "contour_length": 6},
            "resolution = 16 asks for made ones",
        ),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="ssm_data"):
            make(**given).splits()
        assert f"lra-pathfinder: {why}; pictures are made here" in caplog.text


def test_pictures_that_are_changed_are_read_anew(tmp_path: Path) -> None:
    folder = write_release(tmp_path)
    given = {
        "root": str(tmp_path),
        "expected_rows": ROWS,
        "split": "contiguous",
        "cache": str(tmp_path / "c"),
    }
    before = make(**given).splits()["train"]
    path = folder / "imgs/0/sample_3.png"
    state, other = path.stat(), np.full((32, 32), 99, np.uint8)
    Image.fromarray(other).save(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    after = make(**given).splits()["train"]
    assert pixel(after)[3] == 99 != pixel(before)[3]
    assert pixel(after)[:3] == pixel(before)[:3]
    path.unlink()
    with pytest.raises(UserError, match=r"sample_3\.png is not there"):
        make(**given).splits()


# The generator.


def test_rows_and_split(tmp_path: Path) -> None:
    task = make(**SMALL, source="generate")
    split = task.splits()["validation"]
    row = split[0]
    assert {k: (v.dtype.name, v.shape) for k, v in row.items()} == {
        "inputs": ("uint8", (256,)),
        "targets": ("int64", ()),
    }
    assert len(pickle.dumps(split)) < 1500
    assert describe("validation", split)["arrays"]["inputs"]["shape"] == [3, 256]
    assert task.max_length == 256
    batch = task.collate([split[0], split[1]])
    assert batch.inputs.dtype == torch.uint8
    encoder = make(**SMALL, mean=0.5, std=0.5).encoder(2)
    expected = encoder.linear((batch.inputs[..., None] / 255 - 0.5) / 0.5)
    torch.testing.assert_close(encoder(batch), expected)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"contour_length": 1}, "has to lie in"),
        ({"contour_length": 7, "source": "local"}, "6, 9 and 14"),
        ({"resolution": 16}, "no room"),
        ({"resolution": 16, "contour_length": 6, "source": "local"}, "not in the release"),
        ({"resolution": 33}, "resolution"),
        ({"n_test": 0}, "at least one"),
        ({"std": -1.0}, "above 0"),
        ({"seed": -1}, "negative"),
        ({"source": "hub"}, "source"),
    ],
)
def test_bad_knobs_are_told(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        make(**given)


def test_every_knob_is_documented() -> None:
    assert set(field_docs(PathfinderConfig)) == {knob["name"] for knob in knobs(PathfinderConfig)}
    assert {row.backbone: row.value for row in SPEC.published}["s5"] == 0.9533


@pytest.mark.parametrize("module", ["lra_pathfinder", "lra_pathx", "lra_image"])
def test_specs_load_neither_torch_nor_numpy(module: str) -> None:
    code = f"import sys, ssm_data.{module}.spec; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=dict(os.environ),
    )
    assert done.stdout.strip() == "[]"


def test_the_cache_is_told_when_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the data cache"):
        make(**SMALL, source="generate", cache=str(tmp_path / "file")).splits()
    assert cache.root(tmp_path) == tmp_path
