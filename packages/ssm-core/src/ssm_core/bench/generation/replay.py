"""A step of generation as a CUDA graph: one launch, whatever the step is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ssm_core.protocols import Block, State
from ssm_core.trees import leaves


def captured(block: Block, x_bd: Tensor, state: State) -> Callable[[], None] | None:
    """Return what replays a step that carries its state on, or None if the state grows.

    Args:
        block: On a CUDA device, in evaluation.
        x_bd: The input (B, D); every replay reads this tensor.
        state: Before the step; copied, so several graphs may start from one.
    """
    state = tree_map_only(Tensor, Tensor.clone, state)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # where handles and kernels are made, which a capture must not do
        after = state
        for _ in range(3):
            _, after = block.step(x_bd, state=state)
    torch.cuda.current_stream().wait_stream(aside)
    if [x.shape for x in leaves(after)] != [x.shape for x in leaves(state)]:
        return None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _, after = block.step(x_bd, state=state)
        for old, new in zip(leaves(state), leaves(after), strict=True):
            old.copy_(new)
    return graph.replay
