"""Every shipped recipe resolves and builds at its full size, and the page of their parameters is as the code has it."""

from __future__ import annotations

import re
import warnings

import recipe_table
import ssm_train


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


def test_every_recipe_dry_runs():
    """As `ssm train --dry-run` does: the text tells the size that the page has, and how each group is trained."""
    page = recipe_table.PAGE.read_text(encoding="utf-8")
    told = re.findall(r"^\| `([^|]+)` \| `([^|]+)` \| ([\d,]+) \|$", page, flags=re.MULTILINE)
    assert len(told) > 100
    for recipe, backbone, count in told:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            text = ssm_train.describe(recipe_table.config_of(recipe, backbone))
        assert f"{count} parameters" in text, (recipe, backbone)
        assert "weight decay" in text


# Sizes that papers print, and by how much ours may be off: they count in round millions.
PUBLISHED = {
    ("wikitext103/mega", "mega"): (252e6, 0.005),
    ("wikitext103/h3", "h3"): (125e6, 0.01),
    ("wikitext103/s4", "s4"): (
        249e6,
        0.04,
    ),  # of the paper's first version, whose settings are not the recipe's
}


def test_models_are_as_large_as_published():
    for (recipe, backbone), (published, off) in PUBLISHED.items():
        count = recipe_table.parameters(recipe, backbone)
        assert abs(count - published) <= off * published, (recipe, count)
