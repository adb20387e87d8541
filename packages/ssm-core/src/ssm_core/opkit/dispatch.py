"""Which implementation of an operation runs.

*reference* is the plain time loop that defines the operation; *torch* runs anywhere; *numba* on CPUs; *triton* on
CUDA. An explicit request (the argument, else the environment variable SSM_BACKEND) is met or refused, never replaced.
"""

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

NAMES = ("reference", "torch", "numba", "triton")

HOME = "ssm_core.ops"
"""Package of the operations that are there anyway."""


class Registered(NamedTuple):
    """What is known of an operation.

    Attributes:
        probe: Calls it on a backend with small fixed inputs, and returns its output.
        package: Holds the folder of its backends, ``<package>.<op>``.
    """

    probe: Callable[[str], Tensor]
    package: str


OPERATIONS: dict[str, Registered] = {}
"""Every operation whose package has been imported, by name."""


def register(op: str, probe: Callable[[str], Tensor], package: str = HOME) -> None:
    """Make an operation known to `available_backends` and ``ssm doctor``, and to the tests of all operations.

    Args:
        op: Its name.
        probe: Calls it on the backend of a name with small fixed inputs, and returns its output.
        package: Holds the folder ``<op>`` with the modules ``on_torch``, ``on_numba``, ``on_triton``, if it has them.

    Raises:
        ValueError: Another package has an operation of that name.
    """
    if op in OPERATIONS and OPERATIONS[op].package != package:
        raise ValueError(
            f"{package} registers the operation {op!r}, which {OPERATIONS[op].package} has already"
        )
    OPERATIONS[op] = Registered(probe, package)


def requested(op: str, backend: str | None) -> str:
    """The backend asked for, "" if none was. Read when the operation is called, or traced by torch.compile.

    Raises:
        ValueError: The name is not a backend's.
    """
    source = "backend"
    if backend is None:
        source, backend = "the environment variable SSM_BACKEND", os.environ.get("SSM_BACKEND", "")
        if not backend:
            return ""
    if backend not in NAMES:
        raise ValueError(f"{op}: {source} is {backend!r}; choose one of {', '.join(NAMES)}, or leave it out")
    return backend


def resolve(op: str, backend: str, device: torch.device, package: str = HOME) -> str:
    """The backend to run on tensors of this device: the one asked for, else the fastest that runs there.

    Raises:
        RuntimeError: The backend asked for cannot run; the message says why.
    """
    if backend == "":
        fastest = "numba" if device.type == "cpu" else "triton"
        return "torch" if _problem(op, fastest, device, package) else fastest
    problem = _problem(op, backend, device, package)
    if problem:
        # Asked for by an argument that says the same as the environment, it is told as the environment's.
        advice = "leave the argument `backend` out to take one that can"
        if os.environ.get("SSM_BACKEND") == backend:
            advice = "the environment variable SSM_BACKEND asks for it: unset it, or set it to torch, which all have"
        raise RuntimeError(f"{op}: backend {backend!r} cannot run: {problem}; {advice}")
    return backend


def _implementation(op: str, backend: str, device: torch.device, package: str = HOME) -> ModuleType:
    """The module <package>.<op>.on_<backend> of the backend to run, imported when first needed."""
    return importlib.import_module(f"{package}.{op}.on_{resolve(op, backend, device, package)}")


def run_backend(
    direction: str, op: str, backend: str, *given: Any, first: torch.Tensor, package: str = HOME
) -> Any:
    """What a backend's module has for a direction, `forward` or `backward`, on the device of the first tensor.

    Triton launches on the current device, whichever that is.
    """
    module = _implementation(op, backend, first.device, package)
    with torch.cuda.device_of(first):
        return getattr(module, direction)(*given)


def available_backends(op: str) -> dict[str, str]:
    """Which backends of an operation run on this machine, found by running each on a small CPU input.

    Args:
        op: The operation's name, as in `ssm_core.ops`.

    Returns:
        Backend -> "ok", or the reason why it does not run.

    Raises:
        ValueError: No operation has that name.
    """
    if op not in OPERATIONS:
        raise ValueError(f"no operation is called {op!r}; there are {', '.join(sorted(OPERATIONS))}")
    expected = OPERATIONS[op].probe("reference")
    return {backend: _try(op, backend, expected) for backend in NAMES}


@functools.cache
def numba_problem() -> str:
    """Why numba kernels do not run in this process, "" if they do."""
    try:
        from ssm_core.opkit import numba_runtime

        numba_runtime.probe()
    except ImportError as error:
        return f"numba is not installed ({error}); uv pip install 'ssm-core[cpu]'"
    except Exception as error:  # noqa: BLE001 -- a broken numba or llvmlite raises anything; torch must then take over
        return f"numba is installed but a small kernel failed ({type(error).__name__}: {error})"
    return ""


@functools.cache
def _exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _problem(op: str, backend: str, device: torch.device, package: str = HOME) -> str:
    if backend in ("numba", "triton") and not _exists(f"{package}.{op}.on_{backend}"):
        return f"{op} has no {backend} form"
    if backend == "triton":
        return triton_problem(device)
    if backend == "numba":
        return (
            numba_problem()
            if device.type == "cpu"
            else f"numba kernels run on CPU tensors, these are on {device}"
        )
    return ""


def triton_problem(device: torch.device) -> str:
    """Why Triton kernels do not run on tensors of a device, "" if they do."""
    if not _exists("triton"):
        return "triton is not installed (it comes with torch on Linux)"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    if device.type == "cuda":
        return _triton_failure(device)
    return f"Triton kernels run on CUDA tensors, these are on {device} (TRITON_INTERPRET=1 runs them slowly anywhere)"


@functools.cache
def _triton_failure(device: torch.device) -> str:
    """Why a small kernel does not run on a CUDA device, "" if it does; tried, and warned of, once a process."""
    try:
        from ssm_core.opkit import triton_runtime

        triton_runtime.probe(device)
    except Exception as error:  # noqa: BLE001 -- a driver, compiler or cache that is broken raises anything
        reason = (
            f"triton is installed but a small kernel failed on {device} ({type(error).__name__}: {error})"
        )
        warnings.warn(f"{reason}; operations take torch calls there, which is slower", stacklevel=2)
        return reason
    return ""


def _try(op: str, backend: str, expected: Tensor) -> str:
    problem = _problem(op, backend, torch.device("cpu"), OPERATIONS[op].package)
    if problem:
        return problem
    try:
        got = OPERATIONS[op].probe(backend)
    except Exception as error:  # noqa: BLE001 -- the point is to report whatever goes wrong
        return f"{type(error).__name__}: {error}"
    return "ok" if torch.allclose(got, expected, rtol=1e-4, atol=1e-5) else "it ran but gave wrong values"
