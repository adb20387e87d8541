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
    """Return machine, versions, backends of every operation, and problems; imports torch and builds nothing."""
    backends, problems = _backends()
    return {
        "machine": _machine(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "backends": backends,
        "problems": [*problems, *_plugins()],
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


def _backends() -> tuple[dict[str, dict[str, str]], list[dict[str, str]]]:
    """Return operation -> backend -> ``ok`` or the reason why not; each was really run."""
    from ssm_core import ops

    backends, problems = {}, []
    for op in (name for name in ops.__all__ if name != "available_backends"):
        try:
            backends[op] = ops.available_backends(op)
        except ValueError:
            continue  # a helper of another operation, with no backends of its own
        if not any(state == "ok" for name, state in backends[op].items() if name != "reference"):
            problems.append({"what": f"operation {op}", "detail": "no backend but the slow reference runs"})
    return backends, problems


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
