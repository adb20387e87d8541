from __future__ import annotations

from typing import Any

import pytest
import torch

from ssm_core import build_model
from ssm_core.compose import describe
from ssm_core.model import build_for_task, build_stack
from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError, PluginError
from ssm_core.protocols import Needs
from ssm_core.run.config import Choice, ModelConfig, RunConfig

pytestmark = pytest.mark.usefixtures("toys")

SMALL: dict[str, Any] = {"d_model": 8, "n_layers": 2, "backbone_config": {"state_size": 4}}


def test_floats_in_floats_out() -> None:
    model = build_model("s5", d_input=3, d_output=10, **SMALL)
    x, dt = torch.randn(2, 7, 3), 0.5 + torch.rand(2, 7)
    y, state = model(x, dt_bl=dt)
    assert y.shape == (2, 7, 10)
    first, held = model(x[:, :4], dt_bl=dt[:, :4])
    rest, held = model(x[:, 4:], dt_bl=dt[:, 4:], state=held)
    torch.testing.assert_close(torch.cat([first, rest], 1), y, rtol=1e-4, atol=1e-5)
    state = model.init_state(2)
    for time in range(7):
        out, state = model.step(x[:, time], dt_b=dt[:, time], state=state)
        torch.testing.assert_close(out, y[:, time], rtol=1e-4, atol=1e-5)


def test_tokens_in_features_out() -> None:
    model = build_model("s5", vocab=256, **SMALL)
    tokens = torch.randint(256, (2, 7))
    y, _ = model(tokens)
    assert y.shape == (2, 7, 8)
    out, _ = model.step(tokens[:, 0], state=model.init_state(2))
    torch.testing.assert_close(out, y[:, 0], rtol=1e-4, atol=1e-5)


def test_masks_and_resets_reach_the_layers() -> None:
    model = build_model("s5", d_input=3, d_output=2, **SMALL)
    x = torch.randn(2, 6, 3)
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    padded = x.masked_fill(~mask[..., None], 9.0)
    y, _ = model(padded, mask_bl=mask)
    torch.testing.assert_close(y[1, :4], model(x[1:, :4])[0][0], rtol=1e-4, atol=1e-5)
    reset = torch.zeros(2, 6, dtype=torch.bool)
    reset[:, 3] = True
    y, _ = model(x, reset_bl=reset)
    torch.testing.assert_close(y[:, 3:], model(x[:, 3:])[0], rtol=1e-4, atol=1e-5)


def test_add_ons_with_their_knobs() -> None:
    model = build_model(
        "toy_backbone",
        ["toy_scale", "toy_twice"],
        d_input=3,
        d_model=8,
        n_layers=3,
        addon_configs=[{"layers": "1:"}, {"factor": 2.0}],
    )
    nesting = [describe(block.mixer) for block in model.stack.blocks]
    assert nesting == ["Twice(TinyMixer)", "Twice(Scale(TinyMixer))", "Twice(Scale(TinyMixer))"]


def test_knobs_of_the_model() -> None:
    model = build_model(
        "s5", d_input=3, model_config={"norm": "rms", "prenorm": False, "dropout": 0.3}, **SMALL
    )
    block = model.stack.blocks[0]
    assert isinstance(block.norm, torch.nn.RMSNorm)
    assert isinstance(model.stack.final_norm, torch.nn.Identity)
    assert (block.prenorm, block.mix.dropout.rate) == (False, 0.3)


def test_the_width_may_be_given_either_way() -> None:
    model = build_model("s5", d_input=3, d_output=2, n_layers=1, model_config={"d_model": 12})
    assert model(torch.randn(1, 4, 3))[0].shape == (1, 4, 2)


def test_a_seed_fixes_the_start() -> None:
    built = []
    for _ in range(2):
        torch.manual_seed(3)
        built.append(build_model("s5", d_input=3, **SMALL).state_dict())
    assert all(torch.equal(built[0][name], built[1][name]) for name in built[0])


def test_a_bidirectional_model_looks_both_ways_and_cannot_step() -> None:
    model = build_model("s5", d_input=3, causal=False, **SMALL)
    x = torch.randn(1, 5, 3, requires_grad=True)
    model(x)[0][0, 2].square().sum().backward()
    assert x.grad is not None
    assert (x.grad[0].abs().sum(-1) > 0).all()
    with pytest.raises(ConfigError, match=r"cannot step.*\n.*causal=True"):
        model.step(x[:, 0], state=model.init_state(1))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ConfigError, "either d_input .* or vocab"),
        ({"d_input": 3, "vocab": 9}, ConfigError, "either d_input .* or vocab"),
        ({"d_input": 3, "backbone": "s55"}, PluginError, "did you mean 's5'"),
        ({"d_input": 3, "addons": ["absent"]}, PluginError, "no addon 'absent'"),
        ({"d_input": 3, "backbone_config": {"state": 4}}, ConfigError, r"backbone_config\.state'"),
        (
            {"d_input": 3, "backbone_config": {"state_size": 5}},
            ConfigError,
            "state_size 5 must be a multiple",
        ),
        ({"d_input": 3, "model_config": {"nrom": "rms"}}, ConfigError, r"model_config\.nrom"),
        ({"d_input": 3, "d_model": 0}, ConfigError, "at least 1"),
        ({"d_input": 3, "addons": ["toy_scale"], "addon_configs": []}, ConfigError, "1 add-ons, but 0"),
        (
            {"d_input": 3, "addons": ["toy_scale"], "addon_configs": [{"x": 1}]},
            ConfigError,
            r"addon_configs\[0\]\.x",
        ),
        (
            {"d_input": 3, "addons": ["toy_scale"], "addon_configs": [{"layers": "5"}]},
            ConfigError,
            "selects none",
        ),
        ({"d_input": 3, "backbone": "toy_rigid"}, ConfigError, "no causal form\n.*causal=false"),
        (
            {"d_input": 3, "backbone": "toy_rigid", "causal": False, "max_length": 17},
            ConfigError,
            "up to 16, the task has 17",
        ),
    ],
)
def test_mistakes_are_told(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build_model(**arguments)


def stack(backbone: str, needs: Needs, *addons: str, **model: Any) -> Any:
    chosen = [Choice.of("addon", name, {}, "addons") for name in addons]
    main = Choice.of("backbone", backbone, {}, "backbone")
    return build_stack(main, chosen, ModelConfig(d_model=4, n_layers=1, **model), needs, None)


def test_an_add_on_whose_slot_is_not_offered_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = registry.builder

    def only_the_mixer(kind: str, name: str) -> Any:
        spec, build = builder(kind, name)
        if kind == "backbone":
            return spec, lambda config, layer, slot: build(
                config, layer, lambda n, make, width: slot(n, make, width) if n == "mixer" else make(width)
            )
        return spec, build

    monkeypatch.setattr(registry, "builder", only_the_mixer)
    with pytest.raises(
        ConfigError, match=r"toy_scale goes round the slot 'ssm', .*toy_backbone offers only mixer"
    ):
        build_model("toy_backbone", ["toy_scale"], d_input=3)


@pytest.mark.parametrize(
    ("backbone", "addons", "needs", "causal", "words"),
    [
        ("toy_rigid", (), Needs(dt=True), False, r"takes no gaps.*\n.*task\.time=ignored or appended"),
        ("s5", (), Needs(causal=True), False, "the task needs a causal model"),
        ("s5", (), Needs(step=True), False, "run step by step"),
        ("s5", (), Needs(carry_state=True), False, "carry"),
        ("s5", ("toy_mirror",), Needs(causal=True), True, r"look back only, and s5\+toy_mirror cannot"),
        ("s5", ("toy_mirror",), Needs(step=True), True, r"step by step, and s5\+toy_mirror cannot"),
        ("s5", ("toy_mirror",), Needs(dt=True), True, r"take gaps.*s5\+toy_mirror cannot"),
    ],
)
def test_what_the_task_needs_and_the_model_cannot_is_refused_at_build(
    backbone: str, addons: tuple[str, ...], needs: Needs, causal: bool, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        stack(backbone, needs, *addons, causal=causal)


def test_what_the_task_needs_and_the_model_can_is_built() -> None:
    built = stack("s5", Needs(dt=True, causal=True, step=True, carry_state=True), "toy_scale")
    assert (built.causal, built.streaming, built.takes_dt) == (True, True, True)


def test_a_run_builds_encoder_stack_and_head() -> None:
    config = RunConfig.from_tree(
        {"backbone": {"name": "s5"}, "task": {"name": "toy_task"}, "model": {"d_model": 4, "n_layers": 2}}
    )
    task = registry.build_task("toy_task", {})
    model = build_for_task(config, task)
    batch = task.collate([task.splits()["train"][index] for index in range(3)])
    output = model(batch)
    assert output.head.shape == batch.targets.shape
    assert len(output.state) == 2
    again = model(batch, output.state)
    assert not torch.equal(again.head, output.head), "the state is carried on"


def test_a_run_without_backbone_says_so() -> None:
    task = registry.build_task("toy_task", {})
    with pytest.raises(ConfigError, match=r"names no backbone\n.*--backbone"):
        build_for_task(RunConfig.from_tree({}), task)


@pytest.mark.parametrize(
    ("backbone", "knobs", "needs", "way_out"),
    [
        ("dss", {"version": "softmax"}, Needs(carry_state=True), "backbone.version=exp"),
        ("dss", {"version": "softmax"}, Needs(step=True), "backbone.version=exp"),
        ("liquid_s4", {}, Needs(dt=True), "backbone.mode=kb"),
    ],
)
def test_a_setting_that_cannot_is_refused_with_the_knob_that_helps(
    backbone: str, knobs: dict[str, Any], needs: Needs, way_out: str
) -> None:
    """What the record of a backbone promises holds for some setting of its knobs, not for each."""
    choice = Choice.of("backbone", backbone, knobs, "backbone")
    with pytest.raises(ConfigError, match=way_out):
        build_stack(choice, [], ModelConfig(d_model=4, n_layers=1), needs, None)
    build_stack(choice, [], ModelConfig(d_model=4, n_layers=1), Needs(), None)


def test_a_model_that_cannot_step_names_the_knob_that_helps() -> None:
    model = build_model("dss", d_input=3, d_model=4, n_layers=1, backbone_config={"version": "softmax"})
    with pytest.raises(ConfigError, match=r"cannot step.*\n.*backbone.version=exp"):
        model.step(torch.randn(2, 3), state=model.init_state(2))


def test_the_map_to_the_outputs_may_do_without_a_bias() -> None:
    for wanted in (True, False):
        model = build_model("s5", vocab=9, d_output=9, decoder_bias=wanted, **SMALL)
        assert (model.decoder.bias is not None) is wanted
