"""vandermonde: every backend against the formula in double precision, derivatives, accuracy at length, refusals."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.library import opcheck

from ssm_core.ops.vandermonde import vandermonde

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


@pytest.fixture(params=["torch"])
def backend(request: pytest.FixtureRequest) -> str:
    """The fast backend of CPUs."""
    return request.param


def operands(dtype: torch.dtype, *, width: int = 3, states: int = 5) -> list[Tensor]:
    """[v, log_x], the nodes within the unit disc."""
    torch.manual_seed(states)
    v = torch.randn(width, states, dtype=dtype)
    decay, angle = torch.rand(2, width, states, dtype=torch.float64)
    log_x = torch.complex(-0.1 * decay, 6 * angle) if dtype.is_complex else -0.1 * decay
    return [v, log_x.to(dtype)]


def one(function, **options):
    """The function with its output in a tuple, as the fixtures want it."""
    return lambda *tensors: (function(*tensors, **options),)


@pytest.mark.parametrize("length", [0, 1, 2, 5, 64, 101])
@pytest.mark.parametrize("conj", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_formula(backend, dtype, conj, length, results, oracle, agree):
    tensors = operands(dtype)
    call = partial(one, vandermonde, length=length, conj=conj)
    got = results(call(backend=backend), tensors)
    real = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
    assert {x.dtype for x in got} == ({dtype, real} if conj else {dtype})
    agree(got, oracle(call(backend="reference"), tensors))


@pytest.mark.parametrize(("width", "states"), [(0, 3), (2, 0), (1, 1), (2, 40)])
@pytest.mark.parametrize("conj", [True, False])
def test_any_number_of_states(backend, width, states, conj, results, oracle, agree):
    tensors = operands(torch.complex64, width=width, states=states)
    call = partial(one, vandermonde, length=19, conj=conj)
    expected = oracle(call(backend="reference"), tensors)
    agree(results(call(backend=backend), tensors), expected)


def test_the_reference_is_the_formula():
    v, log_x = torch.tensor([[1j, 2.0]]), torch.tensor([[0.5j * torch.pi, 0.0]])
    whole = vandermonde(v, log_x, 3, conj=False, backend="reference")
    torch.testing.assert_close(whole, torch.tensor([[2 + 1j, 1 + 0j, 2 - 1j]]))
    torch.testing.assert_close(vandermonde(v, log_x, 3, backend="reference"), torch.tensor([[4.0, 2.0, 4.0]]))


@pytest.mark.parametrize("conj", [True, False])
def test_single_precision_does_not_lose_the_phase_of_long_kernels(backend, conj, results, oracle):
    """Angles reach 16384 * 3 rad, known to 0.004 in float32: exp(l log_x) of float32 numbers errs by 3e-4."""
    torch.manual_seed(0)
    v = torch.randn(2, 16, dtype=torch.complex64)
    log_x = torch.complex(-1e-4 * torch.rand(2, 16), 3 * torch.rand(2, 16))
    length = 16384

    def whole(v: Tensor, log_x: Tensor) -> tuple[Tensor]:
        kernel = (v[..., None] * torch.exp(log_x[..., None] * torch.arange(length))).sum(1)
        return (2 * kernel.real if conj else kernel,)

    expected = oracle(whole, [v, log_x])
    fast = partial(one, vandermonde, length=length, conj=conj, backend=backend)
    for x, y in zip(results(fast(), [v, log_x]), expected, strict=True):
        assert (x - y).abs().max() < 1e-6 * y.abs().max()
    assert (whole(v, log_x)[0] - expected[0]).abs().max() > 1e-5 * expected[0].abs().max()


@pytest.mark.parametrize("conj", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients(backend, dtype, conj):
    tensors = [x.requires_grad_() for x in operands(dtype, width=2, states=2)]
    assert gradcheck(partial(vandermonde, length=7, conj=conj, backend=backend), tensors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_are_computed_in_single_precision(backend, dtype):
    v, log_x = (x.to(dtype) for x in operands(torch.float32))
    kernel = vandermonde(v, log_x, 20, backend=backend)
    assert kernel.dtype == dtype
    assert torch.equal(kernel, vandermonde(v.float(), log_x.float(), 20, backend=backend).to(dtype))


@pytest.mark.parametrize(
    ("v", "log_x", "conj", "out"),
    [
        (torch.float32, torch.complex128, True, torch.float32),
        (torch.float32, torch.complex128, False, torch.complex64),
        (torch.complex128, torch.float32, True, torch.float64),
        (torch.bfloat16, torch.complex64, False, torch.complex64),
        (torch.bfloat16, torch.complex64, True, torch.bfloat16),
        (torch.float64, torch.float32, False, torch.float64),
    ],
)
def test_the_output_has_the_precision_of_v(backend, v, log_x, conj, out):
    tensors = operands(torch.float32)
    for name in (backend, "reference"):
        kernel = vandermonde(tensors[0].to(v), tensors[1].to(log_x), 5, conj=conj, backend=name)
        assert kernel.dtype == out


def test_a_real_kernel_is_a_complex_one_with_no_imaginary_part(backend):
    v, log_x = operands(torch.float32)
    real = vandermonde(v, log_x, 9, conj=False, backend=backend)
    embedded = vandermonde(v + 0j, log_x + 0j, 9, conj=False, backend=backend)
    assert torch.equal(real, embedded.real)
    assert not embedded.imag.any()


def test_autocast_changes_nothing(backend):
    tensors = operands(torch.complex64)
    with torch.autocast("cpu"):
        inside = vandermonde(*tensors, 9, backend=backend)
    assert torch.equal(inside, vandermonde(*tensors, 9, backend=backend))


def test_no_memory_of_a_number_per_state_and_step():
    """(H, N, L) would be 400 MB here; the largest tensor has H (L + N sqrt L) numbers."""
    with torch.profiler.profile(profile_memory=True, record_shapes=True) as profile:
        tensors = [x.requires_grad_() for x in operands(torch.complex64, width=8, states=100)]
        vandermonde(*tensors, 1 << 16, backend="torch").sum().backward()
    shapes = [shape for event in profile.events() for shape in event.input_shapes if shape]
    assert max(torch.Size(shape).numel() for shape in shapes) <= 8 * (1 << 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": torch.ones(3)}, r"v has shape \(3,\), expected \(H, N\)"),
        ({"log_x": torch.ones(3, 5)}, r"log_x has shape \(3, 5\), expected \(3, 4\), that is \(H, N\)"),
        ({"log_x": torch.ones(3, 4, dtype=torch.int64)}, "log_x has dtype torch.int64"),
        ({"log_x": torch.ones(3, 4, device="meta")}, "log_x is on meta"),
        ({"length": -1}, "length is -1, expected 0 or more"),
        ({"backend": "cuda"}, "backend is 'cuda'; choose one of reference, torch, numba, triton"),
    ],
)
def test_refusals_name_the_argument(change, message):
    arguments = {"v": torch.ones(3, 4), "log_x": torch.ones(3, 4), "length": 5, **change}
    with pytest.raises(ValueError, match=message):
        vandermonde(**arguments)


def test_a_second_derivative_is_refused_but_on_the_reference(backend):
    v, log_x = (x.requires_grad_() for x in operands(torch.float64))
    for name, refused in ((backend, True), ("reference", False)):
        out = vandermonde(v, log_x, 5, backend=name).square().sum()
        (grad,) = torch.autograd.grad(out, log_x, create_graph=True)
        if refused:
            with pytest.raises(NotImplementedError, match="no second derivative"):
                grad.sum().backward()
        else:
            grad.sum().backward()


# opcheck itself looks at .grad of copies of its inputs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("conj", [True, False])
@pytest.mark.parametrize("permuted", [False, True])
def test_opcheck(backend, permuted, conj):
    ops = torch.ops.ssm_core
    v, log_x = (torch.view_as_real(x) for x in operands(torch.complex128))
    if permuted:
        v, log_x = (x.permute(2, 1, 0).contiguous().permute(2, 1, 0) for x in (v, log_x))
    grad = torch.randn(3, 6, dtype=torch.float64) if conj else torch.randn(6, 3, 2).double().transpose(0, 1)
    leaves = [x.clone().requires_grad_() for x in (v, log_x)]
    opcheck(ops.vandermonde.default, (*leaves, 6, conj, backend))
    opcheck(ops.vandermonde_backward.default, (v, log_x, grad, 6, conj, backend))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(dynamic):
    def step(v: Tensor, log_x: Tensor, u: Tensor) -> Tensor:
        kernel = vandermonde(v, log_x, u.shape[1])
        return (kernel * u).sum() + vandermonde(v, log_x, u.shape[1], conj=False).abs().sum()

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (5, 8, 11) if dynamic else (5,):
        tensors = [*operands(torch.complex128), torch.randn(3, length, dtype=torch.float64)]
        eager, traced = ([x.detach().clone().requires_grad_() for x in tensors] for _ in range(2))
        step(*eager).backward()
        compiled(*traced).backward()
        torch.testing.assert_close([x.grad for x in traced], [x.grad for x in eager])


@pytest.mark.parametrize("conj", [True, False])
def test_func_grad_and_vmap(backend, conj):
    tensors = operands(torch.complex128)

    def loss(v: Tensor, log_x: Tensor) -> Tensor:
        return vandermonde(v, log_x, 6, conj=conj, backend=backend).abs().square().sum()

    leaves = [x.clone().requires_grad_() for x in tensors]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    torch.testing.assert_close(torch.func.grad(loss, (0, 1))(*tensors), expected)
    v = torch.stack([tensors[0], 0.5j * tensors[0]], 1)
    per_row = torch.vmap(torch.func.grad(loss, (0, 1)), (1, None))(v, tensors[1])
    for i in range(2):
        row = torch.func.grad(loss, (0, 1))(v[:, i], tensors[1])
        torch.testing.assert_close([x[i] for x in per_row], list(row))
