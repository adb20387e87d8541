"""The run configuration: everything a run is made of, resolved and checked before torch is imported."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ssm_core.plugin import registry
from ssm_core.plugin.config import Tree, check, config, merge, plain, table, to_toml
from ssm_core.plugin.errors import ConfigError, did_you_mean

SCHEMA = 1
"""Number of the configuration's form, stored with each run."""


@config
class ModelConfig:
    """The stack that every backbone is put into.

    Attributes:
        d_model: Width of the residual stream.
        n_layers: Number of blocks.
        causal: Whether outputs may depend on the past only.
        dropout: Dropout rate after each mixer.
        tie_dropout: Share the dropout mask over time.
        norm: Normalisation of each block.
        prenorm: Norm before the mixer (true) or after the skip connection (false).
    """

    d_model: int = 64
    n_layers: int = 4
    causal: bool = True
    dropout: float = 0.0
    tie_dropout: bool = False
    norm: Literal["layer", "rms", "batch", "scale", "none"] = "layer"
    prenorm: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("d_model", "n_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout must be in [0, 1)")


@config
class OptimConfig:
    """AdamW with warm-up, and then a decay; parameters scale their own rate by their hints.

    Attributes:
        lr: Peak learning rate of ordinary parameters.
        weight_decay: Decoupled weight decay of ordinary weights; biases, norms and those whose hint says so have
            none.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Term added to the denominator.
        schedule: Decay after warm-up: half a cosine, or a straight line, from the peak to lr_min at the run's end; no
            decay; or "plateau", a factor each time that the primary metric on the validation split stops improving.
        warmup_epochs: Linear warm-up, in epochs (a fraction is fine).
        lr_min: Learning rate at the end of cosine and line, and the least that plateau goes to, as a fraction of the
            peak.
        plateau_factor: Factor of schedule = plateau.
        plateau_patience: Epochs without a better validation metric after which the factor is applied, and as many
            again for the next time.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    schedule: Literal["cosine", "linear", "constant", "plateau"] = "cosine"
    warmup_epochs: float = 1.0
    lr_min: float = 0.0
    plateau_factor: float = 0.5
    plateau_patience: int = 5

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.lr <= 0:
            raise ValueError("lr must be above 0")
        for name in ("weight_decay", "warmup_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1)")
        if not 0 <= self.lr_min <= 1:
            raise ValueError("lr_min is a fraction of lr: it has to lie in [0, 1]")
        if not 0 < self.plateau_factor < 1:
            raise ValueError("plateau_factor has to lie between 0 and 1")
        if self.plateau_patience < 1:
            raise ValueError("plateau_patience has to be at least 1")


@config
class TrainConfig:
    """The loop.

    Attributes:
        epochs: Passes over the training split; ignored if steps is given.
        steps: Optimiser steps, instead of epochs.
        batch_size: Rows per optimiser step, over all processes and accumulation.
        eval_batch_size: Rows per evaluation batch.
        drop_last: Leave out the last, smaller batch of an epoch.
        bucket: Batches whose rows are sorted by length among themselves before they are cut into batches, so that
            there is less padding; 0 takes rows as they come. Batches come in random order either way.
        accumulate: Number of slices a batch is worked through in.
        clip_norm: Largest norm of the whole gradient; 0 is no clipping.
        precision: Arithmetic outside float32 islands.
        device: Device to run on; auto takes a GPU if there is one.
        threads: CPU threads; 0 takes all cores.
        workers: Processes that read and collate batches ahead; 0 reads them in the training process.
        eval_every: Epochs between evaluations on the validation split.
        patience: Epochs without a better validation metric after which the run stops early; 0 never does.
        checkpoint_every: Steps between checkpoints; 0 saves after each evaluation.
        keep: Number of latest checkpoints kept beside the best one.
        deterministic: Refuse operations that do not repeat bit for bit.
        tracker: Mirror of the metrics.
    """

    epochs: int = 10
    steps: int | None = None
    batch_size: int = 32
    eval_batch_size: int = 50
    drop_last: bool = True
    bucket: int = 0
    accumulate: int = 1
    clip_norm: float = 0.0
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    workers: int = 0
    eval_every: int = 1
    patience: int = 0
    checkpoint_every: int = 0
    keep: int = 2
    deterministic: bool = True
    tracker: Literal["none", "tensorboard"] = "none"

    def __post_init__(self) -> None:
        """Check the ranges."""
        counts = ("epochs", "batch_size", "eval_batch_size", "accumulate", "eval_every", "keep")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.steps is not None and self.steps < 1:
            raise ValueError("steps must be at least 1")
        for name in ("clip_norm", "threads", "workers", "bucket", "patience", "checkpoint_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.batch_size % self.accumulate:
            raise ValueError("accumulate must divide batch_size")


SECTIONS: dict[str, type] = {"model": ModelConfig, "optim": OptimConfig, "train": TrainConfig}
"""Section of the file -> its class; the plugins' sections take their class from the plugin."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """A plugin by its long name, with the config it is to be built with.

    Attributes:
        kind: ``backbone``, ``addon`` or ``task``.
        name: ``distribution/name``.
        version: The distribution's version when the run was made.
        config: Its checked config.
    """

    kind: str
    name: str
    version: str
    config: Any

    @property
    def short(self) -> str:
        """The name without its distribution."""
        return self.name.rpartition("/")[2]

    @classmethod
    def of(cls, kind: str, name: str, values: Mapping[str, Any], where: str) -> Choice:
        """Resolve a name and check its knobs."""
        entry, _ = registry.describe(kind, name)
        checked = registry.configure(kind, name, values, where)
        return cls(kind=kind, name=entry.long_name, version=entry.version, config=checked)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A resolved run.

    Attributes:
        backbone: The sequence mixer.
        addons: What goes round its slots, innermost first.
        task: The problem; None for a model or task given as an object.
        model: The stack.
        optim: Optimiser and schedule.
        train: The loop.
        seed: Seeds initialisation, order of batches and dropout.
        recipe: Recipe it was begun from, for the record.
    """

    backbone: Choice | None
    addons: tuple[Choice, ...] = ()
    task: Choice | None = None
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    seed: int = 0
    recipe: str = ""

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> RunConfig:
        """Resolve and check a merged tree of plain values.

        Args:
            tree: ``{"backbone": {"name": ..., knobs}, "addons": {NAME: {knobs}}, "task": {"name": ..., knobs},
                "model": {...}, "optim": {...}, "train": {...}, "seed": 0, "recipe": ""}``.

        Raises:
            ConfigError: For unknown sections or knobs, and wrong values.
            PluginError: For plugins that cannot be described.
        """
        known = {"schema", "plugins", "seed", "recipe", "backbone", "addons", "task", *SECTIONS}
        for key in tree:
            if key not in known:
                raise ConfigError(f"there is no section '{key}'", did_you_mean(key, known))
        if tree.get("schema", SCHEMA) != SCHEMA:
            raise ConfigError(f"configuration schema {tree['schema']} is not {SCHEMA}", "upgrade ssm-core")
        seed = tree.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ConfigError(f"'seed' must be an integer of at least 0 (given: {seed!r})")
        addons = _table(tree, "addons")
        sections = {key: check(kind, _table(tree, key), key, "the run") for key, kind in SECTIONS.items()}
        return cls(
            backbone=_choice(tree, "backbone"),
            addons=tuple(Choice.of("addon", name, _table(addons, name), f"addons.{name}") for name in addons),
            task=_choice(tree, "task"),
            seed=seed,
            recipe=str(tree.get("recipe", "")),
            **sections,
        )

    def to_tree(self) -> Tree:
        """Return the configuration as plain data, the form of ``config.json``."""
        tree: Tree = {"schema": SCHEMA, "recipe": self.recipe, "seed": self.seed}
        for key in ("backbone", "task"):
            choice = getattr(self, key)
            if choice is not None:
                tree[key] = {"name": choice.name, **plain(choice.config)}
        tree["addons"] = {choice.name: plain(choice.config) for choice in self.addons}
        for key in SECTIONS:
            tree[key] = plain(getattr(self, key))
        tree["plugins"] = {c.name: c.version for c in self.choices()}
        return tree

    def choices(self) -> list[Choice]:
        """Return every plugin of the run."""
        return [c for c in (self.backbone, *self.addons, self.task) if c is not None]

    def to_toml(self) -> str:
        """Print every knob with its value and documentation, in a form that ``--config`` reads back."""
        tree = self.to_tree()
        # The schema's number says that nothing is missing: no recipe is to be laid under what is read back.
        parts = [f"schema = {SCHEMA}\nrecipe = {to_toml(self.recipe)}\nseed = {self.seed}\n"]
        for key in ("backbone", "task"):
            choice = getattr(self, key)
            if choice is not None:
                body = table(type(choice.config), tree[key], "")
                parts.append(f'[{key}]\nname = "{choice.name}"\n{body}')
        for choice in self.addons:
            parts.append(table(type(choice.config), tree["addons"][choice.name], f'addons."{choice.name}"'))
        parts += [table(kind, tree[key], key) for key, kind in SECTIONS.items()]
        return "\n".join(parts)

    def label(self) -> str:
        """Return ``backbone+addon+addon``."""
        names = [self.backbone, *self.addons] if self.backbone else []
        return "+".join(choice.short for choice in names) or "own-model"

    def fingerprint(self) -> str:
        """Return six hex digits of the resolved configuration's hash."""
        text = json.dumps(self.to_tree(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:6]


def _table(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key, {})
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"'{key}' is a table of settings, not {value!r}", f"write [{key}] or --set {key}.KNOB=..."
        )
    return value


def _choice(tree: Mapping[str, Any], kind: str) -> Choice | None:
    values = dict(_table(tree, kind))
    name = values.pop("name", None)
    if name is None:
        if values:
            raise ConfigError(f"settings for a {kind} are given, but no {kind}", f"add --{kind} NAME")
        return None
    return Choice.of(kind, str(name), values, kind)


def layered(
    *trees: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, addons: Sequence[str] | None = None
) -> Tree:
    """Lay trees over each other, the later the stronger, fix the list of add-ons, and apply ``--set``.

    Args:
        trees: Recipe, files and flags, weakest first. They may call a plugin by its short or its long name.
        overrides: What ``--set`` gives; it may set knobs only of add-ons that are chosen.
        addons: Names from the command line, innermost first; None keeps those of the trees.

    Raises:
        ConfigError: If an add-on is named twice, or settings are given for one that is not chosen.
    """
    merged: Tree = {}
    for tree in trees:
        merged = _lay(merged, tree)
    if addons is not None:
        if len({_short(name) for name in addons}) != len(addons):
            raise ConfigError(f"an add-on is named twice: {', '.join(addons)}")
        held = {_short(name): values for name, values in merged.get("addons", {}).items()}
        merged["addons"] = {name: held.get(_short(name), {}) for name in addons}
    chosen = {_short(name) for name in merged.get("addons", {})}
    for name in _table(overrides or {}, "addons"):
        if _short(name) not in chosen:
            raise ConfigError(
                f"settings for the add-on '{name}' are given, but it is not chosen", f"add --addon {name}"
            )
    return _lay(merged, overrides or {})


def _short(name: str) -> str:
    return str(name).rpartition("/")[2]


def _lay(base: Tree, over: Mapping[str, Any]) -> Tree:
    """Merge two trees.

    A section whose plugin changes starts anew, since its settings were the other plugin's; and a length in epochs laid
    over one in steps replaces it, which merging alone would not do.
    """
    base, over = dict(base), dict(over)
    for kind in ("backbone", "task"):
        old, new = base.get(kind, {}), over.get(kind, {})
        if (
            "name" in old
            and isinstance(new, Mapping)
            and _short(new.get("name", old["name"])) != _short(old["name"])
        ):
            del base[kind]
    length, held = over.get("train", {}), base.get("train", {})
    if isinstance(length, Mapping) and "epochs" in length and "steps" not in length and "steps" in held:
        base["train"] = {**held, "steps": None}
    if isinstance(over.get("addons"), Mapping):
        held = {_short(name): name for name in base.get("addons", {})}
        over["addons"] = {held.get(_short(name), name): values for name, values in over["addons"].items()}
    return merge(base, over)
