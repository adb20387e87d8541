"""The probe nss on the run of a task that can be read on another grid."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from ssm_core.model import build_for_task
from ssm_core.plugin import registry
from ssm_core.run.folder import write_json

TREE = {
    "backbone": {"name": "s4d", "state_size": 4},
    "addons": {"smr": {}},
    "model": {"d_model": 4, "n_layers": 2},
    "task": {"name": "sine", "length": 40, "n_train": 2, "n_validation": 2, "n_test": 2},
}


@pytest.fixture
def run(make_run, tmp_path, monkeypatch):
    monkeypatch.setenv("SSM_DATA_DIR", str(tmp_path / "data"))
    folder = make_run(TREE)
    config = folder.config()
    torch.manual_seed(0)
    model = build_for_task(config, registry.builder("task", config.task.name)[1](config.task.config))
    step = folder.checkpoints / "step-00000001"
    step.mkdir()
    save_file(model.state_dict(), step / "model.safetensors")
    path = str(step.relative_to(folder.path))
    write_json(folder.path / "best.json", {"step": 1, "path": path, "metric": "mse", "value": 1.0})
    return folder.path


def test_a_run_on_another_grid(ssm, run):
    done = ssm("probe", "nss", run, "--set", 'shift=["grid=jittered", "jitter=0.5"]', "--json")
    assert done.code == 0, done.err
    found = done.json()
    assert [(row["layer"], row["gate"]) for row in found["rows"]] == [
        (i, gate) for i in (0, 1) for gate in ("as trained", "gate at 1")
    ]
    for row in found["rows"]:
        assert 0 < row["sup_e"] <= row["bound_by_mode"]
    assert (
        found["figures"]["loss, nominal grid, as trained"]
        != found["figures"]["loss, perturbed grid, as trained"]
    )
    assert len(found["charts"]) == 4
    assert (run / "plots" / "probe-nss.png").stat().st_size > 10_000


def test_what_the_task_does_not_know(ssm, run):
    done = ssm("probe", "nss", run, "--set", 'shift=["grid=crooked"]')
    assert done.code == 2
    assert "task.grid" in done.err
