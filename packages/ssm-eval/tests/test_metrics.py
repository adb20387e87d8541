from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_core.plugin.errors import ConfigError, UserError
from ssm_eval.metrics import IGNORED, METRICS, make_metrics

DEVICE = "cpu"


def gaussian_rows(n: int, d: int, seed: int) -> dict[str, torch.Tensor]:
    draw = np.random.default_rng(seed)
    make = lambda: torch.from_numpy(draw.normal(size=(n, d)))  # noqa: E731
    return {"prediction": make(), "target": make(), "variance": make().exp()}


def class_rows(n: int, classes: int, seed: int) -> dict[str, torch.Tensor]:
    draw = np.random.default_rng(seed)
    target = torch.from_numpy(draw.integers(0, classes, size=n))
    target[1::3] = IGNORED
    return {"prediction": torch.from_numpy(draw.normal(size=(n, classes))), "target": target}


def measured(names, *batches) -> dict[str, float]:
    metrics = make_metrics(names, DEVICE)
    for batch in batches:
        metrics.update(batch)
    return metrics.compute()


def cut(rows: dict[str, torch.Tensor], places: list[int]) -> list[dict[str, torch.Tensor]]:
    n = len(rows["target"])
    ends = sorted({place % n for place in places} | {0, n})
    return [{k: v[a:b] for k, v in rows.items()} for a, b in pairwise(ends)]


sizes = st.integers(1, 17)
seeds = st.integers(0, 2**16)


@settings(deadline=None)
@given(n=sizes, d=st.integers(1, 5), seed=seeds)
def test_regression_metrics_are_their_formulas(n, d, seed):
    rows = gaussian_rows(n, d, seed)
    y, mu, variance = rows["target"].numpy(), rows["prediction"].numpy(), rows["variance"].numpy()
    nll = 0.0
    for i in range(n):
        for k in range(d):
            density = math.exp(-((y[i, k] - mu[i, k]) ** 2) / (2 * variance[i, k]))
            nll -= math.log(density / math.sqrt(2 * math.pi * variance[i, k])) / n
    found = measured(("mse", "mae", "nll"), rows)
    assert found["mse"] == pytest.approx(((y - mu) ** 2).mean(), rel=1e-12)
    assert found["mae"] == pytest.approx(abs(y - mu).mean(), rel=1e-12)
    assert found["nll"] == pytest.approx(nll, rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(n=sizes, classes=st.integers(2, 6), seed=seeds)
def test_classification_metrics_are_their_formulas(n, classes, seed):
    rows = class_rows(n, classes, seed)
    kept = [i for i in range(n) if rows["target"][i] != IGNORED]
    logits, target = rows["prediction"].numpy(), rows["target"].numpy()
    entropy = [np.log(np.exp(logits[i]).sum()) - logits[i, target[i]] for i in kept]
    found = measured(("accuracy", "cross_entropy"), rows)
    assert found["accuracy"] == pytest.approx(np.mean([logits[i].argmax() == target[i] for i in kept]))
    assert found["cross_entropy"] == pytest.approx(np.mean(entropy), rel=1e-12)


@settings(deadline=None)
@given(n=sizes, seed=seeds, places=st.lists(st.integers(0, 16), max_size=5))
def test_where_batches_are_cut_does_not_matter(n, seed, places):
    for names, rows in (
        (("mse", "mae", "nll"), gaussian_rows(n, 2, seed)),
        (("accuracy", "cross_entropy"), class_rows(n, 3, seed)),
    ):
        whole, parts = measured(names, rows), measured(names, *cut(rows, places))
        assert parts == pytest.approx(whole, rel=1e-12, abs=1e-12)


def language_rows(n: int, seed: int) -> dict[str, torch.Tensor]:
    draw = np.random.default_rng(seed)
    whole = {"prediction": -draw.exponential(size=n), "target": draw.integers(0, 50, n)}
    return {k: torch.from_numpy(v) for k, v in whole.items()} | {
        "bytes": torch.from_numpy(draw.integers(1, 9, n)),
        "words": torch.from_numpy(np.concatenate([[1], draw.integers(0, 2, n - 1)])),
    }


@settings(deadline=None)
@given(n=sizes, seed=seeds, places=st.lists(st.integers(0, 16), max_size=5))
def test_language_metrics_are_their_formulas_however_batches_are_cut(n, seed, places):
    rows = language_rows(n, seed)
    nats = -float(rows["prediction"].sum())
    found = measured(("perplexity", "word_perplexity", "bits_per_byte"), *cut(rows, places))
    assert found["perplexity"] == pytest.approx(math.exp(nats / n), rel=1e-12)
    assert found["word_perplexity"] == pytest.approx(math.exp(nats / int(rows["words"].sum())), rel=1e-12)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / int(rows["bytes"].sum()), rel=1e-12)


def test_a_uniform_guess_has_the_perplexity_of_the_vocabulary():
    rows = {"prediction": torch.full((6,), -math.log(256)), "target": torch.arange(6), "bytes": torch.ones(6)}
    found = measured(("perplexity", "bits_per_byte"), rows)
    assert found == pytest.approx({"perplexity": 256, "bits_per_byte": 8}, rel=1e-6)


def test_logits_are_not_taken_for_log_probabilities():
    metrics = make_metrics(("perplexity",), DEVICE)
    with pytest.raises(UserError, match="shape"):
        metrics.update({"prediction": torch.zeros(4, 9), "target": torch.zeros(4)})


def test_they_agree_with_torchmetrics():
    rows, labels = gaussian_rows(40, 3, 0), class_rows(40, 4, 0)
    mse, mae = torchmetrics.MeanSquaredError(), torchmetrics.MeanAbsoluteError()
    accuracy = torchmetrics.classification.MulticlassAccuracy(4, average="micro", ignore_index=IGNORED)
    found = measured(("mse", "mae"), rows) | measured(("accuracy",), labels)
    assert found["mse"] == pytest.approx(float(mse(rows["prediction"], rows["target"])), rel=1e-6)
    assert found["mae"] == pytest.approx(float(mae(rows["prediction"], rows["target"])), rel=1e-6)
    assert found["accuracy"] == pytest.approx(float(accuracy(labels["prediction"], labels["target"])))


def test_more_axes_are_more_rows():
    rows = gaussian_rows(12, 2, 3)
    folded = {key: value.reshape(3, 4, 2) for key, value in rows.items()}
    assert measured(("mse", "nll"), folded) == pytest.approx(measured(("mse", "nll"), rows))
    labels = class_rows(12, 5, 3)
    folded = {"prediction": labels["prediction"].reshape(3, 4, 5), "target": labels["target"].reshape(3, 4)}
    names = ("accuracy", "cross_entropy")
    assert measured(names, folded) == pytest.approx(measured(names, labels))


def test_rows_of_one_dimension_need_no_axis_for_it():
    rows = gaussian_rows(9, 1, 1)
    flat = {key: value[:, 0] for key, value in rows.items()}
    assert measured(("nll",), flat) == pytest.approx(measured(("nll",), rows))


def test_sums_are_kept_in_float64_whatever_comes_in():
    error = torch.full((1, 1), 0.1, dtype=torch.bfloat16)
    batches = [{"prediction": error, "target": torch.zeros_like(error)}] * 1000
    assert measured(("mae",), *batches)["mae"] == pytest.approx(float(error), rel=1e-12)


def test_reset_forgets():
    metrics = make_metrics(("mse",), DEVICE)
    metrics.update(gaussian_rows(5, 2, 0))
    metrics.reset()
    metrics.update(rows := gaussian_rows(4, 2, 1))
    assert metrics.compute() == measured(("mse",), rows)


def test_no_target_at_all_is_no_number():
    rows = {"prediction": torch.zeros(2, 3), "target": torch.full((2,), IGNORED)}
    assert math.isnan(measured(("accuracy",), rows)["accuracy"])


def test_unknown_metric_names_task_and_known_ones():
    with pytest.raises(ConfigError, match=r"Pendulum asks for the metric 'msee'") as caught:
        make_metrics(("mse", "msee"), DEVICE, whose="Pendulum")
    assert "did you mean 'mse'?" in str(caught.value)
    assert all(name in str(caught.value) for name in METRICS)


def test_missing_prediction_is_told():
    metrics = make_metrics(("nll",), DEVICE, whose="Pendulum")
    rows = gaussian_rows(3, 2, 0)
    del rows["variance"]
    with pytest.raises(UserError, match="'nll' needs 'variance', which the predictions of Pendulum lack"):
        metrics.update(rows)


@pytest.mark.parametrize(
    ("name", "prediction", "target"),
    [("mse", (4, 1), (4,)), ("mse", (4, 2), (4, 1)), ("accuracy", (4,), (4,)), ("accuracy", (3, 2), (4,))],
)
def test_shapes_that_only_broadcast_are_refused(name, prediction, target):
    metrics = make_metrics((name,), DEVICE)
    with pytest.raises(UserError, match="shape"):
        metrics.update({"prediction": torch.zeros(prediction), "target": torch.zeros(target)})


@pytest.mark.gpu
def test_on_a_gpu_the_numbers_are_the_same():
    rows = gaussian_rows(40, 3, 0)
    metrics = make_metrics(("mse", "mae", "nll"), "cuda")
    metrics.update({key: value.cuda() for key, value in rows.items()})
    assert metrics.compute() == pytest.approx(measured(("mse", "mae", "nll"), rows), rel=1e-12)
