from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_core.plugin import registry
from ssm_core.protocols import Batch
from ssm_core.testing import TaskSuite
from ssm_data.pendulum.components import COMPONENTS, Basis, fit, project
from ssm_data.pendulum.encoder import ComponentsEncoder

SMALL = {"n_train": 6, "n_validation": 3, "n_test": 2, "frames": "components"}


class TestComponents(TaskSuite):
    task = "pendulum"
    config: ClassVar = {**SMALL, "time": "true"}


class TestComponentsWithGaps(TaskSuite):
    task = "pendulum"
    config: ClassVar = {**SMALL, "time": "appended", "sample_rate": 0.3}


def make(**given: object):
    return registry.build_task("pendulum", {**SMALL, **given})


def frames(n: int, seed: int = 0, d: int = 576) -> np.ndarray:
    """Grey values with a few directions of large variance and noise in all."""
    rng = np.random.default_rng(seed)
    strong = rng.normal(size=(n, 5)) @ rng.normal(size=(5, d)) * 20
    return np.clip(128 + strong + rng.normal(size=(n, d)) * 5, 0, 255).astype(np.uint8)


def test_rows_are_as_documented() -> None:
    row = make().splits()["test"][1]
    assert {k: (v.dtype.name, v.shape) for k, v in row.items()} == {
        "inputs": ("float32", (50, COMPONENTS)),
        "targets": ("float64", (50, 2)),
        "time_points": ("int64", (50,)),
    }


def test_only_the_frames_are_others() -> None:
    images, components = make(frames="images").splits(), make().splits()
    for name in images:
        for key in ("targets", "time_points"):
            assert np.array_equal(images[name].arrays[key], components[name].arrays[key])


@settings(deadline=None, max_examples=10)
@given(n=st.integers(60, 300), seed=st.integers(0, 99))
def test_directions_are_those_of_numpys_covariance(n: int, seed: int) -> None:
    some = frames(n, seed, d=64)
    basis = fit(some)
    variance, vectors = np.linalg.eigh(np.cov(some.T.astype(np.float64), bias=True))
    assert np.allclose(basis.directions @ basis.directions.T, np.eye(COMPONENTS), atol=1e-9)
    assert np.allclose(basis.mean, some.mean(axis=0))
    # The five strong directions stand apart, and so are the same vectors but for their sign.
    assert np.allclose(np.abs((basis.directions[:5] * vectors.T[::-1][:5]).sum(axis=1)), 1, atol=1e-6)
    assert float(basis.scale) == pytest.approx(np.sqrt(variance[::-1][:COMPONENTS].mean()), rel=1e-9)
    largest = np.abs(basis.directions).argmax(axis=1)
    assert (basis.directions[np.arange(COMPONENTS), largest] > 0).all()
    coefficients = project(some, basis)
    assert coefficients.dtype == np.float32
    assert np.square(coefficients, dtype=np.float64).mean() == pytest.approx(1, rel=1e-4)
    assert np.allclose(coefficients.mean(axis=0), 0, atol=1e-4)


def test_the_fit_does_not_depend_on_how_frames_are_cut(monkeypatch) -> None:
    some = frames(500)
    whole, coefficients = fit(some), project(some, fit(some))
    monkeypatch.setattr("ssm_data.pendulum.components.CHUNK", 37)
    for a, b in zip(whole, fit(some), strict=True):
        assert np.array_equal(a, b)
    assert np.allclose(project(some, whole), coefficients, rtol=1e-6, atol=1e-6)


def test_other_draws_are_seen_through_the_same_components() -> None:
    """A frame that two draws share has the same coefficients in both, or a trained model could not be moved."""
    trained, denser = make().splits()["test"], make(sample_rate=0.9).splits()["test"]
    other = make(subsample_seed=3).splits()["test"]
    for split in (denser, other):
        first, second = trained[0], split[0]
        shared = np.intersect1d(first["time_points"], second["time_points"])
        assert len(shared) > 10
        rows = [np.searchsorted(row["time_points"], shared) for row in (first, second)]
        assert np.allclose(first["inputs"][rows[0]], second["inputs"][rows[1]], rtol=1e-5, atol=1e-5)


def test_a_longer_training_split_has_other_components() -> None:
    one, other = make().splits()["train"].part, make(n_train=7).splits()["train"].part
    assert one.folder.parent != other.folder.parent
    assert "principal components" in one.provenance


def test_the_encoder_is_a_small_network_of_each_frame() -> None:
    torch.manual_seed(0)
    encoder = ComponentsEncoder(16)
    assert sum(p.numel() for p in encoder.parameters()) == 48 * 60 + 60 + 60 * 30 + 30 + 30 * 16 + 16
    x = torch.randn(2, 5, COMPONENTS)
    whole = encoder(Batch(inputs=x, targets=x))
    assert whole.shape == (2, 5, 16)
    alone = encoder(Batch(inputs=x[1:, 3:4], targets=x))
    torch.testing.assert_close(alone[0, 0], whole[1, 3])
    later = torch.tensor([[0, 1, 5, 6, 7]])
    gaps = ComponentsEncoder(16, append_gap=True)
    a, b = (
        gaps(Batch(inputs=x[:1], targets=x, extra={"time_points": t})) for t in (torch.arange(5)[None], later)
    )
    assert (a != b).any(-1)[0].tolist() == [False, False, True, False, False]


def test_a_zero_frame_stays_finite() -> None:
    basis = Basis(np.zeros(576), np.eye(COMPONENTS, 576), np.ones(()))
    assert not project(np.zeros((3, 576), np.uint8), basis).any()
