"""The resampling operations on the GPU against their definitions: maps bit for bit, values and every gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from ssm_serpent.index import Index, resample_index
from ssm_serpent.intervals import TICKS
from ssm_serpent.ops import encode, spread
from ssm_serpent.testing import assert_same, from_ticks

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def index_of(device: torch.device, lengths: list[int], mode: str, window: int, backend: str) -> Index:
    """Maps of rows of these lengths, with ties among their intervals."""
    generator = torch.Generator().manual_seed(sum(lengths))
    eighths = (torch.randint(1, 9, (n,), generator=generator) * TICKS // 8 for n in lengths)
    return resample_index(
        from_ticks([row.tolist() for row in eighths], str(device)), window, mode, backend=backend
    )


@pytest.mark.parametrize("mode", ["nearest", "causal"])
@pytest.mark.parametrize("window", [1, 4, 9])
@pytest.mark.parametrize("lengths", [[17, 5, 0], [1], [200, 150]])
def test_maps_equal_brute_force(device, mode, window, lengths):
    found = index_of(device, lengths, mode, window, "triton")
    assert_same(found, index_of(device, lengths, mode, window, "reference"))


def results(function: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of the tensors, for fixed pseudo-random gradients of the output."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    out = function(*leaves)
    generator = torch.Generator().manual_seed(0)
    grad = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad, materialize_grads=True)]


def check(function: Callable[..., Tensor], tensors: list[Tensor], dtype: torch.dtype) -> None:
    """Triton against the definition in double precision, of operands rounded alike."""
    tensors = [x.to(dtype) for x in tensors]
    got = results(lambda *leaves: function("triton", *leaves), tensors)
    expected = results(lambda *leaves: function("reference", *leaves), [x.double() for x in tensors])
    for i, (x, oracle) in enumerate(zip(got, expected, strict=True)):
        assert x.shape == oracle.shape, f"output {i}"
        if x.numel():
            worst = (x.double() - oracle).abs().max() / oracle.abs().max().clamp(min=1e-30)
            assert worst <= TOLERANCE[dtype], f"output {i}: {worst:.1e}"


def operands(device: torch.device, batch: int, length: int, window: int, basis: int) -> list[Tensor]:
    """x, weight, bias, centres, log_gamma, at a seed for which the gradients of the centres do not cancel."""
    generator = torch.Generator().manual_seed(length + 1)
    shapes = (batch, length, 5), (3, window, 5 + basis), (3,), (basis,), (basis,)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(device) for shape in shapes]


def encoded(index: Index) -> Callable[..., Tensor]:
    def function(backend: str, x: Tensor, distance: Tensor, *rest: Tensor) -> Tensor:
        return encode(x, index.start_bk, index.inside_bkw, distance, *rest, backend=backend)

    return function


@pytest.mark.parametrize("mode", ["nearest", "causal"])
@pytest.mark.parametrize(("lengths", "window"), [([17, 5, 0], 4), ([1], 3), ([40], 2)])
def test_encode(device, mode, lengths, window):
    index = index_of(device, lengths, mode, window, "torch")
    x, *rest = operands(device, len(lengths), max(lengths), window, 2)
    if index.start_bk.numel():
        check(encoded(index), [x, index.distance_bkw, *rest], torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_encode_in_other_precisions(device, dtype):
    index = index_of(device, [19, 11], "nearest", 4, "torch")
    x, *rest = operands(device, 2, 19, 4, 2)
    check(encoded(index), [x, index.distance_bkw, *rest], dtype)


def test_encode_does_not_read_what_no_window_holds(device):
    index = index_of(device, [19, 4], "causal", 3, "torch")
    x, *rest = operands(device, 2, 19, 3, 1)
    x[1, 4:] = torch.nan
    check(encoded(index), [x, index.distance_bkw, *rest], torch.float64)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_spread(device, dtype, before):
    point = torch.tensor([[0, 0, 1, 1, 1, 2, 4, 4, 0], [1, 2, 3, 4, 4, 4, 4, 4, 4]], device=device)
    generator = torch.Generator().manual_seed(0)
    y, held = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(device)
        for shape in ((2, 4, 5), (2, 5))
    )

    def function(backend: str, y: Tensor, held: Tensor | None = None) -> Tensor:
        return spread(y, point, before_bh=held, backend=backend)

    check(function, [y, held] if before else [y], dtype)


def test_two_runs_are_the_same_bits(device):
    index = index_of(device, [19, 11], "nearest", 4, "torch")
    x, *rest = (t.float() for t in operands(device, 2, 19, 4, 2))
    tensors = [x, index.distance_bkw.float(), *rest]

    def function(*leaves: Tensor) -> Tensor:
        return spread(encoded(index)("triton", *leaves), index.point_bl, backend="triton")

    assert all(map(torch.equal, results(function, tensors), results(function, tensors)))
