"""linear_scan: every backend against the time loop in double precision, derivatives of both orders, and refusals."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ssm_core.ops import linear_scan

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def operands(
    dtype: torch.dtype,
    length: int,
    *,
    invariant: bool = False,
    packed: bool = False,
    features: tuple = (2, 3),
) -> tuple[list[Tensor], Tensor | None]:
    """([a, b, initial_state], cu_seqlens), the decays within the unit disc; a pack has empty and one-step sequences."""
    torch.manual_seed(length)
    offsets = [0, 0, min(1, length), max(min(1, length), length // 3), length, length]
    cu_seqlens = torch.tensor(offsets, dtype=torch.int32) if packed else None
    batch, rows = (1, len(offsets) - 1) if packed else (3, 3)
    a = torch.randn(features if invariant else (batch, length, *features), dtype=dtype)
    a = a / (1e-3 + a.abs().amax() if a.numel() else 1)
    b, state = (torch.randn(n, dtype=dtype) for n in ((batch, length, *features), (rows, *features)))
    return [a, b, state], cu_seqlens


@pytest.mark.parametrize("length", [0, 1, 2, 37, 101])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_time_loop(backend, dtype, invariant, reverse, packed, length, results, oracle, agree):
    tensors, cu_seqlens = operands(dtype, length, invariant=invariant, packed=packed)
    scan = partial(linear_scan, reverse=reverse, cu_seqlens=cu_seqlens)
    got = results(partial(scan, backend=backend), tensors)
    assert {x.dtype for x in got} == {dtype}
    agree(got, oracle(partial(scan, backend="reference"), tensors))


@pytest.mark.parametrize("features", [(), (1,), (5000,)])
@pytest.mark.parametrize("invariant", [False, True])
def test_any_number_of_features(backend, features, invariant, results, oracle, agree):
    tensors, _ = operands(torch.float32, 19, invariant=invariant, features=features)
    expected = oracle(partial(linear_scan, backend="reference"), tensors)
    agree(results(partial(linear_scan, backend=backend), tensors), expected)


def test_without_initial_state(backend, results, oracle, agree):
    tensors, _ = operands(torch.complex64, 23)
    expected = oracle(partial(linear_scan, backend="reference"), tensors[:2])
    agree(results(partial(linear_scan, backend=backend), tensors[:2]), expected)


def test_the_reference_is_the_recurrence():
    h, last = linear_scan(
        torch.tensor(0.5), torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([8.0]), backend="reference"
    )
    assert h.tolist() == [[5.0, 4.5, 6.25]]
    assert last.tolist() == [6.25]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients_of_first_and_second_order(backend, dtype, invariant, reverse, packed):
    tensors, cu_seqlens = operands(dtype, 4, invariant=invariant, packed=packed, features=(1,))
    tensors = [x.requires_grad_() for x in tensors]
    scan = partial(linear_scan, reverse=reverse, cu_seqlens=cu_seqlens, backend=backend)
    assert gradcheck(scan, tensors)
    assert gradgradcheck(scan, tensors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_are_computed_in_single_precision(backend, dtype):
    tensors, _ = operands(torch.float32, 50)
    a, b, state = (x.to(dtype) for x in tensors)
    h, last = linear_scan(a, b, state, backend=backend)
    expected, expected_last = linear_scan(a.float(), b.float(), state.float(), backend=backend)
    assert (h.dtype, last.dtype) == (dtype, torch.float32)
    assert torch.equal(h, expected.to(dtype))
    assert torch.equal(last, expected_last)


@pytest.mark.parametrize(
    ("a", "b", "state", "out"),
    [
        (torch.float64, torch.float32, torch.float32, (torch.float32, torch.float64)),
        (torch.complex64, torch.float32, torch.float32, (torch.complex64, torch.complex64)),
        (torch.complex64, torch.bfloat16, torch.bfloat16, (torch.complex64, torch.complex64)),
        (torch.float32, torch.float32, torch.complex128, (torch.complex64, torch.complex128)),
    ],
)
def test_mixed_dtypes_take_the_widest(backend, a, b, state, out):
    tensors, _ = operands(torch.float32, 5)
    h, last = linear_scan(
        *(x.to(dtype) for x, dtype in zip(tensors, (a, b, state), strict=True)), backend=backend
    )
    assert (h.dtype, last.dtype) == out


def test_only_the_final_state_is_used(backend):
    grads = []
    for name in (backend, "reference"):
        leaves = [x.requires_grad_() for x in operands(torch.float64, 9)[0]]
        linear_scan(*leaves, backend=name)[1].square().sum().backward()
        grads.append([x.grad for x in leaves])
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


def test_outputs_alias_no_input(backend):
    for length in (0, 1, 40):
        (a, b, state), _ = operands(torch.float32, length)
        kept = [x.clone() for x in (a, b, state)]
        h, last = linear_scan(a, b, state, backend=backend)
        h.zero_()
        last.zero_()
        assert all(torch.equal(x, y) for x, y in zip((a, b, state), kept, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.ones(3, 4, 2)}, r"a has shape \(3, 4, 2\), expected \(3, 5, 2\) or \(2,\)"),
        ({"b": torch.ones(3)}, r"b has shape \(3,\), expected \(B, L, \*F\)"),
        ({"initial_state": torch.ones(2, 2)}, r"initial_state has shape \(2, 2\), expected \(3, 2\)"),
        ({"a": torch.ones(2, dtype=torch.int64)}, "a has dtype torch.int64"),
        ({"b": torch.ones(3, 5, 2, device="meta")}, "b is on meta"),
        ({"cu_seqlens": torch.tensor([0, 5], dtype=torch.int32)}, "the batch must be 1, not 3"),
        ({"backend": "cuda"}, "backend is 'cuda'; choose one of reference, torch, numba, triton"),
    ],
)
def test_refusals_name_the_argument(change, message):
    arguments = {"a": torch.ones(2), "b": torch.ones(3, 5, 2), **change}
    with pytest.raises(ValueError, match=message):
        linear_scan(**arguments)


@pytest.mark.parametrize("offsets", [[0, 3, 2, 5], [1, 5], [0, 4], [0, 9]])
def test_offsets_that_do_not_fit_are_refused(backend, offsets):
    cu_seqlens = torch.tensor(offsets, dtype=torch.int32)
    with pytest.raises(ValueError, match="climb from 0 to the packed length 5"):
        linear_scan(torch.ones(2), torch.ones(1, 5, 2), cu_seqlens=cu_seqlens, backend=backend)


def test_offsets_must_be_integers():
    with pytest.raises(ValueError, match="cu_seqlens has shape"):
        linear_scan(torch.ones(2), torch.ones(1, 5, 2), cu_seqlens=torch.tensor([0.0, 5.0]))
