"""Softmax over a vocabulary, adaptive and plain."""

from __future__ import annotations

import pytest
import torch

from ssm_core.protocols import Batch
from ssm_data.lm.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from ssm_data.lm.heads import SoftmaxHead, TokenEmbedding


def batch_of(ids: torch.Tensor, targets: torch.Tensor | None = None) -> Batch:
    return Batch(inputs=ids, targets=ids if targets is None else targets)


def test_adaptive_softmax_is_torchs() -> None:
    torch.manual_seed(0)
    ours = AdaptiveSoftmax(32, 100, (10, 40), div=2.0)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(32, 100, [10, 40], div_value=2.0)
    own = ours.own
    assert own is not None
    with torch.no_grad():
        theirs.head.weight.copy_(torch.cat([own.vectors[0], ours.gates]))
        for i in (0, 1):
            theirs.tail[i][0].weight.copy_(own.maps[i].T)
            theirs.tail[i][1].weight.copy_(own.vectors[i + 1])
    y, targets = torch.randn(50, 32), torch.arange(50) * 2
    found = ours.of_targets(y, targets)
    torch.testing.assert_close(found, theirs(y, targets).output)
    torch.testing.assert_close(ours.log_probabilities(y), theirs.log_prob(y))


@pytest.mark.parametrize(("tied", "div"), [(False, 1.0), (True, 4.0), (False, 4.0), (True, 1.0)])
def test_adaptive_softmax_sums_to_one_and_picks_the_target(tied: bool, div: float) -> None:
    torch.manual_seed(1)
    embedding = AdaptiveEmbedding(60, 16, (8, 20), div)
    head = AdaptiveSoftmax(16, 60, (8, 20), div, tied=tied)
    for bias in [*head.biases, head.gate_bias]:
        torch.nn.init.normal_(bias)
    y, targets = torch.randn(3, 40, 16), torch.randint(0, 60, (3, 40))
    targets[:, ::5] = -100
    handed = embedding if tied else None
    whole = head.log_probabilities(y.flatten(0, 1), handed)
    torch.testing.assert_close(whole.exp().sum(1), torch.ones(120))
    expected = whole.gather(1, targets.flatten().clamp(min=0)[:, None])[:, 0].where(
        targets.flatten() >= 0, 0.0
    )
    found = head(y, batch_of(targets), handed)
    torch.testing.assert_close(found.flatten(), expected)
    found.sum().backward()
    used = [*head.parameters(), *(embedding.clusters.parameters() if tied else ())]
    assert all(p.grad is not None and p.grad.any() for p in used)


def test_tying_shares_vectors_and_narrow_clusters_save_most() -> None:
    tied, free = (AdaptiveSoftmax(64, 5000, (500, 2000), 4.0, tied=tied) for tied in (True, False))
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(tied) == 2 * 64 + 2 + 5000
    clusters = 500 * 64 + 1500 * 16 + 64 * 16 + 3000 * 4 + 64 * 4
    assert count(free) == count(tied) + clusters
    embedding = AdaptiveEmbedding(5000, 64, (500, 2000))
    assert count(embedding) == clusters
    out = embedding(batch_of(torch.tensor([[0, 499, 500, 1999, 2000, 4999]])))
    assert out.shape == (1, 6, 64)
    map1 = embedding.clusters.map(1)
    assert map1 is not None
    torch.testing.assert_close(out[0, 2], (map1 @ embedding.clusters.vectors[1][0]) * 8)
    alone = AdaptiveSoftmax(8, 30, (100,))
    torch.testing.assert_close(alone.log_probabilities(torch.randn(2, 8)).exp().sum(1), torch.ones(2))


@pytest.mark.parametrize("tied", [True, False])
def test_softmax_head_gives_log_probabilities_of_targets(tied: bool) -> None:
    torch.manual_seed(0)
    embedding, head = TokenEmbedding(11, 8, tied=tied), SoftmaxHead(8, 11, tied=tied)
    y, targets = torch.randn(2, 5, 8), torch.randint(0, 11, (2, 5))
    targets[0, 0] = -100
    handed = (embedding,) if tied else ()
    whole = head.log_probabilities(y, *handed)
    found = head(y, batch_of(targets), *handed)
    assert found[0, 0] == 0
    torch.testing.assert_close(found[1], whole[1].gather(1, targets[1][:, None])[:, 0])
    assert sum(p.numel() for p in head.parameters()) == (11 if tied else 11 * 9)
    assert 0.7 < float(embedding(batch_of(torch.arange(11)[None])).detach().std()) < 1.3
