from __future__ import annotations

import pytest

from ssm_core.plugin import registry
from ssm_lab import complete


@pytest.fixture
def completed(ssm, monkeypatch):
    """Complete a line as bash asks for it."""

    def complete(*words: str) -> list[str]:
        monkeypatch.setenv("_SSM_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(["ssm", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        done = ssm("ignored")
        assert done.err == ""
        return done.out.split()

    return complete


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("tra",), "train"),
        (("train", "--backbone", "s"), "s5"),
        (("train", "--addon", "sm"), "smr"),
        (("train", "--task", "pend"), "pendulum"),
        (("train", "--recipe", "pendulum/d"), "pendulum/default"),
        (("config", "show", "--backbone", "s"), "s5"),
        (("config", "ch"), "check"),
        (("list", "back"), "backbones"),
        (("show", "back"), "backbone"),
        (("show", "task", "pend"), "pendulum"),
        (("data", "info", "pend"), "pendulum"),
        (("new", "back"), "backbone"),
    ],
    ids=" ".join,
)
def test_names_are_completed(completed, words, expected):
    assert expected in completed(*words)


def test_zsh_reads_its_words_elsewhere(ssm_process):
    env = {"_SSM_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "ssm train --backbone s"}
    done = ssm_process(env=env)
    assert (done.code, done.err) == (0, "")
    assert "s5" in done.out


def test_completion_of_names_reads_metadata_only(monkeypatch):
    def fail(self):
        raise AssertionError("imported a plugin")

    monkeypatch.setattr(registry.Entry, "load", fail)
    for kind in ("backbone", "addon", "task", "probe", "bench", "command"):
        found = complete.names(kind)("")
        assert len(found) == len(registry.found(kind))


def test_clashing_names_are_offered_in_full(monkeypatch):
    entry = registry.found("backbone")[0]
    others = [registry.Entry("backbone", "s5", dist, "1", entry.point, "") for dist in ("a", "b")]
    monkeypatch.setattr(registry, "found", lambda kind: tuple(others))
    assert [name for name, _ in complete.names("backbone")("")] == ["a/s5", "b/s5"]
