from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

import ssm_data
from ssm_core.plugin import registry
from ssm_core.plugin.config import field_docs, knobs
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.protocols import Batch, Output
from ssm_core.testing import TaskSuite
from ssm_data.info import describe, info
from ssm_data.pendulum.head import Gaussian
from ssm_data.pendulum.spec import SPEC, PendulumConfig
from ssm_data.pendulum.task import PendulumTask

SMALL = {"n_train": 6, "n_validation": 3, "n_test": 2}


class TestTrueGaps(TaskSuite):
    task = "pendulum"
    config: ClassVar = {**SMALL, "time": "true"}


class TestIgnoredGaps(TaskSuite):
    task = "pendulum"
    config: ClassVar = {**SMALL, "time": "ignored"}


class TestAppendedGaps(TaskSuite):
    task = "pendulum"
    config: ClassVar = {**SMALL, "time": "appended", "sample_rate": 0.3}


def make(**given: object) -> PendulumTask:
    return registry.build_task("pendulum", {**SMALL, **given})


def batch_of(task: PendulumTask, n: int = 3) -> Batch:
    data = task.splits()["train"]
    return task.collate([data[i] for i in range(n)])


def output_for(batch: Batch) -> Output:
    torch.manual_seed(0)
    shape = batch.targets.shape
    return Output(Gaussian(torch.randn(shape), torch.rand(shape) + 0.1), ())


def test_collate_keeps_frames_small_and_targets_float32() -> None:
    batch = batch_of(make())
    assert (batch.inputs.dtype, batch.inputs.shape) == (torch.uint8, (3, 50, 24, 24))
    assert (batch.targets.dtype, batch.targets.shape) == (torch.float32, (3, 50, 2))
    assert batch.extra["time_points"].dtype == torch.int64


def test_rows_are_as_documented() -> None:
    row = make().splits()["test"][1]
    assert {k: (v.dtype.name, v.shape) for k, v in row.items()} == {
        "inputs": ("uint8", (50, 24, 24)),
        "targets": ("float64", (50, 2)),
        "time_points": ("int64", (50,)),
    }
    assert all(type(v) is np.ndarray and v.flags.writeable for v in row.values())


def test_views_of_time_differ_in_the_gaps_only() -> None:
    views = {time: make(time=time) for time in ("true", "ignored", "appended")}
    batches = {time: batch_of(task) for time, task in views.items()}
    assert [task.needs.dt for task in views.values()] == [True, False, False]
    assert batches["ignored"].dt_bl is batches["appended"].dt_bl is None
    times, dt = batches["true"].extra["time_points"], batches["true"].dt_bl
    assert (dt[:, 0] == 1).all()
    assert torch.equal(dt[:, 1:], times.diff(dim=1).float())
    assert torch.equal(batches["true"].inputs, batches["ignored"].inputs)
    assert not views["ignored"].encoder(30).append_gap
    assert views["appended"].encoder(30).append_gap


def test_length_follows_the_sample_rate() -> None:
    for rate, n in ((0.3, 30), (0.29, 29), (0.57, 57), (1.0, 100), (0.01, 1)):
        task = make(sample_rate=rate)
        assert task.max_length == n
        assert len(task.splits()["test"][0]["time_points"]) == n


def test_loss_weight_is_the_number_of_valid_elements() -> None:
    task = make()
    batch = batch_of(task)
    output = output_for(batch)
    total, weight = task.loss(output, batch)
    assert weight == 150
    mask = torch.ones(3, 50, dtype=torch.bool)
    mask[1, 20:] = False
    poisoned = Gaussian(
        output.head.mean.masked_fill(~mask[..., None], torch.nan).requires_grad_(), output.head.variance
    )
    masked = replace(batch, mask_bl=mask)
    part, count = task.loss(Output(poisoned, ()), masked)
    assert count == 120
    rest = task.loss(
        Output(Gaussian(output.head.mean[1:2, 20:], output.head.variance[1:2, 20:]), ()),
        replace(batch, targets=batch.targets[1:2, 20:]),
    )
    torch.testing.assert_close(part + rest.total, total)
    found = task.predictions(Output(poisoned, ()), masked)
    assert {k: v.shape for k, v in found.items()} == dict.fromkeys(
        ("prediction", "target", "variance"), (120, 2)
    )
    assert found["prediction"].isfinite().all()


def test_plots_show_sine_and_cosine_over_the_time_points() -> None:
    task = make()
    batch = batch_of(task)
    panels = task.plots(output_for(batch), batch)
    assert len(panels) == 6
    assert panels[1].y_label == "cos θ"
    assert list(panels[0].x) == batch.extra["time_points"][0].tolist()
    assert panels[1].truth == pytest.approx(batch.targets[0, :, 1].tolist())


def test_prepare_tells_its_progress_and_then_has_nothing_to_do(tmp_path) -> None:
    calls: list[tuple[str, int, int]] = []
    for _ in range(2):
        make(cache=str(tmp_path)).prepare(lambda *call: calls.append(call))
    assert len(calls) == 11
    assert (tmp_path / "pendulum").is_dir()


def test_a_split_travels_as_its_place_on_disk() -> None:
    split = make().splits()["train"]
    sent = pickle.dumps(split)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent)[2]["inputs"], split[2]["inputs"])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"sample_rate": 0.0}, "leaves no frame"),
        ({"sample_rate": 0.001}, "leaves no frame"),
        ({"sample_rate": 1.5}, "leaves no frame"),
        ({"sample_rate": float("nan")}, "finite number"),
        ({"subsample_seed": -1}, "negative"),
        ({"n_test": 0}, "at least one"),
        ({"time": "false"}, "time"),
        ({"sample_rat": 0.3}, "did you mean 'sample_rate'"),
    ],
)
def test_bad_knobs_are_told(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        make(**given)


def test_every_knob_is_documented() -> None:
    assert set(field_docs(PendulumConfig)) == {knob["name"] for knob in knobs(PendulumConfig)}


def test_published_figures_for_our_own_backbone() -> None:
    ours = {dict(row.settings)["time"]: row.value for row in SPEC.published if row.backbone == "s5"}
    assert ours == {"true": 3.41e-3, "ignored": 6.68e-3, "appended": 4.13e-3}
    assert all(row.metric == "mse" and row.std for row in SPEC.published)


def test_load_and_info_by_name(tmp_path: Path) -> None:
    split = ssm_data.load("pendulum", "validation", **SMALL)
    assert len(split) == 3
    told: list[str] = []
    info("pendulum", lambda what, *_: told.append(what), **SMALL, cache=str(tmp_path))
    assert told
    described = info("pendulum", **SMALL)
    assert list(described["splits"]) == ["train", "validation", "test"]
    arrays = described["splits"]["validation"]["arrays"]
    assert {k: (v["shape"], v["dtype"]) for k, v in arrays.items()} == {
        "observations": ([3, 50, 24, 24], "uint8"),
        "targets": ([3, 50, 2], "float64"),
        "time_points": ([3, 50], "int64"),
    }
    assert type(arrays["observations"]["sum"]) is int
    assert type(arrays["targets"]["sum"]) is float
    assert "not the published settings" in described["splits"]["test"]["provenance"]
    with pytest.raises(UserError, match="did you mean 'test'"):
        ssm_data.load("pendulum", "tests", **SMALL)


def test_splits_without_arrays_are_described_by_their_rows() -> None:
    rows = [{"inputs": np.arange(3), "targets": i} for i in range(4)]
    found = describe("train", rows)
    assert found["size"] == 4
    assert found["arrays"]["inputs"]["shape"] == [4, 3]
    assert found["arrays"]["targets"]["sum"] == 6
    assert "missing" not in found["arrays"]["targets"]
    values = describe("train", [{"inputs": np.array([0.5, np.nan, i], np.float32)} for i in range(4)])[
        "arrays"
    ]
    assert (values["inputs"]["sum"], values["inputs"]["missing"]) == (8.0, 4)
    with pytest.raises(UserError, match="cannot be stacked"):
        describe("train", [{"inputs": np.arange(i)} for i in range(2)])


@pytest.mark.parametrize("module", ["ssm_data", "ssm_data.pendulum.spec", "ssm_data.recipes"])
def test_light_modules_load_neither_torch_nor_numpy(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_an_unknown_attribute_is_told() -> None:
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = ssm_data.nothing_of_the_kind
    assert "load" in dir(ssm_data)
