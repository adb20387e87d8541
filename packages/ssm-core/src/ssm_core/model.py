"""A whole model: encoder, stack of blocks, head; and building one from names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssm_core.compose import Addon, Slots, check_used
from ssm_core.plugin import registry
from ssm_core.plugin.config import check
from ssm_core.plugin.errors import ConfigError
from ssm_core.plugin.spec import AddonSpec, BackboneSpec
from ssm_core.protocols import LayerInfo, Needs, State, Task
from ssm_core.run.config import Choice, ModelConfig, RunConfig
from ssm_core.stack import Stack


class SequenceModel(nn.Module):
    """What a task trains: its encoder, the stack, its head.

    Args:
        encoder: Called with the batch; returns (B, L, D).
        stack: The blocks.
        head: Called with features (B, L, D) and the batch.
        task: Runs the three; :meth:`ssm_core.protocols.Task.run`.
    """

    def __init__(self, encoder: nn.Module, stack: Stack, head: nn.Module, task: Task) -> None:
        super().__init__()
        self.encoder = encoder
        self.stack = stack
        self.head = head
        self.task = task

    def forward(self, batch: Any, state: State | None = None) -> Any:
        """Return the task's :class:`ssm_core.protocols.Output` for a batch."""
        return self.task.run(self, batch, state)


class Model(nn.Module):
    """A stack with a plain encoder and decoder, for use without a task; made by :func:`build_model`.

    Args:
        encoder: Linear map or embedding to width D.
        stack: The blocks.
        decoder: Linear map to the outputs, or identity.
    """

    def __init__(self, encoder: nn.Module, stack: Stack, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.stack = stack
        self.decoder = decoder

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return the state before the first element."""
        return self.stack.init_state(batch_size, device=device, dtype=dtype)

    def forward(
        self,
        x: Tensor,
        *,
        dt_bl: Tensor | None = None,
        mask_bl: Tensor | None = None,
        reset_bl: Tensor | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State]:
        """Map x, float (B, L, d_input) or int (B, L), to (B, L, d_output) and the state after it."""
        features, state = self.stack(
            self.encoder(x), dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl, state=state
        )
        return self.decoder(features), state

    def step(self, x: Tensor, *, dt_b: Tensor | None = None, state: State) -> tuple[Tensor, State]:
        """Map one element, float (B, d_input) or int (B,), to (B, d_output) and the state after it.

        Raises:
            ConfigError: If some layer cannot stream.
        """
        if not self.stack.streaming:
            way_out = self.stack.way_out or "build it with causal=True, and of layers that can step"
            raise ConfigError("this model cannot step, for one of its layers cannot", way_out)
        features, state = self.stack.step(self.encoder(x), dt_b=dt_b, state=state)
        return self.decoder(features), state


def build_stack(
    backbone: Choice, addons: Sequence[Choice], model: ModelConfig, needs: Needs, max_length: int | None
) -> Stack:
    """Build the blocks with the add-ons in their slots, after checking that they can do what is asked.

    Raises:
        ConfigError: If backbone or add-ons cannot honour ``needs``.
        PluginError: If a plugin cannot be built.
    """
    check_capabilities(backbone, model, needs, max_length)
    spec, build = registry.builder("backbone", backbone.name)
    assert isinstance(spec, BackboneSpec)
    ready = [_ready(choice) for choice in addons]
    blocks, slots = [], []
    for index in range(model.n_layers):
        layer = LayerInfo(
            index=index,
            n_layers=model.n_layers,
            d_model=model.d_model,
            causal=model.causal,
            max_length=max_length,
            dropout=model.dropout,
            norm=model.norm,
            prenorm=model.prenorm,
            tie_dropout=model.tie_dropout,
        )
        slot = Slots(ready, layer)
        try:
            blocks.append(build(backbone.config, layer, slot))
        except ValueError as error:  # widths that do not divide, a length that is missing
            raise ConfigError(f"layer {index} of {backbone.name} cannot be built: {error}") from error
        slots.append(slot)
    check_used(ready, slots, backbone.name)
    stack = Stack(blocks, model.d_model, model.norm if model.prenorm else "none")
    if stack.wants_dt and not stack.takes_dt:
        raise ConfigError(
            f"an add-on reads the gaps between elements, and {backbone.short} takes none", stack.wants_dt
        )
    for wanted, able, what in (
        (needs.causal, stack.causal, "look back only"),
        (needs.step, stack.streaming, "run step by step"),
        (needs.dt, stack.takes_dt, "take gaps between elements"),
        (
            needs.carry_state,
            stack.stateful and spec.capabilities.state,
            "carry its state from batch to batch",
        ),
    ):
        if wanted and not able:
            names = "+".join(choice.short for choice in (backbone, *addons))
            raise ConfigError(
                f"the task needs a model that can {what}, and {names} cannot",
                stack.way_out or "drop an add-on, or set another view of the task",
            )
    return stack


def _ready(choice: Choice) -> Addon:
    spec, build = registry.builder("addon", choice.name)
    assert isinstance(spec, AddonSpec)
    layers = getattr(choice.config, "layers", "*")
    return Addon(choice.name, spec.slot, build(choice.config), layers)


def check_capabilities(backbone: Choice, model: ModelConfig, needs: Needs, max_length: int | None) -> None:
    """Check what a backbone says of itself against what is asked of it; builds nothing.

    Raises:
        ConfigError: If it cannot do it; the hint names the knob that helps.
    """
    _, spec = registry.describe("backbone", backbone.name)
    assert isinstance(spec, BackboneSpec)
    can = spec.capabilities
    if model.causal and not can.causal:
        raise ConfigError(f"{spec.name} has no causal form", "--set model.causal=false")
    if not model.causal and not can.bidirectional:
        raise ConfigError(f"{spec.name} has no bidirectional form", "--set model.causal=true")
    if needs.causal and not model.causal:
        raise ConfigError("the task needs a causal model", "--set model.causal=true")
    if needs.dt and not can.dt:
        raise ConfigError(
            f"{spec.name} takes no gaps between elements", "--set task.time=ignored or appended"
        )
    if needs.carry_state and not can.state:
        raise ConfigError(
            f"{spec.name} carries no state from batch to batch", "another backbone, or another task.sampling"
        )
    if can.max_length is not None and (max_length or 0) > can.max_length:
        raise ConfigError(f"{spec.name} takes sequences up to {can.max_length}, the task has {max_length}")


def build_for_task(config: RunConfig, task: Task) -> SequenceModel:
    """Build the model of a run: the task's encoder and head round the stack.

    Modules are drawn in this order: encoder, stack, head.
    """
    if config.backbone is None:
        raise ConfigError("the run names no backbone", "add --backbone NAME")
    encoder = task.encoder(config.model.d_model)
    stack = build_stack(config.backbone, config.addons, config.model, task.needs, task.max_length)
    if stack.wants_dt and not task.needs.dt:
        raise ConfigError(
            "an add-on reads the gaps between elements, and the task gives none", stack.wants_dt
        )
    return SequenceModel(encoder, stack, task.head(config.model.d_model), task)


def build_model(
    backbone: str = "s5",
    addons: Sequence[str] = (),
    *,
    d_input: int | None = None,
    vocab: int | None = None,
    d_output: int | None = None,
    d_model: int = 64,
    n_layers: int = 4,
    causal: bool = True,
    max_length: int | None = None,
    model_config: Mapping[str, Any] | None = None,
    backbone_config: Mapping[str, Any] | None = None,
    addon_configs: Sequence[Mapping[str, Any]] | None = None,
    decoder_bias: bool = True,
) -> Model:
    """Build a model from names.

    Args:
        backbone: Registered backbone.
        addons: Registered add-ons, innermost first.
        d_input: Width of float inputs (B, L, d_input); give this or ``vocab``.
        vocab: Number of token ids of integer inputs (B, L).
        d_output: Width of the outputs; None returns the features (B, L, d_model).
        d_model: Width of the residual stream.
        n_layers: Number of blocks.
        causal: Outputs depend on the past only; what looks ahead is refused.
        max_length: Longest sequence to expect.
        model_config: Further knobs of :class:`ssm_core.run.config.ModelConfig`: dropout, norm, prenorm, ...
        backbone_config: Knobs of the backbone.
        addon_configs: Knobs of each add-on, in their order.
        decoder_bias: Whether the map to the outputs has a bias; published language models have none.

    Raises:
        ConfigError: For unknown knobs, wrong values or combinations that cannot work.
        PluginError: For unknown or broken plugins.
    """
    if (d_input is None) == (vocab is None):
        raise ConfigError("give either d_input (float inputs) or vocab (token ids)")
    knobs = {"d_model": d_model, "n_layers": n_layers, "causal": causal, **(model_config or {})}
    model = check(ModelConfig, knobs, "model_config", "the model")
    configs = [{} for _ in addons] if addon_configs is None else list(addon_configs)
    if len(configs) != len(addons):
        raise ConfigError(f"{len(addons)} add-ons, but {len(configs)} addon_configs")
    main = Choice.of("backbone", backbone, backbone_config or {}, "backbone_config")
    extra = [
        Choice.of("addon", name, values, f"addon_configs[{i}]")
        for i, (name, values) in enumerate(zip(addons, configs, strict=True))
    ]
    width = model.d_model
    encoder = nn.Embedding(vocab, width) if vocab is not None else nn.Linear(cast("int", d_input), width)
    stack = build_stack(main, extra, model, Needs(causal=model.causal), max_length)
    decoder = nn.Identity() if d_output is None else nn.Linear(width, d_output, bias=decoder_bias)
    return Model(encoder, stack, decoder)
