"""The probe: random systems if no run is given, the layers of its model otherwise."""

from __future__ import annotations

from typing import Any

from ssm_core.evaluating import evaluating
from ssm_core.protocols import Result
from ssm_serpent.information import theorem
from ssm_serpent.information.report import report
from ssm_serpent.information.spec import InformationConfig
from ssm_serpent.information.trained import parts_of, sample


def probe(model: Any, dataset: Any, config: InformationConfig) -> Result:
    """Measure how far an element moves the last state, and the output, against its interval.

    Args:
        model: A trained :class:`ssm_core.model.SequenceModel`, or None for random systems.
        dataset: Sequences, a map-style data set; the test split of the run.
        config: Knobs.

    Raises:
        UserError: If no layer of the model tells its intervals, or there is no element to leave out.

    Source: Proposition 1, SeRpEnt, arXiv 2501.11729.
    """
    if model is None:
        return theorem.measure(config)
    parts, silent = parts_of(model, config.layers)
    rows = [dataset[index] for index in range(min(config.sequences, len(dataset)))]
    with evaluating(model) as device:
        samples = sample(model, rows, parts, config, device)
    return report(samples, silent, len(rows))
