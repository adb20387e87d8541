"""The norms against torch's own and their formulas, and what a mask leaves out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ssm_core.norms import KINDS, BatchNorm, ScaleNorm, make_norm, normalise

MASK = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 0, 1, 1, 1]]).bool()


def pair(width: int = 4, momentum: float = 0.1) -> tuple[BatchNorm, nn.BatchNorm1d]:
    """Ours and torch's with the same weights."""
    torch.manual_seed(0)
    ours, theirs = BatchNorm(width, momentum=momentum).double(), nn.BatchNorm1d(width, momentum=momentum)
    theirs = theirs.double()
    with torch.no_grad():
        for mine, other in zip((ours.weight, ours.bias), (theirs.weight, theirs.bias), strict=True):
            mine.copy_(torch.randn(width))
            other.copy_(mine)
    return ours, theirs


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 + 2 * torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))).to(dtype)


@pytest.mark.parametrize("momentum", [0.1, 0.05, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_batch_norm_is_torch_s_over_the_valid_elements(momentum: float, masked: bool) -> None:
    """Outputs, gradients, running statistics after several batches, and evaluation with them."""
    ours, theirs = pair(momentum=momentum)
    mask = MASK if masked else torch.ones_like(MASK)
    for seed in range(3):
        x = (1 + seed + torch.randn(3, 5, 4, dtype=torch.float64)).requires_grad_()
        other = x.detach().clone().requires_grad_()
        y, expected = ours(x, mask if masked else None)[mask], theirs(other[mask])
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
        weights = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape)
        found = torch.autograd.grad((y * weights).sum(), [x, ours.weight, ours.bias])
        wanted = torch.autograd.grad((expected * weights).sum(), [other, theirs.weight, theirs.bias])
        for g, e in zip(found, wanted, strict=True):
            torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-9)
        assert not found[0][~mask].any()
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-10, atol=1e-10)
    ours.eval(), theirs.eval()
    x = inputs()
    torch.testing.assert_close(ours(x, MASK), theirs(x.mT).mT, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours(x[:, 0]), theirs(x[:, 0]), rtol=1e-10, atol=1e-10)


def test_masked_nonsense_does_not_enter_the_statistics() -> None:
    (first, _), (second, _) = pair(), pair()
    x = inputs()
    y = first(x, MASK)[MASK]
    again = second(x.masked_fill(~MASK[..., None], torch.nan), MASK)[MASK]
    assert torch.equal(y, again)
    assert torch.equal(first.running_mean, second.running_mean)
    assert torch.equal(first.running_var, second.running_var)


def test_a_batch_of_one_valid_element_has_no_spread_and_stays_finite() -> None:
    ours, _ = pair()
    mask = torch.zeros_like(MASK)
    mask[2, 3] = True
    y = ours(inputs(), mask)
    torch.testing.assert_close(y[2, 3], ours.bias, rtol=1e-9, atol=1e-9)
    assert ours.running_var.isfinite().all()


def test_batch_norm_in_evaluation_leaves_its_statistics() -> None:
    ours = pair()[0].eval()
    before = ours.running_mean.clone(), ours.running_var.clone()
    ours(inputs(), MASK)
    assert torch.equal(ours.running_mean, before[0])
    assert torch.equal(ours.running_var, before[1])


def test_batch_norm_keeps_statistics_in_its_own_precision() -> None:
    """Sums of many bfloat16 numbers in bfloat16 would be worth nothing."""
    ours = BatchNorm(4)
    x = 3 + torch.randn(8, 500, 4)
    y = ours(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert ours.running_mean.dtype == torch.float32
    torch.testing.assert_close(ours.running_mean, 0.1 * x.mean((0, 1)), rtol=1e-2, atol=1e-3)


def test_scale_norm_has_one_scale_and_unit_mean_square() -> None:
    norm = ScaleNorm(4).double()
    with torch.no_grad():
        norm.weight.fill_(1.5)
    x = inputs()
    expected = 1.5 * x / (x.square().sum(-1, keepdim=True) / 4 + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)
    assert [tuple(p.shape) for p in norm.parameters()] == [(1,)]
    assert norm(torch.zeros(2, 4, dtype=torch.float64)).eq(0).all()


@pytest.mark.parametrize("kind", ["layer", "rms", "scale", "none"])
def test_the_others_look_at_one_element_and_need_no_mask(kind: str) -> None:
    norm, x = make_norm(kind, 4).double(), inputs()
    y = normalise(norm, x, MASK)
    torch.testing.assert_close(y[2, 3], norm(x[2, 3]), rtol=1e-12, atol=1e-12)
    assert torch.equal(y, norm(x))


def test_layer_and_rms_norm_are_their_formulas() -> None:
    x = inputs()
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(make_norm("layer", 4).double()(x), expected, rtol=1e-12, atol=1e-12)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(make_norm("rms", 4).double()(x), expected, rtol=1e-12, atol=1e-12)


def test_every_kind_has_a_name() -> None:
    assert {*KINDS, "none"} == {"layer", "rms", "batch", "scale", "none"}
    for kind, made in KINDS.items():
        assert isinstance(make_norm(kind, 3), made)
    assert isinstance(make_norm("none", 3), nn.Identity)
    with pytest.raises(KeyError):
        make_norm("group", 3)
