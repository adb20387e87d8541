"""The long convolution by the fast Fourier transform, in O(B H L log L). Any device.

Both halves are one circular kernel c of n numbers: c_j = k_j, c_{n-1-j} = k_reverse_j (lag -1 - j). Outputs are free of
what wraps around if n >= L + max(K - 1, K_reverse), with kernels cut to the lags that occur, K <= L and K_reverse < L.

With U, C, G the transforms of u, c and of the gradient of y, products of the spectra, one of them conjugated, are
correlations: u_bar = IFFT(conj(C) G) + D g, c_bar = sum_b IFFT(conj(U) G); the ends of that are the two gradients.
Spectra are computed again in backward: it keeps u and the kernels alone. A batch is transformed in slabs of rows, long
rows in slabs of columns, which on a CPU is faster by a third and more than all at once: large temporary tensors cost
more than arithmetic there.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SLAB = 2**21, 2**28
"""Bytes of a transform of u on a CPU, where a slab then stays near its cores, and on a GPU."""
_LINE = 16
"""Columns that are read together at the least: a cache line of float32."""


def forward(u: Tensor, k: Tensor, D: Tensor | None, k_reverse: Tensor | None) -> tuple[Tensor]:
    """y (B, L, H) for u (B, L, H), k (H, K), D (H,) and k_reverse (H, K_reverse), real, of one precision."""
    L = u.shape[1]
    if u.numel() == 0:
        return (torch.zeros_like(u),)
    n = transform_size(L, *_lags(L, k, k_reverse))
    C = torch.fft.rfft(circular(k, k_reverse, L, n))
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    slabs = _slabs(u, n)
    spectrum = _transform(u[slabs[0]], n)
    for slab in slabs:
        y[slab] = _inverse(spectrum(u[slab]).mul_(C[slab[2]]), n, L)
    return (y if D is None else y.addcmul_(u, D),)


def backward(
    u: Tensor, k: Tensor, D: Tensor | None, k_reverse: Tensor | None, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of u, k, D and k_reverse, given that of y."""
    L = u.shape[1]
    grad_D = None if D is None else (u * grad).sum((0, 1))
    if u.numel() == 0:
        return torch.zeros_like(u), torch.zeros_like(k), grad_D, _like(k_reverse)
    K, K_reverse = _lags(L, k, k_reverse)
    n = transform_size(L, K, K_reverse)
    C = torch.fft.rfft(circular(k, k_reverse, L, n)).conj_physical_()
    grad_u = torch.empty_like(u, memory_format=torch.contiguous_format)
    grad_C = torch.zeros_like(C)
    slabs = _slabs(u, n)
    spectrum = _transform(u[slabs[0]], n)
    for slab in slabs:
        G = spectrum(grad[slab])  # (rows, columns, n/2 + 1)
        grad_C[slab[2]] += spectrum(u[slab]).conj_physical_().mul_(G).sum(0)
        grad_u[slab] = _inverse(G.mul_(C[slab[2]]), n, L)
    grad_c = torch.fft.irfft(grad_C, n)  # (H, n)
    grad_k = F.pad(grad_c[:, :K], (0, k.shape[1] - K))
    if k_reverse is not None:
        reverse = grad_c[:, n - K_reverse :].flip(1)
        reverse = F.pad(reverse, (0, k_reverse.shape[1] - K_reverse))
    else:
        reverse = None
    return grad_u if D is None else grad_u.addcmul_(grad, D), grad_k, grad_D, reverse


def transform_size(L: int, K: int, K_reverse: int) -> int:
    """The least even product of powers of 2, 3 and 5 that is at least L + max(K - 1, K_reverse)."""
    least = max(L + max(K - 1, K_reverse), 2)
    best = 1 << (least - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            twos = max((-(-least // three) - 1).bit_length(), 1)
            best = min(best, three << twos)
            three *= 3
        five *= 5
    return best


def circular(k: Tensor, k_reverse: Tensor | None, L: int, n: int) -> Tensor:
    """The two halves as one kernel on a circle of n: (H, n)."""
    K, K_reverse = _lags(L, k, k_reverse)
    if k_reverse is None:
        return F.pad(k[:, :K], (0, n - K))
    between = k.new_zeros(k.shape[0], n - K - K_reverse)
    return torch.cat([k[:, :K], between, k_reverse[:, :K_reverse].flip(1)], 1)


def _lags(L: int, k: Tensor, k_reverse: Tensor | None) -> tuple[int, int]:
    """How many numbers of each half meet an input."""
    return min(k.shape[1], L), 0 if k_reverse is None else min(k_reverse.shape[1], max(L - 1, 0))


def _slabs(u: Tensor, n: int) -> list[tuple[slice, slice, slice]]:
    """Parts of u to be transformed at a time, such that no transform outgrows SLAB; the first is the largest."""
    most = SLAB[u.device.type == "cuda"] // ((n + 2) * u.element_size())
    columns = min(max(_LINE, most // _LINE * _LINE), u.shape[2])
    rows = max(1, most // u.shape[2])
    return [
        (slice(row, row + rows), slice(None), slice(column, column + columns))
        for row in range(0, len(u), rows)
        for column in range(0, u.shape[2], columns)
    ]


def _transform(largest: Tensor, n: int) -> Callable[[Tensor], Tensor]:
    """Return the transform (B, L, H) -> (B, H, n/2 + 1) of tensors no larger than one.

    Time is made the innermost axis in memory first, which the transform needs, in one buffer whose padding stays zero.
    """
    batch, length, width = largest.shape
    room = largest.new_zeros(batch * width * n)

    def spectrum(x: Tensor) -> Tensor:
        padded = room[: x.shape[0] * x.shape[2] * n].view(x.shape[0], x.shape[2], n)
        padded[..., :length].copy_(x.mT)
        return torch.fft.rfft(padded)

    return spectrum


def _inverse(spectrum: Tensor, n: int, length: int) -> Tensor:
    """The first L numbers of the inverse transform: (B, H, n/2 + 1) to (B, L, H).

    Where a CPU turns many columns together their rows are laid a few numbers more than L apart first: at a power of two
    they would all be in each other's place in the cache.
    """
    values = torch.fft.irfft(spectrum, n)[..., :length]
    if values.device.type != "cpu" or values.shape[1] <= _LINE:
        return values.mT
    apart = values.new_empty(*values.shape[:2], length + _LINE)[..., :length]
    return apart.copy_(values).mT


def _like(x: Tensor | None) -> Tensor | None:
    return None if x is None else torch.zeros_like(x)
