"""What is made of a study's file: cells, runs, refusals, the time left, the layout of the figure."""

from __future__ import annotations

import copy
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.run.recipes import ShippedStudy
from ssm_train.study.definition import matches
from ssm_train.study.folder import StudyFolder
from ssm_train.study.layout import layout
from ssm_train.study.left import duration, expected
from ssm_train.study.plan import key, make_plan
from ssm_train.study.reading import find_study, parse_only, read_study

pytestmark = pytest.mark.usefixtures("installed")

TREE = {
    "summary": "a grid",
    "seeds": [0, 1],
    "settings": {"task": "toy", "train": {"steps": 2}},
    "axes": [
        {"name": "backbone", "levels": {"s4": {"backbone": "s4"}, "s5": {"backbone": "s5"}}},
        {"name": "width", "levels": {"8": {"model": {"d_model": 8}}, "16": {"model": {"d_model": 16}}}},
        {"name": "pause", "levels": {"no": {}, "yes": {"task": {"pause": 0.5}}}},
    ],
    "skip": [{"backbone": "s4", "pause": "yes"}],
    "when": [{"at": {"backbone": "s5", "width": "16"}, "backbone": {"state_size": 4, "blocks": 2}}],
    "tests": [{"name": "poisoned", "x": 2.0, "task": {"poison": 1}}],
    "compare": [{"of": {"width": "16"}, "against": {"width": "8"}}],
}


def study(**changes):
    tree = {**copy.deepcopy(TREE), **changes}
    return read_study(ShippedStudy("grid", "", "", tree))


def test_cells_are_all_combinations_but_those_that_are_skipped():
    plan = make_plan(study())
    names = [cell.name for cell in plan.cells]
    assert names == ["s4, 8, no", "s4, 16, no", "s5, 8, no", "s5, 8, yes", "s5, 16, no", "s5, 16, yes"]
    by_name = dict(zip(names, plan.cells, strict=True))
    assert by_name["s5, 16, yes"].config.model.d_model == 16
    assert by_name["s5, 16, yes"].config.backbone.config.blocks == 2
    assert by_name["s5, 8, yes"].config.backbone.config.blocks == 1
    assert by_name["s5, 8, yes"].config.task.config.pause == 0.5
    jobs = plan.jobs()
    assert len(jobs) == 12
    assert [job.config.seed for job in jobs] == [0] * 6 + [1] * 6
    assert len({job.key for job in jobs}) == 12
    assert jobs[3].name == "s5, 8, yes, seed 0"


def test_there_is_always_a_test_as_trained():
    assert study().levels("tests") == ["as trained", "poisoned"]
    named = study(tests=[{"name": "rate 0.3", "task": {"poison": 1}}, {"name": "plain"}])
    assert named.levels("tests") == ["rate 0.3", "plain"]
    assert named.tests[0].settings == {"task": {"poison": 1}}
    assert study(tests=[]).levels("tests") == ["as trained"]


def test_cells_of_one_configuration_share_their_runs():
    axes = [
        {"name": "tau", "levels": {"1": {"addons": {"toy": {}}}, "2": {"addons": {"toy": {}}}}},
        {"name": "gate", "levels": {"none": {"addons": []}, "also none": {"addons": []}}},
    ]
    settings = {"task": "toy", "backbone": "s5"}
    plan = make_plan(study(axes=axes, settings=settings, skip=[], when=[], compare=[]))
    assert len(plan.cells) == 4
    assert all(cell.config.addons == () for cell in plan.cells)
    assert [job.config.seed for job in plan.jobs()] == [0, 1]


def test_seeds_and_settings_may_be_given():
    plan = make_plan(study(), seeds=[7], overrides={"train": {"steps": 5}, "model": {"n_layers": 1}})
    assert {(j.config.seed, j.config.train.steps, j.config.model.n_layers) for j in plan.jobs()} == {
        (7, 5, 1)
    }
    with pytest.raises(UserError, match="no cell of study grid has the add-on 'smr'"):
        make_plan(study(), overrides={"addons": {"smr": {"tau": 2}}})


@given(
    backbones=st.sets(st.sampled_from(["s4", "s5"])),
    widths=st.sets(st.sampled_from(["8", "16"])),
    pauses=st.sets(st.sampled_from(["no", "yes"])),
)
def test_only_takes_what_all_named_axes_allow(backbones, widths, pauses):
    words = [
        f"{name}={level}"
        for name, levels in (("backbone", backbones), ("width", widths), ("pause", pauses))
        for level in sorted(levels)
    ]
    wanted = [
        levels
        for levels in itertools.product(
            sorted(backbones or {"s4", "s5"}), sorted(widths or {"8", "16"}), sorted(pauses or {"no", "yes"})
        )
        if (levels[0], levels[2]) != ("s4", "yes")
    ]
    made = study()
    places = parse_only(made, words)
    if not wanted:
        with pytest.raises(UserError, match="nothing of study grid is left to run"):
            make_plan(made, only=places)
        return
    plan = make_plan(made, only=places)
    assert sorted(tuple(cell.levels.values()) for cell in plan.chosen) == sorted(wanted)
    assert len(plan.cells) == 6  # all are reported


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["widht=8"], "did you mean 'width'"),
        (["width=9"], "the level of 'width' '9'"),
        (["width"], "takes AXIS=LEVEL"),
    ],
)
def test_what_only_refuses(words, message):
    with pytest.raises(UserError, match=message):
        parse_only(study(), words)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": []}, "needs axes"),
        ({"axes": [{"name": "tests", "levels": {"a": {}}}]}, "none of them 'tests'"),
        ({"axes": [{"name": "a", "levels": {}}]}, "has no levels"),
        ({"axes": [{"name": "a", "lvls": {}}]}, "axes.0"),
        ({"skip": [{"widht": "8"}]}, "names the axis 'widht'.*\n.*did you mean 'width'"),
        ({"skip": [{"width": "9"}]}, "names the level of 'width' '9'"),
        ({"when": [{"at": {"width": ["8", "9"]}}]}, "names the level of 'width' '9'"),
        ({"seeds": []}, "'seeds' of study grid is empty"),
        ({"seeds": [1, 1]}, "'seeds' of study grid is empty or names something twice"),
        ({"tests": [{"name": "a", "task": {}}, {"name": "a"}]}, "'tests' of study grid .* twice"),
        ({"compare": [{"of": {"width": "8"}, "against": {"pause": "no"}}]}, "have to name the same axes"),
        ({"compare": [{"of": {"width": "8"}, "against": {"width": "7"}}]}, "level of 'width' '7'"),
        ({"compare": [{**TREE["compare"][0], "tests": ["none"]}]}, "names the test 'none'"),
        ({"compare": [{**TREE["compare"][0], "pool": ["width"]}]}, "names the axis to pool 'width'"),
        ({"figure": {"x": "widths"}}, "names the axis 'widths'"),
        ({"colour": "red"}, "has no setting 'study.colour'"),
    ],
)
def test_mistakes_in_the_file_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        study(**changes)


def test_mistakes_in_a_cell_name_the_cell():
    wrong = [{"at": {"backbone": "s5", "width": "16"}, "backbone": {"state_sise": 4}}]
    with pytest.raises(ConfigError, match=r"cell 's5, 16, no' of study grid.*state_sise.*\n.*state_size"):
        make_plan(study(when=wrong))
    with pytest.raises(ConfigError, match="has no backbone"):
        make_plan(study(axes=TREE["axes"][1:], skip=[], when=[]))


def test_a_study_of_ones_own_is_read_from_its_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[settings]\ntask = "toy"\n[[axes]]\nname = "b"\n[axes.levels]\ns5 = {backbone = "s5"}\n')
    found = find_study(str(file))
    assert (found.name, found.seeds) == ("mine", [0, 1, 2])
    assert len(make_plan(found).jobs()) == 3
    file.write_text("[[axes]\n")
    with pytest.raises(ConfigError, match=r"mine\.toml is not valid TOML"):
        find_study(str(file))
    with pytest.raises(ConfigError, match="cannot read the study"):
        find_study(str(tmp_path / "other.toml"))


def test_a_run_is_known_by_its_settings_but_for_threads():
    (job, other, *_) = make_plan(study()).jobs()
    tree = json.loads(json.dumps(job.config.to_tree()))
    assert key(tree) == key({**tree, "train": {**tree["train"], "threads": 5}})
    assert key(tree) != key({**tree, "seed": 5})
    assert key(tree) != key(other.config.to_tree())


def test_the_time_left_is_that_of_jobs_alike(tmp_path):
    folder, jobs = StudyFolder(tmp_path), make_plan(study()).jobs()
    assert expected(folder, jobs, jobs) is None
    for job, seconds in ((jobs[0], 10.0), (jobs[1], 20.0), (jobs[2], 100.0)):
        (folder.job(job) / "took.json").write_text(json.dumps({"seconds": seconds}))
    left = [jobs[6], jobs[8]]  # of s4, of s5
    assert expected(folder, jobs, left) == pytest.approx(15 + 100)
    assert expected(folder, jobs, left, {jobs[8].key: 30.0}) == pytest.approx(15 + 70)
    assert expected(folder, jobs, left, {jobs[6].key: 99.0}) == pytest.approx(100)
    assert [duration(s) for s in (4.4, 720, 12_600)] == ["4 s", "12 min", "3.5 h"]


def results(made) -> dict:
    """Results in which every value tells where it is from."""
    value = {"n": 2, "not_finite": 0, "low": None, "high": None}
    cells = [
        {
            "levels": dict(cell.levels),
            "tests": {
                name: {"mse": {**value, "mean": 1.0 * int(cell.levels["width"]) + number}}
                for number, name in enumerate(made.levels("tests"))
            },
        }
        for cell in make_plan(made).cells
    ]
    return {"metric": "mse", "cells": cells}


def test_the_figure_is_laid_out_as_asked():
    made = study(figure={"x": "width", "lines": ["pause"], "panels": ["backbone"], "log_x": True})
    picture = layout(made, results(made))
    assert [panel.title for panel in picture.panels] == ["s4", "s5"]
    assert [[line.label for line in panel.lines] for panel in picture.panels] == [["no"], ["no", "yes"]]
    assert (picture.panels[1].lines[1].x, picture.panels[1].lines[1].y) == ([8, 16], [8, 16])
    assert picture.log_x
    assert picture.ticks is None


def test_conditions_may_stand_along_the_abscissa_or_beside_each_other():
    made = study(
        tests=[{"name": "a", "x": 0.3}, {"name": "b", "task": {"poison": 1}, "x": 0.5}, {"name": "c"}]
    )
    picture = layout(made, results(made))
    (panel,) = picture.panels
    assert len(panel.lines) == 6
    assert panel.lines[0].x == [0.3, 0.5]  # "c" has no place
    made = study(figure={"x": "width", "panels": ["tests"], "tests": ["poisoned"]})
    picture = layout(made, results(made))
    assert [panel.title for panel in picture.panels] == ["poisoned"]
    assert picture.panels[0].lines[0].y == [9, 17]
    words = study(figure={"x": "pause", "panels": ["backbone"]})
    assert layout(words, results(words)).ticks == ["no", "yes"]


@given(levels=st.fixed_dictionaries({"a": st.sampled_from("xyz"), "b": st.sampled_from("xyz")}))
def test_a_cell_matches_its_own_levels_and_no_others(levels):
    assert matches(levels, {})
    assert matches(levels, levels)
    assert matches(levels, {"a": ["x", "y", "z"]})
    assert not matches(levels, {"a": "w"})
    assert matches(levels, {"a": ["x", "y"]}) == (levels["a"] in "xy")
