"""The commands that measure: what they ask of other packages, and how they print what they get."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

import ssm_core
import ssm_eval
from ssm_core.opkit.dispatch import OPERATIONS
from ssm_core.plugin import registry
from ssm_core.plugin.config import config
from ssm_core.plugin.errors import UserError
from ssm_core.plugin.spec import BenchSpec
from ssm_core.protocols import Result
from ssm_lab.machine import _choice, report


@config
class Knobs:
    """Knobs.

    Attributes:
        length: A length.
    """

    length: int = 8


@pytest.fixture
def plugin(monkeypatch):
    """Register one function as the only probe or bench, called ``it``."""

    def register(function):
        entry = SimpleNamespace(name="it", long_name="own/it", dist="own", version="1")
        spec = BenchSpec(api=1, name="it", summary="", config=Knobs, build="own:it")
        monkeypatch.setattr(registry, "describe", lambda kind, name: (entry, spec))
        monkeypatch.setattr(registry, "builder", lambda kind, name: (spec, function))

    return register


def test_a_bench_prints_text_figures_and_rows(ssm, plugin):
    def bench(config):
        sys.stdout.write("chatter\n")
        return Result(text="all right", figures={"speed": 2.5}, rows=[{"length": config.length, "ms": 1.0}])

    plugin(bench)
    done = ssm("bench", "it", "--set", "length=16")
    assert done.code == 0
    for part in ("all right", "speed", "2.5", "16"):
        assert part in done.out
    assert "chatter" not in done.out
    assert "chatter" in done.err
    assert ssm("bench", "it", "--set", "bench.length=4", "--json").json() == {
        "text": "all right",
        "figures": {"speed": 2.5},
        "rows": [{"length": 4, "ms": 1.0}],
    }


def test_a_mapping_will_do_as_a_result(ssm, plugin):
    plugin(lambda config: {"speed": 2, "rows": [{"a": 1}]})
    out = ssm("bench", "it").out
    assert "speed" in out
    assert "rows" not in out
    plugin(lambda config: 3)
    done = ssm("bench", "it")
    assert done.code == 2
    assert "bench 'it' returned a int, not a Result" in done.err


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("lenth=4", "did you mean 'length'?"),
        ("task.x=4", "'task' is another section"),
        ("length=x", "given: 'x'"),
    ],
)
def test_wrong_knobs_of_a_bench(ssm, plugin, assignment, message):
    plugin(lambda config: {})
    done = ssm("bench", "it", "--set", assignment)
    assert done.code == 2
    assert message in done.err


def test_a_probe_gets_the_model_and_the_test_split(ssm, plugin, stand_in):
    task = SimpleNamespace(prepare=lambda: None, splits=lambda: {"train": [1, 2, 3], "test": [1, 2]})
    stand_in(ssm_core, "load", lambda run: (SimpleNamespace(task=task), None))
    plugin(lambda model, dataset, config: {"rows_seen": len(dataset) if model else -1})
    assert ssm("probe", "it", "run", "--json").json() == {"rows_seen": 2}
    assert ssm("probe", "it", "--json").json() == {"rows_seen": -1}
    task.splits = lambda: {"train": [1]}
    assert "has no test split" in ssm("probe", "it", "run").err


def test_eval_hands_on_split_and_settings(ssm, stand_in):
    seen = {}

    def evaluate_run(run, split, overrides, progress):
        seen.update(run=str(run), split=split, overrides=overrides)
        return {
            "run": str(run),
            "step": 3,
            "split": split,
            "overrides": overrides or {},
            "metrics": {"mse": 0.5},
            "n": 7,
            "notes": ["the result is not kept"],
        }

    stand_in(ssm_eval, "evaluate_run", evaluate_run)
    done = ssm("eval", "r", "--split", "validation", "--set", "task.sample_rate=0.3", "--json")
    assert done.json()["metrics"] == {"mse": 0.5}
    assert "note: the result is not kept" in done.err
    assert seen == {"run": "r", "split": "validation", "overrides": {"task": {"sample_rate": 0.3}}}
    done = ssm("eval", "r")
    assert seen["overrides"] is None
    assert "mse" in done.out
    assert "7 rows" in done.err
    assert "note: the result is not kept" in done.err


def test_compare_prints_the_table_or_the_rows(ssm, stand_in):
    @dataclass
    class Comparison:
        title = "test mse"
        columns = ("label", "mean")
        rows = ({"label": "s5", "mean": 0.123456, "runs": ["a"]},)
        notes = ("b has no result",)

    stand_in(ssm_eval, "compare_runs", lambda runs: Comparison())
    done = ssm("compare", "a", "b")
    assert "0.1235" in done.out
    assert "runs" not in done.out
    assert "note: b has no result" in done.err
    done = ssm("compare", "a", "b", "--json")
    assert done.json() == [{"label": "s5", "mean": 0.123456, "runs": ["a"]}]
    assert "note: b has no result" in done.err


def test_eval_of_what_is_no_run(ssm, tmp_path):
    done = ssm("eval", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "is not a run folder" in done.err


def test_data_info_and_prepare(ssm, monkeypatch):
    about = {
        "task": "echo",
        "splits": {
            "train": {"size": 2, "provenance": "made", "arrays": {"x": {"shape": [2, 3], "dtype": "uint8"}}}
        },
    }
    told: list[str] = []

    def describe(task, progress, **knobs):
        for done in (1, 2):
            progress("making", done, 2)
        told.append(task)
        return {**about, "task": f"{task} {knobs}"}

    monkeypatch.setattr(importlib.import_module("ssm_data.info"), "info", describe)
    assert ssm("data", "info", "echo", "--set", "task.n=2", "--json").json() == {
        **about,
        "task": "echo {'n': 2}",
    }
    about["splits"]["train"]["arrays"]["y"] = {"shape": [2], "dtype": "float32", "missing": 7}
    out = ssm("data", "info", "echo").out
    assert "2 rows, made" in out
    assert "missing" in out, "also if the first array has none"
    assert told == ["echo", "echo"], "with somebody to tell how far it is"

    def prepare(progress):
        progress("making", 1, 2)
        progress("making", 2, 2)

    task = SimpleNamespace(prepare=prepare, splits=lambda: {"train": [1, 2]})
    monkeypatch.setattr(registry, "build_task", lambda name, knobs: task)
    done = ssm("data", "prepare", "echo")
    assert (done.code, done.out) == (0, "")
    assert "echo: train 2 rows" in done.err
    assert ssm("data", "prepare", "echo", "--quiet").err == ""


def test_cite_prints_each_entry_once(ssm, make_run):
    run = make_run()
    done = ssm("cite", run.path)
    assert done.code == 0
    assert done.out.count("@") == 3
    assert "% backbone ssm-core/s5\n@" in done.out
    assert ssm("cite", run.path.parent).code == 2


def test_cite_leaves_out_what_is_not_installed(ssm, make_run):
    run = make_run()
    config = run.path / "config.json"
    config.write_text(config.read_text().replace("ssm-smr/smr", "ssm-gone/smr"))
    done = ssm("cite", run.path)
    assert done.code == 0
    assert "addon ssm-gone/smr is left out: there is no addon" in done.err


def test_doctor_says_what_runs(ssm):
    done = ssm("doctor", "--json")
    assert done.code == (1 if done.json()["problems"] else 0)
    about = done.json()
    assert about["backends"]["linear_scan"]["torch"] == "ok"
    assert about["backends"].keys() == about["chosen"].keys() == OPERATIONS.keys()
    assert about["backends"]["linear_scan"][about["chosen"]["linear_scan"]["cpu"]] == "ok"
    assert about["versions"]["torch"]
    assert about["machine"]["cores"]


def test_doctor_ends_with_1_if_something_is_broken(ssm, monkeypatch):
    found = {
        "machine": {"gpus": []},
        "versions": {"x": None},
        "backends": {
            "conv": {"torch": "ok", "numba": "conv has no numba form", "triton": "no CUDA"},
            "gate": {"torch": "ok", "numba": "gate has no numba form", "triton": "no CUDA"},
            "scan": {"torch": "ok", "numba": "ok", "triton": "no CUDA"},
        },
        "chosen": {"conv": {"cpu": "torch"}, "gate": {"cpu": "torch"}, "scan": {"cpu": "numba"}},
        "problems": [],
    }
    monkeypatch.setattr("ssm_lab.machine.report", lambda: found)
    done = ssm("doctor")
    assert done.code == 0
    assert "no problems" in done.out
    lines = [line.split() for line in done.out.splitlines()]
    assert ["scan", "numba", "torch,", "numba"] in lines
    assert ["numba", "conv,", "gate", "the", "operation", "has", "no", "numba", "form"] in lines
    assert ["triton", "every", "operation", "no", "CUDA"] in lines
    found["problems"] = [{"what": "backbone a/b", "detail": "cannot be built"}]
    done = ssm("doctor")
    assert done.code == 1
    assert "cannot be built" in done.out


def test_a_broken_operation_is_a_problem(monkeypatch):
    monkeypatch.setattr("ssm_core.ops.available_backends", lambda op: {"reference": "ok", "torch": "broken"})
    problems = report()["problems"]
    assert {"what": "operation linear_scan", "detail": "no backend but the slow reference runs"} in problems


def test_a_choice_that_does_not_run_is_a_problem(monkeypatch):
    states = {"reference": "ok", "torch": "ok", "numba": "it ran but gave wrong values", "triton": "no CUDA"}
    monkeypatch.setattr("ssm_core.ops.available_backends", lambda op: states)
    monkeypatch.setattr("ssm_lab.machine._choice", lambda op, device: "numba")
    problem = {
        "what": "operation linear_scan on cpu",
        "detail": "numba would be chosen, but: it ran but gave wrong values",
    }
    assert problem in report()["problems"]


def test_an_environment_that_cannot_be_met_is_told(monkeypatch):
    importlib.import_module("ssm_core.ops")  # where linear_scan is registered
    monkeypatch.setenv("SSM_BACKEND", "fast")
    assert _choice("linear_scan", "cpu").startswith(
        "none: linear_scan: the environment variable SSM_BACKEND is 'fast'"
    )


def test_a_user_error_keeps_its_brackets(ssm, stand_in):
    def refuse(*_, **__):
        raise UserError("[red] is no colour here", "see [docs]")

    stand_in(ssm_eval, "compare_runs", refuse)
    assert "error: [red] is no colour here\n  see [docs]" in ssm("compare", "a").err


def test_a_report_goes_where_it_is_told(ssm, tmp_path, monkeypatch):
    monkeypatch.setattr("ssm_eval.html_report", lambda runs: f"<p>{len(runs)} runs</p>", raising=False)
    place = tmp_path / "new" / "page.html"
    done = ssm("report", "one", "two", "-o", str(place))
    assert (done.code, done.out.strip()) == (0, str(place))
    assert place.read_text() == "<p>2 runs</p>"
    done = ssm("report", "one", "-o", str(tmp_path))
    assert done.code == 2
    assert f"cannot write {tmp_path}" in done.err
