"""Every shipped recipe resolves and builds at its full size, and the page of their parameters is as the code has it."""

from __future__ import annotations

import re

import recipe_table


def test_every_recipe_builds_and_the_page_tells_its_size():
    page = recipe_table.PAGE.read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| (`[^|]+` \| `[^|]+`) \| (.+) \|$", page, flags=re.MULTILINE))
    found = {f"`{recipe}` | `{backbone}`": count for recipe, backbone, count in recipe_table.rows()}
    assert told.keys() == found.keys(), "uv run python scripts/recipe_table.py --write"
    # Where a vocabulary is read off files, only those who have them can count.
    counted = {name: f"{count:,}" for name, count in found.items() if count is not None}
    assert {name: told[name] for name in counted if told[name] != "needs its files"} == {
        name: count for name, count in counted.items() if told[name] != "needs its files"
    }
