"""Optimiser hints: gathered from the modules that give them, grouped for an optimiser.

Hints are a method (``param_hints``), not marks on tensors: marks are lost by deepcopy, by building on the meta device
and by ``load_state_dict(assign=True)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ssm_core.norms import KINDS
from ssm_core.protocols import Hint

_NORMS = (
    *KINDS.values(),
    nn.GroupNorm,
    nn.SyncBatchNorm,
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
"""Ours, and torch's, which one's own module may hold."""


def gather_hints(model: nn.Module) -> dict[str, Hint]:
    """Return the hint of every parameter of a model, by its full name.

    A parameter nobody gives a hint for takes the run's learning rate; biases and norms get no weight decay.

    Raises:
        KeyError: If a module hints at a parameter it does not own.
    """
    hints: dict[str, Hint] = {}
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        given = _hints_of(module)
        for name in given:
            if name not in own:
                raise KeyError(
                    f"{type(module).__name__}.param_hints names '{name}', which is not its parameter"
                )
        for name, parameter in own.items():
            # torch says bias anywhere in a name: bias_ih_l0 of a GRU, bias_k of attention.
            plain = isinstance(module, _NORMS) or "bias" in name or parameter.ndim == 0
            default = Hint(weight_decay=0.0) if plain else Hint()
            hints.setdefault(f"{path}.{name}" if path else name, given.get(name, default))
    return hints


def _hints_of(module: nn.Module) -> Mapping[str, Hint]:
    give: Callable[[], Mapping[str, Hint]] | None = getattr(module, "param_hints", None)
    return {} if give is None else give()


@torch.no_grad()
def cast_model(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast a model's floating-point parameters and buffers in place, for inference in reduced precision.

    Unlike ``model.to(dtype)`` it leaves those whose hint names a wider type in that type: eigenvalues and steps rounded
    to bfloat16 are another model.

    Args:
        model: Any model.
        dtype: Such as ``torch.bfloat16``.

    Returns:
        The same model.
    """
    hints = gather_hints(model)
    for name, parameter in model.named_parameters():
        wanted = hints[name].dtype
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(
                dtype if wanted is None else torch.promote_types(dtype, wanted)
            )
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(dtype)
    return model


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate and a weight decay.

    Attributes:
        lr: Peak learning rate.
        weight_decay: Decoupled weight decay.
        names: Full names of the parameters, in the model's order.
        size: Number of scalars.
    """

    lr: float
    weight_decay: float
    names: tuple[str, ...]
    size: int


def groups(model: nn.Module, lr: float, weight_decay: float) -> list[Group]:
    """Return the optimiser groups of a model, largest learning rate first; frozen parameters are left out."""
    hints = gather_hints(model)
    members: dict[tuple[float, float], list[str]] = {}
    sizes: dict[tuple[float, float], int] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        hint = hints[name]
        decay = weight_decay if hint.weight_decay is None else hint.weight_decay
        key = (lr * hint.lr_scale, decay)
        members.setdefault(key, []).append(name)
        sizes[key] = sizes.get(key, 0) + parameter.numel()
    return [Group(*key, tuple(members[key]), sizes[key]) for key in sorted(members, reverse=True)]
