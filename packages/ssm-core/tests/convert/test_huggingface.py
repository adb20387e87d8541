"""Checkpoints in Hugging Face's layout: read with the logits of their own code, and written back as they were.

The folders under ``fixtures/checkpoints`` come from `transformers` 5.23.0 on a CPU: ``MambaForCausalLM`` and
``Mamba2ForCausalLM`` of the settings in each ``config.json`` after ``torch.manual_seed(0)``, every parameter moved by
0.1 times a normal draw, ``save_pretrained``; ``golden.safetensors`` holds token ids (2, 21) and the model's logits.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssm_core import build_model
from ssm_core.convert import from_huggingface, to_huggingface
from ssm_core.params import gather_hints
from ssm_core.plugin.errors import ConfigError

CHECKPOINTS = Path(__file__).parents[1] / "fixtures" / "checkpoints"

kinds = pytest.mark.parametrize("kind", ["mamba", "mamba2"])


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of a checkpoint to be spoilt."""
    return Path(shutil.copytree(CHECKPOINTS / "mamba", tmp_path / "mamba"))


def change(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@kinds
def test_logits_are_those_of_the_original_code(kind: str) -> None:
    golden = load_file(CHECKPOINTS / kind / "golden.safetensors")
    model = from_huggingface(CHECKPOINTS / kind).eval()
    with torch.no_grad():
        y, _ = model(golden["ids"])
        torch.testing.assert_close(y, golden["logits"], rtol=0, atol=1e-5)
        state, steps = model.init_state(2), []
        for token in golden["ids"].unbind(1):
            logits, state = model.step(token, state=state)
            steps.append(logits)
    torch.testing.assert_close(torch.stack(steps, 1), golden["logits"], rtol=0, atol=1e-5)


@kinds
def test_transformers_gives_the_same_logits(kind: str, tmp_path: Path) -> None:
    """With the library at hand: of a model of ours that it reads, with settings other than the fixtures'."""
    pytest.importorskip("transformers")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    backbone, knobs = ("s6", {"dt_rank": 3}) if kind == "mamba" else ("mamba2", {"head_dim": 8, "groups": 2})
    model = build_model(
        backbone,
        vocab=19,
        d_output=19,
        d_model=16,
        n_layers=3,
        model_config={"norm": "rms"},
        backbone_config={"state_size": 6, "conv_width": 2, "bias": True} | knobs,
    ).eval()
    with torch.no_grad():
        model.decoder.bias.zero_()
        theirs = AutoModelForCausalLM.from_pretrained(to_huggingface(model, tmp_path / "out")).eval()
        ids = torch.randint(0, 19, (2, 33))
        torch.testing.assert_close(model(ids)[0], theirs(ids).logits, rtol=0, atol=1e-5)


@kinds
def test_what_is_written_is_what_was_read(kind: str, tmp_path: Path) -> None:
    model = from_huggingface(CHECKPOINTS / kind)
    folder = to_huggingface(model, tmp_path / "deep" / "copy")
    weights = load_file(folder / "model.safetensors")
    expected = load_file(CHECKPOINTS / kind / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    written, original = (json.loads((f / "config.json").read_text()) for f in (folder, CHECKPOINTS / kind))
    assert all(original[name] == value for name, value in written.items())
    again = from_huggingface(folder)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    with pytest.raises(ConfigError, match=r"already holds a config\.json"):
        to_huggingface(model, folder)


def test_shards_and_settings_left_out_are_read(tmp_path: Path) -> None:
    weights = load_file(CHECKPOINTS / "mamba2" / "model.safetensors")
    names = sorted(weights)
    parts = {"a.safetensors": names[:7], "b.safetensors": names[7:]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, tmp_path / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    settings = json.loads((CHECKPOINTS / "mamba2" / "config.json").read_text())
    for name in ("time_step_limit", "conv_kernel", "hidden_act", "tie_word_embeddings"):
        del settings[name]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    model = from_huggingface(tmp_path)
    assert model.stack.blocks[0].mixer.inner.ssm.config.dt_high is None
    assert torch.equal(model.decoder.weight, weights["lm_head.weight"])


@pytest.mark.parametrize("infinity", [float("inf"), "Infinity", {"__float__": "Infinity"}])
def test_no_limit_is_written_in_several_ways(infinity: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(CHECKPOINTS / "mamba2", tmp_path / "mamba2"))
    change(folder, time_step_limit=[0.0, infinity])
    config = from_huggingface(folder).stack.blocks[0].mixer.inner.ssm.config
    assert (config.dt_low, config.dt_high) == (0.0, None)


def test_a_tied_head_is_the_embedding() -> None:
    model = from_huggingface(CHECKPOINTS / "mamba")
    assert model.decoder.weight is model.encoder.weight
    assert sum(p.numel() for p in model.parameters()) == 10_512


def test_reduced_precision_spares_what_has_to_stay_in_float32() -> None:
    model = from_huggingface(CHECKPOINTS / "mamba", dtype=torch.bfloat16)
    hints = gather_hints(model)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (hints[name].dtype or torch.bfloat16), name
    assert model.decoder.weight is model.encoder.weight


def test_an_add_on_goes_on_top_and_cannot_be_written(tmp_path: Path) -> None:
    pytest.importorskip("ssm_smr")
    golden = load_file(CHECKPOINTS / "mamba" / "golden.safetensors")
    model = from_huggingface(CHECKPOINTS / "mamba", ["smr"], addon_configs=[{"init": "open"}]).eval()
    with torch.no_grad():
        for block in model.stack.blocks:  # a gate that is wide open is no gate
            block.mixer.inner.ssm.bias.fill_(40.0)
        y, _ = model(golden["ids"])
    torch.testing.assert_close(y, golden["logits"], rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="add-on SMR has no place"):
        to_huggingface(model, tmp_path / "out")


@kinds
def test_an_add_on_that_starts_as_the_identity_changes_no_bit(kind: str) -> None:
    pytest.importorskip("ssm_smr")
    ids = load_file(CHECKPOINTS / kind / "golden.safetensors")["ids"]
    plain = from_huggingface(CHECKPOINTS / kind).eval()
    gated = from_huggingface(CHECKPOINTS / kind, ["smr"], addon_configs=[{"init": "identity"}]).eval()
    assert len(dict(gated.named_parameters())) > len(dict(plain.named_parameters()))
    with torch.no_grad():
        assert torch.equal(gated(ids)[0], plain(ids)[0])


def test_missing_files_are_named(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        from_huggingface(copied)
    (copied / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../secret.safetensors"}}')
    with pytest.raises(ConfigError, match=r"'\.\./secret\.safetensors', which is not in that folder"):
        from_huggingface(copied)
    (copied / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        from_huggingface(copied)
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere"):
        from_huggingface(copied / "nowhere")


def test_spoilt_weights_are_named(copied: Path) -> None:
    path = copied / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {"backbone.layers.0.mixer.extra": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match=r"does not have: backbone\.layers\.0\.mixer\.extra"):
        from_huggingface(copied)
    less = dict(weights)
    del less["backbone.layers.1.mixer.D"]
    save_file(less, path)
    with pytest.raises(ConfigError, match=r"no weight 'backbone\.layers\.1\.mixer\.D'"):
        from_huggingface(copied)
    path.write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="cannot be read"):
        from_huggingface(copied)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "gpt2"}, "type 'gpt2'"),
        ({"model_type": None}, "type None"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06, and s6 has 1e-05 only"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"state_size": 4}, r"A_log.* has shape \(48, 5\), but config.json asks for \(48, 4\)"),
        ({"use_bias": False}, "does not have: .*in_proj.bias"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, Any], words: str, copied: Path) -> None:
    change(copied, **settings)
    with pytest.raises(ConfigError, match=words):
        from_huggingface(copied)


def test_heads_have_to_fill_the_width(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(CHECKPOINTS / "mamba2", tmp_path / "mamba2"))
    change(folder, num_heads=6)
    with pytest.raises(ConfigError, match=r"expand \* hidden_size = 48, but num_heads \* head_dim = 24"):
        from_huggingface(folder)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        ({"backbone": "s5", "norm": "rms"}, "a block without a convolution"),
        ({"norm": "layer"}, "wants RMS norms"),
        ({"norm": "rms", "d_output": 5}, "one logit for each token"),
        ({"norm": "rms", "vocab": None, "d_input": 7}, "language models"),
        ({"norm": "rms", "causal": False}, "a block with BothWays"),
        ({"norm": "rms", "knobs": {"discretization": "zoh"}}, "no word for discretization = 'zoh'"),
        ({"norm": "rms"}, "bias of the logits"),
    ],
)
def test_what_the_layout_cannot_hold_is_not_written(
    build: dict[str, Any], words: str, tmp_path: Path
) -> None:
    given = {"backbone": "s6", "vocab": 7, "d_output": 7, "causal": True, **build}
    norm, knobs = given.pop("norm"), given.pop("knobs", {})
    model = build_model(
        given.pop("backbone"),
        d_model=4,
        n_layers=1,
        model_config={"norm": norm},
        backbone_config=knobs,
        **given,
    )
    if "bias" not in words:
        torch.nn.init.zeros_(model.decoder.bias)
    with pytest.raises(ConfigError, match=words):
        to_huggingface(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
