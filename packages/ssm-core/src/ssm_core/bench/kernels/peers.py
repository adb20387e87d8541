"""Other people's implementations of our operations, as functions of the same operands, if they are installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Function = Callable[..., Any]


def selective_scans() -> dict[str, Function]:
    """Return selective scans of (u, dt, A, B, C): the time loop of transformers, and mambapy's scan in its place."""
    found: dict[str, Function] = {}
    if release := installed("transformers"):
        from transformers.models.mamba import modeling_mamba  # pyright: ignore[reportMissingImports]

        scan = modeling_mamba.mamba_selective_scan
        scan = getattr(scan, "__wrapped__", scan)

        def loop(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, **how: bool) -> Tensor:
            return scan(u.mT, dt.mT, A, B.mT, C.mT, **how).mT

        found[f"transformers {release}, time loop"] = loop
        if release := installed("mambapy"):
            found[f"mambapy {release}, in transformers"] = lambda *xs: loop(*xs, use_mambapy=True)
    return found


def real_scans() -> dict[str, Function]:
    """Return scans of real (a, b), both (B, L, F)."""
    from torch._higher_order_ops.associative_scan import associative_scan

    found: dict[str, Function] = {
        "torch associative_scan, generic": lambda a, b: associative_scan(
            _combine, (a, b), 1, combine_mode="generic"
        )[1]
    }
    if release := installed("mambapy"):
        from mambapy.pscan import pscan  # pyright: ignore[reportMissingImports]

        found[f"mambapy {release}"] = lambda a, b: pscan(a[..., None], b[..., None])[..., 0]
    return found


def complex_scans() -> dict[str, Function]:
    """Return scans of complex (a, b), both (B, L, F)."""
    if not (release := installed("s5-pytorch")):
        return {}
    from s5.jax_compat import associative_scan  # pyright: ignore[reportMissingImports]
    from s5.s5_model import binary_operator  # pyright: ignore[reportMissingImports]

    def scan(a: Tensor, b: Tensor) -> Tensor:
        rows = [associative_scan(binary_operator, pair)[1] for pair in zip(a, b, strict=True)]
        return torch.stack(rows)

    return {f"s5-pytorch {release}": scan}


def naive_vandermonde(length: int) -> Function:
    """Return the kernel by a table of all powers."""

    def kernel(v: Tensor, log_x: Tensor) -> Tensor:
        steps = torch.arange(length, device=v.device)
        return 2 * (v[..., None] * torch.exp(log_x[..., None] * steps)).sum(1).real

    return kernel


def conv1d(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve (B, L, H) causally with (H, W) by torch's own convolution."""
    padded = F.pad(x.mT, (weight.shape[1] - 1, 0))
    return F.conv1d(padded, weight[:, None], groups=weight.shape[0]).mT


def _combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return left[0] * right[0], right[0] * left[1] + right[1]


def installed(package: str) -> str:
    """Return the release of a package, or nothing if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
