"""What env.json says of the model that was trained."""

from __future__ import annotations

import json

import torch
from torch import nn
from toy_runs import Toy, module, settings

from ssm_core.run.config import TrainConfig
from ssm_core.run.folder import RunFolder
from ssm_eval.checkpoint import count_parameters
from ssm_train import fit
from ssm_train.batches import BatchPlan
from ssm_train.made import changed_classes, made_of
from ssm_train.setup import Bound

PLAN = BatchPlan.of(40, TrainConfig(batch_size=8, epochs=2), 0)


class Tied(nn.Module):
    """Weights used twice, and a buffer: neither is a parameter more."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.zeros(100))


def test_a_run_notes_what_it_trains(tmp_path):
    run = fit(settings(epochs=1), Toy(), module(), out=tmp_path, quiet=True)
    made = json.loads((run / "env.json").read_text())["made"]
    assert made.keys() == {"task", "model", "shapes", "parameters", "steps_per_epoch"}
    assert (made["task"], made["steps_per_epoch"]) == ("toy_runs.Toy", 10)
    assert made["model"].endswith(type(module()).__qualname__)
    assert (
        count_parameters(RunFolder(run))
        == made["parameters"]
        == sum(p.numel() for p in module().parameters())
    )


def test_parameters_are_counted_once_and_buffers_are_none():
    made = made_of(Bound(Tied(), Toy()), Toy(), PLAN)
    assert made["parameters"] == 9 + 3 + 3
    assert (made["model"], made["steps_per_epoch"]) == (f"{__name__}.Tied", 5)


def test_shapes_tell_sizes_apart_and_values_do_not():
    one, again, wider = (made_of(Bound(Tied(width), Toy()), Toy(), PLAN) for width in (3, 3, 4))
    assert one == again
    assert (one["model"], one["shapes"] == wider["shapes"]) == (wider["model"], False)


def test_a_class_of_a_script_is_called_by_its_file(monkeypatch):
    monkeypatch.setattr(Tied, "__module__", "__main__")
    monkeypatch.setattr("sys.modules", {"__main__": type("main", (), {"__file__": "/there/mine.py"})})
    assert made_of(Tied(), Toy(), PLAN)["model"] == "mine.Tied"


def test_another_class_is_told_and_what_was_not_noted_is_not():
    now = {"task": "mine.Task", "model": "mine.Net"}
    assert changed_classes({}, now) == []
    assert changed_classes(now, now) == []
    (told,) = changed_classes({**now, "model": "mine.Other"}, now)
    assert told.startswith("the model is mine.Net now; the run was made with mine.Other")
