"""What this machine has and what runs on it: the report of ``ssm doctor``."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ssm_core.plugin import registry
from ssm_core.plugin.errors import PluginError
from ssm_lab import inventory

PACKAGES = (
    "ssm-lab",
    "ssm-core",
    "ssm-data",
    "ssm-eval",
    "ssm-train",
    "torch",
    "triton",
    "numba",
    "numpy",
    "accelerate",
    "safetensors",
    "pydantic",
    "typer",
)
"""Distributions whose versions a bug report needs."""


def report() -> dict[str, Any]:
    """Return machine, versions, backends of every operation, what is chosen of them, and problems; builds nothing.

    ``backends`` is operation -> backend -> ``ok`` or why it does not run; ``chosen`` is operation -> device -> backend.
    """
    plugins = _plugins()  # first: importing them registers the operations that they bring
    backends, chosen, problems = _backends()
    return {
        "machine": _machine(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "backends": backends,
        "chosen": chosen,
        "problems": [*problems, *plugins],
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _machine() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": _memory(),
        "gpus": gpus,
        "cuda": torch.version.cuda,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


States = dict[str, dict[str, str]]


def _backends() -> tuple[States, States, list[dict[str, str]]]:
    """Return the states and choices of `report`, and operations that have trouble. Each backend is really run."""
    import torch

    from ssm_core import ops
    from ssm_core.opkit import dispatch

    backends, chosen, problems = {}, {}, []
    for op in sorted(dispatch.OPERATIONS):
        states = {"cpu": ops.available_backends(op)}
        if torch.cuda.is_available():
            states["cuda"] = _on_gpu(op)
        chosen[op] = {device: _choice(op, device) for device in states}
        backends[op] = {
            backend: state if state == "ok" else states.get("cuda", states["cpu"])[backend]
            for backend, state in states["cpu"].items()
        }
        if not any(state == "ok" for name, state in backends[op].items() if name != "reference"):
            problems.append({"what": f"operation {op}", "detail": "no backend but the slow reference runs"})
        problems += [
            {"what": f"operation {op} on {device}", "detail": f"{backend} would be chosen, but: {state}"}
            for device, backend in chosen[op].items()
            if (state := states[device].get(backend, "ok")) != "ok"
        ]
    return backends, chosen, problems


def _choice(op: str, device: str) -> str:
    """Return the backend that a call takes if it names none."""
    import torch

    from ssm_core.opkit import dispatch

    package = dispatch.OPERATIONS[op].package
    try:
        return dispatch.resolve(op, dispatch.requested(op, None), torch.device(device), package)
    except (RuntimeError, ValueError) as error:  # SSM_BACKEND asks for what there is not
        return f"none: {error}"


def _on_gpu(op: str) -> dict[str, str]:
    """Return backend -> ``ok`` or why not, each run with its small inputs made on the GPU."""
    import torch

    from ssm_core.opkit import dispatch

    device, (probe, package) = torch.device("cuda"), dispatch.OPERATIONS[op]
    states = {}
    with device:
        expected = probe("reference")
        for backend in dispatch.NAMES:
            try:
                dispatch.resolve(op, backend, device, package)
                close = torch.allclose(probe(backend), expected, rtol=1e-4, atol=1e-5)
                states[backend] = "ok" if close else "it ran but gave wrong values"
            except Exception as error:  # noqa: BLE001 -- the point is to report whatever goes wrong
                states[backend] = f"{error}".removeprefix(f"{op}: ")
    return states


def _plugins() -> list[dict[str, str]]:
    """Return the plugins that cannot be used, after importing everything that they are built from."""
    problems = []
    for kind in (*registry.KINDS, "study"):
        for row in inventory.rows(kind):
            detail = row["detail"] if row["state"] != "ok" else _built(row)
            if detail:
                problems.append({"what": f"{kind} {row['long_name']}", "detail": detail})
    return problems


def _built(row: inventory.Row) -> str:
    if row["kind"] in ("recipe", "study", "command"):
        return ""
    try:
        registry.builder(row["kind"], row["long_name"])
    except PluginError as error:
        return error.what
    return ""
