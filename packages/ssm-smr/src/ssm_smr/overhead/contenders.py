"""Who is timed: a model without SMR, the same with it, the gate alone; and the gate's check inside the model."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ssm_core import build_model
from ssm_core.plugin import registry
from ssm_smr.layer import SMR, gates
from ssm_smr.ops import smr_gate
from ssm_smr.overhead.spec import OverheadConfig


def models(config: OverheadConfig, backbone: str, length: int) -> dict[str, nn.Module]:
    """Return causal models by name: ``without`` the gate, and with it in each mode.

    Raises:
        ConfigError: If the backbone cannot be built at this size.
    """
    _, spec = registry.describe("backbone", backbone)
    has_states = any(field.name == "state_size" for field in dataclasses.fields(spec.config))
    knobs: dict[str, Any] = {
        "d_input": config.width,
        "d_model": config.width,
        "n_layers": config.layers,
        "max_length": length,
        "backbone_config": {"state_size": config.state} if has_states else {},
    }
    found: dict[str, nn.Module] = {}
    for name in ("without", *config.split("modes")):
        gate = {"addons": ["smr"], "addon_configs": [{"tau": config.tau, "mode": name}]}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="smr: a dense gate")  # its cost is what is measured
            torch.manual_seed(0)
            found[name] = build_model(backbone, **knobs, **(gate if name != "without" else {})).to(
                config.device
            )
    return found


def training_step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return a step of training on a fixed weighted sum of the outputs: forward, backward, AdamW."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    weights = torch.linspace(-1, 1, x.numel(), device=x.device).view_as(x)

    def step() -> None:
        optimiser.zero_grad()
        (model(x)[0] * weights).sum().backward()
        optimiser.step()

    return step


def gate_alone(model: nn.Module, batch: int, length: int) -> Callable[[], None]:
    """Return forward and backward of one layer's gate, at the width it has in the model."""
    smr = gates(model)[0]
    weights = [p for p in (smr.weight, smr.bias) if p is not None]
    u = torch.randn(batch, length, smr.d_model, device=smr.weight.device, requires_grad=True)
    gradient = torch.ones_like(u)

    def step() -> None:
        gated, _ = smr_gate(u, smr.weight, smr.bias, gate_scale=smr.config.scale)
        torch.autograd.grad(gated, [u, *weights], gradient)

    return step


@torch.no_grad()
def gate_error(model: nn.Module, x: Tensor) -> float:
    """Return the largest error of what any gate hands to its inner mixer while the model runs on x (B, L, D).

    The definition is computed in float64; the error is relative to its largest value.
    """
    seen: list[tuple[SMR, Tensor, Tensor]] = []
    arrived: dict[int, Tensor] = {}

    def remember(module: nn.Module, given: tuple[Any, ...]) -> None:
        arrived[id(module)] = given[0]

    hooks = []
    for smr in gates(model):
        hooks.append(smr.register_forward_pre_hook(remember))

        def compare(inner: nn.Module, given: tuple[Any, ...], smr: SMR = smr) -> None:
            seen.append((smr, arrived[id(smr)], given[0]))

        assert isinstance(smr.inner, nn.Module)
        hooks.append(smr.inner.register_forward_pre_hook(compare))
    model(x)
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(gates(model))
    return max(_error(*each) for each in seen)


def _error(smr: SMR, u: Tensor, gated: Tensor) -> float:
    bias = None if smr.bias is None else smr.bias.double()
    scale = smr.config.scale
    exact, _ = smr_gate(u.double(), smr.weight.double(), bias, gate_scale=scale, backend="reference")
    return float((gated - exact).abs().max() / exact.abs().max().clamp(min=1e-30))
