"""What the results of a study say, and do not: values that are not finite, runs that several cells share, seeds."""

from __future__ import annotations

import copy
import math

import pytest

from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.run.folder import RunFolder, write_json
from ssm_core.run.recipes import ShippedStudy
from ssm_eval.stats import least_effect, paired
from ssm_train.study.analysis import analyse
from ssm_train.study.comparisons import outlook, outlook_lines
from ssm_train.study.execution import undone
from ssm_train.study.folder import StudyFolder
from ssm_train.study.layout import layout
from ssm_train.study.plan import make_plan
from ssm_train.study.reading import read_study
from ssm_train.study.report import cell_rows, comparison_rows, markdown, missing_line

pytestmark = pytest.mark.usefixtures("installed")

NAN = float("nan")

TREE = {
    "seeds": [0, 1, 2],
    "settings": {"task": "toy", "backbone": "s5"},
    "axes": [
        {"name": "rate", "levels": {"low": {"optim": {"lr": 1e-3}}, "high": {"optim": {"lr": 0.1}}}},
        {"name": "N", "levels": {"2": {"model": {"n_layers": 2}}, "4": {"model": {"n_layers": 4}}}},
    ],
    "compare": [{"of": {"rate": "high"}, "against": {"rate": "low"}}],
}
SHARED = [
    TREE["axes"][0],
    {"name": "pause", "levels": {"a": {"task": {"pause": 0.5}}, "b": {"task": {"pause": 0.5}}}},
]


def planned(seeds=None, only=None, overrides=None, **changes):
    tree = {**copy.deepcopy(TREE), **changes}
    return make_plan(
        read_study(ShippedStudy("mine", "", "", tree)), seeds=seeds, only=only, overrides=overrides
    )


def finish(folder: StudyFolder, plan, value, *, settings=({},), state="finished") -> None:
    """Make the runs of a plan as if they had been trained; ``value(levels, seed)`` is the metric, None makes no run."""
    cells = {f"{cell.name}, seed {seed}": (cell.levels, seed) for seed in plan.seeds for cell in plan.chosen}
    for job in plan.jobs():
        metric = value(*cells[job.name])
        if metric is None:
            continue
        run = RunFolder.create(folder.runs, job.config)
        run.write_status(state)
        write_json(run.path / "best.json", {"step": 3, "path": "checkpoints/x", "metric": "mse", "value": 1})
        (run.path / "eval").mkdir()
        for number, overrides in enumerate(settings):
            report = {"step": 3, "split": "test", "overrides": overrides, "metrics": {"mse": metric}}
            write_json(run.path / "eval" / f"test@3-{number}.json", report)


def analysed(tmp_path, value, **changes):
    plan, folder = planned(**changes), StudyFolder(tmp_path)
    finish(folder, plan, value)
    return analyse(plan, folder)


def base(levels, seed) -> float:
    """A value for each run, such that no two comparisons of them agree."""
    return (
        {"low": 1.0, "high": 1.5}.get(levels["rate"], 1.2)
        + 0.1 * seed**2
        + 0.03 * seed * (levels["rate"] == "low")
    )


def test_what_is_not_finite_is_counted_and_said(tmp_path):
    lost = {("high", 1), ("high", 2), ("low", 2)}
    results = analysed(
        tmp_path,
        lambda at, seed: NAN if (at["rate"], seed) in lost else base(at, seed),
        axes=[TREE["axes"][0]],
    )
    assert results["missing"] == []
    low, high = cell_rows(results)
    assert (low["seeds"], high["seeds"]) == (3, 3)
    assert low["as trained"].endswith("(1 not finite)")
    assert high["as trained"].endswith("(2 not finite)")
    (row,) = results["comparisons"]
    assert (row["n"], row["not_finite"]) == (1, [2, 1])
    (shown,) = comparison_rows(results)
    assert (shown["pairs"], shown["not finite"]) == (1, "2 against 1")
    assert "flatters the side" in markdown(results)
    study = planned(axes=[TREE["axes"][0]]).study
    assert "not finite" in layout(study, results).title


def test_a_model_that_always_diverges_stays_in_table_and_comparisons(tmp_path):
    results = analysed(
        tmp_path,
        lambda at, seed: math.inf if at["rate"] == "high" else base(at, seed),
        axes=[TREE["axes"][0]],
    )
    assert [(row["rate"], row["seeds"]) for row in cell_rows(results)] == [("low", 3), ("high", 3)]
    assert cell_rows(results)[1]["as trained"] == "none of 3 finite"
    (row,) = comparison_rows(results)
    assert (row["pairs"], row["not finite"], row["difference"], row["ratio"], row["p"]) == (
        0,
        "3 against 0",
        "",
        "",
        "",
    )
    assert "none so far" in markdown(results)


def test_cells_that_share_a_run_make_one_pair_and_one_row(tmp_path):
    pooled = {**TREE["compare"][0], "pool": ["pause"]}
    itself = {"of": {"pause": "a"}, "against": {"pause": "b"}}
    results = analysed(tmp_path, base, axes=SHARED, compare=[TREE["compare"][0], pooled, itself])
    first, second = results["comparisons"]
    values = [[base({"rate": rate}, seed) for seed in range(3)] for rate in ("high", "low")]
    expected = paired(*values)
    assert (first["n"], first["block"], first["p"]) == (3, 1, pytest.approx(expected.p))
    assert (second["n"], second["block"], second["p"]) == (3, 2, pytest.approx(expected.p))
    assert (second["low"], second["high"]) == pytest.approx((expected.low, expected.high))
    assert (results["runs"], results["missing"]) == (6, [])


def test_runs_that_are_missing_are_counted_once(tmp_path):
    results = analysed(tmp_path, lambda at, seed: None if at["rate"] == "high" else 1.0, axes=SHARED)
    assert missing_line(results).startswith(
        "3 of 6 runs are missing or not measured yet: high, a, seed 0 (not begun)"
    )
    assert len(results["missing"]) == 3


def test_seeds_limit_what_is_run_and_not_what_is_reported(tmp_path):
    folder = StudyFolder(tmp_path)
    finish(folder, planned(axes=[TREE["axes"][0]]), base)
    plan = planned(seeds=[7, 8], axes=[TREE["axes"][0]])
    finish(folder, plan, lambda at, seed: 9.0 if (at["rate"], seed) == ("high", 7) else None)
    results = analyse(planned(seeds=[7], axes=[TREE["axes"][0]]), folder)
    assert results["seeds"] == [7, 0, 1, 2]
    assert [cell["tests"]["as trained"]["mse"]["n"] for cell in results["cells"]] == [3, 4]
    assert results["comparisons"][0]["n"] == 3
    assert [(row["cell"], row["seed"]) for row in results["missing"]] == [("low", 7)]
    finish(folder, plan, lambda at, seed: 1.0 if (at["rate"], seed) == ("low", 8) else None, state="failed")
    results = analyse(
        planned(axes=[TREE["axes"][0]]), folder
    )  # what was begun and failed is told, asked for or not
    assert [(row["cell"], row["seed"], row["state"]) for row in results["missing"]] == [("low", 8, "failed")]
    assert results["runs"] == 8
    (run,) = (r for r in folder.found().values() if r.status()["state"] == "failed")
    run.write_status("interrupted", reason="interrupted by SIGTERM after step 3 of 9\n  go on")
    states = [row["state"] for row in analyse(planned(axes=[TREE["axes"][0]]), folder)["missing"]]
    assert states == ["interrupted by SIGTERM after step 3 of 9"]


def gain(at, seed) -> float:
    ratio = {"2": 0.5 + 0.02 * seed, "4": 0.8 + 0.05 * seed**2}[at["N"]]
    return base({"rate": "low"}, seed) * (ratio if at["rate"] == "high" else 1.0)


def test_a_gain_is_compared_between_two_levels_of_another_axis(tmp_path):
    compare = {**TREE["compare"][0], "between": {"N": ["4", "2"]}, "on": "ratio"}
    results = analysed(tmp_path, gain, compare=[compare, {**compare, "on": "difference"}])
    ratio, difference = results["comparisons"]
    gains = [[0.8 + 0.05 * seed**2 for seed in range(3)], [0.5 + 0.02 * seed for seed in range(3)]]
    expected = paired(*gains, on="ratio")
    assert (ratio["n"], ratio["at"], ratio["between"]) == (3, {}, {"N": ["4", "2"]})
    names = ("ratio", "ratio_low", "ratio_high", "p")
    assert [ratio[name] for name in names] == pytest.approx([getattr(expected, name) for name in names])
    low = [base({"rate": "low"}, seed) for seed in range(3)]
    differences = paired(*([w * (g - 1) for w, g in zip(low, side, strict=True)] for side in gains))
    assert (difference["difference"], difference["p"]) == pytest.approx(
        (differences.difference, differences.p)
    )
    assert ratio["difference"] == difference["difference"]
    rows = comparison_rows(results)
    assert [row["compared"] for row in rows] == ["high against low, N 4 against 2"] * 2
    assert [row["p of"] for row in rows] == ["ratio", "difference"]


@pytest.mark.parametrize(
    "between",
    [{"N": ["2"]}, {"N": ["2", "2"]}, {"rate": ["low", "high"]}, {"N": ["2", "4"], "rate": ["low", "high"]}],
)
def test_what_between_refuses(between):
    with pytest.raises(ConfigError, match="takes one axis that is not in 'of', and two of its levels"):
        planned(compare=[{**TREE["compare"][0], "between": between}])


def test_what_p_is_of_is_said_and_what_has_none_does_not_count(tmp_path):
    def value(at, seed):
        if at["N"] == "4":
            return 1.0  # no spread
        return base(at, seed) - (1.5 if (at["rate"], seed) == ("high", 0) else 0)  # not above 0

    compare = [{**TREE["compare"][0], "on": "ratio"}, {"of": {"N": "4"}, "against": {"N": "2"}}]
    results = analysed(tmp_path, value, compare=compare)
    rows = comparison_rows(results)
    assert [row["p of"] for row in rows] == [
        "difference (no ratio: not all above 0)",
        "",
        "difference",
        "difference",
    ]
    assert results["comparisons"][0]["p"] == results["comparisons"][0]["p_holm"]  # alone in its block
    ps = [row["p"] for row in results["comparisons"][2:]]
    assert results["comparisons"][2 + ps.index(min(ps))]["p_holm"] == pytest.approx(min(1, 2 * min(ps)))
    assert "1 in block 1, 2 in block 2" in markdown(results)


def test_a_dry_run_knows_what_can_come_out():
    blocks = [TREE["compare"][0], {**TREE["compare"][0], "pool": ["N"]}]
    assert outlook(planned(compare=blocks)) == [
        {"block": 1, "comparisons": 2, "pairs": [3, 3], "least": [least_effect(3, 2)] * 2},
        {"block": 2, "comparisons": 1, "pairs": [6, 6], "least": [least_effect(6)] * 2},
    ]
    # t of 2 degrees of freedom and 0.05 / 2, two-sided, is 6.205; over sqrt(3) that is 3.582, rounded up.
    assert outlook_lines(planned(compare=blocks))[0] == (
        "block 1 (high against low): 2 comparisons corrected together; of 3 pairs, can come out (p 0.05) from "
        "|mean|/sd 3.59 on"
    )
    assert outlook_lines(planned(seeds=[0]))[0].endswith("of 1 pair, too few for a p")
    shared = planned(axes=SHARED, compare=[TREE["compare"][0], {**TREE["compare"][0], "pool": ["pause"]}])
    assert [(row["comparisons"], row["pairs"][0]) for row in outlook(shared)] == [(1, 3), (1, 3)]


def test_settings_that_make_one_of_two_cells_are_refused():
    same = {"model": {"n_layers": 3}}
    with pytest.raises(ConfigError, match=r"one run of the cells 'low, 2' and 'low, 4' .*\n.*--only"):
        planned(overrides=same)
    plan = planned(overrides=same, only={"N": "4"})
    assert [cell.name for cell in plan.cells] == [
        "low, 4",
        "high, 4",
    ]  # the others are not what their names say
    assert len(planned(overrides={"train": {"steps": 1}}).cells) == 4
    assert (
        len(planned(axes=SHARED, overrides={"train": {"steps": 1}}).cells) == 4
    )  # one run by the study's own words
    with pytest.raises(UserError, match="has the add-on 'smr'"):
        planned(overrides={"addons": {"smr": {}}})


def test_a_test_of_the_runs_own_value_is_its_own_test(tmp_path):
    tests = [{"name": "slow", "task": {"pause": 0.5}}, {"name": "fast", "task": {"pause": 0.1}}]
    settings = {**TREE["settings"], "task": {"name": "toy", "pause": 0.5}}
    plan, folder = planned(tests=tests, settings=settings), StudyFolder(tmp_path)
    assert plan.study.levels("tests") == ["slow", "fast"]  # no "as trained" beside "slow"
    finish(folder, plan, base, settings=({}, {"task": {"pause": 0.1}}))
    assert undone(plan, folder) == []
    results = analyse(plan, folder)
    assert [value["mse"]["n"] for value in results["cells"][0]["tests"].values()] == [3, 3]
    # Under other settings it is another test, and the runs' own has to be measured anew for it.
    other = planned(tests=tests, settings=settings, overrides={"task": {"pause": 0.1}})
    finish(folder, other, base)
    assert len(undone(other, folder)) == 12
    assert {tuple(row["tests"]) for row in analyse(other, folder)["missing"]} == {("slow",)}
    assert read_study(ShippedStudy("x", "", "", {**TREE, "tests": tests})).levels("tests")[0] == "as trained"
