"""The induction heads task."""

from __future__ import annotations

from ssm_data.induction_heads.draw import GENERATOR, draw
from ssm_data.induction_heads.spec import InductionHeadsConfig
from ssm_data.recall import Recall
from ssm_data.synthetic import Drawn


def build(config: InductionHeadsConfig) -> Recall:
    """Build the task; no data is made before it is asked for."""
    tested = config.test_length or config.length
    drawn = Drawn(
        task="induction-heads",
        version=GENERATOR,
        seed=config.seed,
        sizes={"train": config.n_train, "validation": config.n_validation, "test": config.n_test},
        knobs={"length": config.length, "vocabulary": config.vocabulary},
        own={"test": {"length": tested}},
        draw=draw,
    )
    names = {config.vocabulary - 1: "special"}
    return Recall(drawn, config.vocabulary, names, max(config.length, tested), config.cache)
