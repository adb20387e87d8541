"""What must hold of the Vandermonde product: shifts, prefixes, linearity, symmetries, strides, repeatability."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssm_core.ops import available_backends
from ssm_core.ops.vandermonde import vandermonde

BACKENDS = [name for name, status in available_backends("vandermonde").items() if status == "ok"]
LENGTHS = st.sampled_from([0, 1, 2, 3, 5, 16, 17, 31, 64, 101])


@pytest.fixture(autouse=True, scope="module")
def _poisoned_memory():
    """torch.empty and its kin hand out NaN, so reading what was never written shows."""
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode("default")


@dataclass(frozen=True)
class Kernel:
    """Operands of a vandermonde, and how to run it."""

    v: Tensor
    log_x: Tensor
    length: int
    conj: bool
    backend: str

    def __call__(self) -> Tensor:
        return vandermonde(self.v, self.log_x, self.length, conj=self.conj, backend=self.backend)


@st.composite
def kernels(draw: st.DrawFn) -> Kernel:
    backend = draw(st.sampled_from(BACKENDS))
    # The reference loses the phase of later values in single precision.
    dtype = draw(st.sampled_from([torch.complex64, torch.complex128][backend == "reference" :]))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    shape = draw(st.integers(1, 4)), draw(st.sampled_from([1, 3, 16, 19]))
    v = torch.randn(shape, dtype=dtype)
    log_x = torch.complex(-torch.rand(shape).double(), 6 * torch.rand(shape).double()).to(dtype)
    return Kernel(v, log_x, draw(LENGTHS), draw(st.booleans()), backend)


def check_close(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    if expected.numel():
        tolerance = 1e-12 if got.dtype in (torch.float64, torch.complex128) else 1e-5
        assert (got - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1.0)


def check_gradients(got: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    """Of a fixed linear function of the output."""
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(
        expected.dtype
    )
    pairs = (
        torch.autograd.grad((x * weights).real.sum(), leaves, materialize_grads=True) for x in (got, expected)
    )
    for x, y in zip(*pairs, strict=True):
        check_close(x, y)


@given(kernels())
def test_backends_agree(kernel: Kernel) -> None:
    leaves = [x.requires_grad_() for x in (kernel.v, kernel.log_x)]
    v, log_x = (x.to(torch.complex128) for x in leaves)
    got, expected = kernel(), replace(kernel, v=v, log_x=log_x, backend="reference")()
    check_close(got, expected)
    check_gradients(got, expected, leaves)


@given(kernels(), st.data())
def test_split_anywhere_is_whole(kernel: Kernel, data: st.DataObject) -> None:
    """The values from `cut` on are those of the coefficients v x^cut."""
    leaves = [x.requires_grad_() for x in (kernel.v, kernel.log_x)]
    cut = data.draw(st.integers(0, kernel.length))
    left = replace(kernel, length=cut)()
    moved = (kernel.v * torch.exp(cut * kernel.log_x.to(torch.complex128))).to(kernel.v.dtype)
    right = replace(kernel, v=moved, length=kernel.length - cut)()
    joined, whole = torch.cat([left, right], 1), kernel()
    check_close(joined, whole)
    check_gradients(joined, whole, leaves)


@given(kernels())
def test_linear_in_the_coefficients(kernel: Kernel) -> None:
    v = torch.randn_like(kernel.v)
    mixed = replace(kernel, v=2 * kernel.v - 3 * v)()
    check_close(mixed, 2 * kernel() - 3 * replace(kernel, v=v)())


@given(kernels())
def test_the_pair_is_the_sum_and_its_conjugate(kernel: Kernel) -> None:
    whole = replace(kernel, conj=False)()
    check_close(replace(kernel, conj=True)(), 2 * whole.real)
    conjugate = replace(kernel, v=kernel.v.conj(), log_x=kernel.log_x.conj(), conj=False)()
    check_close(conjugate, whole.conj())


@given(kernels())
def test_permuting_rows_permutes_the_output_and_permuting_states_does_not(kernel: Kernel) -> None:
    rows, states = (torch.randperm(n) for n in kernel.v.shape)
    check_close(replace(kernel, v=kernel.v[rows], log_x=kernel.log_x[rows])(), kernel()[rows])
    check_close(replace(kernel, v=kernel.v[:, states], log_x=kernel.log_x[:, states])(), kernel())


@given(kernels(), st.integers(1, 3))
def test_states_with_coefficient_zero_change_nothing(kernel: Kernel, extra: int) -> None:
    zeros = kernel.v.new_zeros(kernel.v.shape[0], extra)
    padded = replace(kernel, v=torch.cat([kernel.v, zeros], 1), log_x=torch.cat([kernel.log_x, zeros], 1))
    check_close(padded(), kernel())


def scattered(x: Tensor) -> Tensor:
    """The same values at other strides: axes reversed in memory, every second element, a lazily conjugated view."""
    x = torch.stack([x.T.contiguous().T, torch.full_like(x, float("nan"))], -1)[..., 0]
    return x.conj().resolve_conj().conj()


@given(kernels())
def test_strides_do_not_matter(kernel: Kernel) -> None:
    leaves = [x.requires_grad_() for x in (kernel.v, kernel.log_x)]
    strided, plain = replace(kernel, v=scattered(kernel.v), log_x=scattered(kernel.log_x))(), kernel()
    check_close(strided, plain)
    check_gradients(strided, plain, leaves)


@given(kernels())
def test_two_runs_are_the_same_bits(kernel: Kernel) -> None:
    leaves, runs = [x.requires_grad_() for x in (kernel.v, kernel.log_x)], []
    for k in (kernel(), kernel()):
        runs.append([k, *torch.autograd.grad((k * k.conj()).real.sum(), leaves, materialize_grads=True)])
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))
