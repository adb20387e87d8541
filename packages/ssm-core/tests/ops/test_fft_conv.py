"""fft_conv: against the sum over lags in double precision, derivatives, causality, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.library import opcheck

from ssm_core.ops.fft_conv import fft_conv, on_torch
from ssm_core.ops.fft_conv.on_torch import transform_size


def operands(length: int, lags: int, reverse: int | None = None, dtype=torch.float32) -> list[Tensor]:
    """[u, k, D] or [u, k, D, k_reverse], kernels that decay."""
    torch.manual_seed(length + lags)
    u, D = torch.randn(2, length, 3, dtype=dtype), torch.randn(3, dtype=dtype)
    kernels = [
        torch.randn(3, n, dtype=dtype) * 0.9 ** torch.arange(n, dtype=dtype)
        for n in (lags, reverse)
        if n is not None
    ]
    return [u, kernels[0], D, *kernels[1:]]


def convolution(backend: str | None = None, **options):
    """fft_conv of [u, k, D, k_reverse] in a tuple."""

    def run(u: Tensor, k: Tensor, D: Tensor | None = None, k_reverse: Tensor | None = None) -> tuple[Tensor]:
        return (fft_conv(u, k, D, k_reverse=k_reverse, backend=backend, **options),)

    return run


@pytest.mark.parametrize(
    ("length", "lags", "reverse"),
    [
        *[(0, 3, 2), (1, 1, None), (1, 4, 4), (2, 1, 1), (2, 0, None), (5, 0, 0), (7, 3, None), (7, 1, 6)],
        *[(37, 37, None), (37, 50, None), (64, 64, 64), (64, 5, 70), (101, 101, 7), (101, 9, 100)],
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_sum_over_lags(dtype, length, lags, reverse, results, oracle, agree):
    tensors = operands(length, lags, reverse, dtype)
    got = results(convolution("torch"), tensors)
    assert {x.dtype for x in got} == {dtype}
    agree(got, oracle(convolution("reference"), tensors))
    agree(results(convolution(), tensors[:2]), oracle(convolution("reference"), tensors[:2]))


@pytest.mark.parametrize("most", [(1, 1), (5000, 5000), (20000, 20000)])
def test_some_rows_and_columns_at_a_time(most, monkeypatch, results, oracle, agree):
    """As large batches and long sequences have it."""
    monkeypatch.setattr(on_torch, "SLAB", most)
    torch.manual_seed(0)
    shapes = (3, 20, 37), (37, 20), (37,), (37, 9)
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    agree(results(convolution("torch"), tensors), oracle(convolution("reference"), tensors))


def test_a_long_kernel_in_single_precision(results, oracle, agree):
    tensors = operands(3000, 3000, 3000)
    agree(results(convolution("torch"), tensors), oracle(convolution("torch"), tensors))


def test_the_reference_is_the_sum():
    u, k = torch.tensor([1.0, 2.0, 3.0])[None, :, None], torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    y = fft_conv(u, k, torch.tensor([0.5]), k_reverse=1e4 * k[:, :2], backend="reference")
    assert y.flatten().tolist() == [1.5 + 2e4 + 3e5, 13.0 + 3e4, 124.5]


def test_transform_sizes():
    for least in (1, 2, 3, 7, 11, 13, 127, 961, 4097, 16385):
        n = transform_size(least, 1, 0)
        smooth = [m for m in range(least, 2 * least + 2) if m % 2 == 0 and max_factor(m) <= 5]
        assert n == smooth[0]
    assert transform_size(64, 65, 0) == 128
    assert transform_size(64, 1, 64) == 128
    assert transform_size(64, 64, 63) == 128


def max_factor(m: int) -> int:
    """The largest prime factor of m, or 1."""
    factor, largest = 2, 1
    while m > 1:
        while m % factor == 0:
            m, largest = m // factor, factor
        factor += 1
    return largest


@pytest.mark.parametrize(("length", "lags", "reverse"), [(5, 3, None), (4, 6, 2), (3, 2, 7)])
@pytest.mark.parametrize("with_skip", [True, False])
def test_gradients(length, lags, reverse, with_skip):
    u, k, D, *rest = (x.requires_grad_() for x in operands(length, lags, reverse, torch.float64))

    def function(u, k, *rest):
        return fft_conv(
            u, k, rest[0] if with_skip else None, k_reverse=rest[-1] if reverse else None, backend="torch"
        )

    assert gradcheck(function, (u, k, *((D,) if with_skip else ()), *rest))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("length", [50, 2048])
def test_next_to_no_gradient_from_the_future(length, dtype, tolerance):
    u, k, D = (x.requires_grad_() for x in operands(length, length, None, dtype))
    now = length // 3
    y = fft_conv(u, k, D, backend="torch")
    (grad,) = torch.autograd.grad(y[:, now].sum(), u)
    assert grad[:, now + 1 :].abs().max() <= tolerance * grad.abs().max()
    moved = u.detach().clone()
    moved[:, now + 1 :] += 1
    change = fft_conv(moved, k, D, backend="torch") - y
    assert change[:, : now + 1].abs().max() <= tolerance * y.abs().max().clamp(min=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_are_computed_in_single_precision(dtype, results):
    tensors = [x.to(dtype) for x in operands(40, 40, 30)]
    y, *grads = results(convolution("torch"), tensors)
    assert {x.dtype for x in (y, *grads)} == {dtype}
    wide = convolution("torch")(*(x.float() for x in tensors))[0]
    assert torch.equal(y, wide.to(dtype))


def test_autocast_changes_nothing():
    tensors = operands(9, 9)
    with torch.autocast("cpu"):
        inside = fft_conv(*tensors)
    assert torch.equal(inside, fft_conv(*tensors))


def test_mixed_dtypes_give_that_of_the_input():
    u, k, D, reverse = operands(9, 9, 4)
    y = fft_conv(u.bfloat16(), k.double(), D, k_reverse=reverse)
    assert y.dtype == torch.bfloat16
    assert fft_conv(u.double(), k, D).dtype == torch.float64


def test_backward_keeps_no_spectra():
    tensors = [x.requires_grad_() for x in operands(500, 500, 500)]
    kept = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        fft_conv(tensors[0], tensors[1], tensors[2], k_reverse=tensors[3], backend="torch")
    assert {x.data_ptr() for x in kept} == {x.data_ptr() for x in tensors}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.ones(3, 5)}, r"u has shape \(3, 5\), expected \(B, L, H\)"),
        ({"k": torch.ones(4, 5)}, r"k has shape \(4, 5\), expected \(2, any\), that is \(H, K\)"),
        ({"k_reverse": torch.ones(2)}, r"k_reverse has shape \(2,\), expected \(2, any\)"),
        ({"D": torch.ones(3)}, r"D has shape \(3,\), expected \(2,\), that is \(H,\)"),
        ({"k": torch.ones(2, 5, dtype=torch.complex64)}, "k is complex"),
        ({"u": torch.ones(3, 5, 2, dtype=torch.int64)}, "u has dtype torch.int64"),
        ({"D": torch.ones(2, device="meta")}, "D is on meta"),
        ({"backend": "cuda"}, "backend is 'cuda'; choose one of reference, torch, numba, triton"),
    ],
)
def test_refusals_name_the_argument(change, message):
    arguments = {"u": torch.ones(3, 5, 2), "k": torch.ones(2, 5), **change}
    with pytest.raises(ValueError, match=message):
        fft_conv(**arguments)


def test_a_second_derivative_is_refused_but_on_the_reference():
    for backend, refused in (("torch", True), ("reference", False)):
        u, k, D = (x.requires_grad_() for x in operands(5, 5))
        y = fft_conv(u, k, D, backend=backend).square().sum()
        (grad,) = torch.autograd.grad(y, u, create_graph=True)
        if refused:
            with pytest.raises(NotImplementedError, match="no second derivative"):
                grad.sum().backward()
        else:
            grad.sum().backward()


# opcheck itself looks at .grad of copies of its inputs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_opcheck(full, permuted):
    ops = torch.ops.ssm_core
    tensors = [x.double() for x in operands(6, 6, 4)]
    if permuted:
        tensors = [x.mT.contiguous().mT if x.ndim > 1 else x for x in tensors]
    if not full:
        tensors[2:] = [None, None]
    leaves = [None if x is None else x.clone().requires_grad_() for x in tensors]
    grad = torch.randn(2, 6, 3, dtype=torch.float64)
    opcheck(ops.fft_conv.default, (*leaves, "torch"))
    opcheck(ops.fft_conv_backward.default, (*tensors, grad.mT.contiguous().mT, "torch"))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(dynamic):
    def step(u: Tensor, k: Tensor, D: Tensor, k_reverse: Tensor) -> Tensor:
        return fft_conv(u, k, D, k_reverse=k_reverse).sum() + fft_conv(u, k).square().sum()

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (5, 8, 11) if dynamic else (5,):
        tensors = operands(length, length, length, torch.float64)
        eager, traced = ([x.detach().clone().requires_grad_() for x in tensors] for _ in range(2))
        step(*eager).backward()
        compiled(*traced).backward()
        torch.testing.assert_close([x.grad for x in traced], [x.grad for x in eager])


def test_func_grad_and_vmap():
    tensors = operands(6, 6, 4, torch.float64)

    def loss(u: Tensor, k: Tensor, D: Tensor, k_reverse: Tensor) -> Tensor:
        return fft_conv(u, k, D, k_reverse=k_reverse, backend="torch").square().sum()

    leaves = [x.clone().requires_grad_() for x in tensors]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    gradients = torch.func.grad(loss, (0, 1, 2, 3))
    torch.testing.assert_close(gradients(*tensors), expected)
    k = torch.stack([tensors[1], -0.5 * tensors[1]], 1)
    per_row = torch.vmap(gradients, (None, 1, None, None))(tensors[0], k, *tensors[2:])
    for i in range(2):
        row = gradients(tensors[0], k[:, i], *tensors[2:])
        torch.testing.assert_close([x[i] for x in per_row], list(row))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [16, 17, 64])
def test_the_inverse_is_the_same_bits_however_it_lies(dtype: torch.dtype, columns: int) -> None:
    spectrum = torch.fft.rfft(torch.randn(2, columns, 64, dtype=dtype))
    expected = torch.fft.irfft(spectrum, 64)[..., :40].mT
    assert torch.equal(on_torch._inverse(spectrum, 64, 40), expected)
