"""Distributions that are broken, clash or are of another API hurt only whoever asks for them by name."""

from __future__ import annotations

import pytest

from ssm_core.plugin.registry import FIRST_PARTY

MISSING = "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
MEND = "mend or uninstall ssm-broken; --debug shows the traceback"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(
            ("show", "backbone", "crooked"),
            f"backbone 'crooked' from ssm-broken 0.1.0 (ssm_broken.spec:SPEC) could not be loaded: {MISSING}\n  {MEND}",
            id="broken when described",
        ),
        pytest.param(
            ("train", "--backbone", "hollow", "--task", "echo", "--dry-run"),
            f"backbone 'ssm-broken/hollow' from ssm-broken 0.1.0 cannot be built: ssm_broken.spec:build: {MISSING}\n"
            f"  {MEND}",
            id="broken when built",
        ),
        pytest.param(
            ("show", "backbone", "quitter"),
            "backbone 'quitter' from ssm-broken 0.1.0 (ssm_broken.quitter:SPEC) could not be loaded: "
            f"SystemExit: this package needs another machine\n  {MEND}",
            id="leaves the program",
        ),
        pytest.param(
            ("crooked",),
            "command 'crooked' from ssm-broken 0.1.0: ssm_broken.cli:app is a str, not a Typer app\n"
            "  mend or uninstall ssm-broken",
            id="not a command",
        ),
        pytest.param(
            ("show", "recipe", "crooked/default"),
            "there is no recipe 'crooked/default'\n"
            "  did you mean 'sine/default'?; ssm-broken ships some that cannot be found: recipe 'crooked' from "
            "ssm-broken 0.1.0 (ssm_broken.nowhere) could not be loaded: "
            "ModuleNotFoundError: No module named 'ssm_broken.nowhere'",
            id="broken recipes",
        ),
        pytest.param(
            ("show", "backbone", "s5"),
            "backbone 's5' is registered 2 times: ssm-clashing/s5 -> ssm_clashing.spec:SPEC; "
            "ssm-core/s5 -> ssm_core.backbones.s5.spec:SPEC\n"
            "  name one of them as <distribution>/<name>, for example 'ssm-clashing/s5'",
            id="clash",
        ),
        pytest.param(
            ("doctor",),
            "command 'doctor' is registered 2 times: ssm-clashing/doctor -> ssm_clashing.cli:app; "
            "ssm-lab/doctor -> ssm_lab.commands.doctor:app\n"
            "  name one of them as <distribution>/<name>, for example 'ssm-clashing/doctor'",
            id="clash of commands",
        ),
        pytest.param(
            ("show", "addon", "bygone"),
            "addon 'bygone' from ssm-oldapi 0.1.0 is written for plugin API 0; this is API 1\n  upgrade ssm-oldapi",
            id="older API",
        ),
        pytest.param(
            ("show", "addon", "upcoming"),
            "addon 'upcoming' from ssm-oldapi 0.1.0 is written for plugin API 2; this is API 1\n  upgrade ssm-core",
            id="newer API",
        ),
        pytest.param(
            ("show", "backbone", "emma"),
            "there is no backbone 'emma'\n  did you mean 'ema'?",
            id="unknown",
        ),
        pytest.param(
            ("show", "backbone", "ssm-good/s5"),
            "there is no backbone 'ssm-good/s5'\n  known: ssm-clashing/s5, ssm-core/s5",
            id="unknown owner",
        ),
    ],
)
def test_who_asks_by_name_is_told(mixed, words, message):
    done = mixed.ssm(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: {message}\n"


def test_completion_keeps_quiet_about_what_is_broken(mixed):
    env = {"_SSM_COMPLETE": "complete_bash", "COMP_WORDS": "ssm crooked x", "COMP_CWORD": "2"}
    done = mixed.ssm(env=env)
    assert (done.code, done.out, done.err) == (0, "", "")


def test_debug_shows_where_it_broke(mixed):
    done = mixed.ssm("--debug", "show", "backbone", "crooked")
    assert done.code == 2
    assert "import a_module_that_is_not_there" in done.err
    assert done.err.endswith(f"{MEND}\n")


def test_listing_never_fails(mixed):
    done = mixed.ssm("list", "--json")
    assert done.code == 0
    states = {(row["kind"], row["long_name"]): (row["state"], row["detail"]) for row in done.json()}
    wrong = {key: state for key, (state, _) in states.items() if state != "ok"}
    assert wrong == {
        ("backbone", "ssm-broken/crooked"): "broken",
        ("backbone", "ssm-broken/quitter"): "broken",
        ("backbone", "ssm-clashing/s5"): "clash",
        ("backbone", "ssm-core/s5"): "clash",
        ("addon", "ssm-oldapi/bygone"): "broken",
        ("addon", "ssm-oldapi/upcoming"): "broken",
        ("recipe", "ssm-broken/crooked"): "broken",
        ("command", "ssm-broken/crooked"): "broken",
        ("command", "ssm-clashing/doctor"): "clash",
        ("command", "ssm-lab/doctor"): "clash",
    }
    assert MISSING in states["backbone", "ssm-broken/crooked"][1]
    assert states["backbone", "ssm-core/s5"][1] == "ssm-clashing/s5 has the same name"
    assert mixed.ssm("list").code == 0


def test_the_help_page_names_both_owners_of_a_command(mixed):
    done = mixed.ssm("--help")
    assert done.code == 0
    assert "Declared 2 times: run one as ssm-clashing/doctor or ssm-lab/doctor." in done.out


def test_others_are_not_hurt(mixed):
    done = mixed.ssm("config", "show", "--backbone", "ema", "--addon", "smr", "--task", "pendulum")
    assert (done.code, done.err) == (0, "")


def test_a_clash_is_settled_by_the_long_name(mixed):
    theirs = mixed.ssm("show", "backbone", "ssm-clashing/s5", "--json").json()
    ours = mixed.ssm("show", "backbone", "ssm-core/s5", "--json").json()
    assert [knob["name"] for knob in theirs["knobs"]] == ["wobble"]
    assert "state_size" in {knob["name"] for knob in ours["knobs"]}
    assert mixed.ssm("ssm-clashing/doctor").out == "the pulse is fine\n"


def test_a_model_is_built_by_long_names(mixed):
    """Our recipe's knobs for our s5 are not given to theirs."""
    words = (
        "--backbone",
        "ssm-clashing/s5",
        "--task",
        "pendulum",
        "--set",
        "backbone.wobble=2.0",
        "--dry-run",
    )
    done = mixed.ssm("train", *words)
    assert (done.code, done.out) == (0, "")
    assert "wobble = 2.0" in done.err
    assert "parameters" in done.err


def test_doctor_says_all_that_is_wrong(mixed):
    done = mixed.ssm("ssm-lab/doctor", "--json")
    assert done.code == 1
    assert {item["what"] for item in done.json()["problems"]} == {
        "backbone ssm-broken/crooked",
        "backbone ssm-broken/hollow",
        "backbone ssm-broken/quitter",
        "backbone ssm-clashing/s5",
        "backbone ssm-core/s5",
        "addon ssm-oldapi/bygone",
        "addon ssm-oldapi/upcoming",
        "recipe ssm-broken/crooked",
        "command ssm-broken/crooked",
        "command ssm-clashing/doctor",
        "command ssm-lab/doctor",
    }


OURS = {f"ssm-core/{name}" for name, owner in FIRST_PARTY.items() if owner == "ssm-core"}


@pytest.mark.parametrize(
    ("env", "seen"),
    [
        ({"SSM_PLUGINS": "none"}, set()),
        ({"SSM_PLUGINS": "ssm-good,ssm_clashing"}, {"ssm-good/ema", "ssm-clashing/s5"}),
        ({"SSM_PLUGINS_BLOCK": "ssm-broken, ssm-clashing"}, {"ssm-good/ema", *OURS}),
        ({"SSM_PLUGINS": "ssm-good,ssm-core", "SSM_PLUGINS_BLOCK": "ssm-good"}, OURS),
    ],
    ids=["none", "some", "block", "both"],
)
def test_distributions_can_be_switched_off(mixed, env, seen):
    done = mixed.ssm("list", "backbones", "--json", env=env)
    assert done.code == 0
    assert {row["long_name"] for row in done.json()} == seen


def test_what_is_ours_and_switched_off_says_where_it_comes_from(mixed):
    done = mixed.ssm("show", "backbone", "s5", env={"SSM_PLUGINS": "none"})
    assert done.code == 2
    assert "it comes with the package ssm-core: uv pip install ssm-core" in done.err
