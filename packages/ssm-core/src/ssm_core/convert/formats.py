"""The settings of Hugging Face's Mamba and Mamba-2 beside the knobs of ours, and what they cannot say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ssm_core.plugin.errors import ConfigError

Settings = Mapping[str, Any]

_SHARED = {
    "layer_norm_epsilon": 1e-5,
    "expand": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "hidden_act": "silu",
    "time_step_min": 0.001,
    "time_step_max": 0.1,
    "time_step_floor": 1e-4,
    "rescale_prenorm_residual": False,
}
"""Settings of both kinds and their defaults there: configurations are stored without what is left at its default."""

_MAMBA = {
    **_SHARED,
    "vocab_size": 50280,
    "hidden_size": 768,
    "state_size": 16,
    "num_hidden_layers": 32,
    "time_step_rank": "auto",
    "time_step_scale": 1.0,
    "time_step_init_scheme": "random",
    "tie_word_embeddings": True,
}

_MAMBA2 = {
    **_SHARED,
    "vocab_size": 32768,
    "hidden_size": 4096,
    "state_size": 128,
    "num_hidden_layers": 64,
    "num_heads": 128,
    "head_dim": 64,
    "n_groups": 8,
    "chunk_size": 256,
    "time_step_limit": (0.0, math.inf),
    "tie_word_embeddings": False,
}

_FIXED = {"layer_norm_epsilon": 1e-5, "hidden_act": "silu"}
"""Settings that have one value here."""

_KNOBS = {
    "expand": "expand",
    "state_size": "state_size",
    "conv_width": "conv_kernel",
    "bias": "use_bias",
    "conv_bias": "use_conv_bias",
    "dt_min": "time_step_min",
    "dt_max": "time_step_max",
    "dt_floor": "time_step_floor",
    "rescale_out": "rescale_prenorm_residual",
}
"""Our knob -> their setting, where both mean the same in both kinds."""


@dataclass(frozen=True)
class Format:
    """One kind of checkpoint.

    Attributes:
        name: Its ``model_type``.
        architecture: The class that reads it there.
        backbone: Our backbone.
        recurrence: Name of its class in slot ``ssm``.
        weights: The weights of that class, called the same there.
        defaults: Settings that a ``config.json`` may leave out.
        knobs: From their settings to our backbone's knobs.
        settings: From our recurrence to their settings.
        head: Name of the weight that gives the logits.
    """

    name: str
    architecture: str
    backbone: str
    recurrence: str
    weights: tuple[str, ...]
    defaults: Settings
    knobs: Callable[[Settings], dict[str, Any]]
    settings: Callable[[Any], dict[str, Any]]
    head: str = "lm_head.weight"

    def check(self, settings: Settings, where: str) -> None:
        """Check what has one value here, and what has to agree.

        Raises:
            ConfigError: Naming the setting.
        """
        for name, only in _FIXED.items():
            if settings[name] != only:
                raise ConfigError(
                    f"{where}: {name} is {settings[name]!r}, and {self.backbone} has {only!r} only"
                )
        if self.name == "mamba2":
            inner, heads = settings["expand"] * settings["hidden_size"], settings["num_heads"]
            if inner != heads * settings["head_dim"]:
                raise ConfigError(
                    f"{where}: expand * hidden_size = {inner}, but num_heads * head_dim = "
                    f"{heads * settings['head_dim']}",
                    "they have to be equal",
                )


def _mamba_knobs(settings: Settings) -> dict[str, Any]:
    rank = settings["time_step_rank"]
    usual = rank == "auto" or rank == math.ceil(settings["hidden_size"] / 16)
    return {
        **{ours: settings[theirs] for ours, theirs in _KNOBS.items()},
        "dt_rank": "auto" if usual else rank,
        "dt_scale": settings["time_step_scale"],
        "dt_init": settings["time_step_init_scheme"],
    }


def _mamba_settings(core: Any) -> dict[str, Any]:
    config = core.config
    _must_be(config, eigenvalues="real", discretization="euler")
    return {
        **_shared_settings(core),
        "time_step_rank": core.rank,
        "time_step_scale": config.dt_scale,
        "time_step_init_scheme": config.dt_init,
    }


def _mamba2_knobs(settings: Settings) -> dict[str, Any]:
    low, high = (_number(value) for value in settings["time_step_limit"])
    return {
        **{ours: settings[theirs] for ours, theirs in _KNOBS.items()},
        "head_dim": settings["head_dim"],
        "groups": settings["n_groups"],
        "chunk_size": settings["chunk_size"],
        "dt_low": low,
        "dt_high": None if math.isinf(high) else high,
    }


def _mamba2_settings(core: Any) -> dict[str, Any]:
    config = core.config
    _must_be(config, gated_norm=True)
    high = math.inf if config.dt_high is None else config.dt_high
    limits = (config.dt_low, high)
    return {
        **_shared_settings(core),
        "num_heads": core.heads,
        "head_dim": config.head_dim,
        "n_groups": config.groups,
        "chunk_size": config.chunk_size,
        # JSON knows no infinity: no limit is said by leaving the setting out.
        **({} if limits == (0.0, math.inf) else {"time_step_limit": [limits[0], _finite(high)]}),
    }


def _shared_settings(core: Any) -> dict[str, Any]:
    return {
        **{name: _SHARED[name] for name in _FIXED},
        **{theirs: getattr(core.config, ours) for ours, theirs in _KNOBS.items()},
        # It is about the start, which is past; with it `transformers` 5.23 divides the weights that it has loaded.
        "rescale_prenorm_residual": False,
    }


def _must_be(config: Any, **wanted: Any) -> None:
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise ConfigError(
                f"this layout has no word for {name} = {getattr(config, name)!r}", f"it takes {value!r} only"
            )


def _number(value: Any) -> float:
    """A number as their writer puts it: infinity in words, or in a table of its own."""
    return float(value["__float__"] if isinstance(value, Mapping) else value)


def _finite(value: float) -> float:
    return 3.4e38 if math.isinf(value) else value


FORMATS = {
    form.name: form
    for form in (
        Format(
            name="mamba",
            architecture="MambaForCausalLM",
            backbone="s6",
            recurrence="S6",
            weights=("A_log", "D", "x_proj.weight", "dt_proj.weight", "dt_proj.bias"),
            defaults=_MAMBA,
            knobs=_mamba_knobs,
            settings=_mamba_settings,
        ),
        Format(
            name="mamba2",
            architecture="Mamba2ForCausalLM",
            backbone="mamba2",
            recurrence="SSD",
            weights=("A_log", "D", "dt_bias"),
            defaults=_MAMBA2,
            knobs=_mamba2_knobs,
            settings=_mamba2_settings,
        ),
    )
}
