from __future__ import annotations

import importlib
import json

import pytest

import public_api

FROZEN = json.loads(public_api.FILE.read_text(encoding="utf-8"))


def test_public_names_are_the_frozen_ones():
    assert public_api.names() == FROZEN, "meant? then: just freeze-api"


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in FROZEN.items() for name in names]
)
def test_every_public_name_is_there_and_documented(module, name):
    found = getattr(importlib.import_module(module), name)
    assert (getattr(found, "__doc__", "") or "").strip()
    # A submodule of the same name would take its place once it is imported.
    assert getattr(importlib.import_module(module), name) is found
