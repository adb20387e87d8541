from __future__ import annotations

import tomllib

import pytest

from ssm_core.run.config import RunConfig
from ssm_lab.diff import differences

PARTS = ("--backbone", "s5", "--addon", "smr", "--task", "pendulum")


def test_show_prints_every_knob_with_its_meaning(ssm):
    done = ssm("config", "show", *PARTS)
    assert done.code == 0
    tree = tomllib.loads(done.out)
    assert RunConfig.from_tree(tree).label() == "s5+smr"
    for text in ("# Length of the memory", "# Peak learning rate", "# steps =", "[model]"):
        assert text in done.out


@pytest.mark.parametrize(
    "flags",
    [(), ("--recipe", "paper"), ("--set", "optim.lr=0.5", "--set", "addons.smr.tau=2", "--set", "seed=4")],
    ids=["default", "recipe", "set"],
)
def test_what_show_prints_is_read_back_the_same(ssm, tmp_path, flags):
    shown = ssm("config", "show", *PARTS, *flags).out
    file = tmp_path / "run.toml"
    file.write_text(shown)
    assert ssm("config", "show", "--config", str(file)).out == shown
    assert ssm("config", "diff", str(file), str(file)).err == "no difference\n"


def test_flags_still_win_over_a_file(ssm, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(ssm("config", "show", *PARTS).out)
    changed = tomllib.loads(ssm("config", "show", "--config", str(file), "--set", "model.d_model=5").out)
    assert changed["model"]["d_model"] == 5


def test_show_needs_no_backbone(ssm):
    done = ssm("config", "show", "--task", "pendulum")
    assert done.code == 0
    assert "backbone" not in tomllib.loads(done.out)


def test_check_says_what_is_fine_and_what_is_not(ssm, tmp_path, make_run):
    run = make_run()
    assert "fine (s5+smr on pendulum)" in ssm("config", "check", run.path).err
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('[task]\nname = "pendulum"\nsample_rate = 7.0\n')
    done = ssm("config", "check", run.path, wrong)
    assert (done.code, done.out) == (2, "")
    assert "error: task ssm-data/pendulum: sample_rate = 7.0 leaves" in done.err
    wrong.write_text("[task\n")
    assert "is not valid TOML" in ssm("config", "check", wrong).err


def test_diff_shows_settings_side_by_side(ssm, make_run):
    first, second = make_run().path, make_run(addons={}, optim={"lr": 0.5}).path
    done = ssm("config", "diff", first, second, "--json")
    found = {row["setting"]: (row["first"], row["second"]) for row in done.json()}
    assert found["optim.lr"] == (0.001, 0.5)
    assert found["addons"] == (["ssm-smr/smr"], [])
    assert found["addons.ssm-smr/smr.tau"] == (4, "(absent)")
    table = ssm("config", "diff", first, second).out
    assert "optim.lr" in table
    assert "0.001" in table


def test_the_order_of_add_ons_is_a_difference():
    a, b = {"addons": {"x": {}, "y": {}}}, {"addons": {"y": {}, "x": {}}}
    assert differences(a, a) == []
    assert [item.setting for item in differences(a, b)] == ["addons"]
    assert differences({"schema": 1, "plugins": {"a": "1"}}, {"schema": 1, "plugins": {"a": "2"}}) == []
