"""The updates: which form runs, derivatives of every kind, and the operators that stand for the kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from ssm_core.ops import causal_conv1d_update, selective_state_update

OPS = torch.ops.ssm_core
Update = Callable[..., tuple[Tensor, Tensor]]


def step_operands(*, wide: bool = True, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """state, x, dt, A, B, C, D, z, dt_bias: B the same for all rows, C by groups."""
    torch.manual_seed(0)
    kind = dtype.to_complex() if wide else dtype
    state, A, B, C = (torch.randn(*shape, dtype=kind) for shape in ((2, 4, 3), (4, 3), (1, 4, 3), (2, 2, 3)))
    x, dt, z = (torch.randn(2, 4, dtype=dtype) for _ in range(3))
    return [state, x, dt, A - 2, B, C, torch.randn(4, dtype=dtype), z, torch.linspace(-5, 25, 4, dtype=dtype)]


def conv_operands(width: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, state, weight, bias."""
    torch.manual_seed(0)
    return [torch.randn(*shape, dtype=dtype) for shape in ((2, 4), (2, width - 1, 4), (4, width), (4,))]


def cases() -> list:
    """(function, operands): both updates, the scan's real and complex."""
    scan = partial(selective_state_update, dt_softplus=True, discretization="zoh")
    conv = partial(causal_conv1d_update, activation="silu")
    pairs = [(scan, step_operands(wide=False)), (scan, step_operands()), (conv, conv_operands())]
    return [
        pytest.param(*pair, id=name) for pair, name in zip(pairs, ("real", "complex", "conv"), strict=True)
    ]


class Recorded(TorchDispatchMode):
    """Notes which operators of ours are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "ssm_core":
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


def called(function: Update, operands: list[Tensor], **options) -> list[str]:
    with Recorded() as seen:
        function(*operands, **options)
    return seen.names


@pytest.mark.parametrize(("function", "operands"), cases())
def test_the_kernel_is_for_gpus_and_for_no_derivative(function, operands):
    name = function.func.__name__
    with FakeTensorMode():
        there = [torch.empty(x.shape, dtype=x.dtype, device="cuda") for x in operands]
        assert called(function, there) == [name]
        there[2].requires_grad_()
        assert called(function, there) == []
        with torch.no_grad():
            assert called(function, there) == [name]
        assert called(function, there, backend="triton") == [name]
    assert called(function, operands) == []
    assert called(function, operands, backend="torch") == []


# torch makes its rules of forward derivatives with it.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize(("function", "operands"), cases())
def test_derivatives_of_every_kind(function, operands):
    leaves = [x.clone().requires_grad_() for x in operands]
    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)
    stacked = [torch.stack([x, 0.5 * x]) for x in operands]
    rows = torch.vmap(function)(*stacked)
    for i in range(2):
        torch.testing.assert_close([x[i] for x in rows], list(function(*(x[i] for x in stacked))))


def as_operators(function: Update) -> tuple[Callable[..., tuple[Tensor, Tensor]], Callable, tuple]:
    """The operator of an update, its backward and its options; on the backend that runs everywhere."""
    name = function.func.__name__
    options = ("silu", "torch") if name == "causal_conv1d_update" else (True, "zoh", "torch")
    return getattr(OPS, name), getattr(OPS, f"{name}_backward"), options


@pytest.mark.parametrize(("function", "operands"), cases())
def test_the_operator_has_the_same_values_and_gradients(function, operands, results, agree):
    operator, _, options = as_operators(function)
    operands = operands if len(operands) == 4 else [operands[1], operands[0], *operands[2:]]

    def plain(*given: Tensor) -> tuple[Tensor, Tensor]:
        given = given if len(given) == 4 else (given[1], given[0], *given[2:])
        return function(*given, backend="reference")

    agree(results(lambda *given: operator(*given, *options), operands), results(plain, operands))


# opcheck itself looks at .grad of copies of its inputs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(("function", "operands"), cases())
def test_torch_may_trust_the_operators(function, operands):
    operator, adjoint, options = as_operators(function)
    operands = operands if len(operands) == 4 else [operands[1], operands[0], *operands[2:]]
    opcheck(operator.default, (*(x.clone().requires_grad_() for x in operands), *options))
    opcheck(operator.default, (*(x.mT.contiguous().mT if x.ndim > 1 else x for x in operands), *options))
    opcheck(adjoint.default, (*operands, *operator(*operands, *options), *options))


@pytest.mark.parametrize(("function", "operands"), cases())
def test_compiles_to_one_graph(function, operands):
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*operands), function(*operands))
    leaves = [x.clone().requires_grad_() for x in operands]
    torch.testing.assert_close(compiled(*leaves), function(*leaves))


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize(("function", "operands"), cases())
def test_forms_agree(function, operands, backend):
    torch.testing.assert_close(
        function(*operands, backend=backend), function(*operands), rtol=1e-12, atol=1e-12
    )


def test_a_backend_that_there_is_not_is_refused():
    with pytest.raises(RuntimeError, match="selective_state_update has no numba form"):
        selective_state_update(*step_operands(), backend="numba")
    with pytest.raises(ValueError, match="causal_conv1d_update: backend is 'fast'"):
        causal_conv1d_update(*conv_operands(), backend="fast")


def test_half_precision_is_computed_in_single():
    for update, operands in (
        (selective_state_update, step_operands(wide=False)),
        (causal_conv1d_update, conv_operands()),
    ):
        narrow = [x.bfloat16() for x in operands]
        y, state = update(*narrow)
        expected, after = update(*(x.double() for x in narrow))
        assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
        torch.testing.assert_close(state.double(), after, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(y.double(), expected, rtol=1e-2, atol=1e-2)
