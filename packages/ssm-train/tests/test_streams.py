"""State that is carried from batch to batch: in training, in evaluation, over a stop, in slices and processes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from toy_runs import TWO_PROCESSES
from toy_streams import (
    LENGTH,
    STREAMS,
    WINDOWS,
    ByState,
    Growing,
    Rolling,
    StreamTask,
    settings,
)

from ssm_core.model import build_for_task
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.protocols import Batch, Output
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.folder import RunFolder
from ssm_eval.evaluation import evaluate
from ssm_train import TrainingFailed, fit, resume, rng
from ssm_train.carry import Carried, flat, unflat
from ssm_train.optimizer import NamedAdamW


def losses(run, split="train"):
    rows = RunFolder(run).metrics()
    return [row["value"] for row in rows if (row["split"], row["name"]) == (split, "loss")]


def weights(run):
    return load_file(RunFolder(run).checkpoint("latest") / "model.safetensors")


def without_dropout(tree):
    return layered(tree, {"model": {"dropout": 0.0}})


def config_of(tree):
    return RunConfig.from_tree(layered(tree))


def whole(split) -> Batch:
    """Return a split's streams, each as one long row."""
    return Batch(torch.from_numpy(split.x), torch.from_numpy(split.y), reset_bl=torch.from_numpy(split.reset))


@pytest.mark.parametrize(("backbone", "resets"), [("s4d", False), ("mamba2", False), ("s5", True)])
def test_training_is_that_of_the_whole_sequence_with_truncated_gradients(tmp_path, backbone, resets):
    tree, task = without_dropout(settings(backbone, epochs=2)), StreamTask(resets=resets)
    config = config_of(tree)
    rng.seed_everything(config.seed)
    model = build_for_task(config, task).train()
    optimizer, long = NamedAdamW(model, config.optim), whole(task.splits()["train"])
    optimizer.set_factor(1.0)
    expected = []
    for step in range(2 * WINDOWS):
        if step % WINDOWS == 0:
            state = model.stack.init_state(STREAMS)
        place = slice(step % WINDOWS * LENGTH, (step % WINDOWS + 1) * LENGTH)
        x_bld = model.encoder(replace(long, inputs=long.inputs[:, place]))
        reset = long.reset_bl[:, place] if resets else None
        y_bld, state = model.stack(x_bld, reset_bl=reset, state=state)
        loss = (model.head(y_bld, long) - long.targets[:, place]).square().mean()
        optimizer.adamw.zero_grad()
        loss.backward()
        optimizer.adamw.step()
        state = tuple(_detached(part) for part in state)
        expected.append(loss.item())
    found = losses(fit(tree, task, out=tmp_path, quiet=True))
    assert found == pytest.approx(expected, rel=1e-5)
    alone = losses(fit(tree, StreamTask(carry=False, resets=resets), out=tmp_path, quiet=True))
    assert alone[1] != pytest.approx(expected[1], rel=1e-3), "the state makes no difference here"


def _detached(tree):
    if isinstance(tree, torch.Tensor):
        return tree.detach()
    if isinstance(tree, dict):
        return {key: _detached(value) for key, value in tree.items()}
    return tuple(_detached(value) for value in tree)


@pytest.mark.parametrize("backbone", ["s5", "mamba2"])
def test_resuming_in_the_middle_of_an_epoch_is_bit_for_bit(tmp_path, backbone):
    undisturbed = fit(settings(backbone, steps=9, accumulate=2), StreamTask(), out=tmp_path, quiet=True)
    stopped = fit(settings(backbone, steps=7, accumulate=2), StreamTask(), out=tmp_path, quiet=True)
    assert (RunFolder(stopped).checkpoint("latest") / "streams.safetensors").is_file()
    resume(stopped, {"steps": 9}, task=StreamTask(), quiet=True)
    assert losses(stopped) == losses(undisturbed)
    one, other = weights(stopped), weights(undisturbed)
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_no_state_is_kept_between_epochs_and_its_loss_is_noticed(tmp_path):
    run = fit(settings(steps=WINDOWS), StreamTask(), out=tmp_path, quiet=True)
    assert not (RunFolder(run).checkpoint("latest") / "streams.safetensors").exists()
    run = fit(settings(steps=7), StreamTask(), out=tmp_path, quiet=True)
    (RunFolder(run).checkpoint("latest") / "streams.safetensors").unlink()
    resume(run, {"steps": 9}, task=StreamTask(), quiet=True)
    assert RunFolder(run).status()["step"] == 9, "it went back to the checkpoint before"


def test_slices_keep_their_own_rows(tmp_path):
    runs = [
        losses(
            fit(without_dropout(settings(epochs=2, accumulate=count)), StreamTask(), out=tmp_path, quiet=True)
        )
        for count in (1, 2, 4)
    ]
    assert runs[1] == pytest.approx(runs[0], rel=1e-5)
    assert runs[2] == pytest.approx(runs[0], rel=1e-5)


@pytest.mark.slow
def test_two_processes_keep_their_own_rows_also_over_a_stop(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import json, toy_streams as toy\n"
        "from ssm_train import fit, resume\n"
        "tree = json.loads(sys.argv[2])\n"
        "run = fit(tree, toy.StreamTask(), out=sys.argv[1], quiet=True)\n"
        "resume(run, {'steps': 9}, task=toy.StreamTask(), quiet=True)\n"
    )
    tree = without_dropout(settings(steps=7))
    command = [*TWO_PROCESSES, str(script), str(tmp_path), json.dumps(tree)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (two,) = tmp_path.glob("own-task/*")
    one = fit(without_dropout(settings(steps=9)), StreamTask(), out=tmp_path / "one", quiet=True)
    for split in ("train", "validation"):
        assert losses(two, split)[-1:] == pytest.approx(losses(one, split)[-1:], rel=1e-5)
    with pytest.raises(UserError, match="holds the streams of 2 processes, and these are 1"):
        resume(two, {"steps": 10}, task=StreamTask(), quiet=True)


@pytest.mark.parametrize("backbone", ["s4d", "mamba2", "s5"])
@pytest.mark.parametrize("resets", [False, True])
def test_evaluation_of_streams_is_one_long_pass(backbone, resets):
    task, config = StreamTask(resets=resets), config_of(settings(backbone))
    torch.manual_seed(0)
    model = build_for_task(config, task).eval()
    split = task.splits()["validation"]
    found = evaluate(model, task, "validation", batch_size=3, device="cpu")
    long = whole(split)
    with torch.no_grad():
        output = task.run(model, long if resets else replace(long, reset_bl=None))
        total, weight = task.loss(output, long)
    assert found.metrics["loss"] == pytest.approx(float(total / weight), rel=1e-5)
    assert found.n == len(split)
    alone = evaluate(model, StreamTask(carry=False, resets=resets), "validation", batch_size=3, device="cpu")
    assert alone.metrics["loss"] != pytest.approx(found.metrics["loss"], rel=1e-4)


def test_some_rows_of_streams_are_whole_batches():
    task, config = StreamTask(), config_of(settings())
    model = build_for_task(config, task)
    seen = []
    for most in (3, 4, 7, 9):
        told = []
        evaluate(
            model,
            task,
            "validation",
            batch_size=50,
            device="cpu",
            max_rows=most,
            progress=lambda *call, told=told: told.append(call),
        )
        seen.append(told[-1][1])
    assert seen == [4, 4, 4, 8]


def test_half_precision_carries_its_state_too(tmp_path):
    run = fit(settings("mamba2", epochs=1, precision="bf16"), StreamTask(), out=tmp_path, quiet=True)
    assert len(losses(run)) == WINDOWS
    plain = fit(settings("mamba2", epochs=1), StreamTask(), out=tmp_path, quiet=True)
    assert losses(run) == pytest.approx(losses(plain), rel=0.1)


def test_each_epoch_may_have_its_own_rows(tmp_path):
    rolled = losses(fit(settings(epochs=2), StreamTask(kind=Rolling), out=tmp_path, quiet=True))
    fixed = losses(fit(settings(epochs=2), StreamTask(), out=tmp_path, quiet=True))
    assert rolled[:WINDOWS] == fixed[:WINDOWS]
    assert rolled[WINDOWS] != fixed[WINDOWS]
    stopped = fit(settings(steps=7), StreamTask(kind=Rolling), out=tmp_path, quiet=True)
    resume(stopped, {"steps": 10}, task=StreamTask(kind=Rolling), quiet=True)
    assert losses(stopped) == rolled


def test_a_state_that_overflows_is_found_by_going_through_the_same_batch_again(tmp_path):
    with pytest.raises(TrainingFailed, match=r"model output 'head' holds \d+ non-finite"):
        fit(settings(epochs=1) | {"backbone": {}}, ByState(), Growing(), out=tmp_path, quiet=True)


def test_what_cannot_carry_is_refused(tmp_path):
    class Costly(StreamTask):
        def prepare(self, progress=None):
            raise AssertionError("made the data first")

    with pytest.raises(ConfigError, match=r"chordmixer .*state"):
        fit(
            layered(settings("chordmixer"), {"model": {"causal": False}}),
            _any_direction(Costly()),
            quiet=True,
        )
    with pytest.raises(ConfigError, match=r"4 streams side by side, and train\.batch_size = 2"):
        fit(settings(batch_size=2), StreamTask(), out=tmp_path, quiet=True)
    with pytest.raises(ConfigError, match=r"train\.bucket = 2 .* continue each other"):
        fit(settings(bucket=2), StreamTask(), out=tmp_path, quiet=True)
    assert list(tmp_path.iterdir()) == []

    class Forgets(Growing):
        def forward(self, batch, state=None):
            return Output(self.line(batch.inputs), ())

    with pytest.raises(TrainingFailed, match="the model gave none to carry"):
        fit(settings() | {"backbone": {}}, ByState(), Forgets(), out=tmp_path, quiet=True)


def _any_direction(task):
    task.needs = replace(task.needs, causal=False)
    return task


kinds = st.sampled_from([torch.float32, torch.complex64, torch.int64, torch.bool])
tensors = st.builds(lambda dtype, n: torch.arange(2 * n).view(2, n).to(dtype), kinds, st.integers(0, 3))
names = st.text("ab.", min_size=1, max_size=3)
trees = st.recursive(
    tensors | st.none(),
    lambda part: (
        st.dictionaries(names, part, max_size=3)
        | st.lists(part, max_size=3)
        | st.lists(part, max_size=3).map(tuple)
    ),
    max_leaves=8,
)


@given(trees)
def test_states_of_any_form_come_back(tree):
    found, form = flat(tree, "0")
    assert not any(tensor.is_complex() for tensor in found.values())
    again = unflat(found, json.loads(json.dumps(form)), "0")
    assert _same(again, tree)


def _same(one, other) -> bool:
    if isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in other)
    if isinstance(other, tuple | list):
        return type(one) is type(other) and len(one) == len(other) and all(map(_same, one, other))
    return one is other


def test_what_a_checkpoint_cannot_hold_is_told_at_once():
    with pytest.raises(UserError, match="not set"):
        Carried().keep(0, {torch.zeros(1)})
    with pytest.raises(UserError, match="without a slash"):
        Carried().keep(0, {"a/b": torch.zeros(1)})


def test_states_are_cut_off_from_their_history():
    carried = Carried()
    carried.keep(0, {"h": torch.ones(2, requires_grad=True) * 2})
    assert not carried.get(0)["h"].requires_grad
    carried.drop()
    assert carried.get(0) is None
