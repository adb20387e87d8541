"""A trained run asked about rows of one's own: the same answers as on its own data, and what is refused."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Batch, Output, Task
from ssm_core.run.folder import RunFolder
from ssm_core.run.load import load
from ssm_eval import Predictions, predict_run
from ssm_eval.answering import predict
from ssm_eval.questions import read_rows


@pytest.fixture
def run(make_run):
    return make_run()


@pytest.fixture
def rows(run):
    """The rows (9, 5, 2) of the run's test split."""
    task = load(run.path)[0].task
    task.prepare()
    return np.stack([row["inputs"] for row in task.splits()["test"]])


def written(tmp_path, **arrays):
    np.savez(tmp_path / "rows.npz", **arrays)
    return tmp_path / "rows.npz"


def test_answers_are_the_models_whatever_the_rows_come_in(run, rows, tmp_path):
    model, _ = load(run.path)
    model.task.prepare()
    batch = model.task.collate([{"inputs": x, "targets": x} for x in rows])
    with torch.no_grad():
        expected = model(batch).head
    np.save(tmp_path / "rows.npy", rows)
    told = [{"inputs": x, "targets": np.full_like(x, np.nan)} for x in rows]
    for source in (
        written(tmp_path, inputs=rows),
        str(tmp_path / "rows.npy"),
        [{"inputs": x} for x in rows],
        told,
    ):
        found = predict_run(run.path, source)
        assert (found.step, found.classes, list(found.names)) == (8, False, list(range(9)))
        assert all(row.keys() == {"prediction", "variance"} for row in found.rows)
        assert all(row["prediction"].shape == (5, 2) for row in found.rows)
        for name, key in (("prediction", "mean"), ("variance", "variance")):
            np.testing.assert_allclose(np.stack([row[name] for row in found.rows]), expected[key], rtol=1e-5)


def test_answers_are_flat_lines(run, rows):
    found = predict_run(run.path, [{"name": "mine", "inputs": rows[0]}, {"inputs": rows[1]}])
    answers = list(found.answers())
    assert [(a["row"], a["element"]) for a in answers] == [(r, e) for r in ("mine", 1) for e in range(5)]
    assert list(answers[0])[2:] == ["prediction_0", "prediction_1", "variance_0", "variance_1"]
    np.testing.assert_allclose(
        [a["prediction_1"] for a in answers[5:]], found.rows[1]["prediction"][:, 1], rtol=1e-8
    )
    arrays = found.arrays()
    assert arrays["row"].tolist() == [0] * 5 + [1] * 5
    assert arrays["variance"].shape == (10, 2)


def test_rows_of_unequal_length_are_cut(run, rows, tmp_path):
    found = predict_run(run.path, written(tmp_path, inputs=rows[:2], length=np.array([5, 3])))
    assert [len(row["prediction"]) for row in found.rows] == [5, 3]
    alone = predict_run(run.path, [{"inputs": rows[1, :3]}])
    np.testing.assert_array_equal(found.rows[1]["prediction"], alone.rows[0]["prediction"])


def told(classes, rows, labels=()):
    made = [{name: np.array(value) for name, value in row.items()} for row in rows]
    return list(Predictions("run", 1, "", range(len(rows)), made, classes, labels).answers())


def test_logits_become_a_class_and_its_probability():
    (answer,) = told(True, [{"prediction": [[0.0, np.log(3.0), -1e9]]}])
    assert answer == {"row": 0, "class": 1, "probability": pytest.approx(0.75)}
    answers = told(True, [{"prediction": [[2.0, 1.0], [0.0, 800.0]]}], ("no", "yes"))
    assert [(a["element"], a["class"]) for a in answers] == [(0, "no"), (1, "yes")]
    assert answers[1]["probability"] == 1.0


def test_numbers_and_tokens_go_by_their_names():
    rows = [{"prediction": [[1.0, 2.0]], "variance": [[3.0, 4.0]]}]
    assert told(False, rows, ("sin", "cos")) == [
        {"row": 0, "sin": 1.0, "cos": 2.0, "variance of sin": 3.0, "variance of cos": 4.0}
    ]
    (answer,) = told(False, [{"prediction": [-0.5], "target": [1], "bytes": [2.0]}], ("a", "b"))
    assert answer == {"row": 0, "token": "b", "prediction": -0.5, "bytes": 2.0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": None, "x": np.ones((2, 5, 2))}, "row 0: rows of this task have no array 'x'"),
        (
            {"inputs": None, "targets": np.ones((2, 5, 2))},
            "has no array 'inputs'; it has none\n.*float32 .5, 2.",
        ),
        ({"length": np.array([5])}, "do not agree on a number of rows: inputs 2, length 1"),
        ({"length": np.array(5)}, "do not agree on a number of rows: inputs 2, length is a number"),
        ({"inputs": np.ones((0, 5, 2))}, "has no rows"),
        ({"inputs": np.ones((2, 0, 2))}, "row 0: 'inputs' has no elements"),
        ({"inputs": np.ones((2, 5, 3))}, r"row 0: 'inputs' has shape \(5, 3\), not \(L, 2\)"),
        ({"inputs": np.full((2, 5, 2), "a")}, "'inputs' is <U1, where the task has float32"),
        ({"inputs": np.ones((2, 5, 2), complex)}, "'inputs' is complex128, where the task has float32"),
        ({"length": np.array([5, 6])}, "row 1: 'length' is 6\n.*from 1 to 5"),
        ({"length": np.array([0.5, 1])}, "row 0: 'length' is 0.5"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(run, tmp_path, change, said):
    arrays = {"inputs": np.ones((2, 5, 2), np.float32), **change}
    path = written(tmp_path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(UserError, match=said):
        predict_run(run.path, path)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{}], "the input, row 0 has no array 'inputs'"),
        ({"inputs": np.ones((5, 2))}, "the input, row 0 is a str\n  give a list of dicts"),
        ([{"inputs": np.ones((5, 3)), "name": "mine"}], "the input, row mine: 'inputs' has shape"),
        ([], "the input has no rows\n.*a row of toytask is inputs float32"),
    ],
)
def test_rows_in_memory_are_checked_as_those_of_files(run, rows, said):
    with pytest.raises(UserError, match=said):
        predict_run(run.path, rows)


def test_data_that_is_not_what_it_was_is_refused(run, rows):
    told = {name: {"provenance": "p", "fingerprint": "other"} for name in ("train", "test")}
    (run.path / "data.json").write_text(json.dumps({"splits": told}))
    assert predict_run(run.path, [{"inputs": rows[0]}]).rows, "its splits say nothing of themselves"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "ssm_eval.prediction.data_of", lambda task: {"train": {"provenance": "p", "fingerprint": "now"}}
        )
        patch.setattr(RunFolder, "data", lambda run: told)
        with pytest.raises(UserError, match=r"the data of toytask is not what .* was trained on"):
            predict_run(run.path, [{"inputs": rows[0]}])


def test_settings_may_say_where_data_is_now(run, rows):
    assert predict_run(run.path, [{"inputs": rows[0, :4]}], overrides={"task": {"length": 4}}).rows
    with pytest.raises(UserError, match=r"has no setting 'task\.lengths'"):
        predict_run(run.path, [{"inputs": rows[0]}], overrides={"task": {"lengths": 4}})


def test_a_file_that_cannot_be_read_is_told(run, tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        predict_run(run.path, tmp_path / "none.npz")
    with zipfile.ZipFile(tmp_path / "rows.npz", "w") as file:
        file.writestr("inputs", "no array")
    with pytest.raises(UserError, match=r"rows\.npz cannot be read: 'inputs' is no array"):
        predict_run(run.path, tmp_path / "rows.npz")
    with pytest.raises(UserError, match=r"cannot read .*: File name too long"):
        predict_run(run.path, "x" * 300 + ".npz")
    (tmp_path / "rows.npz").write_bytes(b"PK no archive")
    with pytest.raises(UserError, match=r"rows\.npz cannot be read"):
        predict_run(run.path, tmp_path / "rows.npz")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"objects\.npy cannot be read"):
        predict_run(run.path, tmp_path / "objects.npy")
    (tmp_path / "rows.txt").write_text("1 2\n")
    with pytest.raises(UserError, match=r"Toy reads no .txt files\n.*npz"):
        predict_run(run.path, tmp_path / "rows.txt")


def test_an_answer_that_is_no_number_names_its_row(run, rows):
    rows[3, 2] = np.nan
    with pytest.raises(UserError, match=r"^row 3: an answer is not finite\n.*NaN"):
        predict_run(run.path, [{"inputs": x} for x in rows])


class Steps(Task):
    """Counts on: rows have no targets, its answers keep the batch's axis, and an embedding reads the ids."""

    metrics = ("mse",)

    def splits(self):
        return {"train": [{"x": np.arange(4)}]}

    def collate(self, rows):
        ids = torch.from_numpy(np.stack([row["x"] for row in rows]))
        return Batch(ids, ids + 1.0)

    def predictions(self, output, batch):
        return {"prediction": output.head, "target": batch.targets}


def test_tasks_may_have_rows_of_their_own(tmp_path):
    model = nn.Module()
    model.encoder = nn.Embedding(6, 1)
    model.forward = lambda batch: Output(batch.inputs[..., None].float(), ())
    np.save(tmp_path / "x.npy", np.arange(6).reshape(2, 3))
    rows = read_rows(tmp_path / "x.npy", Steps(), "steps")
    found = predict(model, Steps(), rows, device="cpu")
    assert [row["prediction"].tolist() for row in found] == [[[0.0], [1.0], [2.0]], [[3.0], [4.0], [5.0]]]


def test_labels_belong_to_the_prediction_alone():
    task, model = Steps(), nn.Module()
    task.labels = ("sin", "cos")
    task.predictions = lambda output, batch: {
        "prediction": output.head,
        "target": output.head,
        "confidence": torch.ones(4),
    }
    model.forward = lambda batch: Output(torch.arange(8.0).reshape(4, 2), ())
    (row,) = predict(model, task, [{"x": np.arange(4)}], device="cpu")
    assert (row["prediction"].shape, row["confidence"].shape) == ((4, 2), (4,))


def test_ids_that_a_model_does_not_know_are_told():
    model = nn.Module()
    model.encoder = nn.Embedding(6, 1)
    with pytest.raises(UserError, match=r"file, row 0: 'inputs' has ids from -1 to 6\n.*the ids 0 to 5"):
        predict(model, Steps(), [{"inputs": np.array([-1, 6])}], device="cpu", whose="file")


def test_several_numbers_of_an_element_are_told_apart():
    task, model = Steps(), nn.Module()
    task.labels = ("one", "ten")
    task.predictions = lambda output, batch: {"prediction": output.head, "target": output.head}
    model.forward = lambda batch: Output((batch.inputs[..., None] * torch.tensor([1.0, 10.0])).flatten(), ())
    (row,) = predict(model, task, [{"x": np.arange(3)}], device="cpu")
    assert row["prediction"].tolist() == [[0, 0], [1, 10], [2, 20]]
