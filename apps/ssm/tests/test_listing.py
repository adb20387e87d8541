from __future__ import annotations

import pytest

from ssm_lab import complete
from ssm_lab.commands.listing import _print

KEYS = {"kind", "name", "long_name", "dist", "version", "summary", "state", "detail"}


@pytest.mark.parametrize("kind", [None, *complete.KINDS])
def test_every_kind_can_be_listed(ssm, kind):
    words = ("list",) if kind is None else ("list", kind)
    done = ssm(*words, "--json")
    assert done.code == 0
    rows = done.json()
    assert all(row.keys() == KEYS for row in rows)
    assert all(row["kind"] == complete.KINDS[kind] for row in rows if kind)
    assert ssm(*words).code == 0


def test_ours_are_there_and_sound(ssm):
    rows = {(row["kind"], row["name"]): row for row in ssm("list", "--json").json()}
    for key in (
        ("backbone", "s5"),
        ("addon", "smr"),
        ("task", "pendulum"),
        ("recipe", "pendulum/default"),
        ("command", "train"),
    ):
        assert rows[key]["state"] == "ok"
        assert rows[key]["summary"]
    assert rows["backbone", "s5"]["long_name"] == "ssm-core/s5"
    assert rows["command", "train"]["summary"].startswith("Train a model")


def test_the_table_has_a_state_only_where_something_is_wrong(ssm, capsys):
    assert " state\n" not in ssm("list", "backbones").out
    row = {"name": "x", "long_name": "d/x", "dist": "d", "version": "1", "summary": "s", "detail": "why"}
    _print("backbones", [{**row, "state": "clash"}, {**row, "state": "broken"}, {**row, "state": "ok"}])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith(" state") for line in lines)
    assert any("d/x" in line and "clash: why" in line for line in lines)
    assert any("broken: why" in line for line in lines)
    assert all(line == line.rstrip() for line in lines)


def test_an_unknown_kind_is_bad_input(ssm):
    done = ssm("list", "backbons")
    assert done.code == 2
    assert "did you mean 'backbones'?" in done.err


def test_show_tells_everything(ssm):
    about = ssm("show", "backbone", "s5", "--json").json()
    assert about["capabilities"]["dt"] is True
    assert about["paper"]["arxiv"] == "2208.04933"
    assert {"name", "type", "default", "required", "doc"} == about["knobs"][0].keys()
    text = ssm("show", "backbone", "s5").out
    for part in ("backbone ssm-core/s5", "state_size", "arXiv:2208.04933", "dt = true"):
        assert part in text


def test_show_of_the_other_kinds(ssm):
    assert ssm("show", "addon", "ssm-smr/smr", "--json").json()["slot"] == "ssm"
    assert ssm("show", "task", "pendulum", "--json").json()["published"][0]["model"] == "S5"
    assert "time=true, sample_rate=0.5" in ssm("show", "task", "pendulum").out
    recipe = ssm("show", "recipe", "pendulum/default", "--json").json()
    assert recipe["settings"]["task"]["name"] == "pendulum"
    assert "optim = {" in ssm("show", "recipe", "pendulum/default").out
    assert ssm("show", "command", "train", "--json").json()["dist"] == "ssm-lab"
    assert ssm("show", "backbones", "s5").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("backbone", "s6x"), "there is no backbone 's6x'"),
        (("backbon", "s5"), "did you mean 'backbone'?"),
        (("recipe", "default"), "recipe 'default' of which task?"),
        (("recipe", "pendulum/defalt"), "did you mean 'pendulum/default'?"),
    ],
)
def test_show_of_what_is_not_there(ssm, words, message):
    done = ssm("show", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
