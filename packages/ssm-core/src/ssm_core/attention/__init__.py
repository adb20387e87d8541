"""Softmax attention for rows of valid elements: causal or both ways, over everything or a window, with its state."""

from ssm_core.attention.multi_head import Attention, number_of_heads
from ssm_core.attention.relative import RelativeBuckets

__all__ = ["Attention", "RelativeBuckets", "number_of_heads"]
