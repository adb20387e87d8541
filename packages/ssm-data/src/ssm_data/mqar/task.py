"""The associative recall task."""

from __future__ import annotations

from ssm_data.mqar.draw import GENERATOR, draw
from ssm_data.mqar.spec import MQARConfig
from ssm_data.recall import Recall
from ssm_data.synthetic import Drawn


def build(config: MQARConfig) -> Recall:
    """Build the task; no data is made before it is asked for."""
    drawn = Drawn(
        task="mqar",
        version=GENERATOR,
        seed=config.seed,
        sizes={"train": config.n_train, "validation": config.n_validation, "test": config.n_test},
        knobs={name: getattr(config, name) for name in ("length", "pairs", "vocabulary", "power")},
        draw=draw,
    )
    return Recall(drawn, config.vocabulary, {0: "blank"}, config.length, config.cache)
