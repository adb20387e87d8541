"""The kernels of linear_scan against the time loop, in one program a row and with time cut into chunks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from ssm_core.ops.linear_scan import linear_scan, on_triton
from ssm_core.ops.linear_scan.triton_variants import NARROW, WIDE, tile_for

DOUBLE = (torch.float64, torch.complex128)
TOLERANCE = {torch.float32: 1e-5, torch.complex64: 1e-5} | dict.fromkeys(DOUBLE, 1e-12)


@pytest.fixture(params=[False, True], ids=["whole", "split"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of a few elements, so that a short sequence has many; and chunks of a tile or two."""
    monkeypatch.setattr(on_triton, "tile_for", lambda width, dtype: (4, 4))
    if request.param:
        monkeypatch.setattr(on_triton, "_PROGRAMS", 1000)
        monkeypatch.setattr(on_triton, "_SHORTEST", 5)


def operands(
    device: torch.device,
    dtype: torch.dtype,
    length: int,
    *,
    invariant: bool = False,
    packed: bool = False,
    features: tuple[int, ...] = (3,),
) -> tuple[list[Tensor], Tensor | None]:
    """([a, b, initial_state], cu_seqlens), |a| < 1, one decay 0; a pack has empty and one-step sequences."""
    torch.manual_seed(length)
    offsets = [0, 0, min(1, length), max(min(1, length), length // 3), length, length]
    cu_seqlens = torch.tensor(offsets, dtype=torch.int32, device=device) if packed else None
    batch, rows = (1, len(offsets) - 1) if packed else (2, 2)
    a = torch.randn(features if invariant else (batch, length, *features), dtype=dtype)
    a = a / a.abs().clamp(min=1.0)
    a.view(-1)[:1] = 0
    b, state = (torch.randn(n, dtype=dtype) for n in ((batch, length, *features), (rows, *features)))
    return [x.to(device) for x in (a, b, state)], cu_seqlens


def run(tensors: list[Tensor], **options) -> list[Tensor]:
    """h, final state and the gradients of a, b and the initial state, on one precision of gradients for all."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    outputs = linear_scan(*leaves, **options)
    torch.manual_seed(7)
    wide = torch.complex128 if outputs[0].is_complex() else torch.float64
    grads = [torch.randn(x.shape, dtype=wide).to(x) for x in outputs]
    return [*outputs, *torch.autograd.grad(outputs, leaves, grads, materialize_grads=True)]


def check(tensors: list[Tensor], **options) -> None:
    """Compare with the time loop in double precision."""
    double = [x.to(torch.promote_types(x.dtype, torch.float64)) for x in tensors]
    got, expected = run(tensors, backend="triton", **options), run(double, backend="reference", **options)
    for i, (x, y) in enumerate(zip(got, expected, strict=True)):
        assert x.shape == y.shape
        assert x.dtype == tensors[0].dtype
        error = (x - y).abs().max().item() if x.numel() else 0.0
        assert error <= TOLERANCE[x.dtype] * max(1.0, y.abs().max().item() if y.numel() else 0.0), (
            f"output {i}"
        )


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("invariant", [False, True])
def test_equals_the_time_loop(device, invariant, reverse, packed):
    tensors, cu_seqlens = operands(device, torch.float64, 19, invariant=invariant, packed=packed)
    check(tensors, reverse=reverse, cu_seqlens=cu_seqlens)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(("reverse", "invariant", "packed"), [(0, 1, 0), (1, 0, 0), (0, 0, 1), (1, 1, 1)])
def test_complex_equals_the_time_loop(device, invariant, reverse, packed):
    tensors, cu_seqlens = operands(
        device, torch.complex128, 11, invariant=bool(invariant), packed=bool(packed), features=(2,)
    )
    check(tensors, reverse=bool(reverse), cu_seqlens=cu_seqlens)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [0, 1, 2, 4, 13])
def test_any_length(device, length, packed):
    tensors, cu_seqlens = operands(device, torch.float32, length, packed=packed)
    check(tensors, cu_seqlens=cu_seqlens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("features", [(), (5,), (3, 13)])
def test_the_tiles_that_dispatch_picks(device, features, dtype):
    width = torch.Size(features).numel() * (2 if dtype.is_complex else 1)
    assert tile_for(width, dtype) == (WIDE if width > 32 else NARROW)
    check(operands(device, dtype, 5, features=features)[0])


def test_narrow_tiles_do_not_serve_double_precision(device):
    check(operands(device, torch.float64, 5, features=(2,))[0])


def test_a_chunk_is_a_multiple_of_a_tile_and_long_enough(monkeypatch):
    monkeypatch.setattr(on_triton, "_multiprocessors", lambda device: 132)
    device = torch.device("cpu")
    assert on_triton._chunk(10_000, 8192, 4, device) == 8192
    assert on_triton._chunk(1, 511, 4, device) == 511
    assert on_triton._chunk(1, 1000, 4, device) == 336
    chunk = on_triton._chunk(96, 1 << 20, 16, device)
    assert chunk % 16 == 0
    assert 96 * (1 << 20) // chunk >= 4 * 132


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("dtype", DOUBLE)
def test_gradients(device, dtype):
    tensors, cu_seqlens = operands(device, dtype, 5, packed=True, features=(1,))
    leaves = [x.requires_grad_() for x in tensors]
    assert gradcheck(partial(linear_scan, cu_seqlens=cu_seqlens, backend="triton"), leaves, fast_mode=True)


@pytest.mark.usefixtures("tiles")
def test_strides_and_lazy_conjugates_do_not_matter(device):
    tensors, _ = operands(device, torch.complex128, 5)
    plain = run(tensors, backend="triton")
    a, b, state = tensors
    strided = [
        a.conj().resolve_conj().conj(),
        b.movedim(1, 2).contiguous().movedim(2, 1),
        state.T.contiguous().T,
    ]
    assert all(torch.equal(x, y) for x, y in zip(run(strided, backend="triton"), plain, strict=True))


@pytest.mark.usefixtures("tiles")
def test_two_runs_are_the_same_bits(device):
    tensors, _ = operands(device, torch.float32, 9, invariant=True)
    first, second = run(tensors, backend="triton"), run(tensors, backend="triton")
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_without_initial_state_and_in_half_precision(device):
    (a, b, _), _ = operands(device, torch.float32, 9)
    h, last = linear_scan(a, b.bfloat16(), backend="triton")
    expected, _ = linear_scan(a, b.bfloat16(), backend="reference")
    assert (h.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(h, expected)
