"""smr_gate: every backend against the time loop in double precision, torch's view of it, and refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from ssm_core.opkit.dispatch import numba_problem
from ssm_core.ops import available_backends
from ssm_smr import smr_gate

OPS = torch.ops.ssm_smr


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """torch.empty and its kin hand out NaN, so reading what was never written shows."""
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode("default")


@pytest.fixture(params=["torch", "numba"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each fast backend that runs here."""
    if request.param == "numba" and numba_problem():
        pytest.skip(numba_problem())
    return request.param


def operands(
    length: int,
    tau: int = 4,
    *,
    dtype: torch.dtype = torch.float64,
    dense: bool = False,
    packed: bool = False,
    channels: int = 3,
) -> tuple[list[Tensor], Tensor | None]:
    """([u, weight, bias, initial_state], cu_seqlens); a pack has empty, one-step and short sequences."""
    torch.manual_seed(length)
    offsets = [0, 0, min(1, length), min(3, length), max(min(3, length), length // 2), length, length]
    cu_seqlens = torch.tensor(offsets, dtype=torch.int32) if packed else None
    batch, rows = (1, len(offsets) - 1) if packed else (3, 3)
    filters = (channels, channels, tau) if dense else (channels, tau)
    shapes = (batch, length, channels), filters, (channels,), (rows, tau - 1, channels)
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes], cu_seqlens


def gate(**options) -> Callable[..., tuple[Tensor, Tensor]]:
    """The op with its tensors first, at an odd scale."""
    return partial(smr_gate, **{"gate_scale": 1.7, **options})


def results(function: Callable[..., tuple[Tensor, ...]], inputs: Iterable[Tensor]) -> list[Tensor]:
    """Outputs of a function and the gradients of its inputs, for fixed pseudo-random gradients of the outputs."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    outputs = function(*inputs)
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in outputs]
    gradients = torch.autograd.grad(outputs, inputs, grads, materialize_grads=True)
    return [*(out.detach() for out in outputs), *gradients]


def check(backend: str, tensors: list[Tensor], **options) -> None:
    """Outputs and gradients equal those of the time loop in double precision."""
    got = results(gate(backend=backend, **options), tensors)
    expected = results(gate(backend="reference", **options), [x.double() for x in tensors])
    assert {x.dtype for x in got} == {tensors[0].dtype}
    for i, (x, oracle) in enumerate(zip(got, expected, strict=True)):
        assert x.shape == oracle.shape, f"output {i}"
        if x.numel():
            double, error = x.dtype == torch.float64, (x.double() - oracle).abs()
            rms = error.square().mean().sqrt() / oracle.square().mean().sqrt().clamp(min=1e-30)
            worst = error.max() / oracle.abs().max().clamp(min=1e-30)
            assert rms <= (1e-12 if double else 1e-5), f"output {i}: RMS ratio {rms:.1e}"
            assert worst <= (1e-12 if double else 1e-4), f"output {i}: largest error {worst:.1e}"


@pytest.mark.parametrize("length", [0, 1, 2, 5, 37, 200])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tau", [1, 2, 4, 9])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_time_loop(backend, dtype, dense, tau, packed, length):
    tensors, cu_seqlens = operands(length, tau, dtype=dtype, dense=dense, packed=packed)
    check(backend, tensors, cu_seqlens=cu_seqlens)


@pytest.mark.skipif(bool(numba_problem()), reason="numba does not run here")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tau", [1, 4])
def test_cut_into_pieces_it_is_the_whole(tau, packed, monkeypatch):
    monkeypatch.setattr(import_module("ssm_core.ops.causal_conv1d.on_numba"), "_PIECE", 2)
    tensors, cu_seqlens = operands(37, tau, packed=packed)
    check("numba", tensors, cu_seqlens=cu_seqlens)


@pytest.mark.parametrize("channels", [1, 8, 33, 300])
def test_any_number_of_channels(backend, channels):
    check(backend, operands(40, dtype=torch.float32, channels=channels)[0])


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_without_bias_and_initial_state(backend, packed, dense):
    tensors, cu_seqlens = operands(11, packed=packed, dense=dense)
    check(backend, tensors[:2], cu_seqlens=cu_seqlens)
    check(backend, tensors[:3], cu_seqlens=cu_seqlens)


def test_the_reference_is_the_equation():
    u, weight = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[3.0, -1.0]])
    gated, memory = smr_gate(u, weight, torch.tensor([0.5]), torch.tensor([[[4.0]]]), backend="reference")
    expected = [torch.sigmoid(torch.tensor(0.5 + 3 * 4 - 1)), 2 * torch.sigmoid(torch.tensor(0.5 + 3 - 2))]
    torch.testing.assert_close(gated.flatten(), torch.stack(expected))
    assert memory.item() == 2.0


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_gradients(backend, dense, packed):
    tensors, cu_seqlens = operands(5, 3, dense=dense, packed=packed, channels=2)
    tensors = [x.requires_grad_() for x in tensors]
    assert gradcheck(gate(cu_seqlens=cu_seqlens, backend=backend), tensors)


def test_only_the_reference_has_a_second_derivative(backend):
    tensors = [x.requires_grad_() for x in operands(3, 2, channels=1)[0]]
    assert gradgradcheck(gate(backend="reference"), tensors)
    (grad,) = torch.autograd.grad(gate(backend=backend)(*tensors)[0].sum(), tensors[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        grad.sum().backward()


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_are_computed_in_single_precision(backend, dtype, dense):
    tensors = [x.to(dtype) for x in operands(50, dense=dense)[0]]
    gated, last = gate(backend=backend)(*tensors)
    expected = gate(backend=backend)(*(x.float() for x in tensors))
    assert (gated.dtype, last.dtype) == (dtype, torch.float32)
    assert torch.equal(gated, expected[0].to(dtype))
    assert torch.equal(last, expected[1])


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("name", ["reference", "torch", "numba"])
def test_autocast_changes_nothing(name, dense):
    if name == "numba" and numba_problem():
        pytest.skip(numba_problem())
    tensors, _ = operands(9, dense=dense)
    expected = gate(backend=name)(*tensors)
    with torch.autocast("cpu", torch.bfloat16):
        got = gate(backend=name)(*tensors)
    assert all(torch.equal(x, y) for x, y in zip(got, expected, strict=True))


@pytest.mark.skipif(bool(numba_problem()), reason="numba does not run here")
@pytest.mark.parametrize("shape", [(8, 300, 40), (3, 200, 200)])
def test_threads_change_nothing(shape):
    torch.manual_seed(0)
    u, weight, bias = torch.randn(shape), torch.randn(shape[2], 4), torch.randn(shape[2])
    outputs = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            leaves = [x.clone().requires_grad_() for x in (u, weight, bias)]
            gated, last = smr_gate(*leaves, backend="numba")
            outputs.append([gated, last, *torch.autograd.grad(gated, leaves, u)])
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


@pytest.mark.parametrize("dense", [False, True])
def test_two_runs_are_the_same_bits_at_any_strides(backend, dense):
    tensors, _ = operands(21, dense=dense)
    plain = results(gate(backend=backend), tensors)
    assert all(map(torch.equal, plain, results(gate(backend=backend), tensors)))
    tensors[0] = permuted(tensors[0])
    tensors[3] = tensors[3].flip(0).contiguous().flip(0)
    assert all(map(torch.equal, plain, results(gate(backend=backend), tensors)))


@pytest.mark.parametrize("dense", [False, True])
def test_outputs_alias_no_input(backend, dense):
    for length in (0, 1, 40):
        tensors, _ = operands(length, dense=dense)
        kept = [x.clone() for x in tensors]
        for out in gate(backend=backend)(*tensors):
            out.zero_()
        assert all(torch.equal(x, y) for x, y in zip(tensors, kept, strict=True))


def permuted(x: Tensor) -> Tensor:
    """The same values, laid out with time innermost."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.ndim > 2 else x


# opcheck itself looks at .grad of copies of its inputs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("layout", [lambda x: x, permuted], ids=["plain", "permuted"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_opcheck(backend, dense, packed, layout):
    tensors, cu_seqlens = operands(5, dense=dense, packed=packed)
    u, weight, bias, state = (layout(x).requires_grad_() for x in tensors)
    opcheck(OPS.smr_gate.default, (u, weight, bias, state, cu_seqlens, 2.0, backend))
    opcheck(OPS.smr_gate.default, (u[:1], weight, None, None, cu_seqlens, 1.0, backend))
    once = tuple(x.detach() for x in (u, weight, bias, state))  # its backward refuses to be differentiated
    kept = OPS.smr_gate(*once, cu_seqlens, 2.0, backend)[2]
    given = (*once, cu_seqlens, kept, layout(once[0].clone()), once[3].clone(), 2.0, backend)
    opcheck(OPS.smr_gate_backward.default, given)


def loss(function: Callable, *args) -> Tensor:
    return torch.stack([x.square().sum() for x in function(*args)]).sum()


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_compiles_to_one_graph(dense, dynamic):
    """Without naming a backend: what runs is chosen when it runs."""
    torch.compiler.reset()
    step = partial(loss, gate())
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (5, 8, 11) if dynamic else (5,):
        tensors, _ = operands(length, dense=dense)
        eager, traced = ([x.detach().requires_grad_() for x in tensors] for _ in range(2))
        step(*eager).backward()
        compiled(*traced).backward()
        torch.testing.assert_close([x.grad for x in traced], [x.grad for x in eager])


@pytest.mark.parametrize("dense", [False, True])
def test_func_grad_and_vmap(backend, dense):
    tensors, _ = operands(6, dense=dense)
    gradients = torch.func.grad(partial(loss, gate(backend=backend)), (0, 1, 2, 3))
    leaves = [x.clone().requires_grad_() for x in tensors]
    expected = torch.autograd.grad(loss(gate(backend=backend), *leaves), leaves)
    torch.testing.assert_close(gradients(*tensors), expected)
    stacked = [torch.stack([x, 0.5 * x]) for x in tensors]
    per_row = torch.vmap(gradients)(*stacked)
    for i in range(2):
        torch.testing.assert_close([x[i] for x in per_row], list(gradients(*(x[i] for x in stacked))))


def test_doctor_sees_what_runs():
    status = available_backends("smr_gate")
    assert status["reference"] == status["torch"] == "ok"
    assert status["numba"] == "ok" or numba_problem()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.ones(5, 2)}, r"smr_gate: u has shape \(5, 2\), expected \(B, L, H\)"),
        ({"u": torch.ones(3, 5, 2, dtype=torch.int64)}, "u has dtype torch.int64"),
        ({"u": torch.ones(3, 5, 2, dtype=torch.complex64)}, "u is complex"),
        ({"weight": torch.ones(3, 4)}, r"weight has shape \(3, 4\), expected \(2, tau\) or \(2, 2, tau\)"),
        ({"weight": torch.ones(2, 3, 4)}, r"weight has shape \(2, 3, 4\)"),
        ({"weight": torch.ones(2, 0)}, "tau >= 1"),
        ({"weight": torch.ones(())}, r"weight has shape \(\)"),
        ({"bias": torch.ones(3)}, r"bias has shape \(3,\), expected \(2,\)"),
        ({"bias": torch.ones(2, device="meta")}, "bias is on meta"),
        (
            {"initial_state": torch.ones(3, 4, 2)},
            r"initial_state has shape \(3, 4, 2\), expected \(3, 3, 2\)",
        ),
        ({"cu_seqlens": torch.tensor([0, 5], dtype=torch.int32)}, "the batch must be 1, not 3"),
        ({"backend": "cuda"}, "backend is 'cuda'; choose one of"),
    ],
)
def test_refusals_name_the_argument(change, message):
    arguments = {"u": torch.ones(3, 5, 2), "weight": torch.ones(2, 4), **change}
    with pytest.raises(ValueError, match=message):
        smr_gate(**arguments)


@pytest.mark.parametrize("offsets", [[0, 3, 2, 5], [1, 5], [0, 4], [0, 9]])
def test_offsets_that_do_not_fit_are_refused(backend, offsets):
    cu_seqlens = torch.tensor(offsets, dtype=torch.int32)
    with pytest.raises(ValueError, match="climb from 0 to the packed length 5"):
        smr_gate(torch.ones(1, 5, 2), torch.ones(2, 4), cu_seqlens=cu_seqlens, backend=backend)
