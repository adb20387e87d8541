"""Every shipped recipe with every backbone that it names: resolved, built on the meta device, its parameters counted.

uv run python scripts/recipe_table.py            print the table
uv run python scripts/recipe_table.py --write    write it to docs/results/recipes.md
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from ssm_core.model import build_for_task
from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError
from ssm_core.run.config import RunConfig
from ssm_core.run.recipes import recipes
from ssm_lab import assemble

PAGE = Path(__file__).parent.parent / "docs" / "results" / "recipes.md"

HEAD = """# Recipes

Every shipped recipe with every backbone that it has knobs for: resolved, and built at its full size without memory (on
torch's meta device), encoder and head included. Vocabularies read off the data have their published size here. No run
is meant by a row; what was trained is said on the tasks' pages.

<!-- not run: a house test does what it does -->
```bash
uv run python scripts/recipe_table.py --write
```

| recipe | backbone | parameters |
| --- | --- | --- |
"""


def rows() -> Iterator[tuple[str, str, int | None]]:
    """Yield (recipe, backbone, number of parameters); None where the vocabulary has to be read off absent files."""
    for recipe in recipes():
        for backbone in recipe.backbones:
            try:
                yield recipe.name, backbone, parameters(recipe.name, backbone)
            except UserError as error:
                if "found no" not in str(error):
                    raise
                yield recipe.name, backbone, None


def config_of(recipe: str, backbone: str) -> RunConfig:
    """Return the settings of a recipe's run, as the command line resolves them."""
    return assemble.run_config(
        assemble.Flags(backbone=backbone, task=recipe.partition("/")[0], recipe=recipe)
    )


def parameters(recipe: str, backbone: str) -> int:
    """Return the number of parameters of a recipe's model."""
    config = config_of(recipe, backbone)
    assert config.task is not None
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = build_for_task(config, registry.builder("task", config.task.name)[1](config.task.config))
    return sum(parameter.numel() for parameter in model.parameters())


def page() -> str:
    """Return the whole page."""
    lines = []
    for recipe, backbone, count in rows():
        lines.append(
            f"| `{recipe}` | `{backbone}` | {'needs its files' if count is None else f'{count:,}'} |\n"
        )
    return HEAD + "".join(lines)


if __name__ == "__main__":
    began = time.perf_counter()
    text = page()
    if "--write" in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
        print(f"wrote {PAGE} in {time.perf_counter() - began:.0f} s")
    else:
        print(text)
