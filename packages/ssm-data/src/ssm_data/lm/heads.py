"""Embedding and softmax over a whole vocabulary; the head gives the log-probability of what came next."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.protocols import Batch
from ssm_data.lm.split import IGNORED


class TokenEmbedding(nn.Module):
    """An embedding of token ids, (B, L) to (B, L, D).

    Args:
        vocabulary: Number of ids V.
        d_model: Width D.
        dropout: Dropout rate of the result.
        tied: Its weights (V, D) serve a head as well: they start with variance 1/D, as logits want it, and what is
            embedded is scaled back to variance 1.
    """

    def __init__(self, vocabulary: int, d_model: int, dropout: float = 0.0, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, d_model)
        self.scale = math.sqrt(d_model) if tied else 1.0
        if tied:
            nn.init.normal_(self.embedding.weight, std=1 / self.scale)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Embed a batch's inputs."""
        return self.dropout(self.embedding(batch.inputs.long()) * self.scale)


class SoftmaxHead(nn.Module):
    """One softmax over all ids.

    Args:
        d_model: Width D.
        vocabulary: Number of ids V.
        dropout: Dropout rate of the features.
        tied: It has no weights but biases: it is called with the embedding.
    """

    def __init__(self, d_model: int, vocabulary: int, dropout: float = 0.0, tied: bool = False) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.weight = None if tied else nn.Parameter(torch.empty(vocabulary, d_model))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        if self.weight is not None:
            nn.init.uniform_(self.weight, -1 / math.sqrt(d_model), 1 / math.sqrt(d_model))

    def logits(self, y: Tensor, embedding: TokenEmbedding | None = None) -> Tensor:
        """Return logits (..., V) of features (..., D)."""
        weight = self.weight
        if weight is None:
            assert embedding is not None, "a tied head is called with the embedding"
            weight = embedding.embedding.weight
        return F.linear(self.dropout(y), weight, self.bias)

    def log_probabilities(self, y: Tensor, embedding: TokenEmbedding | None = None) -> Tensor:
        """Return the log-probability (..., V) of every id, in at least float32."""
        return F.log_softmax(_wide(self.logits(y, embedding)), -1)

    def forward(self, y_bld: Tensor, batch: Batch, embedding: TokenEmbedding | None = None) -> Tensor:
        """Return the log-probability (B, L) of each target, in nats; 0 where it is not scored."""
        logits = _wide(self.logits(y_bld, embedding)).flatten(0, 1)
        nats = F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED, reduction="none")
        return -nats.view(batch.targets.shape)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
