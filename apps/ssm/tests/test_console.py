"""What results look like on standard output."""

from __future__ import annotations

import json

from ssm_lab import console


def test_json_has_null_for_what_is_not_finite(capsys):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    console.emit_json({"loss": float("inf"), "rows": [{"mse": float("nan"), "nll": 0.5}]})
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == {"loss": None, "rows": [{"mse": None, "nll": 0.5}]}
