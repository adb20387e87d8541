from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.testing import TaskSuite
from ssm_data.info import info
from ssm_data.lra_listops.generate import TREES, block, generate
from ssm_data.lra_listops.spec import ListOpsConfig
from ssm_data.lra_listops.trees import Lists
from ssm_data.lra_listops.vocabulary import VOCABULARY
from ssm_data.tokens import TokenSplit

LIMITS = {"min_length": 4, "max_length": 25, "max_depth": 4, "max_args": 4, "operator_share": 0.35}
SMALL = {**LIMITS, "n_train": 12, "n_validation": 5, "n_test": 4}


class TestTask(TaskSuite):
    task = "lra-listops"
    config: ClassVar = {"source": "generate", **SMALL}


class TestWithoutEnd(TaskSuite):
    task = "lra-listops"
    config: ClassVar = {"source": "generate", "append_eos": False, **SMALL}


def words(ids: np.ndarray) -> list[str]:
    return [VOCABULARY[i] for i in ids]


def rows(lists: Lists) -> list[list[str]]:
    return [words(each) for each in np.split(lists.values, lists.offsets[1:-1])]


def evaluate(tokens: Iterator[str]) -> tuple[int, int, list[int]]:
    """Value, nesting and numbers of arguments: by recursion, as one would do it by hand; -1 for a bracket."""
    head = next(tokens)
    if head == "]":
        return -1, 0, []
    if head.isdigit():
        return int(head), 0, []
    arguments, nesting, counts = [], 0, []
    while (inner := evaluate(tokens))[0] >= 0:
        arguments.append(inner[0])
        nesting = max(nesting, inner[1])
        counts += inner[2]
    ordered = sorted(arguments)
    n = len(ordered)
    value = {
        "[MIN": ordered[0],
        "[MAX": ordered[-1],
        "[MED": int((ordered[(n - 1) // 2] + ordered[n // 2]) / 2),
        "[SM": sum(arguments) % 10,
    }[head]
    return value, nesting + 1, [*counts, n]


@pytest.fixture(scope="module")
def published() -> list[Lists]:
    return [block(ListOpsConfig(), 2, index) for index in range(12)]


def test_lists_are_within_the_published_bounds_and_labels_are_what_they_come_to(published) -> None:
    lists = published[0]
    deepest, counts = 0, []
    for tokens, target in zip(rows(lists), lists.targets, strict=True):
        assert tokens.pop() == "<eos>"
        assert 500 < len(tokens) < 2000
        left = iter(tokens)
        value, nesting, arguments = evaluate(left)
        assert (value, list(left)) == (target, [])
        deepest, counts = max(deepest, nesting), counts + arguments
    assert deepest == 9, "the published generator nests 9 operators and no more"
    assert (min(counts), max(counts)) == (2, 10)
    share = np.bincount(counts, minlength=11)[2:] / len(counts)
    assert share == pytest.approx(np.full(9, 1 / 9), abs=0.02)


def test_classes_lengths_and_acceptance_are_those_of_the_published_generator(published) -> None:
    """Classes: 20,000 lists of the original code. The rest: 4,000 lists of a plain recursive generator."""
    targets = np.concatenate([lists.targets for lists in published])
    prior = np.bincount(targets, minlength=10) / len(targets)
    assert prior[[0, 9]] == pytest.approx([0.17, 0.17], abs=0.015)
    assert prior[1:9] == pytest.approx(np.full(8, 0.0825), abs=0.015)
    lengths = np.concatenate([np.diff(lists.offsets) - 1 for lists in published])
    assert lengths.mean() == pytest.approx(1037, abs=25)  # three standard errors of both
    for share, expected in ((0.05, 540), (0.5, 950), (0.95, 1787)):
        assert np.quantile(lengths, share) == pytest.approx(expected, abs=40)
    # A root there is an operator in one case of four; ours always is.
    assert len(targets) / (TREES * len(published)) / 4 == pytest.approx(0.0849, abs=0.005)


def naive(rng: random.Random, depth: int, config: ListOpsConfig) -> list[str]:
    if depth == config.max_depth or rng.random() > config.operator_share:
        return [str(rng.randrange(10))]
    tokens = [rng.choice(["[MIN", "[MAX", "[MED", "[SM"])]
    for _ in range(rng.randint(2, config.max_args)):
        tokens += naive(rng, depth + 1, config)
    return [*tokens, "]"]


def test_short_lists_are_distributed_as_those_of_a_plain_generator() -> None:
    config = ListOpsConfig(**LIMITS, append_eos=False)
    rng = random.Random(3)
    plain = [tokens for _ in range(40_000) if 4 < len(tokens := naive(rng, 1, config)) < 25]
    ours = [tokens for index in range(5) for tokens in rows(block(config, 0, index))]
    for what in (len, lambda t: t.count("]"), lambda t: sum(map(str.isdigit, t)), lambda t: t.index("]")):
        first, second = (np.array([what(tokens) for tokens in each]) for each in (plain, ours))
        error = np.hypot(first.std() / len(first) ** 0.5, second.std() / len(second) ** 0.5)
        assert abs(first.mean() - second.mean()) < 4 * error
        assert second.std() == pytest.approx(first.std(), rel=0.06)
    for token in VOCABULARY[3:]:
        first, second = (sum(t.count(token) for t in each) / len(each) for each in (plain, ours))
        assert second == pytest.approx(first, abs=0.06)


def made(wanted: tuple[str, ...] = ("train", "validation", "test"), **knobs: Any) -> dict[str, Any]:
    return dict(generate(ListOpsConfig(**{**SMALL, **knobs}), wanted))


def same(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first)


def test_a_seed_gives_the_same_lists_whatever_else_is_made() -> None:
    whole = made()
    assert all(same(whole[name], made((name,))[name]) for name in whole)
    assert same(whole["test"], made(n_train=3, n_validation=2)["test"])
    more = made(n_train=3000)["train"]
    assert np.array_equal(more["values"][: len(whole["train"]["values"])], whole["train"]["values"])
    assert not same(made(seed=1)["train"], whole["train"])
    assert (made()["train"]["values"].dtype, whole["train"]["targets"].dtype) == (np.uint8, np.uint8)


def test_no_list_is_there_twice() -> None:
    splits = made(n_train=3000, n_validation=500, n_test=500, max_length=12)
    lists = [tuple(tokens) for arrays in splits.values() for tokens in rows(Lists(**arrays))]
    assert len(set(lists)) == len(lists) == 4000


def test_too_few_lists_within_the_limits_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssm_data.lra_listops.generate.PATIENCE", 5)
    # Two digits under each of four operators: 400 lists, of which the other splits have two.
    with pytest.raises(UserError, match="found 398 different lists for 'train' within its limits, not 500"):
        made(("train",), min_length=3, max_length=5, max_depth=2, n_train=500, n_validation=1, n_test=1)


def test_blocks_of_several_processes_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def slow_first(config: ListOpsConfig, stream: int, index: int) -> Lists:
        time.sleep(0.05 * (index == 0))
        return block(config, stream, index)

    monkeypatch.setattr(
        "ssm_data.lra_listops.generate.ProcessPoolExecutor", lambda n, _: ThreadPoolExecutor(n)
    )
    alone = made(("train",), n_train=3000)["train"]
    monkeypatch.setattr("ssm_data.lra_listops.generate.block", slow_first)
    assert same(made(("train",), n_train=3000, workers=3)["train"], alone)


@pytest.mark.slow
def test_real_processes_make_the_same_lists_and_all_are_made_within_a_minute() -> None:
    start = time.process_time()
    whole = dict(generate(ListOpsConfig(), ("train", "validation", "test")))
    assert time.process_time() - start < 60
    assert {name: len(arrays["targets"]) for name, arrays in whole.items()} == {
        "train": 96_000,
        "validation": 2000,
        "test": 2000,
    }
    several = dict(generate(ListOpsConfig(n_train=2000, workers=2), ("train", "validation", "test")))
    assert same(several["test"], whole["test"])
    n = several["train"]["offsets"][-1]
    assert np.array_equal(several["train"]["values"], whole["train"]["values"][:n])


def test_rows_and_batches_are_as_documented(tmp_path: Path) -> None:
    made_here = registry.build_task("lra-listops", {"source": "generate", **SMALL})
    split = made_here.splits()["train"]
    assert isinstance(split, TokenSplit)
    assert len(split.vocabulary) == 18
    row = split[0]
    assert {name: np.asarray(value).dtype.name for name, value in row.items()} == {
        "inputs": "uint8",
        "targets": "uint8",
        "length": "int64",
    }
    assert row["length"] == len(row["inputs"])
    batch = made_here.collate([split[i] for i in range(5)])
    assert (batch.inputs.dtype, batch.targets.dtype) == (torch.uint8, torch.int64)
    assert torch.equal(batch.mask_bl.sum(1), torch.tensor([split[i]["length"] for i in range(5)]))
    assert made_here.max_length == 25
    assert split.provenance.startswith("regenerated")
    assert "max_depth 4" in split.provenance
    described = info("lra-listops", source="generate", **SMALL)["splits"]["train"]
    assert described["size"] == 12
    assert described["arrays"]["targets"]["dtype"] == "uint8"


@pytest.mark.parametrize(
    "knobs",
    [
        {"min_length": 0},
        {"min_length": 1999},
        {"max_depth": 1},
        {"max_args": 1},
        {"operator_share": 0.0},
        {"operator_share": 1.5},
        {"n_test": 0},
        {"seed": -1},
        {"seed": 1 << 32},
        {"workers": 0},
        {"source": "hub"},
    ],
)
def test_a_knob_out_of_range_is_told(knobs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(knobs))):
        registry.build_task("lra-listops", knobs)
