"""A backbone and a task in a distribution of their own, found by entry point as everyone's are; runs made by hand."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from ssm_core.model import build_for_task
from ssm_core.plugin import registry
from ssm_core.plugin.config import merge
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder, write_json

SPECS = '''
"""Specs."""

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import AddonSpec, BackboneSpec, Capabilities, Published, TaskSpec


@config
class NetConfig:
    """Knobs.

    Attributes:
        bias: Has a bias.
    """

    bias: bool = True


@config
class TaskConfig:
    """Knobs.

    Attributes:
        scale: Factor on the targets.
        time: View of time.
        length: Elements of a row.
    """

    scale: float = 1.0
    time: Literal["true", "ignored"] = "true"
    length: int = 5


@config
class GateConfig:
    """Knobs.

    Attributes:
        layers: Where.
        width: How wide.
    """

    layers: str = "*"
    width: int = 4


def row(model, value, **more):
    return Published(model=model, metric="mse", value=value, std=0.01, **more)


NET = BackboneSpec(
    api=1,
    name="toynet",
    summary="a line",
    config=NetConfig,
    build="toy_eval_layers:net",
    capabilities=Capabilities(dt=True),
)
GATE = AddonSpec(api=1, name="toygate", summary="nothing", config=GateConfig, build="toy_eval_layers:gate")
TASK = TaskSpec(
    api=1,
    name="toytask",
    summary="sums",
    config=TaskConfig,
    build="toy_eval_layers:Toy",
    published=(
        row("Elsewhere", 0.1),
        row("Net", 0.2, backbone="toynet", settings=(("time", "true"), ("scale", "1"))),
        row("Net, blind", 0.3, backbone="toynet", settings=(("time", "ignored"),)),
        row("Net with gate", 0.4, backbone="toynet", addons=("toygate",), settings=(("length", "5"),)),
        row("Net, lost knob", 0.5, backbone="toynet", settings=(("lost", "1"),)),
    ),
)
OTHER = TaskSpec(api=1, name="othertask", summary="sums", config=TaskConfig, build="toy_eval_layers:Toy")
'''

LAYERS = '''
"""Layers."""

import numpy as np
import torch
from torch import nn

from ssm_core.protocols import Batch, BandPlot, Loss, Needs, Task


class Net(nn.Module):
    causal = streaming = takes_dt = True

    def __init__(self, d_model, bias):
        super().__init__()
        self.d_model = d_model
        self.line = nn.Linear(d_model, d_model, bias)

    def forward(self, x_bld, *, dt_bl=None, mask_bl=None, reset_bl=None, side=None, state=None):
        return self.line(x_bld), ()


def net(config, layer, slot):
    return slot("ssm", lambda width: Net(width, config.bias), layer.d_model)


def gate(config):
    return lambda make, width, layer: make(width)


class Rows:
    def __init__(self, n, length, scale):
        draw = np.random.default_rng(n)
        self.x = draw.normal(size=(n, length, 2)).astype(np.float32)
        self.scale = scale

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"inputs": self.x[index], "targets": self.scale * np.cumsum(self.x[index], 0)}


class Encoder(nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.line = nn.Linear(2, d_model)

    def forward(self, batch):
        return self.line(batch.inputs)


class Head(nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.line = nn.Linear(d_model, 4)

    def forward(self, y_bld, batch):
        mean, spread = self.line(y_bld).chunk(2, -1)
        return {"mean": mean, "variance": spread.exp()}


class Toy(Task):
    metrics = ("mse", "nll")
    primary = ("mse", "min")
    needs = Needs(dt=True)

    def __init__(self, config):
        self.config = config
        self.max_length = config.length
        self.prepared = False

    def prepare(self, progress=None):
        self.prepared = True

    def splits(self):
        assert self.prepared
        sizes = {"train": 12, "validation": 7, "test": 9, "hollow": 0}
        return {name: Rows(n, self.config.length, self.config.scale) for name, n in sizes.items()}

    def collate(self, rows):
        stacked = {k: torch.from_numpy(np.stack([r[k] for r in rows])).float() for k in ("inputs", "targets")}
        return Batch(**stacked, dt_bl=torch.ones(stacked["inputs"].shape[:2]))

    def encoder(self, d_model):
        return Encoder(d_model)

    def head(self, d_model):
        return Head(d_model)

    def loss(self, output, batch):
        error = (output.head["mean"] - batch.targets).square()
        return Loss(error.sum(), torch.tensor(float(error.numel())))

    def predictions(self, output, batch):
        return {"prediction": output.head["mean"], "target": batch.targets, "variance": output.head["variance"]}

    def plots(self, output, batch):
        return [
            BandPlot(title=f"row {i}", x=range(self.config.length), truth=batch.targets[i, :, 0],
                     mean=output.head["mean"][i, :, 0], std=output.head["variance"][i, :, 0].sqrt())
            for i in range(2)
        ]
'''

POINTS = """
[ssm.backbones]
toynet = toy_eval_specs:NET

[ssm.addons]
toygate = toy_eval_specs:GATE

[ssm.tasks]
toytask = toy_eval_specs:TASK
othertask = toy_eval_specs:OTHER
"""


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install the distribution ``toy-eval`` for this session; the folder it lies in."""
    site = tmp_path_factory.mktemp("site")
    (site / "toy_eval_specs.py").write_text(SPECS)
    (site / "toy_eval_layers.py").write_text(LAYERS)
    info = site / "toy_eval-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-eval\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    registry.found.cache_clear()
    yield site
    sys.path.remove(str(site))
    registry.found.cache_clear()
    for name in ("toy_eval_specs", "toy_eval_layers"):
        sys.modules.pop(name, None)


MakeRun = Callable[..., RunFolder]


@pytest.fixture
def make_run(plugins: Path, tmp_path: Path) -> MakeRun:
    """Return a function that makes a run folder as training leaves it: 3 epochs of 4 steps, the second the best."""

    def make(
        tree: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        test: float | None = 0.25,
        validation: tuple[float, ...] = (0.9, 0.2, 0.3),
    ) -> RunFolder:
        base = {
            "backbone": {"name": "toynet"},
            "task": {"name": "toytask"},
            "model": {"d_model": 3, "n_layers": 2},
        }
        config = RunConfig.from_tree(merge(merge(base, tree or {}), {"seed": seed}))
        run = RunFolder.create(tmp_path / "runs", config)
        best = 4 * (1 + validation.index(min(validation)))
        _write_metrics(run, validation, best, test)
        for name, step in (("best", best), ("latest", 4 * len(validation))):
            folder = run.checkpoints / f"step-{step:08d}"
            folder.mkdir(exist_ok=True)
            _save_weights(config, folder / "model.safetensors")
            pointer = {
                "step": step,
                "path": str(folder.relative_to(run.path)),
                "metric": "mse",
                "value": min(validation),
            }
            write_json(run.path / f"{name}.json", pointer)
        run.write_status("finished", step=4 * len(validation))
        return run

    return make


def _write_metrics(run: RunFolder, validation: tuple[float, ...], best: int, test: float | None) -> None:
    lines = []

    def add(step: int, epoch: int, split: str, name: str, value: float) -> None:
        row = {"step": step, "epoch": epoch, "split": split, "name": name, "value": value, "wall": 2.5 * step}
        lines.append(json.dumps(row) + "\n")

    for epoch, value in enumerate(validation):
        for step in range(4 * epoch + 1, 4 * epoch + 5):
            add(step, epoch, "train", "loss", 5.0 / step)
            add(step, epoch, "train", "lr", 1e-3)
        add(step, epoch, "validation", "loss", 2 * value)
        add(step, epoch, "validation", "mse", value)
    if test is not None:
        add(best, best // 4 - 1, "test", "mse", test)
    run.metrics_file.write_text("".join(lines))


def _save_weights(config: RunConfig, file: Path) -> None:
    import torch

    from ssm_core.plugin import registry

    assert config.task is not None
    _, build = registry.builder("task", config.task.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = build_for_task(config, build(config.task.config))
    save_file(model.state_dict(), file)
