"""The operators as torch knows them: opcheck, torch.compile, torch.func."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from ssm_serpent.index import max_points, resample_index
from ssm_serpent.intervals import TICKS, intervals
from ssm_serpent.ops import encode, spread
from ssm_serpent.testing import from_ticks

OPS = torch.ops.ssm_serpent

# opcheck itself looks at .grad of copies of its inputs.
quiet = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
layouts = pytest.mark.parametrize("layout", [lambda x: x, lambda x: permuted(x)], ids=["plain", "permuted"])


def permuted(x: Tensor) -> Tensor:
    """The same values, laid out with the last two axes exchanged."""
    return x.mT.contiguous().mT if x.ndim > 1 else x


def operands(where, *, bias: bool = True) -> tuple[list[Tensor], Tensor]:
    """The arguments of encode, and the point of each token."""
    ticks = [[TICKS // 2] * 5, [TICKS] * 3]
    index = resample_index(from_ticks(ticks, where.device), 3, "causal", backend=where.backend)
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 5, 2), (3, 3, 4), (3,), (2,), (2,)
    x, weight, c, mu, log_gamma = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(where.device) for shape in shapes
    )
    bias_or_none = [c if bias else None]
    found = [x, index.start_bk, index.inside_bkw, index.distance_bkw, weight, *bias_or_none, mu, log_gamma]
    return found, index.point_bl  # pyright: ignore[reportReturnType]


def leaf(x: Tensor | None, layout=lambda x: x) -> Tensor | None:
    return x if x is None or not x.is_floating_point() else layout(x.detach()).requires_grad_()


@quiet
@layouts
@pytest.mark.parametrize("bias", [False, True])
def test_opcheck_encode(where, bias, layout):
    tensors, _ = operands(where, bias=bias)
    opcheck(OPS.encode.default, (*(leaf(x, layout) for x in tensors), where.backend))
    # Its backward refuses to be differentiated.
    plain = [x if x is None else layout(x.detach()) for x in tensors]
    grad = torch.randn(2, 3, 3, dtype=torch.float64, device=where.device)
    opcheck(OPS.encode_backward.default, (*plain, layout(grad), where.backend))


@quiet
@layouts
@pytest.mark.parametrize("before", [False, True])
def test_opcheck_spread(where, before, layout):
    _, point = operands(where)
    y, held, grad = (
        torch.randn(shape, dtype=torch.float64, device=where.device)
        for shape in ((2, 3, 4), (2, 4), (2, 5, 4))
    )
    held = held if before else None
    opcheck(OPS.spread.default, (leaf(y, layout), layout(point), leaf(held, layout), where.backend))
    opcheck(OPS.spread_backward.default, (layout(y), layout(point), held, layout(grad), where.backend))


@quiet
@layouts
def test_opcheck_index_maps_and_sums(where, layout):
    spans = from_ticks([[TICKS // 2] * 5, [TICKS] * 3], where.device)
    count = spans.times_bl[:, -1] // TICKS
    first = torch.zeros_like(count)
    given = layout(spans.times_bl), first, spans.length_b, count, 3, True, 3, 0, where.backend
    opcheck(OPS.resample_index.default, given)
    tensors, _ = operands(where)
    values = layout(torch.randn(2, 3, 3, dtype=torch.float64, device=where.device)).requires_grad_()
    opcheck(OPS.token_sums.default, (values, tensors[1], tensors[2], 5))


def block(x: Tensor, logits: Tensor, weight: Tensor, centres: Tensor, mask_bl: Tensor, mode: str) -> Tensor:
    """A whole branch without its SSM, of static shapes."""
    spans = intervals(logits, 0.2, 1.0, mask_bl)
    index = resample_index(spans, 5, mode, max_points=max_points(x.shape[1], 1.0, mode))
    places = index.start_bk, index.inside_bkw, index.distance_bkw
    y_bkh = encode(x, *places, weight, weight[:, 0, 0], centres, centres)
    return spread(torch.tanh(y_bkh), index.point_bl, before_bh=y_bkh[:, 0])


def tensors_of(length: int, device: str = "cpu") -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = (3, length, 4), (3, length), (2, 5, 7), (3,)
    found = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    lengths = torch.tensor([length, length // 2, 0], device=device)
    return found, torch.arange(length, device=device) < lengths[:, None]


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_branch_compiles_to_one_graph(dynamic):
    """Without naming a backend: what runs is chosen when it runs."""
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (20, 31) if dynamic else (20,):
        for mode in ("nearest", "causal"):
            tensors, mask_bl = tensors_of(length)
            eager, traced = ([x.clone().requires_grad_() for x in tensors] for _ in range(2))
            expected = block(*eager, mask_bl, mode)
            got = compiled(*traced, mask_bl, mode)
            torch.testing.assert_close(got, expected)
            expected.square().sum().backward()
            got.square().sum().backward()
            torch.testing.assert_close([x.grad for x in traced], [x.grad for x in eager])


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["nearest", "causal"])
def test_a_branch_of_static_shape_never_waits_for_the_gpu(mode):
    tensors, mask_bl = tensors_of(40, "cuda")
    leaves = [x.requires_grad_() for x in tensors]
    block(*leaves, mask_bl, mode).square().sum().backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        block(*leaves, mask_bl, mode).square().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_func_grad_and_vmap(where):
    tensors, point = operands(where)
    places = tensors[1:3]

    def loss(x: Tensor, distance: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
        y = encode(x, *places, distance, weight, *rest, backend=where.backend)
        return spread(y, point, before_bh=y[:, 0], backend=where.backend).square().sum()

    leaves = [tensors[0].nan_to_num(), *tensors[3:]]
    grad = torch.func.grad(loss, tuple(range(len(leaves))))
    tracked = [x.clone().requires_grad_() for x in leaves]
    torch.testing.assert_close(grad(*leaves), torch.autograd.grad(loss(*tracked), tracked))
    stacked = [torch.stack([x, 0.5 * x]) for x in leaves]
    per_row = torch.vmap(grad)(*stacked)
    for i in range(2):
        torch.testing.assert_close([x[i] for x in per_row], list(grad(*(x[i] for x in stacked))))


def test_sums_per_token_are_twice_differentiable(where):
    tensors, _ = operands(where)
    values = torch.randn(2, 3, 3, dtype=torch.float64, device=where.device, requires_grad=True)
    sums = partial(OPS.token_sums, start=tensors[1], inside=tensors[2], length=5)
    assert torch.autograd.gradcheck(sums, values)
    assert torch.autograd.gradgradcheck(sums, values)
