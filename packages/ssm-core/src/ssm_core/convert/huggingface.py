"""Mamba and Mamba-2 checkpoints in the layout of Hugging Face: ``config.json`` beside ``model.safetensors``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssm_core.convert.formats import FORMATS, Format
from ssm_core.convert.names import unwrapped, weight_names
from ssm_core.model import Model, build_model
from ssm_core.params import cast_model
from ssm_core.plugin.errors import ConfigError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def from_huggingface(
    folder: str | Path,
    addons: Sequence[str] = (),
    *,
    addon_configs: Sequence[Mapping[str, Any]] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Model:
    """Read a Mamba or Mamba-2 language model from a folder; nothing is fetched.

    Args:
        folder: Holds ``config.json`` and ``model.safetensors``, or its shards and ``model.safetensors.index.json``.
        addons: Add-ons to put round the recurrences, innermost first; their weights keep their start.
        addon_configs: Knobs of each add-on, in their order.
        dtype: Type of the weights; those that have to stay in float32 stay in it.

    Returns:
        A model from token ids (B, L) to logits (B, L, vocabulary).

    Raises:
        ConfigError: If a file is missing or cannot be read, the kind of model is unknown, or weights do not fit.
    """
    folder = Path(folder)
    settings = _read_json(folder / CONFIG)
    kind = settings.get("model_type")
    if kind not in FORMATS:
        raise ConfigError(
            f"{folder / CONFIG} describes a model of type {kind!r}", f"can be read: {', '.join(FORMATS)}"
        )
    form = FORMATS[kind]
    found = {**form.defaults, **settings}
    form.check(found, str(folder / CONFIG))
    model = build_model(
        form.backbone,
        addons,
        vocab=found["vocab_size"],
        d_model=found["hidden_size"],
        n_layers=found["num_hidden_layers"],
        model_config={"norm": "rms"},
        backbone_config=form.knobs(found),
        addon_configs=addon_configs,
    )
    model.decoder = nn.Linear(found["hidden_size"], found["vocab_size"], bias=False)
    tied = bool(found["tie_word_embeddings"])
    _fill(model, form, _read_weights(folder), tied, str(folder))
    if tied:
        model.decoder.weight = cast("nn.Embedding", model.encoder).weight
    return cast("Model", cast_model(model, dtype))


def to_huggingface(model: Model, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
    """Write a Mamba or Mamba-2 language model in Hugging Face's layout.

    Args:
        model: As :func:`from_huggingface` returns it, or built by :func:`ssm_core.build_model` with a vocabulary, RMS
            norms, logits for all tokens and ``decoder_bias=False``. It has to be plain: the layout has no room for
            add-ons.
        folder: Where to write ``config.json`` and ``model.safetensors``; made if it is not there.
        dtype: Type of the stored weights; None keeps each as it is.

    Returns:
        The folder.

    Raises:
        ConfigError: If the layout cannot hold the model, or the folder holds one already.
    """
    folder = Path(folder)
    form, settings = _describe(model)
    if (folder / CONFIG).exists():
        raise ConfigError(f"{folder} already holds a {CONFIG}", "choose another folder")
    tied = settings["tie_word_embeddings"]
    own, weights = model.state_dict(), {}
    for ours, theirs in weight_names(model, form).items():
        if theirs == form.head and tied:
            continue
        value = own[ours].detach().cpu()
        value = value[:, None] if theirs.endswith("conv1d.weight") else value
        weights[theirs] = value.to(dtype or value.dtype).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    kept = weights["backbone.norm_f.weight"].dtype
    settings = {**settings, "dtype": str(kept).removeprefix("torch.")}
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return folder


def _fill(model: Model, form: Format, weights: dict[str, Tensor], tied: bool, where: str) -> None:
    """Copy a checkpoint's weights into a model, each of them and no other."""
    own = model.state_dict()
    for ours, theirs in weight_names(model, form).items():
        if theirs == form.head and tied:
            weights.pop(theirs, None)
            continue
        if theirs not in weights:
            raise ConfigError(
                f"{where} has no weight '{theirs}'", "the checkpoint is incomplete, or not of its type"
            )
        value = weights.pop(theirs)
        value = value.squeeze(1) if theirs.endswith("conv1d.weight") and value.ndim == 3 else value
        if value.shape != own[ours].shape:
            raise ConfigError(
                f"'{theirs}' in {where} has shape {tuple(value.shape)}, but {CONFIG} asks for {tuple(own[ours].shape)}",
                f"{CONFIG} and the weights belong to different models",
            )
        own[ours].copy_(value)
    if weights:
        more = ", ".join(sorted(weights)[:5])
        raise ConfigError(
            f"{where} has weights that a {form.backbone} language model does not have: {more}",
            "it is another model than its model_type says",
        )


def _describe(model: Model) -> tuple[Format, dict[str, Any]]:
    """Return the format and the settings of a model that is to be written.

    Raises:
        ConfigError: If the format cannot say what the model is.
    """
    cores = [unwrapped(block) for block in model.stack.blocks]
    form = next(
        (f for f in FORMATS.values() if all(type(core).__name__ == f.recurrence for core in cores)), None
    )
    if form is None:
        kinds = sorted({type(core).__name__ for core in cores})
        raise ConfigError(
            f"blocks of {', '.join(kinds)} have no place in this layout", f"it holds {', '.join(FORMATS)}"
        )
    encoder, decoder = model.encoder, model.decoder
    if not isinstance(encoder, nn.Embedding):
        raise ConfigError("the layout holds language models", "build the model with vocab=...")
    if not isinstance(decoder, nn.Linear) or decoder.out_features != encoder.num_embeddings:
        raise ConfigError(
            "the layout wants one logit for each token", "build the model with d_output equal to vocab"
        )
    if decoder.bias is not None and bool(decoder.bias.any()):
        raise ConfigError(
            "the layout has no room for a bias of the logits", "build the model with decoder_bias=False"
        )
    for module in (model.stack.final_norm, *(block.norm for block in model.stack.blocks)):
        if not isinstance(module, nn.RMSNorm) or module.eps != form.defaults["layer_norm_epsilon"]:
            raise ConfigError(
                "the layout wants RMS norms first in each block", "model_config={'norm': 'rms'}"
            )
    return form, {
        "model_type": form.name,
        "architectures": [form.architecture],
        "vocab_size": encoder.num_embeddings,
        "hidden_size": model.stack.d_model,
        "num_hidden_layers": len(model.stack.blocks),
        "tie_word_embeddings": decoder.weight is encoder.weight,
        **form.settings(cores[0]),
    }


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint by name, in one file or in shards."""
    files = [WEIGHTS]
    if not (folder / WEIGHTS).is_file():
        if not (folder / INDEX).is_file():
            raise ConfigError(
                f"{folder} holds neither {WEIGHTS} nor {INDEX}",
                "weights in other formats (pytorch_model.bin) are not read: save them with safetensors",
            )
        files = sorted(set(_read_json(folder / INDEX).get("weight_map", {}).values()))
    weights: dict[str, Tensor] = {}
    for name in files:
        if Path(name).name != name or not (folder / name).is_file():
            raise ConfigError(f"{folder / INDEX} names the file '{name}', which is not in that folder")
        try:
            weights |= load_file(folder / name)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{folder / name} cannot be read: {error}", "fetch the file again") from error
    return weights


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", "give the folder of a checkpoint"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
