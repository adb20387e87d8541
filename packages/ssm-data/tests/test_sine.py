from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch

import ssm_data
from ssm_core.plugin import registry
from ssm_core.plugin.config import field_docs, knobs
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import Output
from ssm_core.testing import TaskSuite
from ssm_data.sine.draw import evaluate
from ssm_data.sine.spec import SineConfig

SMALL = {"length": 40, "n_train": 20, "n_validation": 4, "n_test": 6}
GRIDS = ("uniform", "jittered", "dropped", "stretched")


class TestTrueGaps(TaskSuite):
    task = "sine"
    config: ClassVar = {**SMALL, "grid": "jittered"}


class TestIgnoredGaps(TaskSuite):
    task = "sine"
    config: ClassVar = {**SMALL, "time": "ignored", "grid": "dropped"}


class TestAppendedGaps(TaskSuite):
    task = "sine"
    config: ClassVar = {**SMALL, "time": "appended", "grid": "stretched"}


def make(**given: object):
    return registry.build_task("sine", {**SMALL, **given})


def arrays(split: str = "test", **given: object) -> dict[str, np.ndarray]:
    return {name: np.array(a) for name, a in make(**given).splits()[split].arrays.items()}


def batch_of(task, n: int = 3):
    split = task.splits()["test"]
    return task.collate([split[i] for i in range(n)])


def test_rows_are_as_documented() -> None:
    row = ssm_data.load("sine", "validation", **SMALL)[2]
    assert {k: (v.dtype.name, v.shape) for k, v in row.items()} == {
        "inputs": ("float32", (40, 1)),
        "targets": ("float32", (40, 1)),
        "time_points": ("float64", (40,)),
    }


def test_uniform_points_are_a_step_apart() -> None:
    assert np.allclose(arrays(step=0.02)["time_points"], 0.02 * np.arange(40), rtol=1e-12)


@pytest.mark.parametrize("jitter", [0.1, 0.25, 0.5])
def test_jittered_points_stay_near_and_in_order(jitter: float) -> None:
    times = arrays(grid="jittered", jitter=jitter, n_test=200)["time_points"]
    moved = times / 0.01 - np.arange(40)
    assert 0.98 * jitter < np.abs(moved).max() <= jitter + 1e-9
    assert np.abs(moved.mean()) < 0.02
    assert (np.diff(times) > 0).all()
    assert np.median(np.diff(times)) == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize(("drop", "kept"), [(0.1, 36), (0.3, 28), (0.99, 0)])
def test_dropped_points_are_gone_and_the_rest_unmoved(drop: float, kept: int) -> None:
    if not kept:
        with pytest.raises(ConfigError, match="leaves no point"):
            make(grid="dropped", drop=drop)
        return
    times = arrays(grid="dropped", drop=drop, n_test=400)["time_points"]
    places = times / 0.01
    assert times.shape == (400, kept)
    assert np.allclose(places, np.round(places))
    assert (np.diff(times) > 0).all()
    seen = np.bincount(np.round(places).astype(int).ravel(), minlength=40) / 400
    assert seen == pytest.approx(np.full(40, kept / 40), abs=0.1)
    assert len({tuple(row) for row in places.tolist()}) > 390


def test_stretched_points_are_further_apart() -> None:
    assert np.allclose(arrays(grid="stretched", stretch=0.8)["time_points"], 0.008 * np.arange(40))


def fitted(times: np.ndarray, values: np.ndarray, grid: int = 60) -> float:
    """Share of a signal's variance that sines of 0.5 to 2 Hz leave unexplained, by least squares."""
    phases = 2 * np.pi * np.linspace(0.45, 2.05, grid) * times[:, None]
    columns = np.concatenate([np.sin(phases), np.cos(phases)], axis=1)
    weights, *_ = np.linalg.lstsq(columns, values, rcond=1e-6)
    return float(((columns @ weights - values) ** 2).mean() / (values**2).mean())


@pytest.mark.parametrize("grid", GRIDS)
def test_the_target_is_the_clean_signal_a_horizon_later(grid: str) -> None:
    """One function of real time goes through noiseless inputs and targets alike, on every grid."""
    found = arrays(grid=grid, noise=0.0, horizon=3.0, length=300)
    for times, seen, ahead in zip(*(found[n] for n in ("time_points", "inputs", "targets")), strict=True):
        where = np.concatenate([times, times + 0.03])
        assert fitted(where, np.concatenate([seen, ahead])[:, 0]) < 1e-4
        assert fitted(np.concatenate([times, times]), np.concatenate([seen, ahead])[:, 0]) > 1e-3


def test_every_grid_sees_the_same_signals() -> None:
    found = {grid: arrays(grid=grid, noise=0.0, jitter=1e-6, stretch=1 + 1e-6, drop=0.0) for grid in GRIDS}
    for grid in GRIDS[1:]:
        assert np.allclose(found[grid]["inputs"], found["uniform"]["inputs"], atol=1e-4), grid
    noisy = {grid: arrays(grid=grid) for grid in ("uniform", "dropped")}
    kept = np.round(noisy["dropped"]["time_points"] / 0.01).astype(int)
    expected = np.take_along_axis(noisy["uniform"]["inputs"][..., 0], kept, axis=1)
    assert np.allclose(noisy["dropped"]["inputs"][..., 0], expected)


def test_noise_is_on_the_inputs_only() -> None:
    clean, noisy = arrays(noise=0.0, n_test=300), arrays(noise=0.3, n_test=300)
    difference = noisy["inputs"] - clean["inputs"]
    assert difference.std() == pytest.approx(0.3, rel=0.03)
    assert abs(difference.mean()) < 0.01
    assert np.array_equal(noisy["targets"], clean["targets"])


def test_the_size_of_signals() -> None:
    """Variance 3 E[a^2] / 2, a uniform in [0.5, 1]: what a constant guess scores."""
    found = arrays(n_test=500, length=200, noise=0.0)
    assert float((found["targets"] ** 2).mean()) == pytest.approx(0.875, rel=0.05)
    assert np.abs(found["targets"]).max() < 3


def test_evaluate_is_the_sum_of_sines() -> None:
    signal = tuple(
        np.array([values]).reshape(1, 1, 2) for values in ((2.0, 0.5), (1.0, 3.0), (0.0, np.pi / 2))
    )
    found = evaluate(signal, np.array([[0.0, 0.25]]))
    assert found == pytest.approx(np.array([[0.5, 2.0 + 0.5 * np.cos(1.5 * np.pi)]]), abs=1e-12)


def test_views_of_time() -> None:
    views = {time: make(time=time, grid="dropped") for time in ("true", "ignored", "appended")}
    batches = {time: batch_of(task) for time, task in views.items()}
    assert [task.needs.dt for task in views.values()] == [True, False, False]
    assert all(task.needs.causal for task in views.values())
    assert batches["ignored"].dt_bl is batches["appended"].dt_bl is None
    dt, times = batches["true"].dt_bl, batches["true"].extra["time_points"]
    assert (dt[:, 0] == 1).all()
    assert torch.allclose(dt[:, 1:], (times.diff(dim=1) / 0.01).float())
    assert torch.equal(dt, dt.round()) or torch.allclose(dt, dt.round(), atol=1e-5)
    assert {task.encoder(8).linear.in_features for task in views.values()} == {1, 2}
    assert views["appended"].encoder(8).linear.in_features == 2


def test_the_appended_gap_reaches_the_model() -> None:
    task = make(time="appended", grid="stretched", stretch=2.0)
    encoder, batch = task.encoder(1), batch_of(task)
    torch.nn.init.zeros_(encoder.linear.bias)
    with torch.no_grad():
        encoder.linear.weight.copy_(torch.tensor([[0.0, 1.0]]))
    found = encoder(batch)[..., 0]
    assert torch.allclose(found[:, 1:], torch.tensor(2.0))
    assert (found[:, 0] == 1).all()


def test_gaps_keep_their_unit_on_every_grid() -> None:
    """What a trained model is given elsewhere is measured in the steps that it was trained on."""
    medians = {grid: float(batch_of(make(grid=grid), 6).dt_bl.median()) for grid in GRIDS}
    assert medians["uniform"] == pytest.approx(1)
    assert medians["jittered"] == pytest.approx(1, abs=0.1)
    assert medians["dropped"] == pytest.approx(1)
    assert medians["stretched"] == pytest.approx(1.2)
    assert {make(grid=grid).max_length for grid in GRIDS} == {40}


def test_knobs_of_other_grids_make_no_new_data() -> None:
    part = make().splits()["train"].part
    assert make(jitter=0.1, drop=0.2, stretch=2.0, time="ignored").splits()["train"].part == part
    assert make(grid="jittered").splits()["train"].part != part
    assert make(noise=0.2).splits()["train"].part != part


def test_loss_and_predictions() -> None:
    task = make()
    batch = batch_of(task)
    output = Output(batch.targets + 2, ())
    total, weight = task.loss(output, batch)
    assert (float(total), float(weight)) == (pytest.approx(4 * 120), 120)
    found = task.predictions(output, batch)
    assert found["prediction"].shape == found["target"].shape == (120, 1)


def test_pictures_stand_at_the_time_that_is_foretold() -> None:
    task = make(horizon=10.0)
    batch = batch_of(task)
    panels = task.plots(Output(batch.targets.clone(), ()), batch)
    assert len(panels) == 3
    assert panels[0].x[0] == pytest.approx(0.1)
    assert panels[1].truth == pytest.approx(batch.targets[1, :, 0].tolist())
    assert panels[0].title == "sequence 0, uniform grid"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"jitter": 0.6}, "change places"),
        ({"drop": 1.0}, "leaves no point"),
        ({"drop": -0.1}, "leaves no point"),
        ({"stretch": 0.0}, "above 0"),
        ({"step": -1.0}, "above 0"),
        ({"f_min": 3.0}, "f_min <= f_max"),
        ({"length": 0}, "at least 1"),
        ({"noise": -0.1}, "negative"),
        ({"noise": float("nan")}, "finite"),
        ({"n_train": 0}, "at least one sequence"),
        ({"grid": "random"}, "grid"),
    ],
)
def test_bad_knobs_are_told(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        make(**given)


def test_every_knob_is_documented() -> None:
    assert set(field_docs(SineConfig)) == {knob["name"] for knob in knobs(SineConfig)}
