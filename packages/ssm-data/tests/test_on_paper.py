"""A model that is only counted needs no data: its vocabulary has the published size."""

from __future__ import annotations

import pytest
import torch

from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError

PUBLISHED = [
    ("lra-text", {"level": "char"}, 135),
    ("lra-retrieval", {"level": "char"}, 98),
    ("wikitext103", {"softmax": "full", "tied": False}, 267_735),
    ("wikitext103", {"softmax": "full", "level": "bpe", "vocab_size": 1000}, 1000),
]


@pytest.mark.parametrize(("name", "knobs", "size"), PUBLISHED)
def test_the_published_vocabulary_counts_on_the_meta_device_only(name, knobs, size, tmp_path):
    knobs = {**knobs, "root": tmp_path, "cache": tmp_path}
    task = registry.builder("task", name)[1](registry.configure("task", name, knobs))
    with torch.device("meta"):
        embedding = next(task.encoder(8).parameters())
    assert embedding.is_meta
    assert embedding.shape == (size, 8)
    with pytest.raises(UserError, match="found no"):
        task.encoder(8)
