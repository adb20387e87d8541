"""What the tests share that train models: a recipe, a backbone, three seeds, and a metric of the test split."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import ssm_eval
import ssm_train
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.folder import RunFolder
from ssm_core.run.recipes import recipe

log = logging.getLogger(__name__)

SEEDS = (0, 1, 2)

Trained = Callable[..., list[float]]


@pytest.fixture(scope="module")
def data_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep made data in one folder for all workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSM_DATA_DIR", str(tmp_path_factory.getbasetemp().parent / "ssm-data"))
        yield


@pytest.fixture(scope="module")
def trained(data_of_this_session: None, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a function that trains a backbone by a recipe, and gives its test metric for every seed.

    Knobs of the task are given by name, settings of the run as a tree that is laid over the recipe; `at` are knobs of
    the task at which the trained models are tested instead.
    """
    home = tmp_path_factory.mktemp("solved")
    known: dict[str, list[Path]] = {}

    def train(
        task: str,
        backbone: str,
        metric: str = "accuracy",
        *,
        name: str = "default",
        settings: Mapping[str, Any] | None = None,
        at: Mapping[str, Any] | None = None,
        **knobs: Any,
    ) -> list[float]:
        key = json.dumps([task, backbone, name, settings, knobs], sort_keys=True, default=str)
        if key not in known:
            tree = layered(
                recipe(name, task).for_backbone(backbone),
                {"backbone": {"name": backbone}, "task": knobs, "train": {"device": "cpu"}},
                settings or {},
            )
            known[key] = [_run_of({**tree, "seed": seed}, home) for seed in SEEDS]
        found = [_metric_of(run, metric, at) for run in known[key]]
        log.info("%s on %s %s, %s of seeds %s: %s", backbone, task, at or "", metric, SEEDS, found)
        return found

    return train


def _run_of(tree: Mapping[str, Any], home: Path) -> Path:
    return ssm_train.fit(RunConfig.from_tree(tree), out=home, quiet=True)


def _metric_of(run: Path, metric: str, at: Mapping[str, Any] | None) -> float:
    if at:
        return ssm_eval.evaluate_run(run, overrides={"task": dict(at)}, device="cpu")["metrics"][metric]
    (value,) = [
        row["value"] for row in RunFolder(run).metrics() if (row["split"], row["name"]) == ("test", metric)
    ]
    return value
