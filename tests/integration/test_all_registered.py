"""Registering is all it takes to be tested: every backbone with every add-on, and every task, as they are found."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssm_core import build_model
from ssm_core.model import build_stack
from ssm_core.params import gather_hints, groups
from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError, PluginError, UserError
from ssm_core.plugin.spec import Capabilities
from ssm_core.protocols import LayerInfo, Needs
from ssm_core.run.config import Choice, ModelConfig
from ssm_core.testing import AddonSuite, MixerSuite, TaskSuite
from ssm_core.testing.subject import build_parts

# Two layers do not bring together all that chordmixer's tracks are for.
pytestmark = pytest.mark.filterwarnings("ignore:chordmixer")

WIDTH, MAX_LENGTH = 32, 128  # divide by the tracks of chordmixer, and into a head of mamba2


def described(kind: str) -> dict[str, Any]:
    """Return long name -> spec of every plugin that can be described; a broken one is its owner's to mend."""
    specs = {}
    for entry in registry.found(kind):
        try:
            specs[entry.long_name] = registry.describe(kind, entry.long_name)[1]
        except PluginError:
            continue
    return specs


def combinations() -> list[Any]:
    """Return every (backbone, add-on or none, causal) that the backbone claims."""
    found = []
    for backbone, spec in described("backbone").items():
        for causal in (True, False):
            if spec.capabilities.causal if causal else spec.capabilities.bidirectional:
                found += [(backbone, addon, causal) for addon in ("", *described("addon"))]
    names = [f"{b}+{a or 'none'}-{'causal' if c else 'bidirectional'}" for b, a, c in found]
    return [pytest.param(*each, id=name) for each, name in zip(found, names, strict=True)]


def build(backbone: str, addon: str, causal: bool, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    addons = [addon] if addon else []
    try:
        return build_model(
            backbone,
            addons,
            d_input=3,
            d_output=2,
            d_model=WIDTH,
            n_layers=2,
            causal=causal,
            max_length=MAX_LENGTH,
        )
    except ConfigError as error:
        pytest.skip(f"refused at build: {error}")


def sample(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return an input (3, 21, 3), with gaps where the model takes them."""
    g = torch.Generator().manual_seed(0)
    gaps = {"dt_bl": 0.3 + 2 * torch.rand(3, 21, generator=g)} if model.stack.takes_dt else {}
    return torch.randn(3, 21, 3, generator=g), gaps


@pytest.mark.parametrize(
    ("backbone", "knobs"),
    [(name, {}) for name in described("backbone")] + [("ssm-core/liquid_s4", {"mode": "exact"})],
)
def test_gaps_are_refused_at_build_where_they_mean_nothing(backbone: str, knobs: dict[str, Any]) -> None:
    """A task with gaps: built by whoever's record says that it takes them, refused by all others with a way out."""
    capabilities = described("backbone")[backbone].capabilities
    model = ModelConfig(d_model=WIDTH, n_layers=2, causal=capabilities.causal)
    chosen = Choice.of("backbone", backbone, knobs, "backbone")
    # The record of liquid_s4 speaks of the modes that can.
    claims = capabilities.dt and (backbone != "ssm-core/liquid_s4" or knobs.get("mode") == "exact")
    assert build_stack(chosen, [], model, Needs(), MAX_LENGTH).takes_dt == claims
    if claims:
        assert build_stack(chosen, [], model, Needs(dt=True), MAX_LENGTH).takes_dt
        return
    with pytest.raises(ConfigError, match=r"task\.time=ignored"):
        build_stack(chosen, [], model, Needs(dt=True), MAX_LENGTH)


every_combination = pytest.mark.parametrize(("backbone", "addon", "causal"), combinations())


def optimiser_of(model: Any) -> torch.optim.Optimizer:
    """Return AdamW with the groups that the model's hints ask for."""
    return torch.optim.AdamW(
        [
            {
                "params": [model.get_parameter(name) for name in group.names],
                "lr": group.lr,
                "weight_decay": group.weight_decay,
            }
            for group in groups(model, lr=3e-3, weight_decay=1e-2)
        ]
    )


def train(model: Any, optimiser: torch.optim.Optimizer, steps: int) -> list[float]:
    """Take steps on a regression of a running mean; return the loss before each."""
    x, gaps = sample(model)
    target = (x.cumsum(1) / torch.arange(1, 22)[:, None])[..., :2]
    losses = []
    for _ in range(steps):
        loss = (model(x, **gaps)[0] - target).square().mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimiser.step()
    return losses


@every_combination
def test_it_learns_and_resumes(backbone: str, addon: str, causal: bool) -> None:
    """Five steps; going on from the weights and the optimiser's state of the third is the same, bit for bit."""
    model = build(backbone, addon, causal)
    optimiser = optimiser_of(model)
    losses = train(model, optimiser, 3)
    other = build(backbone, addon, causal, seed=1)
    resumed = optimiser_of(other)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    losses += train(model, optimiser, 3)
    assert losses[-1] < losses[0], losses
    assert train(other, resumed, 3) == losses[3:]
    assert all(map(torch.equal, other.parameters(), model.parameters()))


@every_combination
def test_it_is_what_it_claims(backbone: str, addon: str, causal: bool) -> None:
    """Causal models owe nothing to the future; streaming ones step as they run in parallel; padding is inert."""
    model = build(backbone, addon, causal).eval()
    x, gaps = sample(model)
    x.requires_grad_()
    y, _ = model(x, **gaps)
    gradient = torch.autograd.grad(y[1, 10].square().sum(), x)[0].abs().amax(-1)
    assert not gradient[[0, 2]].any(), "rows are independent"
    assert gradient[1, 0] > 0, "the past has no effect"
    after = gradient[1, 11:].max().item()
    assert after <= 1e-6 if model.stack.causal else after > 0
    if model.stack.streaming:
        state, stepped = model.init_state(3), []
        for time in range(21):
            dt = {"dt_b": gaps["dt_bl"][:, time]} if gaps else {}
            out, state = model.step(x[:, time], **dt, state=state)
            stepped.append(out)
        torch.testing.assert_close(torch.stack(stepped, 1), y, rtol=1e-3, atol=1e-4)
    mask = torch.arange(21) < torch.tensor([[21], [13], [0]])
    padded = x.detach().masked_fill(~mask[..., None], 9.0)
    dt = {"dt_bl": gaps["dt_bl"].masked_fill(~mask, 9.0)} if gaps else {}
    alone = {name: value[1:2, :13] for name, value in gaps.items()}
    torch.testing.assert_close(
        model(padded, mask_bl=mask, **dt)[0][1:2, :13], model(x[1:2, :13], **alone)[0], rtol=1e-3, atol=1e-4
    )


@every_combination
def test_it_is_copied_saved_and_built_without_memory(
    backbone: str, addon: str, causal: bool, tmp_path: Path
) -> None:
    """A copy, a reload into another seed's model, and a load into one built on the meta device compute alike."""
    model = build(backbone, addon, causal).eval()
    x, gaps = sample(model)
    expected, _ = model(x, **gaps)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    weights = load_file(tmp_path / "model.safetensors")
    other = build(backbone, addon, causal, seed=1).eval()
    other.load_state_dict(weights)
    with torch.device("meta"):
        empty = build(backbone, addon, causal)
    empty.to_empty(device="cpu").load_state_dict(weights)
    for twin in (copy.deepcopy(model), other, empty.eval()):
        assert torch.equal(twin(x, **gaps)[0], expected)
        assert gather_hints(twin) == gather_hints(model)


@pytest.mark.slow
@every_combination
def test_it_compiles_in_one_graph(backbone: str, addon: str, causal: bool) -> None:
    """The whole model, with gaps and a mask, gives the outputs and gradients of eager execution."""
    model = build(backbone, addon, causal).eval()
    x, gaps = sample(model)
    mask = torch.arange(21) < torch.tensor([[21], [13], [1]])
    torch._dynamo.reset()
    found = []
    for run in (torch.compile(model, fullgraph=True, backend="aot_eager"), model):
        y, _ = run(x, mask_bl=mask, **gaps)
        loss = (y * torch.linspace(-1, 1, y.numel()).view_as(y))[mask].sum()
        found.append([y[mask], *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)])
    for name, compiled, eager in zip(["y", *dict(model.named_parameters())], *found, strict=True):
        assert (compiled is None) is (eager is None), name
        if eager is not None:
            error, size = (compiled - eager).abs().max(), eager.abs().max()
            assert error <= 1e-4 * size + 1e-6, f"{name}: {error:.2g} of {size:.2g}"


@pytest.fixture(autouse=True)
def data_of_this_session(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep made data out of the user's cache; the workers of one session share it."""
    monkeypatch.setenv("SSM_DATA_DIR", str(tmp_path_factory.getbasetemp().parent / "ssm-data"))


def small(spec: Any) -> dict[str, int]:
    """Return the knobs that make a task's data small: by convention, ``n_<split>`` is a split's number of rows."""
    sizes = {"n_train": 5, "n_validation": 3, "n_test": 3}
    return {f.name: sizes[f.name] for f in dataclasses.fields(spec.config) if f.name in sizes}


class _AnyAddon(AddonSuite):
    """An add-on's record says nothing of what it leaves of its host: ask one that is built."""

    widths = (2, 4, 6)  # an add-on may divide the width
    exhaustive = True

    def claims(self) -> Capabilities:
        mixer = self.round_tiny(self.layer(self.widths[-1], True), [self.active()])
        return Capabilities(
            causal=mixer.causal,
            bidirectional=True,
            step=mixer.streaming,
            dt=mixer.takes_dt,
            state=mixer.causal,
        )


def register(suite: type, kind: str, mark: Any = None, **attributes: Any) -> None:
    """Make this module hold a class of tests for every plugin of a kind."""
    for name, spec in described(kind).items():
        title = "TestEvery" + kind.title() + "_" + spec.name
        members = {kind: name, **{key: value(spec) for key, value in attributes.items()}}
        made = type(title, (suite,), members)
        globals()[title] = mark(made) if mark else made


class _AnyBackbone(MixerSuite):
    """Default knobs, which ask for wider blocks than the small ones of the suites of their own."""

    widths = (WIDTH,)
    exhaustive = True

    def claims(self) -> Capabilities:
        """The record says what some setting can honour: that of the default one may take no gaps."""
        can = super().claims()
        takes_dt = build_parts(self.backbone, {}, self.layer(WIDTH, can.causal))["block"].takes_dt
        assert can.dt or not takes_dt
        return dataclasses.replace(can, dt=takes_dt)

    def layer(self, width: int, causal: bool) -> LayerInfo:
        return dataclasses.replace(super().layer(width, causal), max_length=MAX_LENGTH)


class _AnyTask(TaskSuite):
    """Tasks that read the user's files are skipped where there are none; the suites of their own bring some."""

    def ready(self) -> Any:
        try:
            return super().ready()
        except UserError as error:
            if "found no" not in str(error):
                raise
            pytest.skip(str(error))


register(_AnyTask, "task", pytest.mark.slow, config=small)
register(
    _AnyBackbone,
    "backbone",
    pytest.mark.slow,
    reaches_all=lambda spec: spec.name != "chordmixer",
    causal_tolerance=lambda spec: 1e-6,
    splits_at_resets=lambda spec: ("bidirectional",) if spec.name == "s5" else ("causal", "bidirectional"),
    # Short convolutions and attention count elements, not time.
    zero_gap_is_noop=lambda spec: spec.name not in {"s6", "mamba2", "mega", "seqboat"},
)
register(
    _AnyAddon,
    "addon",
    pytest.mark.slow,
    splits_at_resets=lambda spec: (
        ("causal", "bidirectional") if spec.name == "serpent" else ("bidirectional",)
    ),
    # It rounds times to ticks; packages/ssm-serpent/tests compares its gradients with those of the unrounded equations.
    denies=lambda spec: ("gradcheck",) if spec.name == "serpent" else (),
    jumps=lambda spec: 0.02 if spec.name == "serpent" else 0.0,
)
