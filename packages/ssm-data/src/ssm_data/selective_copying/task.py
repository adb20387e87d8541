"""The selective copying task."""

from __future__ import annotations

from ssm_data.recall import Recall
from ssm_data.selective_copying.draw import GENERATOR, draw
from ssm_data.selective_copying.spec import SelectiveCopyingConfig
from ssm_data.synthetic import Drawn


def build(config: SelectiveCopyingConfig) -> Recall:
    """Build the task; no data is made before it is asked for."""
    drawn = Drawn(
        task="selective-copying",
        version=GENERATOR,
        seed=config.seed,
        sizes={"train": config.n_train, "validation": config.n_validation, "test": config.n_test},
        knobs={name: getattr(config, name) for name in ("length", "tokens", "vocabulary")},
        draw=draw,
    )
    names = {0: "noise", config.vocabulary - 1: "marker"}
    return Recall(drawn, config.vocabulary, names, config.length + config.tokens, config.cache)
