"""AdamW over the groups that parameters ask for, and its state as named tensors."""

from __future__ import annotations

import torch
from rich.table import Table
from torch import Tensor, nn

from ssm_core.params import Group, groups
from ssm_core.plugin.errors import UserError
from ssm_core.run.config import OptimConfig


class NamedAdamW:
    """AdamW whose groups and state are known by parameter name.

    Args:
        model: The model; its hints make the groups.
        config: Peak rate, decay, moments.
    """

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        self.groups: list[Group] = groups(model, config.lr, config.weight_decay)
        if not self.groups:
            raise UserError("the model has no parameter to train")
        self.parameters = dict(model.named_parameters())
        self.adamw = torch.optim.AdamW(
            [
                {"params": [self.parameters[n] for n in g.names], "lr": g.lr, "weight_decay": g.weight_decay}
                for g in self.groups
            ],
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=all(_fusible(p) for p in self.parameters.values()),
        )

    def set_factor(self, factor: float) -> None:
        """Set every group's rate to its peak times a factor."""
        for group, own in zip(self.adamw.param_groups, self.groups, strict=True):
            group["lr"] = own.lr * factor

    def tensors(self) -> dict[str, Tensor]:
        """Return the moments and step counts, as ``exp_avg/<parameter>`` and so on."""
        found = {}
        for name, parameter in self.parameters.items():
            for key, value in self.adamw.state.get(parameter, {}).items():
                found[f"{key}/{name}"] = value.detach().cpu().contiguous()
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what :meth:`tensors` gave.

        Raises:
            UserError: If they are of another model.
        """
        states: dict[str, dict[str, Tensor]] = {}
        for full, value in tensors.items():
            key, _, name = full.partition("/")
            parameter = self.parameters.get(name)
            if parameter is None or (key != "step" and parameter.shape != value.shape):
                raise UserError(f"the optimiser state of '{name}' does not fit the model")
            states.setdefault(name, {})[key] = value if key == "step" else value.to(parameter.device)
        for name, state in states.items():
            if "step" in state:
                # The fused kernel keeps its counter where the parameter is.
                state["step"] = state["step"].to(self.parameters[name].device)
            self.adamw.state[self.parameters[name]] = state


def _fusible(parameter: Tensor) -> bool:
    """Say whether the fused kernel knows a parameter's device and type."""
    return parameter.device.type in ("cpu", "cuda") and not parameter.is_complex()


def groups_table(model: nn.Module, config: OptimConfig) -> Table:
    """Return the optimiser groups as a table: rate, decay, size, and which parameters."""
    table = Table(title="optimiser groups", title_justify="left", box=None, pad_edge=False)
    for column in ("peak lr", "weight decay", "scalars"):
        table.add_column(column, justify="right")
    table.add_column("parameters")
    for group in groups(model, config.lr, config.weight_decay):
        leaves = sorted({name.rpartition(".")[2] for name in group.names})
        table.add_row(f"{group.lr:g}", f"{group.weight_decay:g}", f"{group.size:,}", ", ".join(leaves))
    return table


def parameter_count(model: nn.Module) -> int:
    """Return the number of scalars in a model's parameters."""
    return sum(p.numel() for p in model.parameters())
