"""A task of milliseconds, and a process that trains on it: ``python toy_runs.py OUT ORDER``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ssm_core.protocols import Batch, Loss, Needs, Output, Task

TWO_PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
"""Beginning of a command that runs a script in two processes which know of each other."""


class Rows:
    """Noisy sums of sines as rows of NumPy arrays; ``poison`` puts a NaN into one row."""

    def __init__(self, n: int, seed: int, poison: int | None = None) -> None:
        draw = np.random.default_rng(seed)
        self.inputs = draw.normal(size=(n, 7, 3)).astype(np.float32)
        self.targets = np.cumsum(self.inputs[..., :1], axis=1).astype(np.float32)
        if poison is not None:
            self.inputs[poison, 2, 1] = np.nan

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict:
        return {"inputs": self.inputs[index], "targets": self.targets[index]}


class Toy(Task):
    """Cumulative sums, with dropout in the head so that random state matters."""

    needs = Needs()
    metrics = ("mse",)
    primary = ("mse", "min")
    max_length = 7

    def __init__(self, rows: int = 40, poison: int | None = None) -> None:
        self.data = {"train": Rows(rows, 0, poison), "validation": Rows(10, 1), "test": Rows(10, 2)}

    def splits(self):
        return self.data

    def collate(self, rows) -> Batch:
        names = ("inputs", "targets")
        return Batch(*(torch.from_numpy(np.stack([row[name] for row in rows])) for name in names))

    def run(self, model, batch, state=None) -> Output:
        return Output(model(batch.inputs), ())

    def loss(self, output, batch) -> Loss:
        error = (output.head - batch.targets).square()
        return Loss(error.sum(), torch.tensor(float(error.numel())))

    def predictions(self, output, batch):
        return {"prediction": output.head.flatten(0, 1), "target": batch.targets.flatten(0, 1)}


class Head(nn.Module):
    """A linear map that looks at features only."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.line = nn.Linear(d_model, 1)

    def forward(self, y_bld, batch):
        return self.line(y_bld)


class Encoder(nn.Module):
    """A linear map of the inputs."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.line = nn.Linear(3, d_model)

    def forward(self, batch):
        return self.line(batch.inputs)


class Registered(Toy):
    """The toy as an installed task, round a backbone, each batch slowed down by a pause."""

    def __init__(self, config) -> None:
        super().__init__(poison=config.poison if config.poison >= 0 else None)
        self.pause = config.pause

    def encoder(self, d_model):
        return Encoder(d_model)

    def head(self, d_model):
        return Head(d_model)

    def run(self, model, batch, state=None):
        time.sleep(self.pause)
        return Task.run(self, model, batch, state)


def module() -> nn.Module:
    """A small network with dropout; drawn from torch's current random state."""
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))


def settings(**train) -> dict:
    """A configuration for the toy: 10 steps an epoch."""
    return {
        "train": {"batch_size": 4, "device": "cpu", "threads": 1, **train},
        "optim": {"lr": 0.01},
        "seed": 3,
    }


def order(out: str, wanted: dict) -> None:
    """Train or resume as a process of its own; write the run's path, or why it failed, to ``OUT/answer.json``."""
    from ssm_train import TrainingFailed, fit, resume

    torch.set_num_threads(1)
    try:
        if "resume" in wanted:
            run = resume(wanted["resume"], task=Toy(), model=module(), quiet=True)
        else:
            torch.manual_seed(7)
            run = fit(settings(**wanted["train"]), Toy(), module(), out=out, quiet=True)
        answer = {"run": str(run)}
    except TrainingFailed as failure:
        answer = {"failure": str(failure)}
    Path(out, "answer.json").write_text(json.dumps(answer))
    sys.exit("failure" in answer)


if __name__ == "__main__":
    order(sys.argv[1], json.loads(sys.argv[2]))
