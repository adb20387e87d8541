from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssm_core.plugin import registry
from ssm_core.plugin.config import field_docs, knobs
from ssm_core.plugin.errors import ConfigError
from ssm_data.lra_image.spec import SPEC, LRAImageConfig
from ssm_data.pixels import Selection


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"std": 0.0}, "above 0"),
        ({"split_seed": -1}, "negative"),
        ({"dataset": "fashion-mnist", "source": "hub"}, "for cifar10"),
        ({"source": "generate"}, "source"),
        ({"grey": "gray"}, "grey"),
    ],
)
def test_bad_knobs_are_told(given: dict[str, object], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        registry.build_task("lra-image", {"root": str(tmp_path), **given})


def test_every_knob_is_documented_and_figures_have_a_source() -> None:
    assert set(field_docs(LRAImageConfig)) == {knob["name"] for knob in knobs(LRAImageConfig)}
    assert {row.backbone: row.value for row in SPEC.published}["s5"] == 0.88
    assert all(row.source and 0.4 < row.value < 0.91 for row in SPEC.published)


def test_selections_partition_the_rows() -> None:
    pieces = [Selection(11, start, stop, 3).indices() for start, stop in ((0, 7), (7, 9), (9, 11))]
    assert sorted(np.concatenate(pieces)) == list(range(11))
