"""SeRpEnt in company: SMR inside its branches, each in its own time, and the trainer, which records its compression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssm_core import build_model
from ssm_core.params import gather_hints
from ssm_core.run.folder import RunFolder
from ssm_train import fit


@pytest.mark.parametrize(("backbone", "knobs"), [("s5", {}), ("mamba2", {"head_dim": 4, "state_size": 8})])
@pytest.mark.parametrize("causal", [True, False])
def test_smr_gates_inside_the_branches(backbone, knobs, causal):
    torch.manual_seed(0)
    model = build_model(
        backbone,
        ["smr", "serpent"],
        d_input=2,
        d_output=1,
        d_model=8,
        n_layers=2,
        causal=causal,
        backbone_config=knobs,
        addon_configs=[{"tau": 3}, {"compression": [0.4], "window": 3}],
    )
    model = model.double().eval()
    gates = [name for name, part in model.named_modules() if type(part).__name__ == "SMR"]
    ways = 1 if causal or backbone == "s5" else 2
    assert len(gates) == 2 * 2 * ways
    assert all(".branches." in name for name in gates)
    assert gather_hints(model).keys() == dict(model.named_parameters()).keys()
    x = torch.randn(2, 40, 2, dtype=torch.float64)
    y, after = model(x)
    mask = torch.arange(40) < torch.tensor([[40], [25]])
    padded, _ = model(x.masked_fill(~mask[..., None], torch.nan), mask_bl=mask)
    same(padded[1:, :25], model(x[1:, :25])[0])
    if causal:
        first, state = model(x[:, :17])
        same(torch.cat([first, model(x[:, 17:], state=state)[0]], 1), y)
        state, out = model.init_state(2), []
        for x_bd in x.unbind(1):
            step, state = model.step(x_bd, state=state)
            out.append(step)
        same(torch.stack(out, 1), y)
        assert after


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * float(expected.detach().abs().max()))


def test_training_records_the_compression_of_each_branch(tmp_path: Path) -> None:
    kappas = [0.5, 0.25]
    settings: dict[str, Any] = {
        "backbone": {"name": "s5", "state_size": 4, "blocks": 1},
        "addons": {"serpent": {"compression": kappas, "window": 3}},
        "task": {"name": "sine", "length": 32, "n_train": 16, "n_validation": 16, "n_test": 16},
        "model": {"d_model": 6, "n_layers": 2},
        "train": {"epochs": 2, "batch_size": 8, "device": "cpu"},
    }
    rows = list(RunFolder(fit(settings, out=tmp_path, quiet=True)).metrics())
    for layer in range(2):
        for branch, kappa in enumerate(kappas, 1):
            name = f"stack.blocks.{layer}.mixer.compression.{branch}"
            found = [row for row in rows if row["name"] == name]
            assert [row["split"] for row in found] == ["validation"] * 2
            assert all(kappa - 1 / 32 <= row["value"] <= 1 for row in found)
