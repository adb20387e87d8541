"""The shipped recipes have the published sizes: 813K, 872K, 494K in table 3, 35.2M, 44.3M, 47.4M in table 2."""

from __future__ import annotations

import pytest
import torch

from ssm_core import build_model
from ssm_core.plugin.errors import ConfigError
from ssm_core.run.recipes import recipe

VOCABULARY = {"lra-listops": 18, "lra-text": 135, "lra-retrieval": 98, "wikitext103": 30_000}
CLASSES = {"lra-listops": 10, "lra-text": 2, "wikitext103": 30_000}


def size(name: str, backbone: str) -> int:
    """Parameters of a recipe's model, with the vocabulary of the task's source and its head."""
    task = name.partition("/")[0]
    tree = recipe(name, task).for_backbone(backbone)
    knobs = dict(tree["model"])
    width = knobs.pop("d_model")
    with torch.device("meta"):
        model = build_model(
            backbone,
            tuple(tree.get("addons", {})),
            vocab=VOCABULARY[task],
            d_output=CLASSES.get(task),
            d_model=width,
            n_layers=knobs.pop("n_layers"),
            causal=knobs.pop("causal", True),
            model_config=knobs,
            backbone_config=tree["backbone"],
            addon_configs=tuple(tree.get("addons", {}).values()),
        )
    pair = (
        4 * width * width + width + 2 * width + 2
    )  # two towers, [a; b; a - b; a b] to a hidden layer to 2 classes
    return sum(p.numel() for p in model.parameters()) + (pair if task == "lra-retrieval" else 0)


@pytest.mark.parametrize(
    ("name", "backbone", "published"),
    [
        ("lra-listops/serpent-s4", "s4", 813_000),
        ("lra-text/serpent-s4", "s4", 872_000),
        ("lra-retrieval/serpent-s4", "s4", 494_000),
        ("wikitext103/s4-35m", "s4", 35_200_000),
        ("wikitext103/mamba-44m", "s6", 44_300_000),
        ("wikitext103/serpent-mamba-47m", "s6", 47_400_000),
    ],
)
def test_sizes_are_the_published_ones(name, backbone, published):
    assert abs(size(name, backbone) / published - 1) < 0.005, size(name, backbone)


def test_a_branch_has_the_parameters_that_the_sizes_were_explained_with():
    """W (H + G) h + h for the map, H + 1 for the intervals, G centres; H h + h for the base."""
    with torch.device("meta"):
        model = build_model(
            "s4",
            ["serpent"],
            d_input=1,
            d_model=192,
            n_layers=1,
            causal=False,
            backbone_config={"state_size": 4, "activation": "gelu"},
            addon_configs=[{"window": 6, "basis": 4}],
        )
    base, branch = model.stack.blocks[0].mixer.branches
    inner = sum(p.numel() for p in base.inner.parameters())
    assert sum(p.numel() for p in base.parameters()) == inner + 192 * 96 + 96
    assert sum(p.numel() for p in branch.parameters()) == inner + 6 * 196 * 96 + 96 + 192 + 1 + 4


def test_a_fraction_of_mambas_width_has_to_be_whole():
    with pytest.raises(ConfigError, match=r"expand 1\.3 times the width 8 is 10\.4, not a whole number"):
        build_model("s6", d_input=1, d_model=8, n_layers=1, backbone_config={"expand": 1.3})
