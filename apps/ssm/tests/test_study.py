"""``ssm study``, ``list studies``, ``show study``: what they take, print and return; nothing is trained here."""

from __future__ import annotations

import json

import pytest

from ssm_core.run.folder import RunFolder, write_json
from ssm_lab import complete
from ssm_train.study import execution
from ssm_train.study.execution import Outcome
from ssm_train.study.plan import make_plan
from ssm_train.study.reading import find_study

STUDY = """
summary = "two rates"
question = "Which is better?"
seeds = [0, 1]
[settings]
backbone = { name = "s5", state_size = 4 }
task = { name = "sine", n_train = 4 }
[[axes]]
name = "rate"
[axes.levels]
low = { optim.lr = 1e-3 }
high = { optim.lr = 1e-2 }
[[tests]]
name = "jitter"
task.grid = "jittered"
[[compare]]
of = { rate = "high" }
against = { rate = "low" }
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(STUDY)
    return tmp_path / "mine.toml"


@pytest.fixture
def finish(tmp_path):
    """Make the runs of a study as if they had been trained; the value tells level and seed."""

    def make(file, *names: str) -> None:
        for job in make_plan(find_study(str(file))).jobs():
            if not any(job.name.startswith(name) for name in names):
                continue
            run = RunFolder.create(tmp_path / "studies" / "mine" / "runs", job.config)
            run.write_status("finished")
            write_json(
                run.path / "best.json", {"step": 3, "path": "checkpoints/x", "metric": "mse", "value": 1}
            )
            base = (0.2 if "high" in job.name else 0.1) + 0.01 * job.config.seed
            (run.path / "eval").mkdir()
            for number, settings in enumerate(({}, {"task": {"grid": "jittered"}})):
                report = {
                    "step": 3,
                    "split": "test",
                    "overrides": settings,
                    "metrics": {"mse": base + number},
                }
                write_json(run.path / "eval" / f"test@3-{number}.json", report)

    return make


def test_dry_run_says_what_would_be_run_and_makes_nothing(ssm, mine):
    done = ssm("study", "mine.toml", "--dry-run", "--seeds", "0-2", "--only", "rate=low")
    assert done.code == 0
    assert [line.strip() for line in done.out.splitlines() if "seed" in line] == [
        f"low, seed {n}" for n in range(3)
    ]
    assert "1 cells, 3 runs, 3 to do; each tested under 2 conditions" in done.err
    # t of 2 degrees of freedom and 0.05 / 2, two-sided, is 6.205; over sqrt(3) that is 3.582, rounded up.
    said = (
        "block 1 (high against low): 2 comparisons corrected together; of 3 pairs, can come out (p 0.05) from"
    )
    assert f"{said} |mean|/sd 3.59 on" in " ".join(done.err.split())
    about = ssm("study", "mine.toml", "--dry-run", "--json", "--set", "train.epochs=2").json()
    assert [(row["comparisons"], row["pairs"]) for row in about["comparisons"]] == [(2, [2, 2])]
    assert [row["config"]["train"]["epochs"] for row in about["runs"]] == [2] * 4
    assert not (mine.parent / "studies").exists()


def test_report_from_what_is_finished(ssm, mine, finish):
    finish(mine, "low", "high, seed 1")
    done = ssm("study", "mine.toml", "--report-only")
    assert done.code == 0
    assert "comparisons, paired by seed" in done.out
    assert "1 of 4 runs are missing or not measured yet: high, seed 0 (not begun)" in done.err
    results = ssm("study", "mine.toml", "--report-only", "--json").json()
    low, high = results["cells"]
    assert low["tests"]["as trained"]["mse"]["values"] == {"0": 0.1, "1": 0.11}
    assert low["tests"]["as trained"]["mse"]["mean"] == pytest.approx(0.105)
    assert high["tests"]["jitter"]["mse"]["values"] == {"0": None, "1": pytest.approx(1.21)}
    trained, jitter = results["comparisons"]
    assert (trained["n"], jitter["n"], trained["p"]) == (1, 1, None)
    assert trained["difference"] == pytest.approx(0.1)
    finish(mine, "high, seed 0")
    trained, jitter = ssm("study", "mine.toml", "--report-only", "--json").json()["comparisons"]
    assert (trained["n"], trained["test"], jitter["test"]) == (2, "as trained", "jitter")
    assert (trained["difference"], jitter["difference"]) == pytest.approx((0.1, 0.1))
    folder = mine.parent / "studies" / "mine"
    assert "| high |" in (folder / "table.md").read_text()
    assert json.loads((folder / "results.json").read_text())["comparisons"] == [trained, jitter]
    assert (folder / "figure.png").is_file()


def test_nothing_finished_is_no_error(ssm, mine):
    done = ssm("study", "mine.toml", "--report-only")
    assert done.code == 0
    assert "Nothing is finished yet." in (mine.parent / "studies" / "mine" / "table.md").read_text()


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        (Outcome(), 0, ""),
        (Outcome(failed={"low, seed 0": "it broke\n  its log: x"}), 1, "failed: low, seed 0: it broke"),
        (
            Outcome(interrupted="SIGINT"),
            1,
            "the study is interrupted by SIGINT; the same command goes on with it",
        ),
    ],
)
def test_a_failure_is_told_after_the_table_and_is_status_1(
    ssm, mine, finish, monkeypatch, outcome, code, said
):
    finish(mine, "low")
    seen = {}

    def execute(plan, folder, **given):
        seen.update(given, cells=len(plan.chosen), out=folder.path)
        return outcome

    monkeypatch.setattr(execution, "execute", execute)
    done = ssm("study", "mine.toml", "--workers", "3", "--quiet", "--out", "studies/mine")
    assert done.code == code
    assert said in done.err
    assert " low " in done.out
    assert (seen["workers"], seen["quiet"], seen["cells"]) == (3, True, 2)
    assert seen["out"] == mine.parent / "studies" / "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sampling-shfit",), "did you mean 'sampling-shift'?"),
        (("none.toml",), "cannot read the study"),
        (("mine.toml", "--only", "rate=medium"), "names the level of 'rate' 'medium'"),
        (("mine.toml", "--set", "optm.lr=1"), "there is no section 'optm'"),
        (("mine.toml", "--seeds", "x"), "--seeds takes numbers"),
    ],
)
def test_bad_input_is_status_2(ssm, mine, words, message):
    done = ssm("study", *words, "--dry-run")
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_studies_are_listed_shown_and_completed_and_are_no_recipes(ssm):
    names = {row["name"] for row in ssm("list", "studies", "--json").json()}
    assert "sampling-shift" in names
    assert not any("studies" in row["name"] for row in ssm("list", "recipes", "--json").json())
    assert {name for name, _ in complete.names("study")("")} == names
    shown = ssm("show", "study", "sampling-shift")
    for part in ("study ssm-smr/sampling-shift", "question", 'backbone = ["s4", "s5", "s6"]', "rate 0.3"):
        assert part in shown.out
    about = ssm("show", "study", "ssm-smr/sampling-shift", "--json").json()
    assert about["recipe"] == "pendulum/study"
    assert about["settings"]["figure"]["x"] == "tests"
    assert "there is no study 'sampling'" in ssm("show", "study", "sampling").err
