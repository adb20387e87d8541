"""The selective scan against its time loop, the step, and what torch asks of an operator."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from ssm_core.ops import selective_scan, selective_state_update

OPS = torch.ops.ssm_core
FORMS = {"fixed": (4, 3), "one": (2, 7, 3), "groups": (2, 7, 2, 3)}


def operands(
    dtype: torch.dtype = torch.float32,
    *,
    wide: bool = False,
    b: str = "one",
    c: str = "one",
    shape: tuple[int, int, int, int] = (2, 7, 4, 3),
) -> list[Tensor]:
    """u, dt, A, B, C, D, z, dt_bias, initial_state."""
    torch.manual_seed(0)
    batch, length, width, n = shape
    kind = torch.promote_types(dtype, torch.complex64) if wide else dtype
    A = -torch.rand(width, n, dtype=dtype)
    A = torch.complex(A, torch.randn(width, n, dtype=dtype)) if wide else A
    sizes = {"fixed": (width, n), "one": (batch, length, n), "groups": (batch, length, 2, n)}
    B, C = torch.randn(sizes[b], dtype=kind), torch.randn(sizes[c], dtype=kind)
    u, dt, z = (torch.randn(batch, length, width, dtype=dtype) for _ in range(3))
    D, bias = torch.randn(2, width, dtype=dtype)
    return [u, dt, A, B, C, D, z, bias, torch.randn(batch, width, n, dtype=kind)]


def run(*tensors: Tensor, **options) -> tuple[Tensor, Tensor]:
    return selective_scan(*tensors[:8], True, tensors[8], **options)


@pytest.mark.parametrize("method", ["euler", "zoh", "bilinear"])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("b", "c"), [("one", "one"), ("groups", "fixed"), ("fixed", "one"), ("one", "groups")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(backend, agree, results, oracle, dtype, wide, b, c, method):
    tensors = operands(dtype, wide=wide, b=b, c=c)
    expected = oracle(partial(run, discretization=method, backend="reference"), tensors)
    agree(results(partial(run, discretization=method, backend=backend), tensors), expected)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 0, 2, 2), (2, 1, 1, 1), (1, 31, 2, 2), (1, 32, 3, 1), (2, 65, 70, 2), (3, 97, 5, 4)]
)
def test_lengths_and_widths(backend, agree, results, oracle, wide, shape):
    tensors = operands(wide=wide, shape=shape)
    agree(results(partial(run, backend=backend), tensors), oracle(partial(run, backend="reference"), tensors))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("edges", [[0, 40], [0, 0, 7, 7, 33, 40, 40], [0, 1, 2, 40]])
def test_packed(backend, agree, results, oracle, wide, edges):
    tensors = operands(wide=wide, shape=(1, 40, 3, 2))
    tensors[8] = torch.randn(len(edges) - 1, 3, 2, dtype=tensors[8].dtype)
    where = {"cu_seqlens": torch.tensor(edges, dtype=torch.int32)}
    expected = oracle(partial(run, backend="reference", **where), tensors)
    agree(results(partial(run, backend=backend, **where), tensors), expected)


def test_nothing_but_the_necessary(backend, agree, results, oracle):
    """No D, gate, bias, softplus or initial state; and the final state of a run that has none to begin from."""
    tensors = operands()[:5]
    expected = oracle(partial(selective_scan, backend="reference"), tensors)
    agree(results(partial(selective_scan, backend=backend), tensors), expected)


@pytest.mark.parametrize("wide", [False, True])
def test_steps_are_the_scan(wide):
    u, dt, A, B, C, D, z, bias, state = operands(torch.float64, wide=wide, b="groups")
    y, last = run(u, dt, A, B, C, D, z, bias, state)
    for t in range(u.shape[1]):
        y_t, state = selective_state_update(
            state, u[:, t], dt[:, t], A, B[:, t], C[:, t], D, z[:, t], bias, True
        )
        torch.testing.assert_close(y_t, y[:, t], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


def test_a_step_leaves_the_state_it_was_given():
    u, dt, A, B, C, *_, state = operands()
    before = state.clone()
    selective_state_update(state, u[:, 0], dt[:, 0], A, B[:, 0], C[:, 0])
    fixed = selective_state_update(state, u[:, 0], dt[:, 0], A, torch.ones(1, 4, 3), C[:, 0])
    assert torch.equal(state, before)
    expected = selective_state_update(state, u[:, 0], dt[:, 0], A, torch.ones(2, 3), C[:, 0])
    torch.testing.assert_close(fixed, expected)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("method", ["euler", "zoh", "bilinear"])
def test_gradcheck(backend, wide, method):
    tensors = [x.requires_grad_() for x in operands(torch.float64, wide=wide, c="groups", shape=(1, 3, 2, 2))]
    assert torch.autograd.gradcheck(partial(run, discretization=method, backend=backend), tensors)


@pytest.mark.parametrize("magnitude", [0.0, 1e-12, 1.0, 1e4])
@pytest.mark.parametrize("method", ["euler", "zoh", "bilinear"])
@pytest.mark.parametrize("wide", [False, True])
def test_finite_for_any_decay(backend, wide, method, magnitude):
    u, dt, A, B, C, *_ = operands(wide=wide)
    A = torch.full_like(A, magnitude * (-1 + 0.5j if wide else -1))
    leaves = [x.requires_grad_() for x in (u, dt.abs(), A, B, C)]
    options = {"discretization": method, "backend": backend}
    y, last = selective_scan(*leaves, **options)
    for x in (y, last, *torch.autograd.grad(y.sum() + last.real.sum(), leaves)):
        assert x.isfinite().all()
    exact = [x.to(torch.promote_types(x.dtype, torch.float64)) for x in leaves]
    expected, _ = selective_scan(*exact, discretization=method, backend="reference")
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("exponent", [-12, -8, -6, -4, -2])
def test_zero_order_hold_is_exact_for_small_gaps(backend, exponent):
    """(exp(z) - 1) / a by subtraction would be 0 at z = 1e-8 in float32."""
    dt = torch.full((1, 1, 1), 10.0**exponent)
    y, _ = selective_scan(
        torch.ones(1, 1, 1),
        dt,
        -torch.ones(1, 1),
        *torch.ones(2, 1, 1),
        discretization="zoh",
        backend=backend,
    )
    exact = -torch.expm1(-dt.double())
    assert (y.double() - exact).abs().item() <= 1e-6 * exact.item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_float32(backend, dtype):
    tensors = [x.to(dtype) for x in operands()]
    y, last = run(*tensors, backend=backend)
    wide, last_wide = run(*(x.float() for x in tensors), backend=backend)
    assert (y.dtype, last.dtype) == (dtype, torch.float32)
    assert torch.equal(y, wide.to(dtype))
    assert torch.equal(last, last_wide)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(*operands(), backend=backend)[0], run(*operands(), backend=backend)[0])


def test_no_gradient_from_the_future_and_none_between_rows(backend):
    tensors = [x.requires_grad_() for x in operands()]
    y, _ = run(*tensors, backend=backend)
    for grad in torch.autograd.grad(y[0, 3].sum(), tensors[:2] + tensors[3:5]):
        assert not grad[0, 4:].any()
        assert not grad[1].any()


def test_memory_does_not_grow_with_the_states(backend, peak):
    """Peak of forward and backward against the bytes formula: activations, and a state in every 32 steps."""
    batch, length, width, n = 2, 1024, 64, 256
    leaves = [x.requires_grad_() for x in operands(shape=(batch, length, width, n))[:5]]

    def once() -> None:
        selective_scan(*leaves, backend=backend)[0].sum().backward()

    once()  # compiles
    activation, full = batch * length * width * 4, batch * length * width * n * 4
    # u, dt, y, B, C and their gradients, the kept states (n / 32 activations) and what they are turned into; of the
    # torch form also its slices
    allowed = (16 + 3 * n / 32) * activation + (16 * (1 << 19) * 4 if backend == "torch" else 0)
    assert (
        activation < peak(once) < allowed < full / 2
    )  # so one array (B, L, D, N) that is there at once shows


# opcheck itself looks at .grad of copies of its inputs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("permuted", [False, True])
def test_opcheck(backend, wide, permuted):
    u, dt, A, B, C, *_, state = operands(torch.float64, wide=wide, b="groups", c="fixed")
    inputs = [u, dt, A, B, C, state]
    if permuted:
        inputs = [x.transpose(0, 1).contiguous().transpose(0, 1) if x.ndim > 1 else x for x in inputs]
    inputs = [x.requires_grad_() for x in inputs]
    opcheck(OPS.selective_scan.default, (*inputs, None, "zoh", backend))
    y, last, kept = (x.detach() for x in OPS.selective_scan(*inputs, None, "zoh", backend))
    once = [x.detach() for x in inputs]
    opcheck(OPS.selective_scan_backward.default, (*once, None, kept, y, last, "zoh", backend))


# opcheck itself looks at .grad of copies of its inputs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("wide", [False, True])
def test_opcheck_packed(backend, wide):
    u, dt, A, B, C, *_ = operands(torch.float64, wide=wide, b="groups", c="fixed", shape=(1, 7, 4, 3))
    edges = torch.tensor([0, 3, 3, 7], dtype=torch.int32)
    inputs = [x.requires_grad_() for x in (u, dt, A, B, C, torch.randn(3, 4, 3, dtype=A.dtype))]
    opcheck(OPS.selective_scan.default, (*inputs, edges, "euler", backend))
    once = [x.detach() for x in inputs]
    y, last, kept = OPS.selective_scan(*once, edges, "euler", backend)
    opcheck(OPS.selective_scan_backward.default, (*once, edges, kept, y, last, "euler", backend))


def loss(*tensors: Tensor, **options) -> Tensor:
    y, last = run(*tensors, **options)
    return y.square().sum() + last.abs().square().sum()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(dynamic):
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (5, 9, 40) if dynamic else (5,):
        tensors = operands(torch.float64, shape=(2, length, 4, 3))
        eager, traced = ([x.detach().requires_grad_() for x in tensors] for _ in range(2))
        loss(*eager).backward()
        compiled(*traced).backward()
        torch.testing.assert_close([x.grad for x in traced], [x.grad for x in eager])


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_pack_compiles_to_one_graph(dynamic):
    """Also with other offsets, and as many or more sequences, than at first."""
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for edges in ([0, 3, 3, 7], [0, 1, 5, 7], [0, 2, 4, 9, 11]) if dynamic else ([0, 3, 3, 7], [0, 1, 5, 7]):
        tensors = operands(torch.float64, shape=(1, edges[-1], 4, 3))
        tensors[8] = torch.randn(len(edges) - 1, 4, 3, dtype=torch.float64)
        where = {"cu_seqlens": torch.tensor(edges, dtype=torch.int32)}
        eager, traced = ([x.detach().requires_grad_() for x in tensors] for _ in range(2))
        loss(*eager, **where).backward()
        compiled(*traced, **where).backward()
        torch.testing.assert_close([x.grad for x in traced], [x.grad for x in eager])


def test_func_grad_and_vmap(backend):
    tensors = operands(torch.float64)
    function = partial(loss, backend=backend)
    leaves = [x.clone().requires_grad_() for x in tensors]
    expected = torch.autograd.grad(function(*leaves), leaves)
    torch.testing.assert_close(torch.func.grad(function, tuple(range(9)))(*tensors), expected)
    stacked = torch.stack([tensors[0], 2 * tensors[0], -tensors[0]], 1)
    mapped = torch.vmap(lambda u: function(u, *tensors[1:]), 1)(stacked)
    alone = torch.stack([function(u, *tensors[1:]) for u in stacked.unbind(1)])
    torch.testing.assert_close(mapped, alone)


def test_no_second_derivative_but_by_the_reference(backend):
    u, *rest = operands(torch.float64)
    u.requires_grad_()
    (grad,) = torch.autograd.grad(loss(u, *rest, backend=backend), u, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        grad.sum().backward()
    (grad,) = torch.autograd.grad(loss(u, *rest, backend="reference"), u, create_graph=True)
    grad.sum().backward()
    assert u.grad is not None


@pytest.mark.parametrize(
    ("place", "given", "message"),
    [
        (1, torch.ones(2, 7, 5), r"dt has shape \(2, 7, 5\), expected \(2, 7, 4\), that is \(B, L, D\)"),
        (2, torch.ones(5, 3), r"u and A have shapes \(2, 7, 4\) and \(5, 3\)"),
        (3, torch.ones(2, 7, 3, 3), "B has 3 groups, which do not divide the 4 channels"),
        (
            4,
            torch.ones(2, 7, 2),
            r"C has shape \(2, 7, 2\), expected .*\(D, N\), \(B, L, N\) or \(B, L, G, N\)",
        ),
        (5, torch.ones(3), r"D has shape \(3,\)"),
        (6, torch.ones(2, 7, 4, dtype=torch.complex64), "z is complex"),
        (7, torch.ones(4, dtype=torch.int64), "dt_bias has dtype torch.int64"),
        (8, torch.ones(1, 4, 3), r"initial_state has shape \(1, 4, 3\), expected \(2, 4, 3\)"),
    ],
)
def test_bad_input_is_named(place, given, message):
    tensors = operands()
    tensors[place] = given
    with pytest.raises(ValueError, match=f"selective_scan: {message}"):
        run(*tensors)


def test_bad_options_are_named():
    tensors = operands()
    with pytest.raises(ValueError, match="discretization is 'foh'; choose one of 'euler', 'zoh', 'bilinear'"):
        run(*tensors, discretization="foh")
    with pytest.raises(ValueError, match="B and C have 2 and 4 groups"):
        selective_scan(*tensors[:3], torch.ones(2, 7, 2, 3), torch.ones(2, 7, 4, 3))
    with pytest.raises(ValueError, match=r"selective_state_update: B has shape \(4, 3\)"):
        selective_state_update(
            tensors[8], *(x[:, 0] for x in tensors[:2]), tensors[2], torch.ones(4, 3), tensors[4][:, 0]
        )
