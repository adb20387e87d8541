"""Rows of like length together, and what an epoch's batches cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_runs import Toy, module, settings

from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import Batch, Needs, Output
from ssm_core.run.config import TrainConfig
from ssm_core.run.folder import RunFolder
from ssm_train import fit, resume
from ssm_train.batches import BatchPlan
from ssm_train.feed import Counts, Feed, shares

LENGTHS = np.random.default_rng(0).integers(1, 60, 203)


def plan(bucket, seed=0, lengths=LENGTHS, **train):
    config = TrainConfig(batch_size=8, bucket=bucket, epochs=2, **train)
    return BatchPlan.of(len(lengths), config, seed, lengths=lengths)


def padding(found, steps):
    batches = [LENGTHS[found.indices(step)] for step in steps]
    return 1 - sum(b.sum() for b in batches) / sum(len(b) * b.max() for b in batches)


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    size=st.integers(1, 9),
    bucket=st.integers(1, 6),
    drop=st.booleans(),
)
def test_buckets_are_permutations_too(lengths, size, bucket, drop):
    if drop and len(lengths) < size:
        return
    config = TrainConfig(batch_size=size, bucket=bucket, drop_last=drop, epochs=2)
    found = BatchPlan.of(len(lengths), config, 0, lengths=np.array(lengths))
    for epoch in range(2):
        steps = range(epoch * found.steps_per_epoch, (epoch + 1) * found.steps_per_epoch)
        seen = [row for step in steps for row in found.indices(step)]
        assert all(type(row) is int for row in seen)
        assert len(seen) == len(set(seen)) == len(lengths) - (len(lengths) % size if drop else 0)


def test_rows_of_like_length_come_together_and_batches_in_random_order():
    steps = range(plan(0).steps_per_epoch)
    found = [padding(plan(bucket), steps) for bucket in (0, 2, 8, 25)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.35
    assert found[-1] < 0.05
    longest = [LENGTHS[plan(25).indices(step)].max() for step in steps]
    assert longest != sorted(longest)
    whole = plan(25, lengths=LENGTHS[:200])
    batches = sorted(sorted(LENGTHS[whole.indices(step)]) for step in range(25))
    assert batches == np.sort(LENGTHS[:200]).reshape(25, 8).tolist(), "one window: sorted and cut, no more"


def test_order_is_of_seed_and_step_alone():
    first = plan(4)
    ahead = [first.indices(step) for step in range(2 * first.steps_per_epoch)]
    torch.rand(10)
    again = plan(4)
    assert [again.indices(step) for step in reversed(range(len(ahead)))] == ahead[::-1]
    assert plan(4, seed=1).indices(0) != ahead[0]
    assert ahead[: first.steps_per_epoch] != ahead[first.steps_per_epoch :]


def test_a_smaller_batch_stays_last():
    sizes = [len(plan(3, drop_last=False).indices(step)) for step in range(26)]
    assert sizes == [8] * 25 + [3]


def test_sorting_what_does_not_tell_its_lengths_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"it has no method lengths\(\)") as told:
        fit(settings(bucket=2), Toy(), module(), out=tmp_path, quiet=True)
    assert "train.bucket=0" in str(told.value)


class Ragged:
    """Rows of one value, as long as they are."""

    def __init__(self, lengths) -> None:
        self.told = lengths

    def __len__(self):
        return len(self.told)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError
        return {"length": self.told[index], "index": index}

    def lengths(self):
        return self.told


class RaggedTask(Toy):
    """Counts; every row is noted."""

    needs = Needs(mask=True)

    def __init__(self) -> None:
        self.seen = []
        self.data = {"train": Ragged(LENGTHS[:40]), "validation": Ragged(LENGTHS[40:50])}

    def collate(self, rows):
        lengths = torch.tensor([int(row["length"]) for row in rows])
        self.seen.append([row["index"] for row in rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        inputs = mask[..., None].float().expand(*mask.shape, 3)
        return Batch(inputs=inputs, targets=inputs[..., :1], mask_bl=None if mask.all() else mask)

    def run(self, model, batch, state=None):
        return Output(model(batch.inputs), ())


def recorded(run, name):
    rows = RunFolder(run).metrics()
    return {r["step"]: r["value"] for r in rows if (r["split"], r["name"]) == ("train", name)}


def test_padding_and_waiting_are_recorded_once_an_epoch(tmp_path):
    found = []
    for bucket in (0, 5):
        task = RaggedTask()
        run = fit(settings(epochs=2, bucket=bucket), task, module(), out=tmp_path, quiet=True)
        padded, waits = recorded(run, "padding"), recorded(run, "wait_share")
        assert list(padded) == list(waits) == [10, 20]
        assert all(0 < share < 1 for share in waits.values())
        batches = [LENGTHS[rows] for rows in task.seen if len(rows) == 4][:10]
        expected = 1 - sum(b.sum() for b in batches) / sum(4 * b.max() for b in batches)
        assert padded[10] == pytest.approx(expected)
        found.append(padded[10])
    assert found[1] < 0.7 * found[0]


def test_padding_of_an_epoch_counts_what_was_before_a_stop(tmp_path):
    whole = fit(settings(steps=10), RaggedTask(), module(), out=tmp_path, quiet=True)
    run = fit(settings(steps=7), RaggedTask(), module(), out=tmp_path, quiet=True)
    assert recorded(run, "padding")[7] != recorded(whole, "padding")[10]
    resume(run, {"steps": 10}, task=RaggedTask(), model=module(), quiet=True)
    assert recorded(run, "padding")[10] == recorded(whole, "padding")[10]


class TwoTowers(RaggedTask):
    """Rows of two texts; the second is padded to the length of the first or beyond."""

    def collate(self, rows):
        a, b = (torch.tensor([int(row[key]) for row in rows]) for key in ("length", "length_2"))
        k = torch.arange(int(torch.maximum(a, b).max()))
        first, second = k < a[:, None], k < b[:, None]
        extra = {"inputs_2": second.float()}
        if first.all() and second.all():
            return Batch(inputs=first.float(), targets=a, extra=extra)
        return Batch(inputs=first.float(), targets=a, mask_bl=first, extra={**extra, "mask_2": second})


@pytest.mark.parametrize(
    ("first", "second", "padded"),
    [([5, 5], [5, 2], 3), ([4, 2], [6, 1], 11), ([3, 3], [3, 3], None)],
)
def test_padding_of_a_second_tower_counts(first, second, padded):
    rows = [{"length": a, "length_2": b} for a, b in zip(first, second, strict=True)]
    feed = Feed(TwoTowers(), rows, torch.device("cpu"))
    feed.next([0, 1], 0)
    elements = 4 * max(*first, *second)
    assert feed.counts.elements == elements
    found = shares(feed.counts.tensor()).get("padding")
    assert found == (None if padded is None else pytest.approx(padded / elements))


def test_batches_without_masks_record_no_padding(tmp_path):
    run = fit(settings(epochs=1), Toy(), module(), out=tmp_path, quiet=True)
    assert recorded(run, "padding") == {}
    assert set(recorded(run, "wait_share")) == {10}
    assert shares(Counts().tensor()) == {}
