"""diagonal_ssm: every backend against the time loop in double precision, and against what the model means."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ssm_core.ops import diagonal_ssm, linear_scan


def operands(
    dtype: torch.dtype,
    length: int,
    *,
    per_step: bool = True,
    packed: bool = False,
    sizes: tuple[int, int] = (4, 5),
) -> tuple[list[Tensor], Tensor | None]:
    """([u, dt, A, B, C, D, initial_state], cu_seqlens); one eigenvalue is 0, one nearly, one gap is 0."""
    torch.manual_seed(length)
    offsets = [0, 0, min(1, length), max(min(1, length), length // 3), length, length]
    cu_seqlens = torch.tensor(offsets, dtype=torch.int32) if packed else None
    batch, rows = (1, len(offsets) - 1) if packed else (3, 3)
    (width, states), wide = sizes, dtype.to_complex()
    dt = torch.rand((batch, length, states) if per_step else states, dtype=dtype)
    if per_step and length > 2:
        dt[:, 1] = 0
    A = torch.complex(-0.1 - torch.rand(states, dtype=dtype), 2 * torch.randn(states, dtype=dtype))
    A[:2] = torch.tensor([0, -1e-4 + 1e-3j])[:states]
    B, C = torch.randn(states, width, dtype=wide), torch.randn(width, states, dtype=wide)
    u, D, state = (
        torch.randn(batch, length, width, dtype=dtype),
        torch.randn(width, dtype=dtype),
        torch.randn(rows, states),
    )
    return [u, dt, A, B, C, D, state.to(wide)], cu_seqlens


@pytest.mark.parametrize("length", [0, 1, 37, 101])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("method", ["zoh", "bilinear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_time_loop(backend, dtype, method, per_step, packed, length, results, oracle, agree):
    tensors, cu_seqlens = operands(dtype, length, per_step=per_step, packed=packed)
    model = partial(diagonal_ssm, discretization=method, cu_seqlens=cu_seqlens)
    got = results(partial(model, backend=backend), tensors)
    assert {x.dtype for x in got} == {dtype, dtype.to_complex()}
    agree(got, oracle(partial(model, backend="reference"), tensors))


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("sizes", [(3, 0), (0, 2), (0, 0)])
def test_no_states_or_no_channels(backend, sizes, per_step, results, oracle, agree):
    tensors, _ = operands(torch.float32, 7, sizes=sizes, per_step=per_step)
    expected = oracle(partial(diagonal_ssm, backend="reference"), tensors)
    agree(results(partial(diagonal_ssm, backend=backend), tensors), expected)


@pytest.mark.parametrize("sizes", [(1, 1), (3, 16), (2, 67)])
def test_sizes_around_the_vector_width(backend, sizes, results, oracle, agree):
    tensors, _ = operands(torch.float32, 19, sizes=sizes)
    expected = oracle(partial(diagonal_ssm, backend="reference"), tensors)
    agree(results(partial(diagonal_ssm, backend=backend), tensors), expected)


def test_without_feed_through_and_initial_state(backend, results, oracle, agree):
    tensors, _ = operands(torch.float32, 23)
    expected = oracle(partial(diagonal_ssm, backend="reference"), tensors[:5])
    agree(results(partial(diagonal_ssm, backend=backend), tensors[:5]), expected)


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_scan_is_recurrence_is_convolution(backend, method, agree):
    """With equal gaps y = K * u + D u, K_l = 2 Re sum_n C_n a_bar_n^l gain_n B_n, written out here on its own."""
    (u, dt, A, B, C, D, _), _ = operands(torch.float64, 64, per_step=False)
    A[0] = -0.3
    if method == "zoh":
        a_bar, gain = torch.exp(dt * A), (torch.exp(dt * A) - 1) / A
    else:
        a_bar, gain = (2 + dt * A) / (2 - dt * A), 2 * dt / (2 - dt * A)
    powers = a_bar[:, None] ** torch.arange(64)
    kernel = 2 * torch.einsum("gn,nl,nh->lgh", C, powers * gain[:, None], B).real
    y_conv = torch.stack([sum(u[:, t - l] @ kernel[l].T for l in range(t + 1)) for t in range(64)], 1) + D * u

    state, steps = torch.zeros(3, 5, dtype=A.dtype), []
    for t in range(64):
        y, state = diagonal_ssm(
            u[:, t : t + 1], dt, A, B, C, D, state, discretization=method, backend=backend
        )
        steps.append(y)
    y_scan, last = diagonal_ssm(u, dt, A, B, C, D, discretization=method, backend=backend)
    agree([y_scan, torch.cat(steps, 1), state], [y_conv, y_conv, last])


def test_a_gap_split_in_two_is_the_same_flow(backend, agree):
    """Zero-order hold is exact while the input is held: a gap g1 + g2 equals the gaps g1, g2 with the same input."""
    (u, dt, A, B, C, D, state), _ = operands(torch.float64, 11)
    part = torch.rand_like(dt)
    twice = torch.stack([dt * part, dt * (1 - part)], 2).flatten(1, 2)
    y, last = diagonal_ssm(u, dt, A, B, C, D, state, backend=backend)
    y_twice, last_twice = diagonal_ssm(u.repeat_interleave(2, 1), twice, A, B, C, D, state, backend=backend)
    agree([y_twice[:, 1::2], last_twice], [y, last])


def test_gaps_of_each_step_agree_with_equal_gaps(backend, results, agree):
    tensors, _ = operands(torch.float64, 31, per_step=False)

    def spread(u, dt, *rest):
        return diagonal_ssm(u, dt.expand(*u.shape[:2], -1), *rest, backend=backend)

    agree(results(spread, tensors), results(partial(diagonal_ssm, backend=backend), tensors))


def test_large_angles_keep_single_precision(backend):
    """|dt a| of 1e4 radians in float32: the fused kernel stays exact, the torch path loses what rounding dt a costs."""
    torch.manual_seed(0)
    A = torch.complex(-torch.rand(8), 1e3 * torch.rand(8))
    dt, u = 10 * torch.rand(1, 20, 8), torch.randn(1, 20, 2)
    B, C = torch.randn(8, 2, dtype=torch.complex64), torch.randn(2, 8, dtype=torch.complex64)
    y, _ = diagonal_ssm(u, dt, A, B, C, backend=backend)
    exact, _ = diagonal_ssm(*(x.to(torch.promote_types(x.dtype, torch.float64)) for x in (u, dt, A, B, C)))
    error = (y - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < (1e-6 if backend == "numba" else 2e-3)


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("per_step", [False, True])
def test_gradients(backend, per_step, packed, method):
    tensors, cu_seqlens = operands(torch.float64, 3, per_step=per_step, packed=packed, sizes=(2, 2))
    tensors = [x.requires_grad_() for x in tensors]
    model = partial(diagonal_ssm, discretization=method, cu_seqlens=cu_seqlens, backend=backend)
    assert gradcheck(model, tensors)
    if not per_step and not packed:
        assert gradgradcheck(model, tensors)


def test_second_derivative_with_gaps_of_each_step(backend):
    tensors = [x.requires_grad_() for x in operands(torch.float64, 2, sizes=(1, 2))[0]]
    (grad,) = torch.autograd.grad(
        diagonal_ssm(*tensors, backend=backend)[0].sum(), tensors[1], create_graph=True
    )
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        grad.sum().backward()
    assert gradgradcheck(partial(diagonal_ssm, backend="reference"), tensors)


def test_a_state_of_zero_gap_is_kept_and_takes_no_input(backend):
    (u, dt, A, B, C, _, state), _ = operands(torch.float32, 6)
    _, last = diagonal_ssm(u, torch.zeros_like(dt), A, B, C, None, state, backend=backend)
    assert torch.equal(last, state)


def test_real_matrices_and_eigenvalues(backend, agree):
    (u, dt, _, _, _, _, _), _ = operands(torch.float64, 9)
    A, B, C = -torch.rand(5).double(), torch.randn(5, 4).double(), torch.randn(4, 5).double()
    y, last = diagonal_ssm(u, dt, A, B, C, backend=backend)
    a_bar = torch.exp(dt * A)
    h, h_last = linear_scan(a_bar, (a_bar - 1) / A * (u @ B.T), backend="reference")
    agree([y, last.real, last.imag], [2 * h @ C.T, h_last, torch.zeros_like(h_last)])


@pytest.mark.parametrize("per_step", [False, True])
def test_half_inputs_and_autocast_keep_a_single_precision_state(backend, per_step):
    tensors, _ = operands(torch.float32, 50, per_step=per_step)
    tensors[0] = tensors[0].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y, last = diagonal_ssm(*tensors, backend=backend)
    expected, expected_last = diagonal_ssm(tensors[0].float(), *tensors[1:], backend=backend)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.complex64)
    assert torch.equal(y, expected.bfloat16())
    assert torch.equal(last, expected_last)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dt": torch.ones(2, 7, 4)}, r"dt has shape \(2, 7, 4\), expected \(4,\) or \(2, 5, 4\)"),
        ({"dt": torch.ones(4, dtype=torch.complex64)}, "dt is complex"),
        ({"u": torch.ones(5, 3)}, r"expected \(B, L, H\) and \(N,\)"),
        ({"B": torch.ones(3, 4)}, r"B has shape \(3, 4\), expected \(4, 3\), that is \(N, H\)"),
        ({"C": torch.ones(4, 3)}, r"C has shape \(4, 3\), expected \(3, 4\)"),
        ({"D": torch.ones(4)}, r"D has shape \(4,\), expected \(3,\)"),
        ({"initial_state": torch.ones(2, 3)}, r"initial_state has shape \(2, 3\), expected \(2, 4\)"),
        ({"discretization": "euler"}, "discretization is 'euler'; choose one of 'zoh', 'bilinear'"),
        ({"cu_seqlens": torch.tensor([0, 5])}, "the batch must be 1, not 2"),
    ],
)
def test_refusals_name_the_argument(change, message):
    arguments = {
        "u": torch.ones(2, 5, 3),
        "dt": torch.ones(4),
        "A": torch.ones(4),
        "B": torch.ones(4, 3),
        "C": torch.ones(3, 4),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        diagonal_ssm(**arguments)
