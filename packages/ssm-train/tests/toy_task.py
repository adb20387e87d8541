"""The toy's spec, so that processes which know only a configuration can train on it."""

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import TaskSpec


@config
class ToyConfig:
    """Knobs.

    Attributes:
        poison: Row of the training split to put a NaN into; -1 is none.
        pause: Seconds that every batch takes longer.
    """

    poison: int = -1
    pause: float = 0.0


SPEC = TaskSpec(api=1, name="toy", summary="sums", config=ToyConfig, build="toy_runs:Registered")
