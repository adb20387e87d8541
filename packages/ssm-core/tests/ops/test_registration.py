"""The operators as torch knows them: opcheck, torch.compile, torch.func."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from ssm_core.ops import diagonal_ssm, linear_scan

OPS = torch.ops.ssm_core


def permuted(x: Tensor) -> Tensor:
    """The same values, laid out with time innermost."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.ndim > 2 else x


def scan_operands(dtype: torch.dtype, *, invariant: bool = False) -> list[Tensor]:
    torch.manual_seed(0)
    a = torch.rand((3,) if invariant else (2, 5, 3), dtype=dtype)
    return [a, torch.randn(2, 5, 3, dtype=dtype), torch.randn(2, 3, dtype=dtype)]


def model_operands(*, per_step: bool = True, length: int = 5) -> list[Tensor]:
    """u, dt, A, B, C, D, initial_state."""
    torch.manual_seed(0)
    A = torch.complex(-torch.rand(3), torch.randn(3)).to(torch.complex128)
    dt = torch.rand((2, length, 3) if per_step else 3, dtype=torch.float64)
    B, C, state = (torch.randn(shape, dtype=torch.complex128) for shape in ((3, 4), (4, 3), (2, 3)))
    return [torch.randn(2, length, 4, dtype=torch.float64), dt, A, B, C, torch.randn(4).double(), state]


# opcheck itself looks at .grad of copies of its inputs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("layout", [lambda x: x, permuted], ids=["plain", "permuted"])
@pytest.mark.parametrize("gradients", [False, True])
def test_opcheck_linear_scan(backend, layout, gradients):
    for dtype, invariant, reverse in ((torch.float64, False, False), (torch.complex128, True, True)):
        a, b, state = (layout(x).requires_grad_(gradients) for x in scan_operands(dtype, invariant=invariant))
        h, last = (x.detach() for x in OPS.linear_scan(a, b, state, None, reverse, backend))
        opcheck(OPS.linear_scan.default, (a, b, state, None, reverse, backend))
        opcheck(
            OPS.linear_scan_backward.default,
            (a, layout(h).requires_grad_(gradients), state, None, layout(h).detach(), last, reverse, backend),
        )


def test_opcheck_packed(backend):
    a, b, _ = (x.flatten(0, 1)[None] if x.ndim == 3 else x for x in scan_operands(torch.float64))
    cu_seqlens = torch.tensor([0, 4, 4, 10], dtype=torch.int32)
    opcheck(OPS.linear_scan.default, (a, b, None, cu_seqlens, False, backend))


# opcheck itself looks at .grad of copies of its inputs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("layout", [lambda x: x, permuted], ids=["plain", "permuted"])
@pytest.mark.parametrize("gradients", [False, True])
def test_opcheck_diagonal_scan(backend, layout, gradients):
    _, dt, A, _, _, _, state = (layout(x).requires_grad_(gradients) for x in model_operands())
    bu = layout(torch.randn(2, 5, 3, dtype=torch.complex128)).requires_grad_(gradients)
    x, last = (x.detach() for x in OPS.diagonal_scan(dt, A, bu, state, None, "zoh", backend))
    opcheck(OPS.diagonal_scan.default, (dt, A, bu, state, None, "zoh", backend))
    once = tuple(y.detach() for y in (dt, A, bu, state))  # its backward refuses to be differentiated
    opcheck(OPS.diagonal_scan_backward.default, (*once, None, x, layout(x), last, "zoh", backend))


# opcheck itself looks at .grad of copies of its inputs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_opcheck_diagonal_scan_packed(backend):
    _, dt, A, _, _, _, state = model_operands()
    edges = torch.tensor([0, 4, 4, 10], dtype=torch.int32)
    bu = torch.randn(1, 10, 3, dtype=torch.complex128)
    inputs = [x.requires_grad_() for x in (dt.view(1, 10, 3), A, bu, torch.cat([state, state[:1]]))]
    opcheck(OPS.diagonal_scan.default, (*inputs, edges, "zoh", backend))
    once = tuple(y.detach() for y in inputs)  # its backward refuses to be differentiated
    x, last = OPS.diagonal_scan(*once, edges, "zoh", backend)
    opcheck(OPS.diagonal_scan_backward.default, (*once, edges, x, x.clone(), last, "zoh", backend))


def loss(function, *args, **kwargs) -> Tensor:
    return sum((x * x.conj()).real.sum() for x in function(*args, **kwargs))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("per_step", [False, True])
def test_compiles_to_one_graph(per_step, dynamic):
    """Without naming a backend: what runs is chosen when it runs."""

    def step(u: Tensor, *rest: Tensor) -> Tensor:
        return loss(diagonal_ssm, u, *rest) + loss(linear_scan, u, u, reverse=True)

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (5, 8, 11) if dynamic else (5,):
        tensors = model_operands(per_step=per_step, length=length)
        eager, traced = ([x.detach().requires_grad_() for x in tensors] for _ in range(2))
        step(*eager).backward()
        compiled(*traced).backward()
        torch.testing.assert_close([x.grad for x in traced], [x.grad for x in eager])


@pytest.mark.parametrize("invariant", [False, True])
def test_func_grad_of_grad_and_vmap(backend, invariant):
    a, b, state = scan_operands(torch.float64, invariant=invariant)
    scan = partial(loss, linear_scan, backend=backend)
    leaves = [x.clone().requires_grad_() for x in (a, b, state)]
    expected = torch.autograd.grad(scan(*leaves), leaves)
    torch.testing.assert_close(torch.func.grad(scan, (0, 1, 2))(a, b, state), expected)

    def curvature(a: Tensor) -> Tensor:
        return torch.func.grad(scan)(a, b, state).square().sum()

    (expected,) = torch.autograd.grad(
        torch.autograd.grad(scan(*leaves), leaves[0], create_graph=True)[0].square().sum(), leaves[0]
    )
    torch.testing.assert_close(torch.func.grad(curvature)(a), expected)


@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("mapped", [(0, 0, 0), (None, 1, None), (0, None, None)])
def test_vmap_of_linear_scan_and_its_gradient(backend, invariant, mapped):
    torch.manual_seed(1)
    tensors = scan_operands(torch.complex128, invariant=invariant)
    stacked = [
        x if dim is None else torch.stack([x, 0.5 * x, -0.1 * x, x.conj()], dim)
        for x, dim in zip(tensors, mapped, strict=True)
    ]
    scan = partial(linear_scan, backend=backend, reverse=True)
    grad = torch.func.grad(partial(loss, scan), (0, 1, 2))
    for function in (scan, grad):
        got = torch.vmap(function, mapped)(*stacked)
        for i in range(4):
            row = [x if dim is None else x.select(dim, i) for x, dim in zip(stacked, mapped, strict=True)]
            torch.testing.assert_close([x[i] for x in got], list(function(*row)))


@pytest.mark.parametrize("per_step", [False, True])
def test_func_grad_and_vmap_of_diagonal_ssm(backend, per_step):
    tensors = model_operands(per_step=per_step)
    gradients = torch.func.grad(partial(loss, diagonal_ssm, backend=backend), tuple(range(7)))
    leaves = [x.clone().requires_grad_() for x in tensors]
    expected = torch.autograd.grad(loss(diagonal_ssm, *leaves, backend=backend), leaves)
    torch.testing.assert_close(gradients(*tensors), expected)

    stacked = [torch.stack([x, 0.5 * x]) for x in tensors]
    per_row = torch.vmap(gradients)(*stacked)
    for i in range(2):
        row = gradients(*(x[i] for x in stacked))
        torch.testing.assert_close([x[i] for x in per_row], list(row))


def test_vmap_over_offsets_is_refused(backend):
    def packed(cu_seqlens: Tensor) -> Tensor:
        return linear_scan(torch.ones(2), torch.ones(1, 4, 2), cu_seqlens=cu_seqlens, backend=backend)[0]

    with pytest.raises(ValueError, match="cannot map over cu_seqlens"):
        torch.vmap(packed)(torch.tensor([[0, 4], [0, 4]]))
