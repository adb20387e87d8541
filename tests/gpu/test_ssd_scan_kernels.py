"""The Triton kernels of ssd_scan against the time loop in double precision: values, every gradient, packs, refusals."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from ssm_core.ops import available_backends
from ssm_core.ops.ssd_scan import ssd_scan

NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
TOLERANCES = {  # RMS error over RMS value, largest error over largest value
    torch.float64: (1e-12, 1e-12),
    torch.float32: (1e-5, 1e-4),
    torch.float16: (2e-3, 4e-3),
    torch.bfloat16: (2e-2, 4e-2),
}


def operands(
    length: int, sizes: tuple[int, int, int, int] = (2, 3, 5, 1), *, rows: int = 2, wide_skip: bool = True
) -> list[Tensor]:
    """In the order of NAMES for H, P, N, G, in double precision; `rows` of a batch."""
    generator = torch.Generator().manual_seed(length)
    H, P, N, G = sizes
    projection, wide = (rows, length, G, N), (rows, length, H, P)
    shapes = [wide, (rows, length, H), (H,), projection, projection, (H, P) if wide_skip else (H,), wide]
    shapes += [(H,), (rows, H, P, N)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    tensors[2] = -tensors[2].abs()
    return tensors


def scan(*tensors: Tensor, names: tuple[str, ...] = NAMES, **options) -> tuple[Tensor, Tensor]:
    """ssd_scan of tensors of those names."""
    return ssd_scan(**dict(zip(names, tensors, strict=True)), dt_softplus=True, **options)


def results(function, tensors: list[Tensor], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Outputs and the gradients of all tensors, on the CPU, for fixed gradients of the outputs."""
    leaves = [x.to(device, dtype).detach().requires_grad_() for x in tensors]
    outputs = function(*leaves)
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) for y in outputs]
    found = torch.autograd.grad(outputs, leaves, grads, materialize_grads=True)
    return [x.detach().cpu() for x in (*outputs, *found)]


def check(dtype: torch.dtype, device: torch.device, tensors: list[Tensor], options: dict) -> list[Tensor]:
    """Kernels on `dtype` against the time loop on the same values in double precision; returns what they gave."""
    rounded = [x.to(dtype).double() for x in tensors]
    names = options.get("names", NAMES)
    cu_seqlens = options.pop("cu_seqlens", None)
    on_device = None if cu_seqlens is None else cu_seqlens.to(device)
    got = results(partial(scan, cu_seqlens=on_device, backend="triton", **options), rounded, dtype, device)
    reference = partial(scan, cu_seqlens=cu_seqlens, names=names, backend="reference")
    expected = results(reference, rounded, torch.float64, torch.device("cpu"))
    rms, largest = TOLERANCES[dtype]
    for name, x, oracle in zip(("y", "last", *names), got, expected, strict=True):
        assert x.shape == oracle.shape, name
        if oracle.numel():
            error = x.double() - oracle
            assert error.norm() <= rms * oracle.norm() + 1e-30, f"{name}: {error.norm() / oracle.norm():.1e}"
            assert error.abs().max() <= largest * oracle.abs().max() + 1e-30, name
    return got


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [0, 1, 16, 37])
def test_equals_the_time_loop(device, dtype, length):
    check(dtype, device, operands(length), {"chunk_size": 16})


@pytest.mark.parametrize(
    ("dtype", "length"), [(torch.float32, 40), (torch.bfloat16, 67), (torch.float16, 20), (torch.float16, 40)]
)
def test_each_length_of_chunk(device, dtype, length):
    check(dtype, device, operands(length, rows=1), {})


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (6, 2, 3, 2), (1, 33, 40, 1)])
def test_any_number_of_heads_groups_and_states(device, sizes):
    check(torch.float32, device, operands(20, sizes, rows=1, wide_skip=False), {"chunk_size": 16})


def test_without_what_is_optional(device):
    tensors = operands(20)[:5]
    check(torch.float32, device, tensors, {"chunk_size": 16, "names": NAMES[:5]})


@pytest.mark.parametrize("lengths", [[0, 1, 19, 0, 30, 0], [3] * 7, [0, 0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_packed(device, lengths, dtype):
    tensors = operands(sum(lengths), rows=1)
    tensors[8] = torch.randn(len(lengths), *tensors[8].shape[1:]).double()
    cu_seqlens = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int()
    check(dtype, device, tensors, {"chunk_size": 16, "cu_seqlens": cu_seqlens})


def test_gradients(device):
    leaves = [x.to(device).requires_grad_() for x in operands(18, (1, 2, 2, 1), rows=1)]
    run = partial(scan, chunk_size=16, backend="triton")  # two chunks
    assert gradcheck(run, leaves, fast_mode=True)


def test_halves_are_multiplied_in_single_precision(device):
    """What a bfloat16 run rounds is its inputs and its outputs."""
    tensors = [x.bfloat16().double() for x in operands(20, rows=1)]
    half, single = (
        scan(*(x.to(device, dtype) for x in tensors), chunk_size=16, backend="triton")
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert half[1].dtype == torch.float32
    torch.testing.assert_close(half[0].float(), single[0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(half[1], single[1], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("steepest", [1e2, 1e4])
def test_fast_decays(device, steepest):
    tensors = operands(40, rows=1)
    tensors[2] = -torch.ones(2).double()
    tensors[1] = -3.0 + 0.1 * tensors[1]
    tensors[1][:, 7::9] = steepest
    tensors[7] = torch.zeros(2).double()
    del tensors[2]  # its gradient is a sum over steps of very different size
    names = ("x", "dt", *NAMES[3:])
    A = -torch.ones(2)
    rounded = [x.float().double() for x in tensors]

    def run(*given: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        return scan(*given, A.to(given[0]), names=(*names, "A"), chunk_size=16, backend=backend)

    got = results(partial(run, backend="triton"), rounded, torch.float32, device)
    expected = results(partial(run, backend="reference"), rounded, torch.float64, torch.device("cpu"))
    for name, x, oracle in zip(("y", "last", *names), got, expected, strict=True):
        assert (x.double() - oracle).norm() <= 1e-5 * oracle.norm(), name


def test_strides_do_not_matter(device):
    """x, B and C as slices of one tensor, as layers have them; z and dt with time innermost."""
    x, dt, A, B, C, D, z, bias, state = (x.to(device, torch.float32) for x in operands(20))
    together = torch.cat([m.flatten(2) for m in (x, B, C)], -1)
    parts = together.split([x[0, 0].numel(), B[0, 0].numel(), C[0, 0].numel()], -1)
    sliced = [part.unflatten(-1, m.shape[2:]) for part, m in zip(parts, (x, B, C), strict=True)]
    late = [m.movedim(1, -1).contiguous().movedim(-1, 1) for m in (dt, z)]
    plain = scan(x, dt, A, B, C, D, z, bias, state, chunk_size=16, backend="triton")
    other = scan(
        *(sliced[0], late[0], A, *sliced[1:], D, late[1], bias, state.mT.contiguous().mT),
        chunk_size=16,
        backend="triton",
    )
    assert all(torch.equal(x, y) for x, y in zip(plain, other, strict=True))


def test_two_runs_are_the_same_bits(device):
    tensors = operands(20, (4, 2, 3, 2), rows=1)
    run = partial(scan, chunk_size=16, backend="triton")
    first, second = (results(run, tensors, torch.float32, device) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_no_gradient_from_the_future(device):
    x, dt, *rest = (x.to(device, torch.float32) for x in operands(20))
    x.requires_grad_()
    dt.requires_grad_()
    y, _ = scan(x, dt, *rest, chunk_size=16, backend="triton")
    for grad in torch.autograd.grad(y[:, 9].sum(), (x, dt)):
        assert not grad[:, 10:].any()
        assert grad[:, 9].any()


def test_the_backend_is_there():
    assert available_backends("ssd_scan")["triton"] == "ok" or torch.cuda.is_available()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a real size is for a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_real_size(device, dtype):
    tensors = operands(300, (8, 64, 128, 2))
    tensors[1] = tensors[1] - 2.0
    check(dtype, device, tensors, {})
