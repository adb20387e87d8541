"""The Path-X task: Pathfinder's code at its largest size."""

from __future__ import annotations

from ssm_data.lra_pathfinder.task import PathfinderTask
from ssm_data.lra_pathx.spec import RESOLUTION, PathXConfig


def build(config: PathXConfig) -> PathfinderTask:
    """Build the task; no data is touched before it is asked for."""
    return PathfinderTask("lra-pathx", config, RESOLUTION)
