"""What Path-X says about itself: knobs, and the figures of the literature."""

from __future__ import annotations

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import TaskSpec
from ssm_data.lra import PAPER, published
from ssm_data.lra_pathfinder.spec import PathfinderKnobs

RESOLUTION = 128


@config
class PathXConfig(PathfinderKnobs):
    """Knobs of Path-X: those of Pathfinder, whose size is 128 x 128 here."""


SPEC = TaskSpec(
    api=1,
    name="lra-pathx",
    summary="are two discs joined by a dashed curve? 128x128 pictures read as 16,384 pixels (Long Range Arena)",
    config=PathXConfig,
    build="ssm_data.lra_pathx.task:build",
    paper=PAPER,
    published=published("pathx", contour_length="14"),
)
