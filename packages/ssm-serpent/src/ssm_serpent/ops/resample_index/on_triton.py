"""The index maps by one Triton kernel, on CUDA tensors: for each point two searches in the times of its row."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssm_core.opkit.triton_runtime import Variant
from ssm_serpent.ops.resample_index import Maps
from ssm_serpent.ops.resample_index.on_torch import points

_POINTS = 128
"""Points of a program."""
_WARPS = 4


def forward(
    times: Tensor,
    first: Tensor,
    end: Tensor,
    count: Tensor,
    window: int,
    causal: bool,
    n_points: int,
    history: int,
) -> Maps:
    """Maps of a batch; arguments as those of `index_maps`."""
    batch, length = times.shape
    event, start = times.new_empty(2, batch, n_points).unbind()
    inside = times.new_empty(batch, n_points, window, dtype=torch.uint8)
    ticks = times.new_empty(inside.shape)
    if event.numel():
        grid = (batch * triton.cdiv(n_points, _POINTS),)
        steps = length.bit_length() + 1
        sizes = length, n_points, window, steps
        options = {"CAUSAL": causal, "BP": _POINTS, "num_warps": _WARPS, "num_stages": 1}
        maps_kernel[grid](times, first, end, count, event, start, inside, ticks, *sizes, **options)
    point = points(times[:, history:], end - history, count, causal)
    return Maps(event, start, inside.view(torch.bool), ticks, point)


@triton.jit
def maps_kernel(
    times,
    first,
    end,
    count,
    event,
    start,
    inside,
    ticks,
    length,
    n_points,
    window,
    steps,
    CAUSAL: tl.constexpr,
    BP: tl.constexpr,
):
    """Events (B, K), starts (B, K), and inside and ticks (B, K, W), of BP points of a row.

    A search halves low..high; `steps` halvings leave one place. A nearest window starts after the midpoints below k.
    """
    blocks = tl.cdiv(n_points, BP)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    k = tl.program_id(0) % blocks * BP + tl.arange(0, BP)
    there, stop = k < n_points, tl.load(end + b)
    used = k < tl.load(count + b)
    grid = (k + 1).to(tl.int64) << 20
    times += b * length
    low, high = tl.zeros((BP,), tl.int64), tl.zeros((BP,), tl.int64) + stop
    for _ in range(steps):
        middle = (low + high) // 2
        time = tl.load(times + middle, mask=low < high, other=0)
        below = (low < high) & (time < grid)
        high = tl.where((low < high) & (time >= grid), middle, high)
        low = tl.where(below, middle + 1, low)
    found = tl.minimum(low, stop - 1)
    s = found - window + 1
    if not CAUSAL:
        low, high = tl.zeros((BP,), tl.int64), tl.zeros((BP,), tl.int64) + tl.maximum(stop - window, 0)
        for _ in range(steps):
            middle = (low + high) // 2
            twice = tl.load(times + middle, mask=low < high, other=0)
            twice += tl.load(times + middle + window, mask=low < high, other=0)
            below = (low < high) & (twice < 2 * grid)
            high = tl.where((low < high) & (twice >= 2 * grid), middle, high)
            low = tl.where(below, middle + 1, low)
        s = low
    place = b * n_points + k
    tl.store(event + place, tl.where(used, found, 0), mask=there)
    tl.store(start + place, tl.where(used, s, 0), mask=there)
    begin = tl.load(first + b)
    for j in range(window):
        token = s + j
        held = used & (token >= begin) & (token < stop)
        gap = tl.load(times + token, mask=held, other=0) - grid
        tl.store(inside + place * window + j, held.to(tl.uint8), mask=there)
        tl.store(ticks + place * window + j, tl.where(held, gap, 0), mask=there)


def variants() -> Iterator[Variant]:
    """Every configuration."""
    types = dict.fromkeys(("times", "first", "end", "count", "event", "start", "ticks"), "*i64")
    types |= {"inside": "*u8"} | dict.fromkeys(("length", "n_points", "window", "steps"), "i32")
    for causal in (False, True):
        yield Variant(
            name=f"resample_index {'causal' if causal else 'nearest'}",
            kernel=maps_kernel,
            signature=types,
            constants={"CAUSAL": causal, "BP": _POINTS},
            num_warps=_WARPS,
            aligned=tuple(name for name, kind in types.items() if kind.startswith("*")),
        )
