"""What the bench times: operation, size, operands, contenders, and the bytes that forward and backward must move.

Floors count every operand and result once in each direction, 4 bytes a number; see the operations' own pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ssm_core.bench.harness import Case
from ssm_core.bench.kernels import peers
from ssm_core.ops import (
    cauchy,
    causal_conv1d,
    diagonal_ssm,
    fft_conv,
    linear_scan,
    selective_scan,
    ssd_scan,
    vandermonde,
)

Make = Callable[[torch.dtype, int], list[Tensor]]


def cases() -> Iterator[Case]:
    """Yield every case."""
    yield selective(1024)
    yield real_scan(4096)
    yield complex_scan(4096)
    yield diagonal(1024)
    yield ssd(1024)
    yield conv(4096)
    yield long_conv(4096)
    yield vandermonde_kernel(256)
    yield cauchy_kernel(256)


def long_cases(length: int) -> Iterator[Case]:
    """Yield the scans at a length, each about as large as at any other, without peers."""
    yield selective(length, width=64, alone=True)
    yield real_scan(length, batch=1, width=256, alone=True)
    yield complex_scan(length, batch=1, width=128, alone=True)
    yield diagonal(length, batch=1)
    yield ssd(length, batch=1, heads=2, alone=True)


def selective(length: int, width: int = 256, batch: int = 2, *, alone: bool = False) -> Case:
    """Return the selective scan of Mamba, N = 16."""
    n = 16

    def make(dtype: torch.dtype, steps: int) -> list[Tensor]:
        draw = _draw(dtype)
        dt, A = 0.001 + 0.099 * draw(batch, steps, width).abs(), -1 - 15 * draw(width, n).abs()
        return [draw(batch, steps, width), dt, _whole(A), draw(batch, steps, n), draw(batch, steps, n)]

    rivals = {} if alone else peers.selective_scans()
    floor = 4 * (8 * batch * length * width + 6 * batch * length * n)
    shape = f"B {batch}, L {length}, D {width}, N {n}"
    slow = [name for name in rivals if "loop" in name]
    forward = 4 * (3 * batch * length * width + 2 * batch * length * n)
    return Case(
        "selective_scan",
        shape,
        make,
        length,
        _of(selective_scan),
        _exact(selective_scan),
        floor,
        rivals,
        slow,
        forward,
        real=True,
    )


def real_scan(length: int, batch: int = 4, width: int = 512, *, alone: bool = False) -> Case:
    """Return the linear scan of real numbers."""

    def make(dtype: torch.dtype, steps: int) -> list[Tensor]:
        draw = _draw(dtype)
        return [1 - 0.1 * draw(batch, steps, width).abs(), draw(batch, steps, width)]

    floor = 4 * 8 * batch * length * width
    shape = f"B {batch}, L {length}, F {width}, real"
    rivals = {} if alone else peers.real_scans()
    ours, oracle, forward = _of(linear_scan), _exact(linear_scan), floor * 3 / 8
    return Case(
        "linear_scan", shape, make, length, ours, oracle, floor, rivals, forward_floor=forward, real=True
    )


def complex_scan(length: int, batch: int = 4, width: int = 512, *, alone: bool = False) -> Case:
    """Return the linear scan of complex numbers."""

    def make(dtype: torch.dtype, steps: int) -> list[Tensor]:
        draw = _draw(dtype)
        radius, angle = 1 - 0.1 * draw(batch, steps, width).abs(), draw(batch, steps, width)
        b = torch.complex(draw(batch, steps, width), draw(batch, steps, width))
        return [torch.polar(radius, angle), b]

    floor = 8 * 8 * batch * length * width
    shape = f"B {batch}, L {length}, F {width}, complex"
    rivals = {} if alone else peers.complex_scans()
    ours, oracle, forward = _of(linear_scan), _exact(linear_scan), floor * 3 / 8
    return Case("linear_scan", shape, make, length, ours, oracle, floor, rivals, forward_floor=forward)


def diagonal(length: int, batch: int = 8, width: int = 128, n: int = 64) -> Case:
    """Return S5's state-space model with a gap for every step."""

    def make(dtype: torch.dtype, steps: int) -> list[Tensor]:
        draw = _draw(dtype)
        A = torch.complex(-0.5 - draw(n).abs(), 3 * draw(n))
        B, C = (torch.complex(draw(*size), draw(*size)) for size in ((n, width), (width, n)))
        return [draw(batch, steps, width), 0.01 + 0.09 * draw(batch, steps, n).abs(), A, B, C]

    floor = 4 * (4 * batch * length * width + 3 * batch * length * n)
    shape = f"B {batch}, L {length}, H {width}, N {n}, gaps"
    forward = 4 * (2 * batch * length * width + batch * length * n)
    ours, oracle = _of(diagonal_ssm), _exact(diagonal_ssm)
    return Case("diagonal_ssm", shape, make, length, ours, oracle, floor, forward_floor=forward)


def ssd(length: int, batch: int = 2, heads: int = 8, n: int = 64, *, alone: bool = False) -> Case:
    """Return Mamba-2's scan beside its time loop."""
    p = 64

    def make(dtype: torch.dtype, steps: int) -> list[Tensor]:
        draw = _draw(dtype)
        dt, A = 0.001 + 0.099 * draw(batch, steps, heads).abs(), -1 - draw(heads).abs()
        return [
            draw(batch, steps, heads, p),
            dt,
            _whole(A),
            draw(batch, steps, 1, n),
            draw(batch, steps, 1, n),
        ]

    floor = 4 * (4 * batch * length * heads * p + 6 * batch * length * n)
    shape = f"B {batch}, L {length}, H {heads}, P {p}, N {n}"
    loop = {} if alone else {"time loop, torch": _of(ssd_scan, backend="reference")}
    forward = 4 * (2 * batch * length * heads * p + batch * length * heads + 2 * batch * length * n)
    ours, oracle = _of(ssd_scan), _exact(ssd_scan)
    return Case("ssd_scan", shape, make, length, ours, oracle, floor, loop, list(loop), forward, real=True)


def conv(length: int, batch: int = 8, width: int = 256) -> Case:
    """Return the short convolution before Mamba's scan."""
    taps = 4

    def make(dtype: torch.dtype, steps: int) -> list[Tensor]:
        draw = _draw(dtype)
        return [draw(batch, steps, width), draw(width, taps)]

    floor = 4 * 5 * batch * length * width
    shape = f"B {batch}, L {length}, H {width}, W {taps}"
    rivals = {"torch conv1d": peers.conv1d}
    ours, oracle, forward = _of(causal_conv1d), _exact(causal_conv1d), floor * 2 / 5
    return Case(
        "causal_conv1d", shape, make, length, ours, oracle, floor, rivals, forward_floor=forward, real=True
    )


def long_conv(length: int, batch: int = 4, width: int = 256) -> Case:
    """Return the long convolution by FFT."""

    def make(dtype: torch.dtype, steps: int) -> list[Tensor]:
        draw = _draw(dtype)
        return [draw(batch, steps, width), draw(width, steps) / steps**0.5]

    floor = 4 * (5 * batch * length * width + 3 * width * length)
    shape = f"B {batch}, L {length}, H {width}"
    forward = 4 * (2 * batch * length * width + width * length)
    return Case("fft_conv", shape, make, length, fft_conv, _exact(fft_conv), floor, forward_floor=forward)


def vandermonde_kernel(rows: int, length: int = 4096) -> Case:
    """Return S4D's kernel beside the table of all powers."""
    n = 32

    def make(dtype: torch.dtype, height: int) -> list[Tensor]:
        draw = _draw(dtype)
        log_x = torch.complex(-0.001 - 0.01 * draw(height, n).abs(), 3 * draw(height, n))
        return [torch.complex(draw(height, n), draw(height, n)), log_x]

    def ours(v: Tensor, log_x: Tensor) -> Tensor:
        return vandermonde(v, log_x, length)

    naive = peers.naive_vandermonde(length)
    floor = 8 * rows * length + 48 * rows * n
    shape = f"H {rows}, N {n}, L {length}"
    rivals, forward = {"table of powers": naive}, 4 * rows * length + 16 * rows * n
    return Case("vandermonde", shape, make, rows, ours, naive, floor, rivals, list(rivals), forward)


def cauchy_kernel(rows: int, frequencies: int = 2049) -> Case:
    """Return S4's kernel in the frequency domain beside the table of all quotients."""
    n = 32

    def make(dtype: torch.dtype, height: int) -> list[Tensor]:
        draw = _draw(dtype)
        angle = torch.linspace(0, 3.1, frequencies, dtype=dtype)
        w = torch.complex(-0.5 - draw(height, n).abs(), 3 * draw(height, n))
        return [
            torch.complex(draw(height, n), draw(height, n)),
            torch.complex(torch.zeros_like(angle), angle),
            w,
        ]

    def naive(v: Tensor, z: Tensor, w: Tensor) -> Tensor:
        def table(v: Tensor, w: Tensor) -> Tensor:
            return (v[:, None] / (z[:, None] - w[:, None])).sum(-1)

        return table(v, w) + table(v.conj(), w.conj())

    floor = 16 * rows * frequencies + 48 * rows * n
    shape = f"H {rows}, N {n}, F {frequencies}"
    rivals, forward = {"table of quotients": naive}, 8 * rows * frequencies + 16 * rows * n
    return Case("cauchy", shape, make, rows, cauchy, naive, floor, rivals, list(rivals), forward)


def _of(op: Callable[..., tuple[Tensor, ...]], **options: str) -> Callable[..., Tensor]:
    return lambda *operands: op(*operands, **options)[0]


def _exact(op: Callable[..., Tensor | tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    def run(*operands: Tensor) -> Tensor:
        found = op(*operands, backend="reference")
        return found if isinstance(found, Tensor) else found[0]

    return run


def _whole(rates: Tensor) -> Tensor:
    """Decay rates, which models keep in float32 where activations are in bfloat16."""
    return rates.float() if rates.dtype == torch.bfloat16 else rates


def _draw(dtype: torch.dtype) -> Callable[..., Tensor]:
    """Return a source of normal numbers that are the same in every precision."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator).to(dtype)
