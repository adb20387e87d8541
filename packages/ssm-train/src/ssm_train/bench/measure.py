"""Times the reading of batches, after checking that those of workers are those of the training process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from ssm_core.bench.harness import log
from ssm_core.plugin import registry
from ssm_core.plugin.config import Tree, read_file
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.protocols import Batch, Result, Task
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.recipes import default_recipe
from ssm_train.batches import plan_of
from ssm_train.bench.spec import FeedingConfig
from ssm_train.bench.waiting import wait_share
from ssm_train.feed import Feed, Share
from ssm_train.setup import task_of

FILE = ".toml"
"""Ending of what is a file of settings and not the name of a task."""

CHECKED = 8
"""Batches compared before anything is timed; for them the workers read ahead as far as they do."""


class Speed(NamedTuple):
    """What is read in a second: batches, rows, and bytes of all tensors."""

    batches: float
    rows: float
    bytes: float


def measure(config: FeedingConfig) -> Result:
    """Time the batches of every task, and the waiting of the chosen ones.

    Raises:
        UserError: If a task is named that is not there, or has no default recipe.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    for name in config.listed("tasks"):
        recipe_of(name)
    rows = [_row(config, name) for name in config.listed("tasks") or _with_recipe()]
    figures = {}
    for workers in config.listed("workers"):
        waits = [row[f"wait_{backbone}_{workers}"] for row in rows for backbone in config.listed("backbones")]
        if found := [wait for wait in waits if wait is not None]:
            figures[f"largest share of waiting, {workers} workers"] = max(found)
    return Result(
        text=(
            f"batches of the default recipes on the CPU, {torch.get_num_threads()} threads, torch {torch.__version__}; "
            f"medians of {config.repeats} rounds of {config.seconds:g} s; waiting over {config.steps} steps"
        ),
        figures=figures,
        rows=rows,
    )


def _with_recipe() -> list[str]:
    """Return the tasks that have a default recipe; one that is broken is left out, as nobody asked for it by name."""
    names = []
    for entry in registry.found("task"):
        try:
            if default_recipe(entry.long_name) is not None:
                names.append(entry.long_name)
        except UserError:
            continue
    return names


def _row(config: FeedingConfig, name: str) -> dict[str, Any]:
    short, counts = name.rpartition("/")[2], [int(part) for part in config.listed("workers")]
    columns = [f"batches_per_s_{workers}" for workers in counts]
    waits = [f"wait_{backbone}_{w}" for backbone in config.listed("backbones") for w in counts]
    row: dict[str, Any] = {"task": short, "batch": "", "same": None}
    row |= dict.fromkeys([*columns, "rows_per_s", "mb_per_s", *waits]) | {"note": ""}
    try:
        run = recipe_of(name)
        task = task_of(run)
        task.prepare()
        train = task.splits()["train"]
    except UserError as error:
        return row | {"note": f"needs its files: {_brief(error)}"}
    with ExitStack() as stack:
        sources = {w: stack.enter_context(reading(run, task, train, w)) for w in counts}
        row["batch"] = _shape(sources[counts[0]].next())
        right = [workers for workers, source in sources.items() if source.checked()]
        speeds = _speeds({w: sources[w] for w in right}, config)
    log.info("%s: %s", short, ", ".join(f"{w} workers {s.batches:.4g} batches/s" for w, s in speeds.items()))
    row["same"] = right == counts
    row |= {f"batches_per_s_{w}": round(speed.batches, 1) for w, speed in speeds.items()}
    if speeds:
        best = max(speeds.values())
        row |= {"rows_per_s": round(best.rows), "mb_per_s": round(best.bytes / 1e6, 2)}
    if name in config.listed("share") or short in config.listed("share"):
        row |= _waits(config, name, task, counts)
    return row


def recipe_of(name: str, backbone: str | None = None) -> RunConfig:
    """Return the run that a task's default recipe describes, or a file's settings laid over it.

    Args:
        name: A task, or a file of settings.
        backbone: Backbone to train; None leaves the choice to the settings.

    Raises:
        UserError: If there is no such task, recipe, file or backbone.
    """
    own = _settings(Path(name)) if name.endswith(FILE) else {"task": {"name": name}}
    task = own["task"]["name"]
    registry.find("task", task)
    recipe = default_recipe(task)
    if recipe is None and not name.endswith(FILE):
        raise ConfigError(f"nobody ships a recipe called default for the task '{task}'", "--set tasks=...")
    chosen: dict[str, Any] = {"train": {"device": "cpu"}}
    if backbone is not None:
        chosen["backbone"] = {"name": backbone}
    base = recipe.for_backbone(backbone) if recipe is not None else {}
    return RunConfig.from_tree(layered(base, own, chosen))


def _settings(path: Path) -> Tree:
    """Read one's own settings of a run.

    Raises:
        ConfigError: If they cannot be read or name no task.
    """
    tree = read_file(path)
    task = tree.get("task")
    if not isinstance(task, Mapping) or not isinstance(cast("Mapping[str, Any]", task).get("name"), str):
        raise ConfigError(f"{path} names no task", 'as in [task] name = "text-lm"')
    return tree


def _brief(error: UserError) -> str:
    """Return the beginning of what is wrong, without the places that were looked at."""
    return error.what.splitlines()[0].partition(";")[0]


@dataclass
class Source:
    """The batches of a run one after the other, without end.

    Attributes:
        feed: Gives them.
        workers: Processes that it has.
        asked: Epoch and rows of each.
    """

    feed: Feed
    workers: int
    asked: Iterator[tuple[int, list[int]]]

    def next(self) -> Batch:
        """Return the next batch."""
        epoch, rows = next(self.asked)
        return self.feed.next(rows, epoch)

    def checked(self) -> bool:
        """Say whether the next batches are those that are read here."""
        for _ in range(CHECKED):
            epoch, rows = next(self.asked)
            found, expected = (
                dict(read(rows, epoch).tensors()) for read in (self.feed.next, self.feed.again)
            )
            try:
                torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
            except AssertionError:
                return False
        return True

    def read(self, seconds: float) -> Speed:
        """Read batches for some seconds, after those that lie ready."""
        for _ in range(2 * self.workers):
            self.next()
        batches, rows, size, began = 0, 0, 0, time.perf_counter()
        while not batches or time.perf_counter() - began < seconds:
            batch = self.next()
            batches, rows = batches + 1, rows + len(batch.inputs)
            size += sum(tensor.nbytes for _, tensor in batch.tensors())
        spent = time.perf_counter() - began
        return Speed(batches / spent, rows / spent, size / spent)


@contextmanager
def reading(run: RunConfig, task: Task, train: Any, workers: int) -> Iterator[Source]:
    """Give the batches of a run while the block runs."""
    settings = replace(run.train, steps=1 << 40)
    share, feed = Share(run.train.accumulate), Feed(task, train, torch.device("cpu"), workers)
    plan = plan_of(train, settings, run.seed, 1, carries=task.needs.carry_state)
    # One plan a source: each keeps the order of the epoch that it is in.
    with feed.following(share.coming(plan, 0)):
        yield Source(feed, workers, share.coming(plan, 0))


def _speeds(sources: dict[int, Source], config: FeedingConfig) -> dict[int, Speed]:
    """Return the median speed of each source, sources taking turns."""
    rounds: dict[int, list[Speed]] = {workers: [] for workers in sources}
    for _ in range(config.repeats):
        for workers, source in sources.items():
            rounds[workers].append(source.read(config.seconds))
    return {w: Speed(*map(statistics.median, zip(*speeds, strict=True))) for w, speeds in rounds.items()}


def _waits(config: FeedingConfig, name: str, task: Task, counts: list[int]) -> dict[str, Any]:
    """Return the share of training steps spent waiting, by backbone and number of workers."""
    found: dict[str, Any] = {}
    notes = []
    for backbone in config.listed("backbones"):
        try:
            run = recipe_of(name, backbone)
            for workers in counts:
                train = replace(run.train, workers=workers, threads=config.threads)
                share = wait_share(replace(run, train=train), task, config.steps)
                found[f"wait_{backbone}_{workers}"] = round(share, 4)
        except UserError as error:
            notes.append(f"{backbone}: {_brief(error)}")
    return found | {"note": "; ".join(notes)}


def _shape(batch: Batch) -> str:
    kind = str(batch.inputs.dtype).removeprefix("torch.")
    return f"{' x '.join(map(str, batch.inputs.shape))} {kind}"
