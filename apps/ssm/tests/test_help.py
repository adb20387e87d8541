from __future__ import annotations

import pytest

import ssm_train
from ssm_core.plugin import registry
from ssm_lab.about import COMMANDS

HEAVY = ("torch", "numpy", "matplotlib", "pydantic")

COUNT = """
import sys
from ssm_lab.main import main
try:
    main(sys.argv[1:])
finally:
    loaded = [name for name in ("torch", "numpy", "matplotlib", "pydantic") if name in sys.modules]
    print(len(sys.modules), *loaded, file=sys.stderr)
"""


def loaded(ssm_process, *argv: str) -> tuple[int, set[str]]:
    done = ssm_process(*argv, code=COUNT)
    assert done.code == 0, done.err
    count, *heavy = done.err.splitlines()[-1].split()
    return int(count), set(heavy)


def test_the_help_page_loads_little(ssm_process):
    count, heavy = loaded(ssm_process, "--help")
    assert count <= 400
    assert heavy == set()


@pytest.mark.parametrize(
    "argv",
    [
        ("train", "--help"),
        ("list",),  # this loads every command
        ("show", "backbone", "s5"),
        ("config", "show", "--backbone", "s5", "--addon", "smr", "--task", "pendulum"),
    ],
    ids=lambda argv: argv[0],
)
def test_what_only_reads_specs_loads_no_torch(ssm_process, argv):
    _, heavy = loaded(ssm_process, *argv)
    assert heavy <= {"pydantic"}  # Typer's own, to convert the values of flags


def test_the_help_page_names_every_command(ssm):
    page = ssm("--help")
    assert page.code == 0
    for name, (_, text) in COMMANDS.items():
        assert f" {name} " in page.out
        assert text in page.out


def test_no_words_at_all_is_help(ssm):
    assert ssm().out == ssm("--help").out
    assert ssm("--debug").code == 0


def test_the_table_of_commands_is_what_is_declared():
    declared = {entry.name for entry in registry.found("command") if entry.dist == "ssm-lab"}
    assert declared == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_commands_say(ssm, name):
    page = ssm(name, "--help")
    assert page.code == 0
    assert COMMANDS[name][1].rstrip(".").split(":")[0] in page.out


def test_version(ssm):
    done = ssm("--version")
    assert done.code == 0
    assert done.out.startswith("ssm-lab 0.")


def test_a_misspelt_command_is_told_apart(ssm):
    done = ssm("trian", "--task", "pendulum")
    assert (done.code, done.out) == (2, "")
    assert "there is no command 'trian'" in done.err
    assert "did you mean 'train'?" in done.err


def test_a_command_may_be_called_by_its_long_name(ssm):
    done = ssm("ssm-lab/list", "backbones", "--json")
    assert done.code == 0
    assert "s5" in {row["name"] for row in done.json()}


def test_an_unknown_flag_is_bad_input(ssm):
    done = ssm("list", "--nonsense")
    assert (done.code, done.out) == (2, "")
    assert "--nonsense" in done.err


def test_debug_shows_the_traceback_and_keeps_the_status(ssm):
    plain, debugged = ssm("show", "backbone", "s6x"), ssm("show", "backbone", "s6x", "--debug")
    assert plain.code == debugged.code == 2
    assert "Traceback" not in plain.err
    assert "Traceback" in debugged.err
    assert "there is no backbone 's6x'" in debugged.err


def test_an_interrupt_is_status_130(ssm, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ssm_lab.inventory.rows", interrupt)
    done = ssm("list")
    assert (done.code, done.out, done.err) == (130, "", "interrupted\n")


def test_an_interrupt_before_a_run_says_that_nothing_is_saved(ssm, stand_in):
    def fit(*_, **__):
        raise KeyboardInterrupt

    stand_in(ssm_train, "fit", fit)
    done = ssm("train", "--backbone", "s5", "--task", "pendulum")
    assert (done.code, done.out) == (130, "")
    assert done.err == "no run had begun: nothing was saved\ninterrupted\n"


def test_commands_stay_when_plugins_are_switched_off(ssm, monkeypatch):
    monkeypatch.setenv("SSM_PLUGINS", "none")
    done = ssm("list", "backbones")
    assert (done.code, done.out) == (0, "")
    assert "no backbones installed" in done.err
    registry.found.cache_clear()
