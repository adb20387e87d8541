"""Which weight of ours is which of Hugging Face's, add-ons or not."""

from __future__ import annotations

from typing import cast

from torch import nn

from ssm_core.convert.formats import Format
from ssm_core.mamba import ConvSSM
from ssm_core.model import Model
from ssm_core.plugin.errors import ConfigError

OF_GATE = ("in_proj.weight", "in_proj.bias", "out_proj.weight", "out_proj.bias", "norm.weight")
OF_CONV = {"weight": "conv1d.weight", "bias": "conv1d.bias"}


def weight_names(model: Model, form: Format) -> dict[str, str]:
    """Return our name -> theirs, for every weight that both have.

    Raises:
        ConfigError: If an add-on has made several recurrences of one.
    """
    names = {"encoder.weight": "backbone.embeddings.weight"}
    for index, block in enumerate(model.stack.blocks):
        ours, theirs = f"stack.blocks.{index}", f"backbone.layers.{index}"
        names[f"{ours}.norm.weight"] = f"{theirs}.norm.weight"
        own = set(dict(block.named_parameters()))
        conv, core = _only(block, ConvSSM.__name__), _only(block, form.recurrence)
        places = {f"mixer.{name}": name for name in OF_GATE}
        places |= {f"{conv}.{name}": theirs_name for name, theirs_name in OF_CONV.items()}
        places |= {f"{core}.{name}": name for name in form.weights}
        names |= {f"{ours}.{a}": f"{theirs}.mixer.{b}" for a, b in places.items() if a in own}
    return names | {"stack.final_norm.weight": "backbone.norm_f.weight", "decoder.weight": form.head}


def unwrapped(block: nn.Module) -> nn.Module:
    """Return the recurrence of a block that has no add-ons.

    Raises:
        ConfigError: If it has some, or no slot of that kind.
    """
    conv = getattr(getattr(block, "mixer", None), "inner", None)
    if not isinstance(conv, ConvSSM):
        what = "a block without a convolution" if conv is None else f"a block with {type(conv).__name__}"
        raise ConfigError(
            f"{what} where a convolution and a scan belong has no place in this layout",
            "it holds causal s6 and mamba2 models without add-ons",
        )
    core = cast("nn.Module", conv.ssm)
    if hasattr(core, "inner"):
        raise ConfigError(
            f"the add-on {type(core).__name__} has no place in this layout", "write the model without add-ons"
        )
    return core


def _only(block: nn.Module, kind: str) -> str:
    found = [name for name, module in block.named_modules() if type(module).__name__ == kind]
    if len(found) != 1:
        raise ConfigError(
            f"a checkpoint has one {kind} a layer, but with these add-ons there are {len(found)}",
            "choose add-ons of the slot 'ssm'",
        )
    return found[0]
