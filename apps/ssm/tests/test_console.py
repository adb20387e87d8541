"""What results look like on standard output."""

from __future__ import annotations

import json
import re

import pytest

from ssm_lab import console


def test_json_has_null_for_what_is_not_finite(capsys):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    console.emit_json({"loss": float("inf"), "rows": [{"mse": float("nan"), "nll": 0.5}]})
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == {"loss": None, "rows": [{"mse": None, "nll": 0.5}]}


ROW = {
    "label": "s5+smr task.sample_rate=0.3 addons.smr.gate=none",
    "seeds": [0, 1, 2],
    "mean": 0.00341234,
    "std": 0.000271,
    "low": 0.00273,
    "high": 0.004081,
    "parameters": 1234567,
    "seconds_per_epoch": 12.34,
    "epochs": 100,
}


@pytest.fixture
def terminal(capsys, monkeypatch):
    """Return what a table looks like on a terminal of some width."""

    def shown(width, rows, *args):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        console.emit_table(rows, *args)
        out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
        assert max(map(len, out.splitlines())) <= width
        return out

    return shown


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_numbers_are_in_one_line_at_any_width(terminal, width, n):
    rows = [{**ROW, "mean": 0.0034 + number / 1000} for number in range(n)]
    out = terminal(width, rows, None, "test mse")
    words = out.split()
    for row in rows:
        for key in ("mean", "std", "low", "high", "parameters", "seconds_per_epoch"):
            assert console._cell(row[key]) in words
            assert key in words
    assert out.count("test mse") == 1


def test_texts_fold_and_are_not_turned(terminal):
    rows = [{name: f"{name} {'word ' * 9}" for name in "abcdefg"}] * 3
    assert terminal(60, rows).split()[:7] == list("abcdefg")
