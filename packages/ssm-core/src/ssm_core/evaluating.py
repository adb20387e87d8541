"""A model in evaluation for a while, and left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Put a model into evaluation, and each of its modules back into its own mode when it ends, whatever happens.

    Who gave us the model may go on training it, and may have frozen parts of it.

    Returns:
        The device of its parameters, the CPU if it has none.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    finally:
        for module, training in modes:
            module.training = training
