"""causal_conv1d: every backend against the time loop in double precision, torch's view of it, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.nn import functional as F

from ssm_core.opkit.dispatch import numba_problem
from ssm_core.ops.causal_conv1d import causal_conv1d, causal_conv1d_update

OPS = torch.ops.ssm_core


def operands(
    length: int,
    width: int = 4,
    *,
    dtype: torch.dtype = torch.float64,
    packed: bool = False,
    channels: int = 3,
) -> tuple[list[Tensor], Tensor | None]:
    """([x, weight, bias, initial_state], cu_seqlens); a pack has empty, one-step and short sequences."""
    torch.manual_seed(length)
    offsets = [0, 0, min(1, length), min(3, length), max(min(3, length), length // 2), length, length]
    cu_seqlens = torch.tensor(offsets, dtype=torch.int32) if packed else None
    batch, rows = (1, len(offsets) - 1) if packed else (3, 3)
    shapes = (batch, length, channels), (channels, width), (channels,), (rows, width - 1, channels)
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes], cu_seqlens


def conv(activation: str | None = None, **options) -> Callable[..., tuple[Tensor, Tensor]]:
    """The op with its tensors first."""
    return lambda x, weight, bias, state: causal_conv1d(x, weight, bias, activation, state, **options)


@pytest.mark.parametrize("length", [0, 1, 2, 5, 37, 200])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("width", [1, 2, 4, 7, 19])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_time_loop(backend, dtype, activation, width, packed, length, results, oracle, agree):
    tensors, cu_seqlens = operands(length, width, dtype=dtype, packed=packed)
    got = results(conv(activation, cu_seqlens=cu_seqlens, backend=backend), tensors)
    assert {x.dtype for x in got} == {dtype}
    agree(got, oracle(conv(activation, cu_seqlens=cu_seqlens, backend="reference"), tensors))


@pytest.mark.skipif(bool(numba_problem()), reason="numba does not run here")
@pytest.mark.parametrize("length", [0, 4, 19, 60])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("width", [1, 3, 4])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_cut_into_pieces_it_is_the_whole(
    activation, width, packed, length, monkeypatch, results, oracle, agree
):
    monkeypatch.setattr(import_module("ssm_core.ops.causal_conv1d.on_numba"), "_PIECE", 2)
    tensors, cu_seqlens = operands(length, width, packed=packed)
    got = results(conv(activation, cu_seqlens=cu_seqlens, backend="numba"), tensors)
    agree(got, oracle(conv(activation, cu_seqlens=cu_seqlens, backend="reference"), tensors))


@pytest.mark.parametrize("channels", [1, 8, 33, 300])
def test_any_number_of_channels(backend, channels, results, oracle, agree):
    tensors, _ = operands(40, dtype=torch.float32, channels=channels)
    agree(results(conv("silu", backend=backend), tensors), oracle(conv("silu", backend="reference"), tensors))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("given", [(True, False), (False, True), (False, False)])
def test_without_bias_or_initial_state(backend, given, packed, results, oracle, agree):
    (x, weight, *rest), cu_seqlens = operands(11, packed=packed)
    rest = [tensor for tensor, there in zip(rest, given, strict=True) if there]

    def function(name: str, x: Tensor, weight: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        found = iter(rest)
        bias, state = (next(found) if there else None for there in given)
        return causal_conv1d(x, weight, bias, "silu", state, cu_seqlens=cu_seqlens, backend=name)

    expected = oracle(partial(function, "reference"), [x, weight, *rest])
    agree(results(partial(function, backend), [x, weight, *rest]), expected)


def test_the_reference_is_a_convolution():
    (x, weight, bias, state), _ = operands(9)
    y, last = causal_conv1d(x, weight, bias, None, state, backend="reference")
    padded = torch.cat([state, x], 1)
    expected = F.conv1d(padded.transpose(1, 2), weight[:, None], bias, groups=3).transpose(1, 2)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(last, padded[:, 9:])


@pytest.mark.parametrize("activation", ["silu", "swish"])
def test_silu_by_either_name(backend, activation):
    (x, weight, bias, state), _ = operands(9)
    z, _ = causal_conv1d(x, weight, bias, None, state, backend=backend)
    y, _ = causal_conv1d(x, weight, bias, activation, state, backend=backend)
    torch.testing.assert_close(y, F.silu(z), rtol=1e-12, atol=1e-12)


def test_silu_far_out(backend):
    z = torch.tensor([-1e4, -200.0, -90.0, 0.0, 90.0, 1e4]).view(1, 6, 1)
    y, _ = causal_conv1d(z, torch.ones(1, 1), activation="silu", backend=backend)
    torch.testing.assert_close(y, F.silu(z), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_gradients(backend, activation, packed):
    tensors, cu_seqlens = operands(5, 3, packed=packed, channels=2)
    tensors = [x.requires_grad_() for x in tensors]
    assert gradcheck(conv(activation, cu_seqlens=cu_seqlens, backend=backend), tensors)


def test_only_the_reference_has_a_second_derivative(backend):
    tensors = [x.requires_grad_() for x in operands(3, 2, channels=1)[0]]
    assert gradgradcheck(conv("silu", backend="reference"), tensors)
    (grad,) = torch.autograd.grad(conv(backend=backend)(*tensors)[0].sum(), tensors[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_are_computed_in_single_precision(backend, dtype):
    x, weight, bias, state = (t.to(dtype) for t in operands(50)[0])
    y, last = causal_conv1d(x, weight, bias, "silu", state, backend=backend)
    wide = causal_conv1d(x.float(), weight.float(), bias.float(), "silu", state.float(), backend=backend)
    assert (y.dtype, last.dtype) == (dtype, torch.float32)
    assert torch.equal(y, wide[0].to(dtype))
    assert torch.equal(last, wide[1])


@pytest.mark.parametrize("name", ["reference", "torch", "numba"])
def test_mixed_dtypes_take_the_widest(name):
    if name == "numba" and numba_problem():
        pytest.skip(numba_problem())
    (x, weight, bias, state), _ = operands(9)
    with torch.autocast("cpu", torch.bfloat16):
        y, last = causal_conv1d(x.bfloat16(), weight, bias.float(), "silu", state.half(), backend=name)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float64)


def test_outputs_alias_no_input(backend):
    for length in (0, 1, 40):
        tensors, _ = operands(length)
        kept = [x.clone() for x in tensors]
        for out in conv(backend=backend)(*tensors):
            out.zero_()
        assert all(torch.equal(x, y) for x, y in zip(tensors, kept, strict=True))


@pytest.mark.skipif(bool(numba_problem()), reason="numba does not run here")
@pytest.mark.parametrize("shape", [(8, 300, 40), (3, 200, 200), (1, 500, 300), (1, 9000, 16)])
def test_threads_change_nothing(shape):
    """Work cut by sequences, by columns, and not at all: the same bits."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.randn(shape[2], 4), torch.randn(shape[2])
    outputs = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
            y, last = causal_conv1d(*leaves, "silu", backend="numba")
            outputs.append([y, last, *torch.autograd.grad(y, leaves, x)])
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


def permuted(x: Tensor) -> Tensor:
    """The same values, laid out with time innermost."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.ndim > 2 else x


# opcheck itself looks at .grad of copies of its inputs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("layout", [lambda x: x, permuted], ids=["plain", "permuted"])
@pytest.mark.parametrize("packed", [False, True])
def test_opcheck(backend, packed, layout):
    tensors, cu_seqlens = operands(5, packed=packed)
    x, weight, bias, state = (layout(t).requires_grad_() for t in tensors)
    opcheck(OPS.causal_conv1d.default, (x, weight, bias, state, cu_seqlens, "silu", backend))
    opcheck(OPS.causal_conv1d.default, (x, weight, None, None, cu_seqlens, "", backend))
    row = x[:1], weight, bias, state[:1], None, "", backend
    opcheck(OPS.causal_conv1d.default, row)
    once = tuple(t.detach() for t in (x, weight, bias, state))  # its backward refuses to be differentiated
    given = (*once, cu_seqlens, layout(once[0].clone()), once[3].clone(), "silu", backend)
    opcheck(OPS.causal_conv1d_backward.default, given)
    row = *(t.detach() for t in row[:4]), None, once[0][:1].clone(), once[3][:1].clone(), "", backend
    opcheck(OPS.causal_conv1d_backward.default, row)


def loss(function: Callable, *args) -> Tensor:
    return torch.stack([x.square().sum() for x in function(*args)]).sum()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(dynamic):
    """Without naming a backend: what runs is chosen when it runs."""
    torch.compiler.reset()
    step = partial(loss, conv("silu"))
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (5, 8, 11) if dynamic else (5,):
        tensors, _ = operands(length)
        eager, traced = ([x.detach().requires_grad_() for x in tensors] for _ in range(2))
        step(*eager).backward()
        compiled(*traced).backward()
        torch.testing.assert_close([x.grad for x in traced], [x.grad for x in eager])


def test_func_grad_and_vmap(backend):
    tensors, _ = operands(6)
    function = partial(loss, conv("silu", backend=backend))
    gradients = torch.func.grad(function, (0, 1, 2, 3))
    leaves = [x.clone().requires_grad_() for x in tensors]
    torch.testing.assert_close(gradients(*tensors), torch.autograd.grad(function(*leaves), leaves))
    stacked = [torch.stack([x, 0.5 * x]) for x in tensors]
    per_row = torch.vmap(gradients)(*stacked)
    for i in range(2):
        torch.testing.assert_close([x[i] for x in per_row], list(gradients(*(x[i] for x in stacked))))


@pytest.mark.parametrize("activation", [None, "silu", "swish"])
@pytest.mark.parametrize("width", [1, 4])
def test_update_by_update_is_the_whole(width, activation):
    (x, weight, bias, state), _ = operands(6, width)
    y, last = causal_conv1d(x, weight, bias, activation, state)
    steps = []
    for x_t in x.unbind(1):
        y_t, state = causal_conv1d_update(x_t, state, weight, bias, activation)
        steps.append(y_t)
    torch.testing.assert_close(torch.stack(steps, 1), y, rtol=1e-12, atol=1e-12)
    assert torch.equal(state, last)


def test_update_is_differentiable_and_keeps_its_inputs():
    (x, weight, bias, state), _ = operands(1)
    leaves = [t.clone().requires_grad_() for t in (x[:, 0], state, weight, bias)]
    assert gradcheck(lambda *args: causal_conv1d_update(*args, "silu"), leaves)
    assert torch.equal(leaves[1], state)
    y, new = causal_conv1d_update(x[:, 0].bfloat16(), state.bfloat16(), weight.bfloat16())
    assert (y.dtype, new.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(5, 2)}, r"causal_conv1d: x has shape \(5, 2\), expected \(B, L, H\)"),
        ({"x": torch.ones(3, 5, 2, dtype=torch.int64)}, "x has dtype torch.int64"),
        ({"x": torch.ones(3, 5, 2, dtype=torch.complex64)}, "x is complex"),
        ({"weight": torch.ones(3, 4)}, r"weight has shape \(3, 4\), expected \(2, W\)"),
        ({"weight": torch.ones(2, 0)}, "W >= 1"),
        ({"weight": torch.ones(2, 2, 4)}, r"weight has shape \(2, 2, 4\)"),
        ({"bias": torch.ones(3)}, r"bias has shape \(3,\), expected \(2,\)"),
        ({"bias": torch.ones(2, device="meta")}, "bias is on meta"),
        ({"activation": "relu"}, "activation is 'relu'; choose one of None, 'silu', 'swish'"),
        (
            {"initial_state": torch.ones(3, 4, 2)},
            r"initial_state has shape \(3, 4, 2\), expected \(3, 3, 2\)",
        ),
        ({"cu_seqlens": torch.tensor([0, 5], dtype=torch.int32)}, "the batch must be 1, not 3"),
        ({"backend": "cuda"}, "backend is 'cuda'; choose one of"),
    ],
)
def test_refusals_name_the_argument(change, message):
    arguments = {"x": torch.ones(3, 5, 2), "weight": torch.ones(2, 4), **change}
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**arguments)


@pytest.mark.parametrize("offsets", [[0, 3, 2, 5], [1, 5], [0, 4], [0, 9]])
def test_offsets_that_do_not_fit_are_refused(backend, offsets):
    cu_seqlens = torch.tensor(offsets, dtype=torch.int32)
    with pytest.raises(ValueError, match="climb from 0 to the packed length 5"):
        causal_conv1d(torch.ones(1, 5, 2), torch.ones(2, 4), cu_seqlens=cu_seqlens, backend=backend)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(3, 1, 2)}, r"causal_conv1d_update: x has shape \(3, 1, 2\), expected \(B, H\)"),
        ({"state": torch.ones(3, 4, 2)}, r"state has shape \(3, 4, 2\), expected \(3, 3, 2\)"),
        ({"state": torch.ones(3, 3, 2, dtype=torch.int32)}, "state has dtype torch.int32"),
        ({"weight": torch.ones(3, 4)}, r"causal_conv1d_update: weight has shape \(3, 4\)"),
        ({"activation": "tanh"}, "activation is 'tanh'"),
    ],
)
def test_an_update_refuses_what_does_not_fit(change, message):
    arguments = {"x": torch.ones(3, 2), "state": torch.ones(3, 3, 2), "weight": torch.ones(2, 4), **change}
    with pytest.raises(ValueError, match=message):
        causal_conv1d_update(**arguments)
