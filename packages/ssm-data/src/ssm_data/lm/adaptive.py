"""Adaptive input and softmax for hundreds of thousands of words: rare words get narrow vectors and are seldom computed.

Ids are in order of frequency. The shortlist, ids below the first cutoff, is in the first softmax together with one
entry for each cluster of rarer ids; cluster i has vectors of width D / div^i. Grave et al. 2017 (softmax), Baevski and
Auli 2019 (input, and tying the two).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.protocols import Batch
from ssm_data.lm.split import IGNORED


def cluster_edges(vocabulary: int, cutoffs: Sequence[int]) -> list[int]:
    """Return 0, the cutoffs that lie inside the vocabulary, and its size."""
    return [0, *(cutoff for cutoff in cutoffs if cutoff < vocabulary), vocabulary]


class Clusters(nn.Module):
    """The vectors of all words, cluster by cluster.

    Args:
        d_model: Width D.
        vocabulary: Number of ids V.
        cutoffs: First id of each cluster but the shortlist, increasing.
        div: How many times narrower each cluster is than the one before.

    Attributes:
        edges: First id of each cluster, and V.
        vectors: One weight a cluster, (size, D_i).
        maps: One weight a cluster, (D, D_i), from its width to D; none for a cluster of width D.
    """

    def __init__(self, d_model: int, vocabulary: int, cutoffs: Sequence[int], div: float) -> None:
        super().__init__()
        self.edges = cluster_edges(vocabulary, cutoffs)
        widths = [max(1, int(d_model / div**i)) for i in range(len(self.edges) - 1)]
        sizes = [high - low for low, high in pairwise(self.edges)]
        self.vectors = nn.ParameterList(
            torch.randn(size, width) / math.sqrt(width) for size, width in zip(sizes, widths, strict=True)
        )
        self.maps = nn.ParameterList(
            nn.init.xavier_uniform_(torch.empty(d_model, width)) for width in widths if width != d_model
        )
        self._full = [width == d_model for width in widths]

    def map(self, cluster: int) -> Tensor | None:
        """Return the map (D, D_i) of a cluster, None if its vectors are of width D already."""
        return None if self._full[cluster] else self.maps[cluster - sum(self._full[:cluster])]


class AdaptiveEmbedding(nn.Module):
    """Adaptive input: (B, L) ids to (B, L, D).

    Args:
        vocabulary: Number of ids V.
        d_model: Width D.
        cutoffs: First id of each cluster but the shortlist.
        div: How many times narrower each cluster is than the one before.
        dropout: Dropout rate of the result.
    """

    def __init__(
        self, vocabulary: int, d_model: int, cutoffs: Sequence[int], div: float = 4.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.clusters = Clusters(d_model, vocabulary, cutoffs, div)
        self.scale = math.sqrt(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Embed a batch's inputs."""
        ids = batch.inputs.long().flatten()
        out: Tensor | None = None
        for i, (low, high) in enumerate(pairwise(self.clusters.edges)):
            rows = ((ids >= low) & (ids < high)).nonzero()[:, 0]
            # Empty clusters are computed too: every process of several then has the same gradients to add up.
            part = F.embedding(ids[rows] - low, self.clusters.vectors[i])
            if (narrow := self.clusters.map(i)) is not None:
                part = F.linear(part, narrow)
            out = part.new_zeros(len(ids), part.shape[-1]) if out is None else out
            out = out.index_copy(0, rows, part)
        assert out is not None
        return self.dropout(out.view(*batch.inputs.shape, -1) * self.scale)


class AdaptiveSoftmax(nn.Module):
    """Adaptive softmax.

    Args:
        d_model: Width D.
        vocabulary: Number of ids V.
        cutoffs: First id of each cluster but the shortlist.
        div: How many times narrower each cluster is than the one before.
        dropout: Dropout rate of the features.
        tied: It takes vectors and maps of the embedding, with which it is called; its own are the clusters' entries in
            the first softmax and the biases.
    """

    def __init__(
        self,
        d_model: int,
        vocabulary: int,
        cutoffs: Sequence[int],
        div: float = 4.0,
        dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.edges = cluster_edges(vocabulary, cutoffs)
        self.own = None if tied else Clusters(d_model, vocabulary, cutoffs, div)
        rare = len(self.edges) - 2
        self.gates = nn.Parameter(torch.randn(rare, d_model) / math.sqrt(d_model))
        self.gate_bias = nn.Parameter(torch.zeros(rare))
        self.biases = nn.ParameterList(torch.zeros(high - low) for low, high in pairwise(self.edges))
        self.dropout = nn.Dropout(dropout)

    def forward(self, y_bld: Tensor, batch: Batch, embedding: AdaptiveEmbedding | None = None) -> Tensor:
        """Return the log-probability (B, L) of each target, in nats; 0 where it is not scored."""
        targets = batch.targets.flatten()
        scored = (targets != IGNORED).nonzero()[:, 0]
        found = self.of_targets(y_bld.flatten(0, 1)[scored], targets[scored], embedding)
        return found.new_zeros(len(targets)).index_copy(0, scored, found).view(batch.targets.shape)

    def of_targets(self, y: Tensor, targets: Tensor, embedding: AdaptiveEmbedding | None = None) -> Tensor:
        """Return the log-probability (n,) of targets (n,) after features (n, D), in at least float32."""
        y, clusters, short = self.dropout(y), self._clusters(embedding), self.edges[1]
        first = self._first(y, clusters)
        entry = targets
        for i, low in enumerate(self.edges[1:-1]):
            entry = torch.where(targets >= low, short + i, entry)
        found = first.gather(1, entry[:, None])[:, 0]
        for i, (low, high) in list(enumerate(pairwise(self.edges)))[1:]:
            rows = ((targets >= low) & (targets < high)).nonzero()[:, 0]
            inside = self._inside(y[rows], clusters, i)
            found = found.index_add(0, rows, inside.gather(1, (targets[rows] - low)[:, None])[:, 0])
        return found

    def log_probabilities(self, y: Tensor, embedding: AdaptiveEmbedding | None = None) -> Tensor:
        """Return the log-probability (n, V) of every id after features (n, D): large, for generation and tests."""
        y, clusters, short = self.dropout(y), self._clusters(embedding), self.edges[1]
        first = self._first(y, clusters)
        rare = [
            first[:, short + i, None] + self._inside(y, clusters, i + 1) for i in range(len(self.edges) - 2)
        ]
        return torch.cat([first[:, :short], *rare], 1)

    def _clusters(self, embedding: AdaptiveEmbedding | None) -> Clusters:
        if self.own is not None:
            return self.own
        assert embedding is not None, "a tied head is called with the embedding"
        return embedding.clusters

    def _first(self, y: Tensor, clusters: Clusters) -> Tensor:
        words = self._scores(y, clusters, 0)
        return _log_softmax(torch.cat([words, F.linear(y, self.gates, self.gate_bias)], 1))

    def _inside(self, y: Tensor, clusters: Clusters, cluster: int) -> Tensor:
        return _log_softmax(self._scores(y, clusters, cluster))

    def _scores(self, y: Tensor, clusters: Clusters, cluster: int) -> Tensor:
        narrow = clusters.map(cluster)
        y = y if narrow is None else F.linear(y, narrow.T)
        return F.linear(y, clusters.vectors[cluster], self.biases[cluster])


def _log_softmax(scores: Tensor) -> Tensor:
    return F.log_softmax(scores.to(torch.promote_types(scores.dtype, torch.float32)), -1)
