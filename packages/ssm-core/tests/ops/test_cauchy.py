"""cauchy: every backend against the formula in double precision, derivatives, S4's kernel with it, refusals."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.library import opcheck

from ssm_core.ops.cauchy import cauchy, on_torch


@pytest.fixture(params=["torch", "numba"])
def backend(request: pytest.FixtureRequest) -> str:
    """The fast backends of CPUs."""
    return request.param


def operands(
    dtype: torch.dtype, nodes: int = 11, *, width: int = 3, states: int = 5, rows: bool = False
) -> list[Tensor]:
    """[v, z, w], nodes on the imaginary axis and poles left of it."""
    torch.manual_seed(7 * nodes + states)
    v = torch.randn(width, states, dtype=dtype)
    decay, angle = torch.rand(2, width, states, dtype=torch.float64)
    frequency = 2 * torch.rand((width, nodes) if rows else nodes, dtype=torch.float64)
    return [v, (1j * frequency).to(dtype), torch.complex(-0.2 - decay, 2 * angle).to(dtype)]


def one(function, **options):
    """The function with its output in a tuple, as the fixtures want it."""
    return lambda *tensors: (function(*tensors, **options),)


@pytest.mark.parametrize("nodes", [0, 1, 2, 33, 101])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("conj", [True, False])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_equals_the_formula(backend, dtype, conj, rows, nodes, results, oracle, agree):
    tensors = operands(dtype, nodes, rows=rows)
    call = partial(one, cauchy, conj=conj)
    got = results(call(backend=backend), tensors)
    assert {x.dtype for x in got} == {dtype}
    agree(got, oracle(call(backend="reference"), tensors))


@pytest.mark.parametrize(("width", "states"), [(0, 3), (2, 0), (1, 1), (2, 40)])
@pytest.mark.parametrize("conj", [True, False])
def test_any_number_of_states(backend, width, states, conj, results, oracle, agree):
    tensors = operands(torch.complex64, width=width, states=states)
    expected = oracle(partial(cauchy_of, conj=conj, backend="reference"), tensors)
    agree(results(partial(cauchy_of, conj=conj, backend=backend), tensors), expected)


def cauchy_of(*tensors: Tensor, **options) -> tuple[Tensor]:
    return (cauchy(*tensors, **options),)


@pytest.mark.parametrize("states", [3, 40])
def test_many_blocks_are_one(monkeypatch, states, results, oracle, agree):
    monkeypatch.setattr(on_torch, "_CACHE", 256)
    tensors = operands(torch.complex64, 101, states=states)
    expected = oracle(partial(cauchy_of, backend="reference"), tensors)
    agree(results(partial(cauchy_of, backend="torch"), tensors), expected)


def test_the_reference_is_the_formula():
    v, z, w = torch.tensor([[2j, 1.0]]), torch.tensor([1.0 + 0j]), torch.tensor([[1j, -1.0]])
    once = 2j / (1 - 1j) + 0.5
    pair = once - 2j / (1 + 1j) + 0.5
    got = [cauchy(v, z, w, conj=conj, backend="reference").item() for conj in (False, True)]
    assert got == pytest.approx([once, pair])


@pytest.mark.parametrize("conj", [True, False])
@pytest.mark.parametrize("rows", [False, True])
def test_gradients(backend, rows, conj):
    tensors = [x.requires_grad_() for x in operands(torch.complex128, 4, width=2, states=2, rows=rows)]
    assert gradcheck(partial(cauchy, conj=conj, backend=backend), tensors)


def test_gradients_of_real_arguments(backend):
    v, z, w = (x.detach().abs().requires_grad_() for x in operands(torch.complex128, 4, width=2, states=2))
    assert gradcheck(partial(cauchy, backend=backend), (v, z, -w))


def test_right_beside_the_poles(backend, results, oracle, agree):
    """Nodes 1e-4 from poles, on the axis: the differences are exact, so single precision keeps its digits."""
    torch.manual_seed(0)
    v, frequency = torch.randn(2, 16, dtype=torch.complex64), 50 * torch.rand(2, 16)
    w = torch.complex(torch.full((2, 16), -1e-4), frequency)
    z = 1j * torch.cat([frequency, frequency + 1e-4, -frequency], 1)
    expected = oracle(partial(cauchy_of, backend="reference"), [v, z, w])
    agree(results(partial(cauchy_of, backend=backend), [v, z, w]), expected)


def model(states: int, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    """S4's dPLR model A = diag(w) - p p*: first halves of w, p, B and C, the kernel itself, and the step."""
    torch.manual_seed(states)
    w = torch.complex(-0.5 - torch.rand(states), 5 * torch.rand(states)).to(torch.complex128)
    p, B, C = torch.randn(3, states, dtype=torch.complex128)
    dt = 0.1
    W, P, Bf, Cf = (torch.cat([x, x.conj()]) for x in (w, p, B, C))
    A, eye = torch.diag(W) - P[:, None] * P.conj(), torch.eye(2 * states, dtype=torch.complex128)
    left = eye - dt / 2 * A
    A_bar, B_bar = torch.linalg.solve(left, eye + dt / 2 * A), torch.linalg.solve(left, dt * Bf)
    powers = [torch.linalg.matrix_power(A_bar, l) for l in range(steps + 1)]
    kernel = torch.stack([Cf @ power @ B_bar for power in powers[:-1]])
    truncated = (Cf - Cf @ powers[-1])[:states]
    return w, p, B, truncated, kernel.real, dt


def test_the_kernel_of_s4_at_every_node(backend):
    """By Woodbury, with finite nodes: omega = -1, where S4's own node is infinite, is one as any other."""
    steps = 16
    w, p, B, C, kernel, dt = model(3, steps)
    omega = torch.exp(-2j * torch.pi * torch.arange(steps // 2 + 1, dtype=torch.float64) / steps)
    assert torch.allclose(omega[-1], torch.tensor(-1.0 + 0j, dtype=torch.complex128))
    v = torch.stack([C * B, C * p, p.conj() * B, p.conj() * p])  # k_00, k_01, k_10, k_11 of S4
    poles = ((2 - dt * w) / (2 + dt * w)).expand(4, -1)
    c_00, c_01, c_10, c_11 = cauchy(-2 * dt * v / (2 + dt * w), omega, poles, backend=backend)
    half = (1 + omega) / 2
    spectrum = c_00 - half * c_01 * c_10 / (1 + half * c_11)
    torch.testing.assert_close(spectrum, torch.fft.rfft(kernel), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.fft.irfft(spectrum, steps), kernel, rtol=1e-12, atol=1e-12)

    z = 2 / dt * (1 - omega[:-1]) / (1 + omega[:-1])  # the paper's nodes, all but the last
    k_00, k_01, k_10, k_11 = cauchy(v, z, w.expand(4, -1), backend=backend)
    plain = (k_00 - k_01 * k_10 / (1 + k_11)) / half[:-1]
    torch.testing.assert_close(plain, spectrum[:-1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("v", "z", "out"),
    [
        (torch.complex64, torch.complex128, torch.complex64),
        (torch.complex128, torch.complex64, torch.complex128),
        (torch.bfloat16, torch.complex64, torch.complex64),
        (torch.float64, torch.complex64, torch.complex128),
        (torch.float16, torch.float32, torch.complex64),
    ],
)
def test_the_output_is_complex_in_the_precision_of_v(backend, v, z, out):
    tensors = [x.real + x.imag for x in operands(torch.complex64)]
    for name in (backend, "reference"):
        assert cauchy(tensors[0].to(v), tensors[1].to(z), tensors[2], backend=name).dtype == out


def test_half_inputs_are_computed_in_single_precision(backend):
    v, z, w = operands(torch.complex64)
    v = v.real.bfloat16()
    assert torch.equal(cauchy(v, z, w, backend=backend), cauchy(v.float(), z, w, backend=backend))


def test_autocast_changes_nothing(backend):
    tensors = operands(torch.complex64)
    with torch.autocast("cpu"):
        inside = cauchy(*tensors, backend=backend)
    assert torch.equal(inside, cauchy(*tensors, backend=backend))


def test_no_memory_of_a_number_per_state_and_node():
    """(H, N, F) would be 100 MB here."""
    with torch.profiler.profile(profile_memory=True, record_shapes=True) as profile:
        tensors = [x.requires_grad_() for x in operands(torch.complex64, 1 << 12, width=8, states=400)]
        cauchy(*tensors, backend="torch").abs().sum().backward()
    shapes = [shape for event in profile.events() for shape in event.input_shapes if shape]
    assert max(torch.Size(shape).numel() for shape in shapes) <= 2 * 8 * (1 << 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": torch.ones(3)}, r"v has shape \(3,\), expected \(H, N\)"),
        ({"w": torch.ones(3, 5)}, r"w has shape \(3, 5\), expected \(3, 4\), that is \(H, N\)"),
        ({"z": torch.ones(2, 6)}, r"z has shape \(2, 6\), expected \(6,\) or \(3, 6\)"),
        ({"z": torch.tensor(1.0)}, r"z has shape \(\), expected \(F,\) or \(H, F\)"),
        ({"z": torch.ones(6, dtype=torch.int64)}, "z has dtype torch.int64"),
        ({"w": torch.ones(3, 4, device="meta")}, "w is on meta"),
        ({"backend": "cuda"}, "backend is 'cuda'; choose one of reference, torch, numba, triton"),
    ],
)
def test_refusals_name_the_argument(change, message):
    arguments = {"v": torch.ones(3, 4), "z": torch.zeros(6), "w": torch.ones(3, 4), **change}
    with pytest.raises(ValueError, match=message):
        cauchy(**arguments)


# opcheck itself looks at .grad of copies of its inputs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("permuted", [False, True])
def test_opcheck(backend, permuted, rows):
    ops = torch.ops.ssm_core
    tensors = [*operands(torch.complex128, 6, rows=rows), torch.randn(3, 6, dtype=torch.complex128)]
    if permuted:
        tensors = [x.mT.contiguous().mT if x.ndim == 2 else x for x in tensors]
    leaves = [x.clone().requires_grad_() for x in tensors[:3]]
    opcheck(ops.cauchy.default, (*leaves, True, backend))
    opcheck(ops.cauchy_backward.default, (*tensors, True, backend))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(dynamic):
    def step(v: Tensor, z: Tensor, w: Tensor) -> Tensor:
        return cauchy(v, z, w).abs().sum() + cauchy(v.real, z, w, conj=False).abs().sum()

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for nodes in (5, 8, 11) if dynamic else (5,):
        tensors = operands(torch.complex128, nodes)
        eager, traced = ([x.detach().clone().requires_grad_() for x in tensors] for _ in range(2))
        step(*eager).backward()
        compiled(*traced).backward()
        torch.testing.assert_close([x.grad for x in traced], [x.grad for x in eager])


def test_func_grad_and_vmap(backend):
    tensors = operands(torch.complex128, 6)

    def loss(*tensors: Tensor) -> Tensor:
        return cauchy(*tensors, backend=backend).abs().square().sum()

    leaves = [x.clone().requires_grad_() for x in tensors]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    gradients = torch.func.grad(loss, (0, 1, 2))
    torch.testing.assert_close(gradients(*tensors), expected)
    v = torch.stack([tensors[0], 0.5j * tensors[0]], 1)
    per_row = torch.vmap(gradients, (1, None, None))(v, *tensors[1:])
    for i in range(2):
        row = gradients(v[:, i], *tensors[1:])
        torch.testing.assert_close([x[i] for x in per_row], list(row))


def test_a_second_derivative_is_refused_but_on_the_reference(backend):
    v, z, w = (x.requires_grad_() for x in operands(torch.complex128))
    for name, refused in ((backend, True), ("reference", False)):
        (grad,) = torch.autograd.grad(cauchy(v, z, w, backend=name).abs().sum(), w, create_graph=True)
        if refused:
            with pytest.raises(NotImplementedError, match="no second derivative"):
                grad.abs().sum().backward()
        else:
            grad.abs().sum().backward()
