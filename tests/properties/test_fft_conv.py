"""What must hold of the long convolution: splitting, direction, linearity, padding, causality, strides, bits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssm_core.ops import available_backends
from ssm_core.ops.fft_conv import fft_conv

BACKENDS = [name for name, status in available_backends("fft_conv").items() if status == "ok"]
LENGTHS = st.sampled_from([0, 1, 2, 3, 5, 16, 17, 31, 64, 101])


@pytest.fixture(autouse=True, scope="module")
def _poisoned_memory():
    """torch.empty and its kin hand out NaN, so reading what was never written shows."""
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode("default")


@dataclass(frozen=True)
class Convolution:
    """Operands of an fft_conv, and how to run it."""

    u: Tensor
    k: Tensor
    D: Tensor | None
    k_reverse: Tensor | None
    backend: str

    def __call__(self) -> Tensor:
        return fft_conv(self.u, self.k, self.D, k_reverse=self.k_reverse, backend=self.backend)

    def leaves(self) -> list[Tensor]:
        given = (self.u, self.k, self.D, self.k_reverse)
        return [x.requires_grad_() for x in given if x is not None]

    def change(self, function) -> Convolution:
        """The same with every tensor mapped."""
        tensors = (None if x is None else function(x) for x in (self.u, self.k, self.D, self.k_reverse))
        return Convolution(*tensors, self.backend)


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    B, H = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 5]))
    u, k = torch.randn(B, draw(LENGTHS), H, dtype=dtype), torch.randn(H, draw(LENGTHS), dtype=dtype)
    D = torch.randn(H, dtype=dtype) if draw(st.booleans()) else None
    k_reverse = torch.randn(H, draw(LENGTHS), dtype=dtype) if draw(st.booleans()) else None
    return Convolution(u, k, D, k_reverse, draw(st.sampled_from(BACKENDS)))


def check_close(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    if expected.numel():
        tolerance = 1e-12 if got.dtype == torch.float64 else 1e-5
        assert (got - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1.0)


def check_gradients(got: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    """Of a fixed linear function of the output."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(expected.shape, generator=generator, dtype=torch.float64).to(got.dtype)
    pairs = (
        torch.autograd.grad((x * weights).sum(), leaves, materialize_grads=True) for x in (got, expected)
    )
    for x, y in zip(*pairs, strict=True):
        check_close(x, y)


@given(convolutions())
def test_backends_agree(conv: Convolution) -> None:
    leaves = conv.leaves()
    got, expected = conv(), replace(conv.change(torch.Tensor.double), backend="reference")()
    check_close(got, expected)
    check_gradients(got, expected, leaves)


@given(convolutions(), st.data())
def test_split_anywhere_adds_up(conv: Convolution, data: st.DataObject) -> None:
    """The whole is the response to what came before the cut, plus that to the rest."""
    leaves = conv.leaves()
    cut = data.draw(st.integers(0, conv.u.shape[1]))
    before = torch.arange(conv.u.shape[1])[:, None] < cut
    zero = torch.zeros_like(conv.u)
    joined = replace(conv, u=conv.u.where(before, zero))() + replace(conv, u=zero.where(before, conv.u))()
    check_close(joined, conv())
    check_gradients(joined, conv(), leaves)


@given(convolutions())
def test_flipping_time_swaps_the_halves(conv: Convolution) -> None:
    """The lag 0, which the causal half alone has, goes to the skip weight."""
    k = torch.nn.functional.pad(conv.k, (0, 1))
    k_reverse = conv.k[:, :0] if conv.k_reverse is None else conv.k_reverse
    swapped = torch.nn.functional.pad(k_reverse, (1, 0))
    D = k[:, 0] if conv.D is None else conv.D + k[:, 0]
    mirrored = Convolution(conv.u.flip(1), swapped, D, k[:, 1:], conv.backend)
    check_close(mirrored().flip(1), conv())


@given(convolutions())
def test_linear_in_the_input_and_in_the_kernels(conv: Convolution) -> None:
    other = conv.change(torch.randn_like)
    mixed = replace(conv, u=2 * conv.u - 3 * other.u)()
    check_close(mixed, 2 * conv() - 3 * replace(conv, u=other.u)())
    kernels = {
        name: 2 * getattr(conv, name) - 3 * getattr(other, name)
        for name in ("k", "D", "k_reverse")
        if getattr(conv, name) is not None
    }
    check_close(replace(conv, **kernels)(), 2 * conv() - 3 * replace(other, u=conv.u)())


@given(convolutions(), st.data())
def test_next_to_nothing_comes_from_the_future(conv: Convolution, data: st.DataObject) -> None:
    conv = replace(conv, k_reverse=None)
    u, *_ = conv.leaves()
    now = data.draw(st.integers(0, max(conv.u.shape[1] - 1, 0)))
    (grad,) = torch.autograd.grad(conv()[:, now : now + 1].sum(), u, materialize_grads=True)
    tolerance = 1e-13 if u.dtype == torch.float64 else 1e-6
    if conv.backend == "reference":
        tolerance = 0.0
    future, past = grad[:, now + 1 :], grad[:, : now + 1]
    if future.numel():
        assert future.abs().max() <= tolerance * past.abs().max()


@given(convolutions(), st.integers(1, 5))
def test_zeros_around_the_input_change_nothing(conv: Convolution, extra: int) -> None:
    pad = conv.u.new_zeros(conv.u.shape[0], extra, conv.u.shape[2])
    padded = replace(conv, u=torch.cat([pad, conv.u, pad], 1))()
    check_close(padded[:, extra : extra + conv.u.shape[1]], conv())


@given(convolutions(), st.integers(1, 5))
def test_zeros_behind_a_kernel_change_nothing(conv: Convolution, extra: int) -> None:
    k = torch.nn.functional.pad(conv.k, (0, extra))
    check_close(replace(conv, k=k)(), conv())


@given(convolutions())
def test_permuting_batch_and_channels_permutes_the_output(conv: Convolution) -> None:
    rows, channels = torch.randperm(conv.u.shape[0]), torch.randperm(conv.u.shape[2])
    permuted = conv.change(lambda x: x[rows][..., channels] if x.ndim == 3 else x[channels])
    check_close(permuted(), conv()[rows][..., channels])


def scattered(x: Tensor) -> Tensor:
    """The same values at other strides: axes reversed in memory, every second element."""
    reverse = tuple(reversed(range(x.ndim)))
    x = x.permute(reverse).contiguous().permute(reverse)
    return torch.stack([x, torch.full_like(x, float("nan"))], -1)[..., 0]


@given(convolutions())
def test_strides_do_not_matter(conv: Convolution) -> None:
    leaves = conv.leaves()
    strided, plain = conv.change(scattered)(), conv()
    check_close(strided, plain)
    check_gradients(strided, plain, leaves)


@given(convolutions())
def test_two_runs_are_the_same_bits(conv: Convolution) -> None:
    leaves = conv.leaves()
    runs = [
        [y, *torch.autograd.grad(y.square().sum(), leaves, materialize_grads=True)] for y in (conv(), conv())
    ]
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))
