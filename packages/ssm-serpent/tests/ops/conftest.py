"""What the tests of the operations share: poisoned memory, devices with their backends, gradients, peak memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ssm_core.held import held
from ssm_core.opkit.dispatch import numba_problem, triton_problem


class Where(NamedTuple):
    """Where an operation runs, and by which backend."""

    device: str
    backend: str


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """torch.empty and its kin hand out NaN, so reading what was never written shows."""
    torch.set_deterministic_debug_mode("error")
    assert torch.empty(3).isnan().all()
    yield
    torch.set_deterministic_debug_mode("default")


@pytest.fixture(
    scope="module",
    params=[
        Where("cpu", "torch"),
        Where("cpu", "numba"),
        pytest.param(Where("cuda", "torch"), marks=pytest.mark.gpu),
        pytest.param(Where("cuda", "triton"), marks=pytest.mark.gpu),
    ],
    ids="-".join,
)
def where(request: pytest.FixtureRequest) -> Where:
    """Each fast backend that runs here; `-m gpu` chooses those of a GPU."""
    found = request.param
    problem = ""
    if found.device == "cuda" and not torch.cuda.is_available():
        problem = "needs a CUDA device; none is visible to torch"
    elif found.backend == "numba":
        problem = numba_problem()
    elif found.backend == "triton":
        problem = triton_problem(torch.device(found.device))
    if problem:
        pytest.skip(problem)
    return found


@pytest.fixture(scope="session")
def gradients() -> Callable[..., list[Tensor]]:
    """Call on (function, tensors): its output and the gradients of the tensors, all on the CPU."""

    def run(function: Callable[..., Tensor], tensors: Iterable[Tensor]) -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in tensors]
        out = function(*leaves)
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out)
        if not out.requires_grad:  # the reference has nothing to differentiate where no slot holds a token
            return [out.cpu(), *(torch.zeros_like(x).cpu() for x in leaves)]
        found = torch.autograd.grad(out, leaves, weights, materialize_grads=True)
        return [out.detach().cpu(), *(x.cpu() for x in found)]

    return run


@pytest.fixture(scope="session")
def agree() -> Callable[[Iterable[Tensor], Iterable[Tensor]], None]:
    """Compare results with an oracle's of double precision: RMS ratio and largest error over largest value."""

    def check(got: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
        for i, (x, oracle) in enumerate(zip(got, expected, strict=True)):
            assert x.shape == oracle.shape, f"output {i}"
            if x.numel() == 0:
                continue
            double, error = x.dtype == torch.float64, (x.double() - oracle).abs()
            rms = error.square().mean().sqrt() / oracle.square().mean().sqrt().clamp(min=1e-30)
            worst = error.max() / oracle.abs().max().clamp(min=1e-30)
            assert rms <= (1e-12 if double else 1e-5), f"output {i}: RMS ratio {rms:.1e}"
            assert worst <= (1e-12 if double else 1e-4), f"output {i}: largest error {worst:.1e}"

    return check


@pytest.fixture(scope="session")
def peak() -> Callable[[Callable[[], Any]], int]:
    """The most bytes of CPU tensors that are alive at once while a function runs, beside those alive before."""

    return lambda function: held(function).peak
