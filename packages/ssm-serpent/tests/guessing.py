"""What tests of the probe `information` share: a task of guessing, and models for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.model import SequenceModel, build_stack
from ssm_core.protocols import Batch, Loss, Needs, Output, Task
from ssm_core.run.config import Choice, ModelConfig
from ssm_serpent.information.calls import first_calls
from ssm_serpent.information.subjects import Recurrence, Resampler

LENGTH = 12


class Rows:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        generator = np.random.default_rng(index)
        return {"inputs": generator.standard_normal((LENGTH, 3)).astype(np.float32)}


class Guess(Task):
    """Whether the next number is above 0: logits at every element, or a Gaussian, or a value."""

    def __init__(self, form: str = "classes") -> None:
        self.form = form

    def splits(self) -> Mapping[str, Any]:
        return {"test": Rows()}

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        inputs = torch.from_numpy(np.stack([row["inputs"] for row in rows]))
        reset = torch.zeros(inputs.shape[:2], dtype=torch.bool)
        reset[:, 5] = True
        return Batch(inputs=inputs, targets=inputs[..., :1], reset_bl=reset)

    def encoder(self, d_model: int) -> nn.Module:
        return Encoder(d_model)

    def head(self, d_model: int) -> nn.Module:
        return Head(d_model, 2)

    def loss(self, output: Output, batch: Batch) -> Loss:
        raise NotImplementedError

    def predictions(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        y = output.head.flatten(0, 1)
        target = batch.targets.flatten(0, 1)
        if self.form == "classes":
            return {"prediction": y, "target": (target[:, 0] > 0).long()}
        if self.form == "gaussian":
            return {"prediction": y[:, :1], "target": target, "variance": y[:, 1:].exp()}
        return {"prediction": y[:, :1], "target": target if self.form == "values" else target[:, :0]}


class Encoder(nn.Linear):
    def __init__(self, d_model: int) -> None:
        super().__init__(3, d_model)

    def forward(self, batch: Batch) -> Tensor:
        return super().forward(batch.inputs)


class Head(nn.Linear):
    def forward(self, y_bld: Tensor, batch: Batch) -> Tensor:
        return super().forward(y_bld)


class LanguageHead(Head):
    def log_probabilities(self, y: Tensor) -> Tensor:
        return F.log_softmax(nn.Linear.forward(self, y), -1)


def model_of(
    backbone: str = "s6",
    form: str = "classes",
    *,
    causal: bool = True,
    n_layers: int = 2,
    serpent: Mapping[str, Any] | None = None,
    **knobs: Any,
) -> SequenceModel:
    torch.manual_seed(0)
    task = Guess(form)
    choice = Choice.of("backbone", backbone, knobs, "backbone")
    addons = [] if serpent is None else [Choice.of("addon", "serpent", serpent, "addons")]
    model = ModelConfig(d_model=8, n_layers=n_layers, causal=causal)
    stack = build_stack(choice, addons, model, Needs(), None)
    return SequenceModel(task.encoder(8), stack, task.head(8), task).eval()


MAMBA2 = {"head_dim": 4, "state_size": 4, "chunk_size": 8, "dt_min": 0.05, "dt_max": 0.5}
SERPENT = {"serpent": {"compression": [0.5], "window": 3}}
S6 = {"state_size": 4, "dt_min": 0.05, "dt_max": 0.5}


def subject(backbone: str, **knobs: Any) -> Any:
    kind, method = (Resampler, "trace") if "serpent" in knobs else (Recurrence, "intervals")
    model = model_of(backbone, n_layers=1, **knobs)
    (module,) = [part for part in model.modules() if hasattr(type(part), method)]
    with first_calls({"it": module}) as calls, torch.no_grad():
        model(Batch(inputs=torch.randn(1, LENGTH, 3), targets=torch.zeros(0)))
    return kind(module, calls["it"])
