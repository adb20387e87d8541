"""Compiling numba kernels and running them on torch's threads. Imported only once a numba backend is wanted.

A kernel takes its arrays, then (first_row, last_row, first_column, last_column): the rows (sequences) and columns
(features) it must do. Rows and columns are independent, so a launch cuts one of the two among threads of our own:
numba's threading layers deadlock after a fork or fight with torch's OpenMP.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba
import numpy as np
import torch
from torch import Tensor

from ssm_core.opkit.openmp import send_home

# Elements (steps x columns) below which handing work to a second thread costs more than it saves.
GRAIN = 1 << 15
# Grains from which the time that spinning threads would take is more than starting them anew (a quarter of a ms).
WORTH_A_PAUSE = 16
# Columns are cut at multiples of this, so two threads never write one cache line (64 bytes of float32).
LANES = 16
# Columns are unsigned in the kernels. numba lets a signed index count from the end, and the test for it on every
# element keeps a loop from vectorising (4x). Mixing signed and unsigned makes a float, hence a one of this type.
ONE = np.uint64(1)

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


# "contract" allows fused multiply-add and nothing else: NaN, infinities and the order of sums stay as written.
_OPTIONS = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}


def jit(function: Callable) -> Callable:
    """Compile a kernel on first call: cached on disk where a folder can be written, without the interpreter's lock."""
    return _compiled(function, _OPTIONS)


def jit_summing(function: Callable) -> Callable:
    """As `jit`, for a kernel that sums along its inner loop, in any order: else that loop does not vectorise.

    The order is fixed when the kernel is compiled, so two runs give the same bits.
    """
    return _compiled(function, {**_OPTIONS, "fastmath": {"contract", "reassoc"}})


def _compiled(function: Callable, options: dict) -> Callable:
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no writable place for the cache
        return numba.njit(**options)(function)


def inlined(function: Callable) -> Callable:
    """Compile a function of scalars into the loops that call it, so that they vectorise."""
    return numba.njit(forceinline=True, **_OPTIONS)(function)


@inlined
def column(j, low, high, down):
    """The column to do when j climbs from low to high: j, or its mirror if columns are to be taken downwards."""
    return low + (high - ONE - j) if down else j


def launch(
    kernel: Callable, arrays: tuple, offsets: np.ndarray, width: int, lanes: int = LANES, grain: int = GRAIN
) -> None:
    """Run kernel(*arrays, ranges) over every sequence and column, cut among torch.get_num_threads() threads.

    Args:
        kernel: A function compiled by `jit`.
        arrays: Its leading arguments.
        offsets: (S+1,) int64, where each sequence starts and the last ends.
        width: The number of columns.
        lanes: Columns are cut at multiples of this.
        grain: Elements (steps x columns) a thread should at least have.
    """
    rows = len(offsets) - 1
    grains = int(offsets[-1]) * width // grain
    threads = min(torch.get_num_threads(), grains)
    if threads <= 1:
        kernel(*arrays, 0, rows, np.uint64(0), np.uint64(width))
        return
    if grains >= WORTH_A_PAUSE:
        send_home()
    first, *others = _cuts(offsets, width, threads, lanes)
    pending = [_pool(threads - 1).submit(kernel, *arrays, *ranges) for ranges in others]
    kernel(*arrays, *first)
    for job in pending:
        job.result()


def rows_of(tensor: Tensor) -> np.ndarray:
    """A tensor (B, L, *F) as a NumPy array (B L, F); complex as (B L, 2 F), real and imaginary parts in turn."""
    return _matrix(tensor, tensor.shape[0] * tensor.shape[1])


def states_of(tensor: Tensor) -> np.ndarray:
    """A tensor (S, *F) as a NumPy array (S, F), complex as in `rows_of`."""
    return _matrix(tensor, tensor.shape[0])


def offsets_of(x: Tensor, cu_seqlens: Tensor | None) -> np.ndarray:
    """Where each sequence starts in `rows_of(x)`, and the last ends: (S+1,) int64."""
    if cu_seqlens is None:
        return np.arange(x.shape[0] + 1, dtype=np.int64) * x.shape[1]
    return cu_seqlens.numpy().astype(np.int64)


def probe() -> None:
    """Compile and run a small kernel; raises whatever is wrong with numba here."""
    out = np.zeros((3, 2 * LANES))
    _probe_kernel(out, 0, 3, np.uint64(0), np.uint64(2 * LANES))
    if out.sum() != out.size:
        raise RuntimeError(f"it added up to {out.sum()}, not {out.size}")


@jit
def _probe_kernel(out, first_row, last_row, first_column, last_column):
    for row in range(first_row, last_row):
        for column in range(first_column, last_column):
            out[row, column] += 1.0


def _matrix(tensor: Tensor, rows: int) -> np.ndarray:
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.numpy().reshape(rows, tensor.numel() // max(rows, 1))


def _cuts(
    offsets: np.ndarray, width: int, threads: int, lanes: int
) -> list[tuple[int, int, np.uint64, np.uint64]]:
    """Ranges for each thread: whole sequences of about equal total length where there are enough, else columns."""
    rows = len(offsets) - 1
    if rows % threads == 0 or rows >= 4 * threads or width < threads * lanes:
        goals = np.arange(threads + 1) * offsets[-1] / threads
        edges = np.searchsorted(offsets[:-1], goals[1:-1])
        edges = [0, *edges.tolist(), rows]
        cuts = [(first, last, 0, width) for first, last in pairwise(edges)]
    else:
        step = -(-width // (threads * lanes)) * lanes
        cuts = [(0, rows, low, min(low + step, width)) for low in range(0, width, step)]
    return [(first, last, np.uint64(low), np.uint64(high)) for first, last, low, high in cuts if first < last]


def _pool(workers: int) -> ThreadPoolExecutor:
    # Threads do not survive a fork, so a child process finds no pool under its own id and makes one.
    key = (os.getpid(), workers)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(workers, thread_name_prefix="ssm-ops")
    return _pools[key]
