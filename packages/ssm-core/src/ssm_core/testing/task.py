"""The conformance suite of tasks: rows, batches, modules, loss and metrics, run with a tiny stack."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from ssm_core.block import ResidualBlock
from ssm_core.model import SequenceModel
from ssm_core.plugin import registry
from ssm_core.protocols import Batch, LayerInfo, Loss, Output, Split, Task
from ssm_core.stack import Stack
from ssm_core.testing.tiny import TinyMixer
from ssm_core.testing.trees import assert_close, leaves

SPLITS = ("train", "validation", "test")


class TaskSuite:
    """Checks a task against :class:`ssm_core.protocols.Task`, on a few rows of each split.

    ::

        class TestMine(TaskSuite):
            task = "mine"
            config = {"n_train": 4}

    Override :meth:`make` for a task that is not registered.

    Attributes:
        task: Registered name of the task.
        config: Its knobs; make its data small.
        d_model: Width of the stack it is run with.
        n_rows: Rows of a batch.
        tolerance: Largest error of the loss, relative to its value.
        rows_are_independent: The loss of a batch is the sum of its rows'. Not so for losses that contrast rows.
    """

    task: ClassVar[str] = ""
    config: ClassVar[Mapping[str, Any]] = {}
    d_model: ClassVar[int] = 8
    n_rows: ClassVar[int] = 4
    tolerance: ClassVar[float] = 1e-4
    rows_are_independent: ClassVar[bool] = True

    def make(self) -> Task:
        """Build the task."""
        assert self.task, f"{type(self).__name__} has to set 'task' or override 'make'"
        return registry.build_task(self.task, self.config)

    def ready(self) -> Task:
        """Return the task with its data prepared."""
        task = self.make()
        task.prepare()
        return task

    def rows(self, task: Task, split: str = "train") -> list[Mapping[str, Any]]:
        """Return the first rows of a split."""
        data = task.splits()[split]
        return [data[index] for index in range(min(self.n_rows, len(data)))]

    def model(self, task: Task) -> SequenceModel:
        """Return the task's encoder and head round two tiny blocks."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            causal, n = task.needs.causal, 2
            layers = [LayerInfo(index=i, n_layers=n, d_model=self.d_model, causal=causal) for i in range(n)]
            blocks: list[Any] = [
                ResidualBlock(TinyMixer(self.d_model, causal=causal), layer) for layer in layers
            ]
            encoder, head = task.encoder(self.d_model), task.head(self.d_model)
        return SequenceModel(encoder, Stack(blocks, self.d_model, "layer"), head, task).eval()

    def loss_of(self, model: SequenceModel, batch: Batch) -> Loss:
        """Run the model on a batch and return its loss."""
        return model.task.loss(model(batch), batch)

    def test_splits_are_named_and_not_empty(self) -> None:
        """``train``, ``validation`` and ``test``, no other names; training needs the first."""
        splits = self.ready().splits()
        assert set(splits) <= set(SPLITS)
        assert "train" in splits
        assert all(len(split) > 0 for split in splits.values())

    def test_rows_are_dicts_of_arrays(self) -> None:
        """Plain NumPy, which crosses to worker processes cheaply, and the same keys in every row."""
        task = self.ready()
        for split in task.splits():
            rows = self.rows(task, split)
            assert all(row.keys() == rows[0].keys() for row in rows)
            for name, value in rows[0].items():
                assert isinstance(value, np.ndarray | np.generic | int | float), (
                    f"{name} is a {type(value).__name__}"
                )

    def test_rows_are_the_same_each_time(self) -> None:
        """Read twice, and from two tasks."""
        splits, again = self.ready().splits(), self.ready().splits()
        for name, split in splits.items():
            _same_rows(split, split)
            _same_rows(split, again[name])

    def test_splits_go_to_worker_processes(self) -> None:
        """A split can be pickled, and gives the same rows on the other side."""
        for split in self.ready().splits().values():
            _same_rows(split, pickle.loads(pickle.dumps(split)))

    def test_a_split_ends(self) -> None:
        """Reading past the end raises IndexError, so that ``for row in split`` works."""
        split = self.ready().splits()["train"]
        with pytest.raises(IndexError):
            split[len(split)]

    def test_batches_have_the_agreed_form(self) -> None:
        """Batch first; gaps and masks (B, L), where the task says that it gives them."""
        task = self.ready()
        rows = self.rows(task)
        batch = task.collate(rows)
        assert all(value.shape[0] == len(rows) for _, value in batch.tensors())
        x = self.model(task).encoder(batch)
        assert x.shape == (len(rows), x.shape[1], self.d_model)
        assert task.max_length is None or x.shape[1] <= task.max_length
        for value, needed, kind in (
            (batch.dt_bl, task.needs.dt, x.dtype),
            (batch.mask_bl, task.needs.mask, torch.bool),
            (batch.reset_bl, False, torch.bool),
        ):
            assert value is not None or not needed, "the task promises what its batches lack"
            assert value is None or (value.shape, value.dtype) == (x.shape[:2], kind)
        if batch.dt_bl is not None:
            valid = batch.dt_bl if batch.mask_bl is None else batch.dt_bl[batch.mask_bl]
            assert valid.isfinite().all()
            assert (valid >= 0).all(), "time runs backwards"
        moved = batch.to("cpu")
        assert all(torch.equal(value, dict(moved.tensors())[name]) for name, value in batch.tensors())

    def test_loss_is_a_sum_and_a_weight(self) -> None:
        """Scalars, finite, the weight above 0, on every split."""
        task = self.ready()
        model = self.model(task)
        for split in task.splits():
            total, weight = self.loss_of(model, task.collate(self.rows(task, split)))
            assert total.shape == weight.shape == ()
            assert total.isfinite()
            assert weight > 0

    def test_loss_does_not_depend_on_how_rows_are_batched(self) -> None:
        """Rows one by one, together or in another order: the same sum, so that padding has no part in it."""
        if not self.rows_are_independent:
            pytest.skip("its loss contrasts rows")
        task = self.ready()
        model, rows = self.model(task), self.rows(task)
        total, weight = self.loss_of(model, task.collate(rows))
        for batches in ([[row] for row in rows], [rows[::-1]], [rows[:1], rows[1:]]):
            losses = [self.loss_of(model, task.collate(batch)) for batch in batches if batch]
            sums = [torch.stack(column).sum() for column in zip(*losses, strict=True)]
            for name, found, expected in zip(Loss._fields, sums, (total, weight), strict=True):
                assert_close(found, expected, self.tolerance, f"{name} of the same rows")

    def test_padding_has_no_effect(self) -> None:
        """NaN in masked inputs and gaps does not reach the loss."""
        task = self.ready()
        batch = task.collate(self.rows(task))
        if batch.mask_bl is None or batch.mask_bl.all():
            pytest.skip("pads nothing")
        model = self.model(task)
        poisoned = Batch(
            inputs=_poison(batch.inputs, batch.mask_bl),
            targets=batch.targets,
            dt_bl=None if batch.dt_bl is None else _poison(batch.dt_bl, batch.mask_bl),
            mask_bl=batch.mask_bl,
            reset_bl=batch.reset_bl,
            extra=batch.extra,
        )
        expected = self.loss_of(model, batch).total
        assert_close(
            self.loss_of(model, poisoned).total, expected, self.tolerance, "loss with NaN in padding"
        )

    def test_gradients_are_finite_and_reach_encoder_and_head(self) -> None:
        """Training moves what the task brings along."""
        task = self.ready()
        model = self.model(task).train()
        self.loss_of(model, task.collate(self.rows(task))).total.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), f"gradient of {name}"
        for part in (model.encoder, model.head):
            found = [p.grad for p in part.parameters() if p.requires_grad]
            assert not found or any(g is not None and g.any() for g in found), "no gradient arrives"

    def test_predictions_suit_the_metrics(self) -> None:
        """``prediction`` and ``target`` row by row alike; a variance is above 0; the primary metric is one of them."""
        task = self.ready()
        name, direction = task.primary
        assert direction in ("min", "max")
        assert name in (*task.metrics, "loss"), f"the primary metric '{name}' is not among {task.metrics}"
        batch, _, output = self._outcome(task)
        found = task.predictions(output, batch)
        assert {"prediction", "target"} <= found.keys()
        assert all(value.shape[0] == found["target"].shape[0] for value in found.values())
        assert all(value.isfinite().all() for value in found.values())
        assert "variance" not in found or (found["variance"] > 0).all()

    def test_a_row_without_targets_can_be_asked(self) -> None:
        """As ``ssm predict`` does, row by row: there is an answer, of the form that a row with targets gets."""
        task = self.ready()
        model = self.model(task)
        for row in self.rows(task):
            bare = {name: value for name, value in row.items() if name != "targets"}
            found = []
            for asked in (row, task.question(bare)):
                batch = task.collate([asked])
                with torch.no_grad():
                    found.append(task.predictions(model(batch), batch))
            known, answers = found
            assert answers.keys() == known.keys()
            assert len(answers["prediction"]) > 0
            for name, answer in answers.items():
                assert answer.isfinite().all()
                assert (answer.shape[1:], answer.dtype) == (known[name].shape[1:], known[name].dtype)

    def test_plots_are_well_formed(self) -> None:
        """Every series of a panel is as long as its time axis."""
        task = self.ready()
        batch, _, output = self._outcome(task, "test" if "test" in task.splits() else "train")
        for panel in task.plots(output, batch):
            series = [panel.truth, panel.mean, *([] if panel.std is None else [panel.std])]
            assert {len(values) for values in series} == {len(panel.x)}
            assert panel.title

    def test_state_can_be_carried_if_it_says_so(self) -> None:
        """A second batch goes on from the first one's state."""
        task = self.ready()
        if not task.needs.carry_state:
            pytest.skip("carries no state")
        batch, model, output = self._outcome(task)
        assert list(leaves(output.state))
        again = model.task.run(model, batch, output.state)
        assert task.loss(again, batch).total.isfinite()

    def _outcome(self, task: Task, split: str = "train") -> tuple[Batch, SequenceModel, Output]:
        batch, model = task.collate(self.rows(task, split)), self.model(task)
        with torch.no_grad():
            return batch, model, model(batch)


def _same_rows(split: Split, other: Split) -> None:
    assert len(other) == len(split)
    for index in {0, len(split) - 1}:
        first, second = split[index], other[index]
        for key, value in first.items():
            assert np.array_equal(value, second[key], equal_nan=_floats(value)), (
                f"'{key}' of row {index} differs"
            )


def _floats(value: Any) -> bool:
    return np.issubdtype(np.asarray(value).dtype, np.floating)


def _poison(tensor: Tensor, mask_bl: Tensor) -> Tensor:
    """Return a float tensor (B, L, ...) with NaN in masked places; others unchanged."""
    if not tensor.is_floating_point() or tensor.shape[:2] != mask_bl.shape:
        return tensor
    return tensor.masked_fill(~mask_bl.view(*mask_bl.shape, *[1] * (tensor.ndim - 2)), torch.nan)
