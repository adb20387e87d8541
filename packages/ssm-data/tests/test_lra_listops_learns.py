"""Short lists are learned by what can follow brackets, and not by what sees each token alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from ssm_core.model import SequenceModel, build_stack
from ssm_core.params import groups
from ssm_core.plugin import registry
from ssm_core.protocols import Split, Task
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.recipes import recipe

SEEDS = (0, 1, 2)

BLIND = {"window": 1, "positions": "none"}
"""Knobs with which a Transformer attends to nothing but the token itself: what it learns is a bag of tokens."""


def first_operator(train: Split, test: Split) -> float:
    """Accuracy of always giving the most frequent result of the first operator."""
    rows = [(row["inputs"][0], row["targets"]) for row in (train[i] for i in range(len(train)))]
    guess = {}
    for operator in {first for first, _ in rows}:
        guess[operator] = np.bincount([y for first, y in rows if first == operator]).argmax()
    tested = (test[i] for i in range(len(test)))
    return float(np.mean([guess[row["inputs"][0]] == row["targets"] for row in tested]))


def batches(split: Split, size: int, rng: np.random.Generator) -> Iterator[list[dict[str, np.ndarray]]]:
    while True:
        order = rng.permutation(len(split))
        for start in range(0, len(order) - size + 1, size):
            yield [dict(split[i]) for i in order[start : start + size]]


def trained(task: Task, config: RunConfig, seed: int) -> nn.Module:
    """Train by a loop as plain as can be, with the recipe's settings."""
    assert config.backbone
    torch.manual_seed(seed)
    stack = build_stack(config.backbone, (), config.model, task.needs, task.max_length)
    model = SequenceModel(
        task.encoder(config.model.d_model), stack, task.head(config.model.d_model), task
    ).train()
    held = groups(model, config.optim.lr, config.optim.weight_decay)
    named = dict(model.named_parameters())
    optimiser = torch.optim.AdamW(
        [
            {"params": [named[n] for n in group.names], "lr": group.lr, "weight_decay": group.weight_decay}
            for group in held
        ]
    )
    steps = config.train.steps
    assert steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [group.lr for group in held], total_steps=steps, pct_start=0.05, cycle_momentum=False
    )
    rng = np.random.default_rng(seed)
    for rows, _ in zip(
        batches(task.splits()["train"], config.train.batch_size, rng), range(steps), strict=False
    ):
        batch = task.collate(rows)
        total, weight = task.loss(model(batch), batch)
        optimiser.zero_grad()
        (total / weight).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
        optimiser.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(task: Task, model: nn.Module) -> float:
    split = task.splits()["test"]
    right = 0
    for start in range(0, len(split), 250):
        batch = task.collate([split[i] for i in range(start, min(start + 250, len(split)))])
        right += int((model(batch).head.argmax(-1) == batch.targets).sum())
    return right / len(split)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", SEEDS)
def test_mamba2_learns_short_lists_and_a_bag_of_tokens_does_not(seed: int) -> None:
    found = {}
    task = None
    for backbone, knobs in (("mamba2", {}), ("transformer", BLIND)):
        tree = recipe("lra-listops/default", "").for_backbone(backbone)
        config = RunConfig.from_tree(layered(tree, {"backbone": {"name": backbone, **knobs}}))
        assert config.task
        task = registry.build_task(config.task.name, knobs_of(tree))
        found[backbone] = accuracy(task, trained(task, config, seed))
    assert task
    baseline = first_operator(task.splits()["train"], task.splits()["test"])
    assert found["mamba2"] > baseline + 0.2
    assert found["mamba2"] > found["transformer"] + 0.1


def knobs_of(tree: dict) -> dict[str, object]:
    return {name: value for name, value in tree["task"].items() if name != "name"}
