"""Workers that read ahead: the same run bit for bit, each row once and in order, errors told, none left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from toy_runs import Rows, Toy, module, settings

from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.protocols import Batch
from ssm_core.run.config import TrainConfig
from ssm_core.run.folder import RunFolder
from ssm_train import TrainingFailed, fit, resume
from ssm_train.ahead import Wanted
from ssm_train.batches import BatchPlan
from ssm_train.feed import Feed, Share
from ssm_train.study.plan import key

CPU = torch.device("cpu")

# A machine of one core runs two workers as well, and torch says that it is slow.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(autouse=True)
def no_process_left():
    yield
    assert multiprocessing.active_children() == []


class Numbered(Rows):
    """Rows that tell their number, and the epoch that they are of."""

    epoch = 0

    def of_epoch(self, epoch: int) -> Numbered:
        other = Numbered(len(self), 100 + epoch)
        other.epoch = epoch
        return other

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError
        return {**super().__getitem__(index), "name": (self.epoch, index)}


class Noting(Toy):
    """Notes what the model is given, in the training process; tells who read it."""

    def __init__(self) -> None:
        super().__init__()
        self.data = {
            "train": Numbered(40, 0),
            "validation": Rows(10, 1),
        }  # a test split costs a second of drawing
        self.noted: list[tuple[int, int]] = []
        self.readers: set[int] = set()

    def collate(self, rows) -> Batch:
        batch = super().collate(rows)
        if "name" in rows[0]:
            extra = {
                "names": torch.tensor([row["name"] for row in rows]),
                "reader": torch.full((len(rows),), os.getpid()),
            }
            batch = Batch(batch.inputs, batch.targets, extra=extra)
        return batch

    def run(self, model, batch, state=None):
        if "names" in batch.extra:
            self.noted += [tuple(name) for name in batch.extra["names"].tolist()]
            self.readers |= set(batch.extra["reader"].tolist())
        return super().run(model, batch, state)


def metrics(run):
    """Return all that a run recorded but times."""
    rows = RunFolder(run).metrics()
    return [(r["step"], r["split"], r["name"], r["value"]) for r in rows if r["name"] != "wait_share"]


def weights(run):
    return load_file(RunFolder(run).checkpoint("latest") / "model.safetensors")


def trained(tmp_path, task, **train):
    torch.manual_seed(7)
    return fit(settings(**train), task, module(), out=tmp_path, quiet=True)


def same(one, other) -> None:
    assert metrics(one) == metrics(other)
    assert all(torch.equal(tensor, weights(one)[name]) for name, tensor in weights(other).items())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_is_the_same_with_any_number_of_workers(tmp_path, accumulate):
    tasks = [Noting() for _ in range(3)]
    runs = [
        trained(tmp_path, task, epochs=2, accumulate=accumulate, workers=workers)
        for workers, task in enumerate(tasks)
    ]
    for workers, task in enumerate(tasks):
        same(runs[workers], runs[0])
        assert task.noted == tasks[0].noted
        assert len(task.readers) == max(1, workers)
        assert (os.getpid() in task.readers) == (workers == 0)
    expected = BatchPlan.of(40, TrainConfig(batch_size=4, epochs=2), 3)
    steps = [expected.indices(step) for step in range(20)]
    slices = [(step // 10, rows[i::accumulate]) for step, rows in enumerate(steps) for i in range(accumulate)]
    assert tasks[2].noted == [(epoch, row) for epoch, rows in slices for row in rows]
    for epoch in range(2):
        assert sorted(row for of, row in tasks[2].noted if of == epoch) == list(range(40))


def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_with_any_number_of_workers(tmp_path):
    whole = Noting()
    undisturbed = trained(tmp_path, whole, steps=20)
    for first, second in ((2, 2), (0, 2), (2, 0)):
        task = Noting()
        run = trained(tmp_path, task, steps=7, workers=first)
        assert RunFolder(run).config_tree()["train"]["workers"] == first
        resume(run, {"steps": 20, "workers": second}, task=task, model=module(), quiet=True)
        assert task.noted == whole.noted
        # A run that is stopped is evaluated there as well, so only the training has to be the same.
        one, other = ([row for row in metrics(each) if row[1] == "train"] for each in (run, undisturbed))
        assert one == other
        assert all(torch.equal(tensor, weights(run)[name]) for name, tensor in weights(undisturbed).items())


@given(
    rows=st.integers(1, 40),
    size=st.sampled_from([4, 8, 12]),
    slices=st.sampled_from([1, 2, 4]),
    processes=st.integers(1, 3),
    begin=st.integers(0, 20),
)
def test_what_is_coming_is_what_the_steps_will_ask_for(rows, size, slices, processes, begin):
    config = TrainConfig(batch_size=size, drop_last=rows >= size, epochs=3, accumulate=slices)
    plan = BatchPlan.of(rows, config, 0)
    coming = [list(Share(slices, process, processes).coming(plan, begin)) for process in range(processes)]
    taken = sorted((epoch, row) for part in coming for epoch, rows in part for row in rows)
    steps = range(begin, plan.total)
    assert taken == sorted((plan.epoch(step), row) for step in steps for row in plan.indices(step))
    assert all(rows for part in coming for _, rows in part)
    for process, part in enumerate(coming):
        asked = [
            (plan.epoch(step), slice_)
            for step in steps
            for slice_ in Share(slices, process, processes).of(plan.indices(step))
        ]
        assert part == asked


def test_reading_ahead_into_the_next_epoch_draws_no_order_twice():
    plan = BatchPlan.of(12, TrainConfig(batch_size=4, epochs=3), 0)
    orders = plan._orders
    plan.indices(0)
    first = orders[0]
    plan.indices(3)
    plan.indices(2)
    assert orders[0] is first
    plan.indices(6)
    assert set(orders) == {1, 2}


def order(*parts):
    return [Wanted(epoch, list(rows)) for epoch, rows in parts]


def test_a_batch_out_of_turn_is_refused_and_one_again_is_not():
    task = Noting()
    feed = Feed(task, task.data["train"], CPU, workers=2)
    with feed.following(order((0, [1, 2]), (0, [3]), (1, [4]), (1, [5]))):
        assert feed.next([1, 2], 0).extra["names"].tolist() == [[0, 1], [0, 2]]
        assert feed.again([9], 1).extra["names"].tolist() == [[1, 9]]
        assert feed.next([3], 0).extra["names"].tolist() == [[0, 3]]
        with pytest.raises(RuntimeError, match=r"rows=\[5\].* has .*rows=\[4\]"):
            feed.next([5], 1)
        assert feed.next([5], 1).extra["names"].tolist() == [[1, 5]]
        with pytest.raises(RuntimeError, match="has None here"):
            feed.next([6], 1)
    assert feed.counts.elements == 4 * 7, "what is given is counted, what is given again is not"
    assert feed.next([6], 1).extra["reader"].tolist() == [os.getpid()], "without workers it reads by itself"


class Odd(UserError):
    """An error that cannot be made from its message."""

    def __init__(self, one: str, other: str, hint: str) -> None:
        super().__init__(one + other, hint)


class Faulty(Toy):
    """Raises an error for one row."""

    def __init__(self, error, row: int = 13) -> None:
        super().__init__()
        self.data = {"train": Numbered(40, 0)}
        self.error, self.row = error, row

    def collate(self, rows) -> Batch:
        if any(row["name"][1] == self.row for row in rows):
            raise self.error
        return super().collate(rows)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConfigError("row 13 is torn", "mend it"), ConfigError),
        (Odd("row 13 ", "is torn", "mend it"), UserError),
    ],
)
def test_a_users_error_comes_as_it_is(tmp_path, error, kind):
    told = []
    for workers in (0, 2):
        with pytest.raises(TrainingFailed) as failure:
            trained(tmp_path, Faulty(error), epochs=1, workers=workers)
        run = failure.value.run if hasattr(failure.value, "run") else max(tmp_path.glob("own-task/*"))
        told.append((str(failure.value), RunFolder(run).status()["reason"], RunFolder(run).status()["step"]))
        cause = failure.value.__cause__
        assert isinstance(cause, kind)
        assert (cause.what, cause.hint) == ("row 13 is torn", "mend it")
    assert told[0] == told[1]
    assert told[0][0].startswith("row 13 is torn\n  mend it")


def test_any_other_error_comes_with_the_workers_traceback(tmp_path):
    with pytest.raises(TrainingFailed, match=r"ZeroDivisionError: .*worker process"):
        trained(tmp_path, Faulty(ZeroDivisionError("no rows")), epochs=1, workers=2)
    (run,) = tmp_path.glob("own-task/*")
    log = (run / "log.txt").read_text()
    assert "in collate" in log
    assert "no rows" in log


class Unfit(Toy):
    """Its batches cannot be sent to another process as they are."""

    def __init__(self, extra) -> None:
        super().__init__()
        self.extra = extra

    def collate(self, rows) -> Batch:
        batch = super().collate(rows)
        return Batch(batch.inputs, batch.targets, extra=self.extra)


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        pytest.param(MappingProxyType({}), "mappingproxy", id="mapping"),
        pytest.param({"x": torch.ones(2, dtype=torch.complex64).conj()}, "conjugate", id="conjugate"),
        pytest.param({"x": torch.ones(2, requires_grad=True) * 2}, "gradient", id="gradient"),
    ],
)
def test_a_batch_that_cannot_be_handed_over_is_told_and_not_waited_for(extra, why):
    task = Unfit(extra)
    feed = Feed(task, task.data["train"], CPU, workers=1)
    feed.again([0], 0)
    with (
        feed.following(order((0, [0]))),
        pytest.raises(UserError, match=rf"a batch of Unfit cannot be handed over .*{why}") as told,
    ):
        feed.next([0], 0)
    assert told.value.hint == "--set train.workers=0"


class Views(Toy):
    """Batches whose tensors are views: broadcast, transposed, of one storage, NaN in them, and empty."""

    def collate(self, rows) -> Batch:
        x = super().collate(rows).inputs.double()
        x[:, 0, 0] = float("nan")
        extra = {
            "wide": x[..., None].expand(*x.shape, 5),
            "turned": x.mT,
            "small": x[1:2, 2],
            "none": x[:0],
            "bytes": (x > 0).to(torch.uint8),
            "complex": torch.complex(x, x).conj().resolve_conj(),
        }
        return Batch(x, x[..., :1], mask_bl=x[..., 0] > 0, extra=extra)


def test_tensors_of_every_form_arrive_as_they_are():
    task = Views()
    feed = Feed(task, task.data["train"], CPU, workers=1)
    with feed.following(order((0, range(4)), (0, range(4, 9)))):
        for rows in (range(4), range(4, 9)):
            found, expected = (dict(give(rows, 0).tensors()) for give in (feed.next, feed.again))
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                assert found[name].dtype == tensor.dtype
                np.testing.assert_array_equal(found[name], tensor)


class Dies(Toy):
    """Its reader is killed, as by a machine that is out of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.parent = os.getpid()

    def collate(self, rows) -> Batch:
        if os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().collate(rows)


def test_a_worker_that_is_killed_is_not_waited_for(tmp_path):
    with pytest.raises(TrainingFailed, match=r"DataLoader worker .*(Killed|exited)"):
        trained(tmp_path, Dies(), epochs=1, workers=2)


class Stuck(Toy):
    """Reads its fourth batch and those after it for a minute each."""

    def collate(self, rows) -> Batch:
        if rows[0]["name"][1] >= 3:
            time.sleep(60)
        return super().collate(rows)


@pytest.mark.slow
def test_a_worker_that_does_not_end_is_ended():
    task = Stuck()
    feed = Feed(task, Numbered(40, 0), CPU, workers=2)
    with feed.following(order(*((0, [row]) for row in range(9)))):
        feed.next([0], 0)
        time.sleep(0.5)
        began = time.monotonic()
    assert time.monotonic() - began < 40


def test_a_loss_that_is_not_finite_is_looked_into_here(tmp_path):
    told = []
    for workers in (0, 2):
        torch.manual_seed(7)
        with pytest.raises(TrainingFailed) as failure:
            fit(settings(epochs=1, workers=workers), Toy(poison=11), module(), out=tmp_path, quiet=True)
        told.append(str(failure.value))
    assert told[0] == told[1]
    assert "row 11" in told[0]


def test_a_run_that_is_stopped_early_drops_what_was_read(tmp_path):
    task = Toy()
    train = {"epochs": 50, "patience": 1, "eval_every": 1}
    run = fit(
        {**settings(**train, workers=2), "optim": {"lr": 1e-9}}, task, module(), out=tmp_path, quiet=True
    )
    assert RunFolder(run).status()["state"] == "finished"
    assert RunFolder(run).status()["step"] < 500


def test_workers_make_no_other_run_of_a_study_and_are_checked():
    tree = {"train": {"threads": 0, "batch_size": 4}}
    assert key(tree) == key({"train": {**tree["train"], "threads": 2, "workers": 3}})
    assert key(tree) != key({"train": {**tree["train"], "batch_size": 5}})
    with pytest.raises(ValueError, match="workers must not be negative"):
        TrainConfig(workers=-1)
