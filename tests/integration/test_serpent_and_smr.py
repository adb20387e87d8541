"""The two mechanisms together: SMR inside every branch of SeRpEnt, in the branch's own time."""

from __future__ import annotations

import pytest
import torch

from ssm_core import build_model
from ssm_core.params import gather_hints


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
    torch.testing.assert_close(padded[1:, :25], model(x[1:, :25])[0], rtol=0, atol=1e-9)
    if causal:
        first, state = model(x[:, :17])
        torch.testing.assert_close(
            torch.cat([first, model(x[:, 17:], state=state)[0]], 1), y, rtol=0, atol=1e-9
        )
        state, out = model.init_state(2), []
        for x_bd in x.unbind(1):
            step, state = model.step(x_bd, state=state)
            out.append(step)
        torch.testing.assert_close(torch.stack(out, 1), y, rtol=0, atol=1e-9)
        assert after
