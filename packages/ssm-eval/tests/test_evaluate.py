from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Batch, Loss, Needs, Output, Task
from ssm_eval.evaluation import evaluate, evaluate_run
from ssm_eval.trained import find_device


class Sums(Task):
    """Rows of different weight, so that averaging batch means would be wrong."""

    metrics = ("mse", "nll")

    def __init__(self, n: int = 11) -> None:
        self.x = torch.from_numpy(np.random.default_rng(0).normal(size=(n, 4, 2))).float()

    def splits(self):
        return {"test": list(self.x), "hollow": []}

    def collate(self, rows):
        return Batch(
            torch.stack(list(rows)), torch.stack(list(rows)).cumsum(1), extra={"rows": torch.zeros(len(rows))}
        )

    def loss(self, output, batch):
        weight = batch.inputs[:, 0, 0].abs()
        return Loss((weight[:, None, None] * (output.head[0] - batch.targets).square()).sum(), weight.sum())

    def predictions(self, output, batch):
        mean, variance = output.head
        return {"prediction": mean, "target": batch.targets, "variance": variance}


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 2)
        self.dropout = nn.Dropout(0.5)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.arange(p.numel()).reshape(p.shape) / 4 - 0.3)

    def forward(self, batch: Batch, state=None) -> Output:
        mean = self.dropout(self.line(batch.inputs))
        return Output((mean, mean.square() + 0.5), (batch.inputs.sum(),))


def run(**more):
    options = {"batch_size": 4, "device": "cpu"} | more
    return evaluate(Plain(), Sums(), options.pop("split", "test"), **options)


def test_loss_and_metrics_are_means_over_all_rows():
    task, model = Sums(), Plain().eval()
    batch = task.collate(task.x)
    with torch.no_grad():
        output = model(batch)
        loss = task.loss(output, batch)
    found = evaluate(model, task, "test", batch_size=4, device="cpu")
    assert found.n == 11
    assert list(found.metrics) == ["loss", "mse", "nll"]
    assert found.metrics["loss"] == pytest.approx(float(loss.total / loss.weight), rel=1e-5)
    assert found.metrics["mse"] == pytest.approx(
        float((output.head[0] - batch.targets).square().mean()), rel=1e-5
    )


@pytest.mark.parametrize("batch_size", [1, 2, 5, 11, 100])
def test_batch_size_does_not_matter(batch_size):
    assert run(batch_size=batch_size).metrics == pytest.approx(run(batch_size=3).metrics, rel=1e-6)


def test_first_batch_is_kept_for_pictures():
    output, batch = run(batch_size=3).first
    assert torch.equal(batch.inputs, Sums().x[:3])
    assert [t.shape for t in output.head] == [(3, 4, 2), (3, 4, 2)]
    assert not output.head[0].requires_grad


def test_training_modes_are_restored():
    model = Plain().train()
    model.dropout.eval()
    evaluate(model, Sums(), "test", batch_size=4, device="cpu")
    assert (model.training, model.line.training, model.dropout.training) == (True, True, False)


def test_training_modes_are_restored_after_an_error():
    model = Plain().train()

    class Breaks(Sums):
        def loss(self, output, batch):
            assert not model.training
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, Breaks(), "test", batch_size=4, device="cpu")
    assert model.training


def test_what_a_layer_caches_still_trains():
    class Caching(Plain):
        cache = None

        def forward(self, batch, state=None):
            self.cache = torch.ones(2) * 3 if self.cache is None else self.cache
            out = super().forward(batch)
            return Output((out.head[0] * self.cache, out.head[1]), ())

    model, task = Caching(), Sums()
    evaluate(model, task, "test", batch_size=4, device="cpu")
    batch = task.collate(task.x)
    task.loss(model(batch), batch).total.backward()
    assert model.line.weight.grad is not None


@pytest.mark.parametrize(("max_rows", "n"), [(1, 1), (5, 5), (11, 11), (50, 11)])
def test_rows_can_be_limited(max_rows, n):
    found = run(max_rows=max_rows)
    assert found.n == n
    assert found.metrics == pytest.approx(run(split=list(Sums().x[:n])).metrics, rel=1e-6)


def test_progress_is_told():
    said = []
    run(progress=lambda *args: said.append(args))
    assert said == [("evaluating test", 4, 11), ("evaluating test", 8, 11), ("evaluating test", 11, 11)]


def test_state_is_carried_where_the_task_asks_for_it():
    seen = []

    class Carries(Sums):
        needs = Needs(carry_state=True)

    class Watches(Plain):
        def forward(self, batch, state=None):
            seen.append(state)
            return super().forward(batch, state)

    evaluate(Watches(), Carries(), "test", batch_size=4, device="cpu")
    x = Sums().x
    assert seen[0] is None
    assert [float(state[0]) for state in seen[1:]] == pytest.approx([float(x[:4].sum()), float(x[4:8].sum())])
    seen.clear()
    evaluate(Watches(), Sums(), "test", batch_size=4, device="cpu")
    assert seen == [None] * 3


def test_empty_and_unknown_splits_are_refused():
    with pytest.raises(UserError, match="hollow has no rows"):
        run(split="hollow")
    with pytest.raises(UserError, match="no rows"):
        run(max_rows=0)
    with pytest.raises(UserError, match=r"Sums has no split 'tests'\n  did you mean 'test'"):
        run(split="tests")


def test_devices():
    assert find_device("cpu").type == "cpu"
    assert find_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UserError, match="no device 'tpv'"):
        find_device("tpv")
    with pytest.raises(UserError, match="'cuda:99' is not there"):
        find_device("cuda:99")


def test_a_run_is_evaluated_from_its_folder(make_run):
    folder = make_run()
    found = evaluate_run(folder.path)
    keys = ["run", "step", "split", "overrides", "data", "metrics", "n", "other_data", "notes"]
    assert list(found) == keys
    assert (found["data"], found["other_data"], found["notes"]) == (None, [], [])
    assert (found["run"], found["step"], found["split"]) == (str(folder.path), 8, "test")
    assert (found["overrides"], found["n"]) == ({}, 9)
    assert json.loads((folder.path / "eval" / "test@8.json").read_text()) == found
    again = evaluate_run(folder.path, split="validation", which="latest", batch_size=2, device="cpu")
    assert (again["step"], again["n"]) == (12, 7)
    assert (folder.path / "eval" / "validation@12.json").is_file()


def test_a_run_is_evaluated_under_other_settings(make_run):
    folder = make_run()
    plain = evaluate_run(folder.path)
    scaled = evaluate_run(folder.path, overrides={"task": {"scale": 3.0}})
    longer = evaluate_run(folder.path, overrides={"task": {"length": 40}})
    assert len({json.dumps(r["metrics"]) for r in (plain, scaled, longer)}) == 3
    assert scaled["overrides"] == {"task": {"scale": 3.0}}
    files = sorted(file.name for file in (folder.path / "eval").iterdir())
    assert len(files) == 3
    assert all(name.startswith("test@8") for name in files)
    assert evaluate_run(folder.path, overrides={"task": {"scale": 3.0}}) == scaled
    assert len(list((folder.path / "eval").iterdir())) == 3


def test_a_run_under_wrong_settings_is_refused(make_run):
    folder = make_run()
    with pytest.raises(UserError, match=r"no setting 'task\.scales'"):
        evaluate_run(folder.path, overrides={"task": {"scales": 3.0}})
    with pytest.raises(UserError, match=r"^task \S+/\w+ has no split 'dev'"):
        evaluate_run(folder.path, split="dev")
    assert not (folder.path / "eval").exists()


TWO = """
import json, sys
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
import torch.multiprocessing

sys.path.insert(0, sys.argv[1])
from test_evaluate import Plain, Sums
from ssm_core.plugin.errors import UserError
from ssm_eval.evaluation import evaluate


def work(rank, folder):
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=300))
    found = evaluate(Plain(), Sums(), "test", batch_size=2, device="cpu")
    try:
        evaluate(Plain(), Sums(), "test", batch_size=2, device="cpu", max_rows=1)
    except UserError as error:
        refused = str(error)
    answer = [found.metrics, found.n, found.first[1].inputs[0].tolist(), refused]
    Path(folder, f"{rank}.json").write_text(json.dumps(answer))
    dist.destroy_process_group()


# Forked, so that the imports are paid for once.
torch.multiprocessing.start_processes(work, args=(sys.argv[2],), nprocs=2, start_method="fork")
"""


def test_two_processes_give_the_numbers_of_one(tmp_path):
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", TWO, here, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one = run()
    for rank in range(2):
        metrics, n, first, refused = json.loads((tmp_path / f"{rank}.json").read_text())
        assert metrics == pytest.approx(one.metrics, rel=1e-6)
        assert n == 11
        assert first == Sums().x[rank].tolist()
        assert "1 rows, fewer than the 2 processes" in refused
