"""Tasks that label some elements of a sequence: the rest costs nothing."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ssm_core.protocols import Batch, Output
from ssm_data.classify import UNLABELLED, LabelledElements, Labelling


class Some(Labelling):
    """The least that a subclass has to give."""

    vocabulary_size = 11

    def splits(self):
        return {}


def batch() -> Batch:
    draw = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 11, (4, 9), generator=draw)
    targets[torch.rand(4, 9, generator=draw) < 0.7] = UNLABELLED
    return Batch(inputs=torch.zeros(4, 9, dtype=torch.int64), targets=targets)


def test_loss_and_predictions_are_those_of_logits_everywhere() -> None:
    task, given = Some(), batch()
    head = task.head(5)
    assert isinstance(head, LabelledElements)
    y_bld = torch.randn(4, 9, 5)
    output = Output(head(y_bld, given), ())
    everywhere = head.linear(y_bld).flatten(0, 1)
    flat = given.targets.flatten()
    expected = F.cross_entropy(everywhere, flat, ignore_index=UNLABELLED, reduction="sum")
    total, weight = task.loss(output, given)
    torch.testing.assert_close(total, expected)
    assert weight == (flat != UNLABELLED).sum()
    found = task.predictions(output, given)
    torch.testing.assert_close(found["prediction"], everywhere[flat != UNLABELLED])
    assert torch.equal(found["target"], flat[flat != UNLABELLED])


def test_only_labelled_elements_are_computed() -> None:
    given = batch()
    head, seen = LabelledElements(5, 11), []
    head.linear.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    head(torch.randn(4, 9, 5), given)
    assert seen == [(int((given.targets != UNLABELLED).sum()), 11)]


def test_a_batch_without_labels_gives_zero() -> None:
    task, given = Some(), batch()
    head: nn.Module = task.head(5)
    bare = Batch(inputs=given.inputs, targets=torch.full_like(given.targets, UNLABELLED))
    total, weight = task.loss(Output(head(torch.randn(4, 9, 5, requires_grad=True), bare), ()), bare)
    total.backward()
    assert (float(total.detach()), float(weight)) == (0.0, 0.0)
