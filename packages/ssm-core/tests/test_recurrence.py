"""A recurrence laid open runs to the state that the layer itself reaches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssm_core.model import build_model
from ssm_core.recurrence import LinearRecurrence, Recurrence

WIDTH, LENGTH, ROWS = 6, 9, 2
NO_GAPS = [
    ("s4", {"state_size": 4}),
    ("s4", {"state_size": 4, "start": "legt"}),
    ("dss", {"state_size": 4, "version": "exp"}),
    ("h3", {"state_size": 4, "head_dim": 2}),
    ("spade", {}),
]
GAPS = [
    ("s4d", {"state_size": 4}),
    ("s4d", {"state_size": 4, "discretization": "bilinear", "n_ssm": 2}),
    ("s5", {"state_size": 4}),
    ("s5", {"state_size": 4, "discretization": "bilinear"}),
    ("lru", {"state_size": 4}),
    ("s6", {"state_size": 4}),
    ("s6", {"state_size": 4, "eigenvalues": "complex", "discretization": "zoh"}),
    ("mamba2", {"state_size": 4, "head_dim": 3}),
    ("mega", {}),
]


def layers(backbone: str, config: dict[str, Any]) -> tuple[nn.Module, list[LinearRecurrence]]:
    torch.manual_seed(0)
    model = (
        build_model(backbone, d_input=2, d_model=WIDTH, n_layers=2, backbone_config=config).double().eval()
    )
    return model, [part for part in model.modules() if isinstance(part, LinearRecurrence)]


def calls(model: nn.Module, parts: list[Any], **given: Any) -> list[tuple[Tensor, dict[str, Any], Any]]:
    """Return input, keywords and final state of each part in a forward pass."""
    seen: list[Any] = []
    hooks = [
        part.register_forward_hook(
            lambda module, args, kwargs, out: seen.append((module, args[0], kwargs, out[1])), with_kwargs=True
        )
        for part in parts
    ]
    x = torch.randn(ROWS, LENGTH, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model(x, **given)
    for hook in hooks:
        hook.remove()
    return seen


def check(model: nn.Module, parts: list[Any], **given: Any) -> None:
    seen = calls(model, parts, **given)
    assert len(seen) == len(parts) > 0
    for module, x, kwargs, after in seen:
        with torch.no_grad():
            found = module.recurrence(x, dt_bl=kwargs.get("dt_bl"), side=kwargs.get("side"))
        last = found.wide().states()[:, -1]
        key = next(name for name in ("x", "S", "h") if name in after)
        state = after[key]
        if found.dense:
            state = torch.view_as_real(state.resolve_conj()).flatten(-2)
        torch.testing.assert_close(last, state.to(last.dtype), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("backbone", "config"), NO_GAPS + GAPS)
def test_it_runs_to_the_state_of_the_layer(backbone, config):
    check(*layers(backbone, config))


@pytest.mark.parametrize(("backbone", "config"), GAPS)
def test_it_sees_the_gaps(backbone, config):
    gaps = 0.5 + 2 * torch.rand(ROWS, LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    check(*layers(backbone, config), dt_bl=gaps)


def test_dss_with_softmax_has_none():
    _, parts = layers("dss", {"state_size": 4, "version": "softmax"})
    assert parts
    assert all(part.recurrence(torch.zeros(1, 3, WIDTH)) is None for part in parts)


def test_states_are_the_sum_over_the_past():
    a, d = torch.tensor([0.5, -2.0]), torch.tensor([[[1.0, 1.0], [0.0, 1.0], [2.0, 0.0]]])
    assert Recurrence(a, d).states().tolist() == [[[1.0, 1.0], [0.5, -1.0], [2.25, 2.0]]]
    matrix = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    assert Recurrence(matrix, d[:, :, None], dense=True).states()[0, :, 0].tolist() == [
        [1, 1],
        [1, 1],
        [3, 0],
    ]
