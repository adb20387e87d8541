"""SMR on a trained model: each weight finds its place, the outputs are the same bits at first, and training goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ssm_core import build_model
from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError
from ssm_core.run.folder import RunFolder
from ssm_core.run.load import account, start_from
from ssm_smr.layer import SMR
from ssm_train import fit

# Two layers do not bring together all that chordmixer's tracks are for.
pytestmark = pytest.mark.filterwarnings("ignore:chordmixer")

WIDTH, MAX_LENGTH = 32, 128  # divide by the tracks of chordmixer, and into a head of mamba2
FEW = {("s4", True, "dense"), ("s5", False, "depthwise"), ("mega", True, "depthwise")}


def cases() -> list[Any]:
    """Return every (backbone, causal, mode) that is claimed; all but a few are slow."""
    found = []
    for entry in registry.found("backbone"):
        if not entry.dist.startswith("ssm-"):
            continue
        can = registry.describe("backbone", entry.long_name)[1].capabilities
        ways = [causal for causal, able in ((True, can.causal), (False, can.bidirectional)) if able]
        for case in ((entry.name, causal, mode) for causal in ways for mode in ("dense", "depthwise")):
            name = f"{case[0]}-{'causal' if case[1] else 'bidirectional'}-{case[2]}"
            found.append(pytest.param(*case, id=name, marks=[] if case in FEW else pytest.mark.slow))
    return found


def model_of(backbone: str, causal: bool, seed: int, **addons: Any) -> Any:
    """Return a small model whose random numbers follow from a seed."""
    torch.manual_seed(seed)
    sizes = {"d_input": 3, "d_output": 2, "d_model": WIDTH, "n_layers": 2, "max_length": MAX_LENGTH}
    return build_model(backbone, causal=causal, **sizes, **addons).eval()


def test_there_is_a_case_of_every_backbone() -> None:
    every = {entry.name for entry in registry.found("backbone") if entry.dist.startswith("ssm-")}
    assert {case.values[0] for case in cases()} == every
    assert {case.values for case in cases()} >= FEW


@pytest.mark.parametrize(("backbone", "causal", "mode"), cases())
def test_it_starts_where_the_trained_model_stood(
    backbone: str, causal: bool, mode: str, tmp_path: Path
) -> None:
    trained = model_of(backbone, causal, seed=0)
    weights = {name: value.contiguous() for name, value in trained.state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors")
    gate = {"addons": ["smr"], "addon_configs": [{"init": "identity", "mode": mode}]}
    model = model_of(backbone, causal, seed=1, **gate)
    new = start_from(model, tmp_path / "w.safetensors")

    paths = [path for path, part in model.named_modules() if isinstance(part, SMR)]
    assert paths
    assert set(new) == {f"{path}.{name}" for path in paths for name in ("weight", "bias")}
    assert len(model.state_dict()) == len(weights) + len(new)
    count = sum(model.get_parameter(name).numel() for name in new)
    assert account(model, new).startswith(f"{count:,} new parameters: ")

    x = torch.randn(3, 21, 3, generator=torch.Generator().manual_seed(0))
    gaps = {"dt_bl": 0.3 + 2 * torch.rand(3, 21)} if model.stack.takes_dt else {}
    for given in ({}, gaps):
        assert torch.equal(model(x, **given)[0], trained(x, **given)[0]), "an output changed at the start"

    optimiser, losses = torch.optim.Adam(model.parameters(), lr=3e-3), []
    before = {name: model.get_parameter(name).clone() for name in new}
    for _ in range(4):
        loss = (model(x)[0] - x[..., :2]).square().mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0], losses
    assert all(not torch.equal(model.get_parameter(name), value) for name, value in before.items())


def test_a_run_goes_on_with_the_add_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through training: the first evaluation of the new run is the last of the old one."""
    monkeypatch.setenv("SSM_DATA_DIR", str(tmp_path / "data"))
    settings: dict[str, Any] = {
        "backbone": {"name": "s5", "state_size": 4, "blocks": 1},
        "task": {"name": "sine", "length": 32, "n_train": 32, "n_validation": 16, "n_test": 16},
        "model": {"d_model": 8, "n_layers": 2},
        "optim": {"lr": 1e-2},
        "train": {"epochs": 3, "batch_size": 8, "device": "cpu"},
    }
    old = fit(settings, out=tmp_path, quiet=True)
    gate = {"smr": {"init": "identity", "mode": "depthwise"}}
    # A learning rate of nothing shows what the run starts from.
    still = {**settings, "addons": gate, "optim": {"lr": 1e-30}, "train": {**settings["train"], "epochs": 1}}
    capsys.readouterr()
    same = fit(still, out=tmp_path, init_from=old)
    shown = " ".join(capsys.readouterr().err.split())
    assert "80 new parameters:" in shown
    for part in ("stack.blocks.{0,1}.mixer.weight (2 of 8 x 4)", "stack.blocks.{0,1}.mixer.bias (2 of 8)"):
        assert part in shown
    assert error_of(same) == pytest.approx(error_of(old), rel=1e-6)
    further = fit({**settings, "addons": gate}, out=tmp_path, init_from=old, quiet=True)
    assert math.isfinite(error_of(further))
    assert error_of(further) < error_of(old)


def error_of(run: Path) -> float:
    """Return the test error of a run's best weights."""
    rows = [row for row in RunFolder(run).metrics() if (row["split"], row["name"]) == ("test", "mse")]
    return rows[-1]["value"]


def test_a_model_that_looks_both_ways_is_not_one_that_looks_back_with_an_add_on(tmp_path: Path) -> None:
    save_file(model_of("s5", True, seed=0).state_dict(), tmp_path / "w.safetensors")
    gate = {"addons": ["smr"], "addon_configs": [{"init": "identity"}]}
    with pytest.raises(UserError, match=r"lacks stack\.blocks\.0\.mixer\.inner\.C_reverse"):
        start_from(model_of("s5", False, seed=1, **gate), tmp_path / "w.safetensors")
