"""What the tests of the operations share: poisoned memory, the fast backends, the tolerances."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from torch import Tensor

from ssm_core.held import held
from ssm_core.opkit.dispatch import numba_problem


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """torch.empty and its kin hand out NaN, so reading what was never written shows."""
    torch.set_deterministic_debug_mode("error")
    assert torch.empty(3).isnan().all()
    yield
    torch.set_deterministic_debug_mode("default")


@pytest.fixture(params=["torch", "numba"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each fast backend that runs here."""
    if request.param == "numba" and numba_problem():
        pytest.skip(numba_problem())
    return request.param


@pytest.fixture
def agree() -> Callable[[Iterable[Tensor], Iterable[Tensor]], None]:
    """Compare results with an oracle's of double precision: RMS ratio and largest error over largest value."""

    def check(got: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
        for i, (x, oracle) in enumerate(zip(got, expected, strict=True)):
            assert x.shape == oracle.shape, f"output {i}"
            if x.numel() == 0:
                continue
            error = (x.to(oracle.dtype) - oracle).abs()
            double = x.dtype in (torch.float64, torch.complex128)
            rms = error.square().mean().sqrt() / oracle.abs().square().mean().sqrt().clamp(min=1e-30)
            worst = error.max() / oracle.abs().max().clamp(min=1e-30)
            assert rms <= (1e-12 if double else 1e-5), f"output {i}: RMS ratio {rms:.1e}"
            assert worst <= (1e-12 if double else 1e-4), f"output {i}: largest error {worst:.1e}"

    return check


@pytest.fixture
def results() -> Callable[..., list[Tensor]]:
    """Outputs of a function and the gradients of its inputs, for fixed pseudo-random gradients of the outputs."""

    def run(function: Callable[..., tuple[Tensor, ...]], inputs: Iterable[Tensor]) -> list[Tensor]:
        inputs = [x.detach().requires_grad_() for x in inputs]
        outputs = function(*inputs)
        generator = torch.Generator().manual_seed(0)
        grads = []
        for out in outputs:
            real = torch.randn(2, *out.shape, generator=generator, dtype=torch.float64)
            grads.append((torch.complex(*real) if out.is_complex() else real[0]).to(out.dtype))
        gradients = torch.autograd.grad(outputs, inputs, grads, materialize_grads=True)
        return [*(out.detach() for out in outputs), *gradients]

    return run


@pytest.fixture
def oracle(results: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    """`results` in double precision."""

    def run(function: Callable[..., tuple[Tensor, ...]], inputs: Iterable[Tensor]) -> list[Tensor]:
        return results(function, [x.to(torch.promote_types(x.dtype, torch.float64)) for x in inputs])

    return run


@pytest.fixture
def peak() -> Callable[[Callable[[], object]], int]:
    """The most bytes of CPU tensors that are alive at once while a function runs, beside those alive before."""

    return lambda function: held(function).peak
