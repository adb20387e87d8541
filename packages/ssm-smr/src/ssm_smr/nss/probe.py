"""The probe nss: a stated system without a RUN, the layers of a trained model with one."""

from __future__ import annotations

from typing import Any

from ssm_core.protocols import Result
from ssm_smr.nss.spec import NSSConfig
from ssm_smr.nss.stated import stated, table
from ssm_smr.nss.trained import trained


def probe(model: Any, dataset: Any, config: NSSConfig) -> Result:
    """Measure the error of the state on a perturbed grid, and what bounds it.

    Args:
        model: A :class:`ssm_core.model.SequenceModel`, or None for the stated system.
        dataset: The test split of its task, or None.
        config: The knobs.

    Raises:
        UserError: If the model or its task cannot be read on a perturbed grid.
    """
    if model is not None:
        return trained(model, dataset, config)
    return table(config) if config.table else stated(config)
