"""The probe on models: every backbone that lays its recurrence open, gates at 1, tasks on another grid."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ssm_core.both_ways import BothWays
from ssm_core.model import SequenceModel, build_model
from ssm_core.plugin import registry
from ssm_core.plugin.config import config
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.plugin.spec import TaskSpec
from ssm_core.protocols import Batch, Loss, Task
from ssm_smr.layer import gates
from ssm_smr.nss.capture import cut, encoded_at, gates_at_one, listen, recurrences
from ssm_smr.nss.probe import probe
from ssm_smr.nss.spec import NSSConfig

WIDTH, LENGTH = 8, 24


@config
class WaveConfig:
    """Knobs.

    Attributes:
        gap: Distance of the points.
        masked: Elements at the end that are masked.
        told: Gaps are told.
    """

    gap: float = 1.0
    masked: int = 0
    told: bool = False


class Waves:
    """Sine waves, read at points a gap apart."""

    def __init__(self, gap: float) -> None:
        self.gap = gap

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        k = torch.arange(LENGTH) * self.gap
        return {"inputs": torch.sin(0.3 * k + index)[:, None], "index": index}


class WaveTask(Task):
    """Foretell nothing in particular."""

    def __init__(self, config: WaveConfig) -> None:
        self.config = config

    def splits(self):
        return {"test": Waves(self.config.gap)}

    def collate(self, rows):
        x = torch.stack([row["inputs"] for row in rows])
        mask = None
        if self.config.masked:
            mask = (torch.arange(LENGTH) < LENGTH - self.config.masked).expand(len(rows), -1)
        gaps = torch.full(x.shape[:2], self.config.gap) if self.config.told else None
        return Batch(inputs=x, targets=x, mask_bl=mask, dt_bl=gaps)

    def loss(self, output, batch):
        return Loss((output.head - batch.targets).square().sum(), torch.tensor(float(batch.targets.numel())))


class Encoder(nn.Module):
    """A linear map of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, WIDTH)

    def forward(self, batch):
        return self.linear(batch.inputs)


class Head(nn.Module):
    """A linear map to one value."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 1)

    def forward(self, y, batch):
        return self.linear(y)


SPEC = TaskSpec(api=1, name="waves", summary="", config=WaveConfig, build="own:it")


def model(
    backbone: str, addons: list[str], knobs: dict[str, Any] | None = None, **more: Any
) -> SequenceModel:
    torch.manual_seed(0)
    made = build_model(
        backbone,
        addons,
        d_input=1,
        d_model=WIDTH,
        n_layers=2,
        backbone_config=knobs or {},
        max_length=LENGTH,
        **more,
    )
    return SequenceModel(Encoder(), made.stack, Head(), WaveTask(WaveConfig())).eval()


def found(made: SequenceModel, **knobs: Any):
    return probe(made, made.task.splits()["test"], NSSConfig(**knobs))


def register(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Leave of all tasks those named; to be called when the model has been built."""
    entry = SimpleNamespace(name="waves", long_name="own/waves", dist="own", version="1")
    monkeypatch.setattr(registry, "found", lambda kind: [entry] * len(names))
    monkeypatch.setattr(registry, "describe", lambda kind, name: (entry, SPEC))
    monkeypatch.setattr(registry, "builder", lambda kind, name: (SPEC, WaveTask))


@pytest.mark.parametrize(
    ("backbone", "knobs", "transition"),
    [
        ("s4", {"state_size": 4}, "dense"),
        ("s4d", {"state_size": 4}, "diagonal"),
        ("dss", {"state_size": 4, "version": "exp"}, "diagonal"),
        ("s5", {"state_size": 4}, "diagonal"),
        ("lru", {"state_size": 4}, "diagonal"),
        ("s6", {"state_size": 4}, "changes, taken along the nominal run"),
        ("mamba2", {"state_size": 4, "head_dim": 4}, "changes, taken along the nominal run"),
        ("h3", {"state_size": 4}, "diagonal"),
        ("mega", {"ema_dim": 4, "z_dim": 4, "hidden": 8}, "diagonal"),
        ("spade", {"state_size": 4, "every": 1, "heads": 2}, "dense"),
        ("spade", {"state_size": 4, "every": 1, "heads": 2, "global_branch": "s4d"}, "diagonal"),
        ("seqboat", {"ema_dim": 4, "z_dim": 4, "hidden": 8}, "diagonal"),
    ],
)
@pytest.mark.parametrize("addons", [[], ["smr"]])
def test_the_layers_of_a_model(backbone, knobs, transition, addons):
    result = found(model(backbone, addons, knobs))
    variants = ["as trained", "gate at 1"] if addons else ["as trained"]
    assert [(row["layer"], row["gate"]) for row in result.rows] == [(i, v) for i in (0, 1) for v in variants]
    for row in result.rows:
        assert row["transition"] == transition
        assert row["radius"] < 1
        assert row["sup_e"] > 0
        bounds = [row[name] for name in row if name.startswith("bound_") and name != "bound_used"]
        assert all(bound is None or row["sup_e"] <= bound * (1 + 1e-9) for bound in bounds)
        assert 0 < row["bound_used"] <= 1 + 1e-9
    assert len(result.charts) == 4
    assert result.figures["relative error of the features, as trained"] > 0


def test_the_error_is_that_of_the_states_of_the_layer():
    made = model("s5", [], {"state_size": 4})
    data = made.task.splits()["test"]
    row = found(made, rows=1, grid="stretch", size=1.5).rows[0]
    batch = made.task.collate([data[0]])
    with torch.no_grad():
        x = made.encoder(batch)
        place = 1.5 * torch.arange(16)  # the points that lie inside
        left = place.floor().long()
        moved = torch.lerp(x[:, left], x[:, (left + 1).clamp(max=LENGTH - 1)], (place - left)[:, None])
        errors, states = [], [None, None]
        block = made.stack.blocks[0]
        for k in range(16):
            for i, each in enumerate((x, moved)):
                _, states[i] = block(each[:, k : k + 1], state=states[i])
            errors.append(float((states[1]["x"] - states[0]["x"]).norm()))
    assert row["sup_e"] == pytest.approx(max(errors), rel=1e-4)


def test_a_gate_at_1_is_no_gate():
    plain, gated = model("s5", [], {"state_size": 4}), model("s5", ["smr"], {"state_size": 4})
    plain.load_state_dict(
        {name.replace(".inner", ""): value for name, value in gated.state_dict().items()}, strict=False
    )
    assert len(gates(gated)) == 2
    batch = plain.task.collate([plain.task.splits()["test"][0]])
    with torch.no_grad():
        expected = plain(batch).head
        before = gated(batch).head
        with gates_at_one(gated):
            torch.testing.assert_close(gated(batch).head, expected)
        torch.testing.assert_close(gated(batch).head, before, rtol=0, atol=0)
    assert float((before - expected).abs().max()) > 1e-3


def test_both_directions_get_the_raw_input():
    made = model("s5", ["smr"], {"state_size": 4}, causal=False, addon_configs=[{"reverse": "mirrored"}])
    result = found(made)
    assert len(result.rows) == 4
    assert result.rows[0]["sup_e"] != result.rows[1]["sup_e"]


def test_without_a_sigmoid_it_is_the_convolution_that_goes():
    result = found(model("s5", ["smr"], {"state_size": 4}, addon_configs=[{"gate": "none"}]), rows=1)
    assert [row["gate"] for row in result.rows] == ["as trained", "input ungated"] * 2
    assert "relative error of the features, input ungated" in result.figures
    assert "input ungated" in result.text
    assert not any("gate at 1" in text for text in (result.text, *result.figures))


@pytest.mark.parametrize("backbone", ["s5", "s6"])
def test_a_model_that_looks_both_ways_reads_nothing_beyond_the_end(backbone):
    """Points 1.5 steps apart: 16 of 24 lie inside, and neither run may know what stands behind the sixteenth."""
    made = model(backbone, [], {"state_size": 4}, causal=False)
    data = made.task.splits()["test"]
    result = found(made, rows=1, grid="stretch", size=1.5)
    with torch.no_grad():
        x = made.encoder(made.task.collate([data[0]]))
        place = 1.5 * torch.arange(16)
        left = place.floor().long()
        moved = torch.lerp(x[:, left], x[:, (left + 1).clamp(max=LENGTH - 1)], (place - left)[:, None])
        y, y_moved = (made.stack(each)[0] for each in (x[:, :16], moved))
    expected = float((y_moved - y).norm() / y.norm())
    assert result.figures["relative error of the features, as trained"] == pytest.approx(expected, rel=1e-4)


def test_what_is_cut_off_leaves_the_outputs_their_length():
    made = model("s5", [], {"state_size": 4})
    made.task = WaveTask(WaveConfig(masked=2))
    batch = made.task.collate([made.task.splits()["test"][0]])
    with cut(made, 7):
        calls, features, out = listen(made, lambda: made.task.run(made, batch))
    assert {call.x_bld.shape[1] for call in calls.values()} == {7}
    assert features.shape == (1, LENGTH, WIDTH)
    assert out.head.shape == (1, LENGTH, 1)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in made.modules())


def test_what_runs_backwards_is_left_out_and_said_so():
    made = model("s6", ["smr"], {"state_size": 4}, causal=False)
    rows = found(made, rows=1).rows
    assert [(row["layer"], row["gate"]) for row in rows] == [
        (i, variant) for i in (0, 1) for variant in ("as trained", "gate at 1")
    ]
    assert {row["transition"] for row in rows} == {
        "changes, taken along the nominal run; the reverse direction is left out"
    }
    for block in made.stack.blocks:
        both = next(part for part in block.modules() if isinstance(part, BothWays))
        assert recurrences(block)
        assert not set(recurrences(block)) & set(both.backwards.modules())
    one = found(model("s5", [], {"state_size": 4}, causal=False), rows=1).rows
    assert {row["transition"] for row in one} == {"diagonal; the reverse direction is left out"}


def test_a_sequence_without_a_point_inside_is_refused():
    """A single element that is moved to where there is nothing to read."""
    made = model("s5", [], {"state_size": 4})
    data = [{"inputs": torch.ones(1, 1)}]
    with pytest.raises(UserError, match="none of the moved points"):
        probe(made, data, NSSConfig(grid="jitter", seed=0, rows=1))


def test_of_two_sequences_at_a_time_the_first_is_taken():
    """A task may run the model on more rows than the batch has: two texts to compare."""
    one, two = model("s6", [], {"state_size": 4}), model("s6", [], {"state_size": 4})

    def run(model: Any, batch: Batch, state: Any = None) -> Any:
        twice = torch.cat([batch.inputs, 2 * batch.inputs.flip(1)])
        return WaveTask.run(two.task, model, Batch(inputs=twice, targets=twice), state)

    two.task.run = run
    rows = [found(made, rows=1).rows for made in (one, two)]
    assert [row["sup_e"] for row in rows[1]] == pytest.approx([row["sup_e"] for row in rows[0]], rel=1e-5)


def test_listening_leaves_no_hooks():
    made = model("s5", ["smr"], {"state_size": 4})
    found(made, rows=1)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in made.modules())
    with pytest.raises(ZeroDivisionError):
        listen(made, lambda: 1 / 0)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in made.modules())


def test_a_task_on_another_grid(monkeypatch):
    made = model("s4d", ["smr"], {"state_size": 4})
    register(monkeypatch, "waves")
    result = found(made, shift=("gap=1.2",), rows=3)
    assert result.figures["sequences, as trained"] == 3
    assert (
        result.figures["loss, nominal grid, as trained"] != result.figures["loss, perturbed grid, as trained"]
    )
    assert result.text.startswith("gap=1.2")
    still = found(made, shift=("task.gap=1.0",))
    assert still.figures["relative error of the features, as trained"] == 0
    assert {row["sup_e"] for row in still.rows} == {0.0}
    with pytest.raises(ConfigError, match="has no setting"):
        found(made, shift=("gaps=1.2",))


OLD_GAPS = "; the gaps that the model is given stay those of the nominal grid"


@pytest.mark.parametrize("told", [True, False])
def test_gaps_that_stay_as_they_were_are_said(told: bool, monkeypatch):
    made = model("s5", [], {"state_size": 4})
    made.task = WaveTask(WaveConfig(told=told))
    result = found(made, grid="jitter")
    assert result.text.count(OLD_GAPS) == int(told)
    assert result.text.splitlines()[0].startswith("encoded inputs read with ")
    register(monkeypatch, "waves")
    assert OLD_GAPS not in found(made, shift=("gap=1.2",)).text, "of each grid its own"


def test_a_task_of_ones_own_cannot_be_shifted(monkeypatch):
    made = model("s5", [], {"state_size": 4})
    register(monkeypatch)
    with pytest.raises(UserError, match="of no registered task"):
        found(made, shift=("gap=1.2",))


def test_what_is_masked_is_left_out():
    made = model("s5", [], {"state_size": 4})
    made.task = WaveTask(WaveConfig(masked=4))
    assert len(found(made, rows=1, grid="rate", size=1.5).charts[0].curves[0].x) == LENGTH - 4
    stretched = found(made, rows=1, grid="stretch", size=1.5).charts[0].curves[0]
    assert len(stretched.x) == 13, (
        "points 0, 1.5, ..., 18 lie up to element 19, the last before the masked ones"
    )
    made.task = WaveTask(WaveConfig(masked=LENGTH))
    with pytest.raises(UserError, match="there are none"):
        found(made, rows=1)


def test_a_layer_without_a_recurrence_is_said_to_have_none():
    made, other = model("s5", [], {"state_size": 4}), model("transformer", [])
    made.stack.blocks[1] = other.stack.blocks[0]
    rows = found(made).rows
    assert [row["transition"] for row in rows] == ["diagonal", "no linear recurrence to analyse"]
    assert rows[0].keys() == rows[1].keys()
    with pytest.raises(UserError, match="no layer of this model has a linear recurrence"):
        found(other)
    softmax = model("dss", [], {"state_size": 4, "version": "softmax"})
    assert recurrences(softmax.stack.blocks[0])
    assert {row["transition"] for row in found(softmax).rows} == {"no linear recurrence to analyse"}


def test_inputs_that_are_no_sequence_are_refused():
    made = model("s5", [], {"state_size": 4})
    batch, place = torch.zeros(1, 5, WIDTH), torch.arange(5, dtype=torch.float64)
    for wrong in (lambda x: x[0], lambda x: (x, x), lambda x: x[:, :3]):
        made.encoder = nn.Identity()
        made.encoder.forward = wrong
        with pytest.raises(UserError, match="no sequence that could be read"), encoded_at(made, place):
            made.encoder(batch)
