"""What ``ssm new`` writes installs, is found, and passes its own tests."""

from __future__ import annotations

import subprocess
import sys

import pytest

KINDS = ("backbone", "addon", "task")


def check(written, kind: str, *words: str) -> None:
    environment, folder = written
    package = folder / f"ssm-new-{kind}"
    options = ("-q", "-x", "-W", "error", "-p", "no:cacheprovider", "-p", "no:randomly", "-n", "0")
    done = environment.call(environment.python, "-m", "pytest", *options, *words, cwd=package)
    assert done.code == 0, done.out + done.err
    assert " passed" in done.out


def test_all_three_are_found_and_sound(written):
    environment, _ = written
    rows = environment.call(environment.python, "-m", "ssm_lab", "list", "--json").json()
    states = {row["name"]: row["state"] for row in rows if row["dist"].startswith("ssm-new-")}
    assert states == {f"new-{kind}": "ok" for kind in KINDS}


def test_the_task_passes_its_tests(written):
    check(written, "task")


@pytest.mark.parametrize("kind", ["backbone", "addon"])
def test_the_layers_pass_the_quick_ones_of_their_tests(written, kind):
    check(written, kind, "-k", "shape_and_dtype or flags or copy or wrong_lengths")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["backbone", "addon"])
def test_the_layers_pass_their_tests(written, kind):
    check(written, kind)


def test_the_code_is_in_good_style(written):
    _, folder = written
    for kind in KINDS:
        for words in (["check", "--select", "E,F,W,I,UP,B,SIM,RUF,PT,C4"], ["format", "--check"]):
            ruff = [sys.executable, "-m", "ruff", *words, "--isolated", "--line-length", "110", "."]
            done = subprocess.run(
                ruff, cwd=folder / f"ssm-new-{kind}", capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout
