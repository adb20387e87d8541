"""A third-party distribution that does everything right is as good as our own."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

PARTS = {
    ("backbone", "ema"),
    ("addon", "scale"),
    ("task", "echo"),
    ("probe", "memory"),
    ("recipe", "echo/default"),
    ("command", "hello"),
}


def test_it_is_listed_beside_ours(healthy):
    rows = healthy.ssm("list", "--json").json()
    theirs = [row for row in rows if row["dist"] == "ssm-good"]
    assert {(row["kind"], row["name"]) for row in theirs} == PARTS
    assert {(row["version"], row["state"]) for row in theirs} == {("0.3.0", "ok")}
    assert {"s5", "smr", "pendulum"} <= {row["name"] for row in rows}


def test_a_wheel_beside_an_editable_install_is_one_plugin(healthy):
    names = [row["name"] for row in healthy.ssm("list", "commands", "--json").json()]
    assert names.count("train") == 1


def test_it_is_shown_with_its_knobs(healthy):
    about = healthy.ssm("show", "backbone", "ema", "--json").json()
    assert about["long_name"] == "ssm-good/ema"
    assert [knob["name"] for knob in about["knobs"]] == ["tau_min", "tau_max"]
    assert all(knob["doc"] for knob in about["knobs"])
    assert about["capabilities"]["bidirectional"] is False
    assert "tau_max" in healthy.ssm("show", "backbone", "ssm-good/ema").out


def test_its_recipe_applies_unasked(healthy):
    done = healthy.ssm("config", "show", "--backbone", "ema", "--addon", "scale", "--task", "echo")
    tree = tomllib.loads(done.out)
    assert tree["recipe"] == "echo/default"
    assert (tree["train"]["steps"], tree["backbone"]["tau_max"]) == (4, 10.0)


def test_it_trains(trained):
    assert trained.code == 0, trained.err
    (run,) = map(Path, trained.out.splitlines())
    assert run.is_absolute()
    config = json.loads((run / "config.json").read_text())
    assert config["plugins"] == dict.fromkeys(("ssm-good/ema", "ssm-good/scale", "ssm-good/echo"), "0.3.0")
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert "test" in trained.err
    assert "mse" in trained.err


def test_it_is_evaluated_and_probed(healthy, trained):
    run = trained.out.strip()
    report = healthy.ssm("eval", run, "--set", "task.delay=2", "--json").json()
    assert (report["n"], report["overrides"]) == (16, {"task": {"delay": 2}})
    assert report["metrics"]["mse"] > 0
    found = healthy.ssm("probe", "memory", run, "--set", "rows=2", "--json").json()
    assert found["figures"]["mean_lag"] > 0
    assert [row["lag"] for row in found["rows"]] == [0, 1, 2, 3]


def test_its_probe_says_what_it_needs(healthy):
    done = healthy.ssm("probe", "memory")
    assert (done.code, done.out) == (2, "")
    assert "error: the probe memory looks into a trained model\n  ssm probe memory RUN" in done.err


def test_its_command_runs(healthy):
    done = healthy.ssm("hello", "greet", "--name", "you")
    assert (done.code, done.out, done.err) == (0, "hello you\n", "")
    done = healthy.ssm("hello", "refuse")
    assert (done.code, done.out, done.err) == (2, "", "error: no greeting today\n  come back tomorrow\n")
    page = healthy.ssm("--help").out
    assert "From other packages" in page
    assert "A third-party package with a plugin of every kind" in page


def test_its_names_are_completed(healthy):
    env = {"_SSM_COMPLETE": "complete_bash", "COMP_WORDS": "ssm train --backbone e", "COMP_CWORD": "3"}
    assert healthy.ssm(env=env).out.split() == ["ema"]


def test_doctor_finds_nothing_wrong(healthy):
    report = healthy.ssm("doctor", "--json")
    assert report.json()["problems"] == []
    assert report.code == 0
