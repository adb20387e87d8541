"""Knobs that a probe names as its flags, on the command line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ssm_core.plugin import registry
from ssm_core.plugin.config import config
from ssm_core.plugin.spec import ProbeSpec


@config
class Knobs:
    """Knobs.

    Attributes:
        index: A number.
        text: A text.
        other: No flag.
    """

    index: int = 0
    text: str | None = None
    other: int = 0


@pytest.fixture
def asked(ssm, monkeypatch):
    """Run a probe ``it``, which names two of its knobs as flags, and return what it was asked for."""
    seen: list[Any] = []

    def probe(model, dataset, config):
        seen.append(config)
        return {}

    spec = ProbeSpec(api=1, name="it", summary="", config=Knobs, build="own:it", flags=("index", "text"))
    entry = SimpleNamespace(name="it", long_name="own/it", dist="own", version="1")
    found = registry.found
    more = {"probe": [entry]}
    monkeypatch.setattr(registry, "found", lambda kind: more.get(kind) or found(kind))
    describe = registry.describe
    monkeypatch.setattr(
        registry, "describe", lambda kind, name: (entry, spec) if kind == "probe" else describe(kind, name)
    )
    monkeypatch.setattr(registry, "builder", lambda kind, name: (spec, probe))

    def run(*words: str) -> Any:
        done = ssm("probe", *words)
        return seen.pop() if done.code == 0 else done

    return run


@pytest.mark.parametrize(
    "words",
    [
        ("it", "--index", "3"),
        ("--index=3", "it"),
        ("own/it", "--index", "3", "--json"),
        ("it", "--index", "4", "--set", "index=3"),
        ("--set", "index=3", "it", "--index", "4"),
    ],
)
def test_a_flag_is_the_knob_and_set_is_stronger(asked, words):
    assert asked(*words) == Knobs(index=3)


@pytest.mark.parametrize(
    "text", ["I got to the movie", "3", "true", "1e3", '"quoted" = \\', "a=b", "--json", "two\nlines", "it"]
)
def test_a_text_arrives_as_it_was_typed(asked, text):
    assert asked("it", "--text", text) == Knobs(text=text)
    assert asked("it", f"--text={text}", "--index", "-1") == Knobs(text=text, index=-1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("it", "--index", "x"), "probe.index"),
        (("it", "--text"), "--text of the probe 'it' takes a value"),
        (("it", "--other", "3"), "--other"),
        (("--index", "3"), "--index"),
    ],
)
def test_what_is_no_flag_or_no_value_is_refused(asked, words, message):
    done = asked(*words)
    assert done.code == 2
    assert message in done.err


def test_resample_takes_text_and_index(ssm):
    for words in (("--text", "I got to the movie theater"), ("--index", "3")):
        done = ssm("probe", "resample", *words)
        assert done.code == 2
        assert "ssm probe resample RUN" in done.err
    done = ssm("show", "probe", "resample")
    assert "text, index" in done.out
