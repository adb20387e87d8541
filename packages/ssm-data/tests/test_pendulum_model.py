from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ssm_core.protocols import Batch
from ssm_data.pendulum.encoder import FrameEncoder, gaps
from ssm_data.pendulum.head import Gaussian, GaussianHead, elu_plus_one, gaussian_nll
from ssm_data.pendulum.init import dense, lecun_normal_


def batch(b: int = 2, l: int = 5) -> Batch:
    rng = torch.Generator().manual_seed(0)
    times = torch.randperm(100, generator=rng)[: b * l].view(b, l).sort(1).values
    inputs = torch.randint(0, 256, (b, l, 24, 24), dtype=torch.uint8, generator=rng)
    return Batch(inputs=inputs, targets=torch.zeros(b, l, 2), extra={"time_points": times})


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_are_those_of_the_reference_model() -> None:
    assert count(FrameEncoder(30)) == 5820
    assert count(GaussianHead(30)) == 1984
    assert count(FrameEncoder(30, append_gap=True)) == 5820 + 30


def test_each_frame_is_encoded_by_itself() -> None:
    encoder, whole = FrameEncoder(16), batch(2, 5)
    x = encoder(whole)
    assert x.shape == (2, 5, 16)
    alone = encoder(Batch(inputs=whole.inputs[1:, 3:4], targets=whole.targets))
    torch.testing.assert_close(alone[0, 0], x[1, 3], rtol=1e-5, atol=1e-5)


def test_an_appended_gap_moves_the_features_and_nothing_else_does() -> None:
    torch.manual_seed(0)
    encoder, one = FrameEncoder(16, append_gap=True), batch(1, 4)
    times = torch.tensor([[5, 6, 8, 9]])
    later = torch.tensor([[7, 8, 11, 12]])
    a, b = (
        encoder(Batch(inputs=one.inputs, targets=one.targets, extra={"time_points": t}))
        for t in (times, later)
    )
    differs = (a != b).any(-1)[0]
    assert differs.tolist() == [False, False, True, False]
    slope = (b - a)[0, 2]
    torch.testing.assert_close(slope, encoder.out.weight[:, -1], rtol=1e-4, atol=1e-5)


def test_gaps_begin_with_one() -> None:
    found = gaps(torch.tensor([[0, 1, 9], [40, 42, 43]]))
    assert found.dtype == torch.float32
    assert found.tolist() == [[1, 1, 8], [1, 2, 1]]
    assert gaps(torch.tensor([[7]])).tolist() == [[1]]


def test_variance_is_positive_continuous_and_right_far_below_zero() -> None:
    v = torch.tensor([-80.0, -20.0, -1e-4, 0.0, 1e-4, 3.0, 100.0], dtype=torch.float64, requires_grad=True)
    y = elu_plus_one(v)
    assert (y > 0).all()
    torch.testing.assert_close(y, torch.where(v < 0, v.detach().exp(), v + 1))
    (slope,) = torch.autograd.grad(y.sum(), v)
    torch.testing.assert_close(slope, torch.where(v < 0, v.detach().exp(), torch.ones_like(v)))
    big = torch.tensor([500.0], requires_grad=True)
    elu_plus_one(big).backward()
    assert big.grad.item() == 1.0


def test_loss_is_that_of_torch_distributions() -> None:
    torch.manual_seed(0)
    mean, target = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    variance = torch.rand(3, 4, 2, dtype=torch.float64) + 0.01
    expected = -torch.distributions.Normal(mean, variance.sqrt()).log_prob(target).sum(-1)
    torch.testing.assert_close(gaussian_nll(Gaussian(mean, variance), target), expected)


def test_variance_has_a_floor_in_the_loss() -> None:
    out = Gaussian(torch.zeros(1, 1, 2), torch.full((1, 1, 2), 1e-12))
    expected = math.log(1e-6) + math.log(2 * math.pi)
    assert gaussian_nll(out, torch.zeros(1, 1, 2)).item() == pytest.approx(expected)


def test_loss_of_half_types_is_taken_in_float32() -> None:
    out = Gaussian(
        torch.zeros(1, 1, 2, dtype=torch.bfloat16), torch.full((1, 1, 2), 1e-5, dtype=torch.bfloat16)
    )
    nll = gaussian_nll(out, torch.full((1, 1, 2), 0.5))
    assert nll.dtype == torch.float32
    assert nll.isfinite().all()


def test_weights_start_as_flax_has_them() -> None:
    torch.manual_seed(0)
    layer = dense(400, 300)
    assert layer.weight.std().item() == pytest.approx(1 / 20, rel=0.02)
    assert layer.weight.abs().max() <= 2 * (1 / 20) / 0.8796
    assert not layer.bias.any()
    conv = nn.Conv2d(12, 300, 3)
    lecun_normal_(conv)
    assert conv.weight.std().item() == pytest.approx((12 * 9) ** -0.5, rel=0.02)


def test_head_forms() -> None:
    out = GaussianHead(16)(torch.randn(2, 5, 16))
    assert out.mean.shape == out.variance.shape == (2, 5, 2)
