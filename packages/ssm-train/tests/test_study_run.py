"""Studies that really run: what is made, resumed and left alone; failures, locks, signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssm_core.run.folder import RunFolder
from ssm_core.run.recipes import ShippedStudy
from ssm_train import processes
from ssm_train.processes import Child
from ssm_train.study import child, execution
from ssm_train.study.execution import execute, undone
from ssm_train.study.folder import StudyFolder, lock_of, measured
from ssm_train.study.plan import make_plan
from ssm_train.study.reading import read_study
from ssm_train.study.report import Report

pytestmark = pytest.mark.usefixtures("installed")


class Inside(Child):
    """A child that does its work in this process: importing torch anew for each would take most of the time."""

    def start(self, environment) -> None:
        self.folder.mkdir(parents=True)
        order, answer = self.folder / "order.json", self.folder / "answer.json"
        order.write_text(json.dumps(self.order))
        self.log.touch()
        with contextlib.suppress(SystemExit):
            child.main(str(order), str(answer))
        self.answer = json.loads(answer.read_text())
        self.error = self.answer.get("error", "")

    def ended(self) -> bool:
        return True


@pytest.fixture
def inside(monkeypatch):
    monkeypatch.setattr(execution, "Child", Inside)
    monkeypatch.setattr(processes, "INTERVAL", 0.001)


def tree(**more) -> dict:
    return {
        "seeds": [0, 1],
        "settings": {
            "backbone": {"name": "s5", "state_size": 4, "blocks": 1},
            "task": "toy",
            "model": {"d_model": 4, "n_layers": 1},
            "train": {"batch_size": 4, "device": "cpu", "steps": 2, "keep": 1},
        },
        "axes": [
            {"name": "rate", "levels": {"low": {"optim": {"lr": 1e-3}}, "high": {"optim": {"lr": 0.1}}}}
        ],
        "tests": [{"name": "slower", "task": {"pause": 0.001}}],
        "compare": [{"of": {"rate": "high"}, "against": {"rate": "low"}}],
        **more,
    }


def planned(given: dict, **more):
    return make_plan(read_study(ShippedStudy("tiny", "", "", given)), **more)


def test_a_study_from_nothing_to_its_report_and_again(tmp_path, inside, capfd):
    plan, folder = planned(tree()), StudyFolder(tmp_path / "study")
    report = Report(plan, folder)
    assert len(undone(plan, folder)) == 4
    outcome = execute(plan, folder, workers=2, told=report.write)
    assert (outcome.failed, outcome.interrupted) == ({}, "")
    results = report.write(last=True)
    assert results["missing"] == []
    assert results["metric"] == "mse"
    assert [cell["levels"] for cell in results["cells"]] == [{"rate": "low"}, {"rate": "high"}]
    for cell in results["cells"]:
        for test in ("as trained", "slower"):
            value = cell["tests"][test]["mse"]
            assert value["n"] == 2
            assert value["mean"] == pytest.approx(sum(value["values"].values()) / 2)
        # A pause changes no number: both conditions measure the same weights on the same rows.
        assert cell["tests"]["slower"]["mse"]["values"] == cell["tests"]["as trained"]["mse"]["values"]
    assert [row["n"] for row in results["comparisons"]] == [2, 2]
    assert {file.name for file in folder.path.iterdir() if file.is_file()} == {
        "results.json",
        "table.md",
        "figure.png",
    }
    assert json.loads((folder.path / "results.json").read_text()) == results
    assert "| low |" in (folder.path / "table.md").read_text()
    assert "4 runs, 0 done, 4 to do" in capfd.readouterr().err

    runs = {path: path.stat().st_mtime_ns for path in folder.runs.glob("*/*/*.json*")}
    assert undone(plan, folder) == []
    assert execute(plan, folder).failed == {}
    assert "4 runs, 4 done, 0 to do" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.runs.glob("*/*/*.json*")} == runs

    # A new condition is measured without training anything anew.
    more = planned(
        tree(tests=[{"name": "slower", "task": {"pause": 0.002}}]), seeds=[1], only={"rate": "low"}
    )
    assert execute(more, folder, quiet=True).failed == {}
    assert sorted(folder.runs.glob("*/*")) == sorted({path.parent for path in runs})
    (run,) = [run for run in folder.found().values() if measured(run, {"task": {"pause": 0.002}})]
    assert run.config().seed == 1


def test_one_failed_cell_hides_no_other_and_leaves_a_log(tmp_path, inside):
    given = tree(
        seeds=[0],
        axes=[{"name": "data", "levels": {"good": {}, "bad": {"task": {"poison": 3}}}}],
        settings={**tree()["settings"], "train": {"batch_size": 40, "device": "cpu", "steps": 2}},
        compare=[],
    )
    plan, folder = planned(given), StudyFolder(tmp_path)
    outcome = execute(plan, folder, workers=1, quiet=True)
    (name, reason), *others = outcome.failed.items()
    assert not others
    assert name == "bad, seed 0"
    assert "row 3 of the training split" in reason
    results = Report(plan, folder).write(last=True)
    (missing,) = results["missing"]
    assert missing["cell"] == "bad"
    assert missing["state"].startswith("failed: step 1 ")
    assert results["cells"][0]["tests"]["as trained"]["mse"]["n"] == 1
    assert results["cells"][1]["tests"]["as trained"] == {}
    assert "**Not complete:** 1 of 2 runs" in (tmp_path / "table.md").read_text()


def test_a_condition_that_cannot_be_met_fails_the_job_but_keeps_its_run(tmp_path, inside):
    given = tree(seeds=[0], axes=[{"name": "only", "levels": {"one": {}}}], compare=[])
    given["tests"] = [{"name": "impossible", "model": {"d_model": 5}}]
    plan, folder = planned(given), StudyFolder(tmp_path)
    outcome = execute(plan, folder, workers=1, quiet=True)
    assert "in another shape" in outcome.failed["one, seed 0"]
    results = Report(plan, folder).write()
    assert results["missing"][0]["tests"] == ["impossible"]
    assert results["cells"][0]["tests"]["as trained"]["mse"]["n"] == 1


def test_a_job_that_a_living_process_has_is_waited_for_and_a_dead_one_leaves_no_lock(tmp_path, inside):
    given = tree(seeds=[0], axes=[{"name": "only", "levels": {"one": {}}}], compare=[])
    plan, folder = planned(given), StudyFolder(tmp_path)
    (job,) = plan.jobs()
    script = (
        "import sys, time; from pathlib import Path; from ssm_train.study.folder import lock_of\n"
        "lock = lock_of(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(folder.job(job))], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    assert folder.busy(job)
    holder.kill()
    holder.communicate()
    assert not folder.busy(job)

    held = lock_of(folder.job(job))
    held.acquire()
    looked = []

    def free() -> None:  # stands in for another process that ends with the job undone
        looked.append(folder.busy(job))
        held.release()

    original = StudyFolder.busy

    class Watched(StudyFolder):
        def busy(self, job):
            found = original(self, job)
            if found and not looked:
                free()
            return found

    assert execute(plan, Watched(tmp_path), workers=1, quiet=True).failed == {}
    assert looked == [True]
    assert undone(plan, folder) == []


def start(out: Path, given: dict) -> subprocess.Popen[str]:
    script = (
        "import json, sys; from ssm_core.run.recipes import ShippedStudy\n"
        "from ssm_train.study.reading import read_study; from ssm_train.study.plan import make_plan\n"
        "from ssm_train.study.execution import execute; from ssm_train.study.folder import StudyFolder\n"
        "plan = make_plan(read_study(ShippedStudy('tiny', '', '', json.loads(sys.argv[1]))))\n"
        "outcome = execute(plan, StudyFolder(sys.argv[2]), workers=2)\n"
        "print(outcome.interrupted, outcome.failed)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(given), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def slow(epochs: int) -> dict:
    given = tree(
        seeds=[0, 1], axes=[{"name": "only", "levels": {"one": {"task": {"pause": 0.01}}}}], compare=[]
    )
    given["settings"]["train"] = {"batch_size": 4, "device": "cpu", "epochs": epochs}
    given["tests"] = []
    return given


def test_ctrl_c_saves_every_run_and_the_next_time_goes_on(tmp_path, inside):
    given = slow(4)
    given["seeds"] = [0]
    parent = start(tmp_path, given)
    wait_for(lambda: list(tmp_path.glob("runs/toy/*/latest.json")))
    os.killpg(parent.pid, signal.SIGINT)  # as the terminal does on Ctrl-C
    said, complaints = parent.communicate(timeout=60)
    assert said.startswith("SIGINT {}"), complaints
    assert "every run saves its state and stops" in complaints
    runs = sorted(tmp_path.glob("runs/toy/*"))
    stopped = [RunFolder(run).status()["step"] for run in runs]
    assert all(10 <= step < 40 for step in stopped)
    plan, folder = planned(given), StudyFolder(tmp_path)
    assert execute(plan, folder, quiet=True).failed == {}
    assert sorted(tmp_path.glob("runs/toy/*")) == runs
    for run, step in zip(runs, stopped, strict=True):
        assert RunFolder(run).status()["state"] == "finished"
        resumed = [row for row in (run / "metrics.jsonl").read_text().splitlines() if '"resumed"' in row]
        assert json.loads(resumed[0])["step"] == step


@pytest.mark.slow
def test_a_killed_child_is_reported_and_its_run_gone_on_with(tmp_path, inside):
    given = slow(3)
    given["seeds"] = [0]
    parent = start(tmp_path, given)
    wait_for(lambda: list(tmp_path.glob("runs/toy/*/latest.json")))
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    if not children.is_file():
        parent.kill()
        parent.communicate()
        pytest.skip("this system does not list the children of a process")
    (child,) = children.read_text().split()
    os.kill(int(child), signal.SIGKILL)
    said, _ = parent.communicate(timeout=60)
    assert "one, seed 0" in said
    assert "ended with status -9" in said
    plan, folder = planned(given), StudyFolder(tmp_path)
    (run,) = tmp_path.glob("runs/toy/*")
    assert RunFolder(run).status()["state"] == "running"
    assert execute(plan, folder, workers=1, quiet=True).failed == {}
    assert list(tmp_path.glob("runs/toy/*")) == [run]
    assert RunFolder(run).status()["state"] == "finished"
