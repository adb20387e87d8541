"""Signals in streams: rows that run side by side, each batch going on where the one before ended."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from toy_runs import Head

from ssm_core.protocols import Batch, Loss, Needs, Output, Task

LENGTH, STREAMS, WINDOWS = 6, 4, 5


class Signals:
    """Noise in ``streams`` rows, cut into windows; what is asked for is its running mean."""

    def __init__(self, seed: int, windows: int = WINDOWS, streams: int = STREAMS, epoch: int = 0) -> None:
        draw = np.random.default_rng([seed, epoch])
        self.seed, self.windows, self.streams, self.epoch = seed, windows, streams, epoch
        self.x = draw.normal(size=(streams, windows * LENGTH, 2)).astype(np.float32)
        self.y = (self.x[..., :1].cumsum(1) / np.arange(1, self.x.shape[1] + 1)[:, None]).astype(np.float32)
        self.reset = draw.random(self.x.shape[:2]) < 0.1

    def __len__(self) -> int:
        return self.windows * self.streams

    def __getitem__(self, index: int) -> dict:
        window, stream = divmod(index, self.streams)
        place = slice(window * LENGTH, (window + 1) * LENGTH)
        arrays = {"inputs": self.x, "targets": self.y, "reset": self.reset}
        return {name: array[stream, place] for name, array in arrays.items()}


class Rolling(Signals):
    """Other signals in each epoch."""

    def of_epoch(self, epoch: int) -> Rolling:
        return Rolling(self.seed, self.windows, self.streams, epoch)


class StreamTask(Task):
    """Running means of streams.

    Args:
        carry: Whether state is carried; without, every row is a sequence of its own.
        kind: Of the splits.
    """

    metrics = ("mse",)
    primary = ("mse", "min")
    max_length = LENGTH

    def __init__(self, carry: bool = True, kind: type[Signals] = Signals, resets: bool = False) -> None:
        self.needs = Needs(causal=True, carry_state=carry)
        self.resets = resets
        # No test split: drawing the pictures would take most of the time.
        self.data = {"train": kind(0), "validation": Signals(1, windows=3)}

    def splits(self):
        return self.data

    def collate(self, rows) -> Batch:
        stacked = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
        reset = stacked.pop("reset")
        return Batch(**stacked, reset_bl=reset if self.resets else None)

    def encoder(self, d_model):
        return Encoder(d_model)

    def head(self, d_model):
        return Head(d_model)

    def loss(self, output, batch):
        error = (output.head - batch.targets).square()
        return Loss(error.sum(), error.new_tensor(float(error.numel())))

    def predictions(self, output, batch):
        return {"prediction": output.head.flatten(0, 1), "target": batch.targets.flatten(0, 1)}


class Encoder(nn.Module):
    """A linear map of two channels."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.line = nn.Linear(2, d_model)

    def forward(self, batch):
        return self.line(batch.inputs)


class Growing(nn.Module):
    """A module of one's own whose state overflows after the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 1)

    def forward(self, batch: Batch, state: tuple[Tensor, ...] | None = None) -> Output:
        before = torch.ones(len(batch.inputs), 1, 1) if state is None else state[0]
        return Output(self.line(batch.inputs) * before, (before * 1e39,))


class ByState(StreamTask):
    """A task whose model is called with batch and state."""

    def run(self, model, batch, state=None):
        return model(batch, state)


def settings(backbone: str = "s5", **train) -> dict:
    """A configuration of 5 steps an epoch."""
    knobs = {
        "s5": {"state_size": 8},
        "mamba2": {"head_dim": 4, "state_size": 4, "expand": 1},
        "s4d": {"state_size": 8},
    }
    return {
        "backbone": {"name": backbone, **knobs.get(backbone, {})},
        "model": {"d_model": 8, "n_layers": 2, "dropout": 0.1},
        "train": {"batch_size": STREAMS, "device": "cpu", "threads": 1, **train},
        "optim": {"lr": 0.01, "schedule": "constant", "warmup_epochs": 0.0},
        "seed": 3,
    }
