"""Times one S5 layer, forward and backward, after checking it against the time loop in float64."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
from torch import Tensor

from ssm_core import ops
from ssm_core.backbones.s5.layer import S5
from ssm_core.backbones.s5.spec import S5Config
from ssm_core.bench.clock import milliseconds
from ssm_core.bench.harness import take_turns
from ssm_core.bench.s5_layer.spec import S5BenchConfig
from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Result

TOLERANCE = 1e-5
"""Error that a timed backend may have beyond twice that of the float32 time loop (the gradient of the steps is a sum
of large terms that cancel, so the loop itself has some), relative to the largest value in float64."""


def measure(config: S5BenchConfig) -> Result:
    """Time every backend that runs here with equal steps and with gaps, and other implementations with equal steps.

    Raises:
        AssertionError: If a backend's output or a gradient is off; nothing is timed then.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    layer = S5(config.d_model, S5Config(state_size=config.state_size)).to(config.device)
    u = torch.randn(config.batch, config.length, config.d_model, device=config.device)
    gaps = torch.rand(config.batch, config.length, device=config.device) + 0.5
    runs: dict[str, Callable[[], None]] = {}
    errors: dict[str, float] = {}
    states = ops.available_backends("diagonal_ssm")
    if not any(state == "ok" for backend, state in states.items() if backend != "reference"):
        raise UserError(f"no backend of diagonal_ssm runs here: {states}", "ssm doctor says more")
    for backend, state in states.items():
        if state != "ok" or backend == "reference":
            continue
        for steps, dt_bl in (("equal steps", None), ("gaps", gaps)):
            name = f"ours, {backend}, {steps}"
            errors[name] = check(layer, u, dt_bl, backend)
            runs[name] = _ours(layer, u, dt_bl, backend)
    runs |= _rivals(config, u)
    times = take_turns(runs, config.repeats, torch.device(config.device))
    rows = [
        {
            "what": name,
            "median_ms": milliseconds(statistics.median(seconds)),
            "min_ms": milliseconds(min(seconds)),
            "max_ms": milliseconds(max(seconds)),
            "error": errors.get(name),
        }
        for name, seconds in times.items()
    ]
    ours = min(
        r["median_ms"] for r in rows if r["what"].startswith("ours") and r["what"].endswith("equal steps")
    )
    ratios = {
        f"speed-up over {r['what']}": round(r["median_ms"] / ours, 2) for r in rows if "ours" not in r["what"]
    }
    return Result(
        text=(
            f"S5 layer, forward and backward, B {config.batch}, L {config.length}, H {config.d_model}, "
            f"P {config.state_size}, float32, {config.device}, {torch.get_num_threads()} threads, "
            f"torch {torch.__version__}"
        ),
        figures=ratios,
        rows=rows,
    )


def check(layer: S5, u: Tensor, dt_bl: Tensor | None, backend: str) -> float:
    """Return the largest error of a backend's output and gradients on the first rows.

    Each tensor's error is relative to its largest value by the float64 time loop.
    """
    u, dt_bl = u[:2, :256], None if dt_bl is None else dt_bl[:2, :256]
    found, loop = (_values(layer, u, dt_bl, name) for name in (backend, "reference"))
    exact = _values(layer.double(), u.double(), None if dt_bl is None else dt_bl.double(), "reference")
    layer.float()
    errors = [
        [float((x - e).abs().max() / e.abs().max()) for x, e in zip(xs, exact, strict=True)]
        for xs in (found, loop)
    ]
    for error, unavoidable in zip(*errors, strict=True):
        assert error <= 2 * unavoidable + TOLERANCE, f"{backend} is off by {error:.2g} of the largest value"
    return max(errors[0])


def _values(layer: S5, u: Tensor, dt_bl: Tensor | None, backend: str) -> list[Tensor]:
    """Return the output and the gradients of a fixed sum of it, with respect to the input and every parameter."""
    u = u.detach().requires_grad_()
    y = _apply(layer, u, dt_bl, backend)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view_as(y)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [u, *layer.parameters()])]


def _apply(layer: S5, u: Tensor, dt_bl: Tensor | None, backend: str) -> Tensor:
    a = torch.complex(layer.Lambda_re, layer.Lambda_im)
    step = layer.log_step.exp()
    dt = step if dt_bl is None else step * dt_bl[..., None]
    b, c = torch.view_as_complex(layer.B), torch.view_as_complex(layer.C)
    return ops.diagonal_ssm(u, dt, a, b, c, layer.D, backend=backend)[0]


def _ours(layer: S5, u: Tensor, dt_bl: Tensor | None, backend: str) -> Callable[[], None]:
    inputs = u.clone().requires_grad_()
    weights = torch.randn_like(u)

    def run() -> None:
        layer.zero_grad()
        inputs.grad = None
        (_apply(layer, inputs, dt_bl, backend) * weights).sum().backward()

    return run


def _rivals(config: S5BenchConfig, u: Tensor) -> dict[str, Callable[[], None]]:
    """Return runs of s5-pytorch, if its package is installed.

    It stores every state, ours one of each conjugate pair; so it is timed at P states (the same model) and at P / 2
    (the same storage and arithmetic).
    """
    try:
        release = version("s5-pytorch")
    except PackageNotFoundError:
        return {}
    if find_spec("s5") is None:
        return {}
    from s5 import S5 as OtherS5  # pyright: ignore[reportMissingImports]

    runs: dict[str, Callable[[], None]] = {}
    for states in (config.state_size, config.state_size // 2):
        layer = OtherS5(config.d_model, states).to(config.device)
        runs[f"s5-pytorch {release}, {states} states"] = _rival(layer, u)
    return runs


def _rival(layer: torch.nn.Module, u: Tensor) -> Callable[[], None]:
    inputs = u.clone().requires_grad_()
    weights = torch.randn_like(u)

    def run() -> None:
        layer.zero_grad()
        inputs.grad = None
        (layer(inputs) * weights).sum().backward()

    return run
