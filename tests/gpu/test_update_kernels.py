"""The kernels of the two updates against one step of the time loops: values, gradients, strides, CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

pytest.importorskip("triton")

from ssm_core.ops import causal_conv1d_update, selective_state_update

METHODS = ["euler", "zoh", "bilinear"]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
Update = Callable[..., tuple[Tensor, Tensor]]


def step_operands(wide: bool, forms: str, shape=(2, 6, 3), *, full: bool = True) -> dict[str, Tensor]:
    """Arguments in double precision; forms are of B and C: one for all channels, groups, fixed by first letters."""
    torch.manual_seed(0)
    batch, width, n = shape
    kind = torch.complex128 if wide else torch.float64
    sizes = {"o": (batch, n), "g": (batch, 3, n), "f": (1, width, n)}
    A = torch.randn(width, n, dtype=kind)
    A = torch.complex(-A.real.abs(), A.imag) if wide else -A.abs()
    given = {"state": torch.randn(batch, width, n, dtype=kind), "x": torch.randn(batch, width), "A": A}
    given |= {name: torch.randn(sizes[form], dtype=kind) for name, form in zip("BC", forms, strict=True)}
    given["dt"] = torch.rand(batch, width)
    if full:
        # Biases so far apart that softplus has all its ranges.
        given |= {"D": torch.randn(width), "dt_bias": torch.linspace(-15, 25, width)}
        given |= {"z": 3 * torch.randn(batch, width)}
    return {name: x if x.is_complex() else x.double() for name, x in given.items()}


def conv_operands(width: int, shape=(2, 5), *, biased: bool = True) -> dict[str, Tensor]:
    torch.manual_seed(0)
    (batch, channels), normal = shape, partial(torch.randn, dtype=torch.float64)
    given = {
        "x": normal(shape),
        "state": normal(batch, width - 1, channels),
        "weight": normal(channels, width),
    }
    return given | ({"bias": normal(channels)} if biased else {})


def check(
    update: Update, given: dict[str, Tensor], device: torch.device, dtype=torch.float64, **options
) -> None:
    """Values of the kernel in a precision against the definition in double, of the same operands."""

    def narrow(x: Tensor) -> Tensor:
        return x.to(
            torch.complex64
            if x.is_complex() and dtype != torch.float64
            else x.dtype
            if x.is_complex()
            else dtype
        )

    here = {name: narrow(x).to(device) for name, x in given.items()}
    exact = {name: x.to(torch.promote_types(x.dtype, torch.float64)).cpu() for name, x in here.items()}
    got = update(**here, **options, backend="triton")
    expected = update(**exact, **options, backend="reference")
    assert got[0].dtype == dtype
    for place, (x, y) in enumerate(zip(got, expected, strict=True)):
        assert x.shape == y.shape, f"output {place}"
        assert x.is_contiguous(), f"output {place}"
        if y.numel():
            worst = (x.cpu().to(y.dtype) - y).abs().max() / y.abs().max()
            assert worst <= TOLERANCE[dtype], f"output {place}: {worst:.1e}"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("wide", "forms"), [(False, "oo"), (False, "gf"), (True, "og"), (True, "fo")])
def test_a_step_of_the_scan(device, wide, forms, method):
    check(selective_state_update, step_operands(wide, forms), device, dt_softplus=True, discretization=method)
    check(selective_state_update, step_operands(wide, forms, full=False), device, discretization=method)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wide", [False, True])
def test_other_precisions(device, wide, dtype):
    check(selective_state_update, step_operands(wide, "og"), device, dtype, dt_softplus=True)
    check(causal_conv1d_update, conv_operands(4), device, dtype, activation="silu")


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 600, 1), (1, 3, 130), (2, 3, 0), (0, 3, 2), (2, 0, 2)])
@pytest.mark.parametrize("wide", [False, True])
def test_steps_of_odd_sizes(device, wide, shape):
    """Several programs, a program of one channel; no state, row or channel."""
    check(selective_state_update, step_operands(wide, "oo", shape), device, dt_softplus=True)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("width", [1, 2, 4, 8, 16, 17, 40])
def test_a_step_of_the_convolution(device, width, activation):
    check(causal_conv1d_update, conv_operands(width), device, activation=activation)


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (0, 3), (2, 0)])
def test_convolutions_of_odd_sizes(device, shape):
    check(causal_conv1d_update, conv_operands(4, shape, biased=False), device, activation="silu")


def scattered(x: Tensor) -> Tensor:
    """The same values at other strides: axes reversed in memory, every second element."""
    reverse = tuple(reversed(range(x.ndim)))
    x = x.permute(reverse).contiguous().permute(reverse)
    return torch.stack([x, torch.full_like(x, float("nan"))], -1)[..., 0]


@pytest.mark.parametrize(
    "layout", [scattered, lambda x: x.conj().resolve_conj().conj()], ids=["strides", "conj"]
)
@pytest.mark.parametrize("wide", [False, True])
def test_any_strides(device, wide, layout):
    given = {name: x.to(device) for name, x in step_operands(wide, "gf").items()}
    first = selective_state_update(**given, dt_softplus=True, backend="triton")
    given = {name: layout(x) for name, x in given.items()}
    again = selective_state_update(**given, dt_softplus=True, backend="triton")
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


def test_any_strides_of_a_convolution_and_repeated_gaps(device):
    given = {name: x.to(device) for name, x in conv_operands(4).items()}
    first = causal_conv1d_update(**given, backend="triton")
    again = causal_conv1d_update(**{name: scattered(x) for name, x in given.items()}, backend="triton")
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    given = {name: x.to(device) for name, x in step_operands(False, "oo").items()}
    gap = given["dt"][:, :1]
    first = selective_state_update(**given | {"dt": gap.expand(2, 6)}, backend="triton")
    again = selective_state_update(**given | {"dt": gap.repeat(1, 6)}, backend="triton")
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


def test_one_complex_argument_makes_all_of_them(device):
    given = step_operands(False, "og")
    for name in ("state", "A", "B", "C"):
        one = given | {name: torch.complex(given[name], torch.full_like(given[name], 0.5))}
        check(selective_state_update, one, device, dt_softplus=True)


def test_the_operands_are_left_as_they_were(device):
    for update, given in (
        (selective_state_update, step_operands(True, "gf")),
        (causal_conv1d_update, conv_operands(4)),
    ):
        given = {name: x.to(device) for name, x in given.items()}
        before = {name: x.clone() for name, x in given.items()}
        update(**given, backend="triton")
        assert all(torch.equal(x, before[name]) for name, x in given.items())


def with_gradients(update: Update, given: dict[str, Tensor], **options) -> list[Tensor]:
    leaves = {name: x.detach().requires_grad_() for name, x in given.items()}
    outputs = update(**leaves, **options)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) for y in outputs]
    grads = torch.autograd.grad(outputs, list(leaves.values()), weights, materialize_grads=True)
    return [x.detach().cpu() for x in (*outputs, *grads)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("wide", "forms"), [(False, "of"), (True, "gf")])
def test_gradients_of_the_kernel_asked_for(device, wide, forms, method):
    for full in (True, False):
        options = {"dt_softplus": full, "discretization": method}
        given = step_operands(wide, forms, full=full)
        expected = with_gradients(selective_state_update, given, backend="reference", **options)
        given = {name: x.to(device) for name, x in given.items()}
        got = with_gradients(selective_state_update, given, backend="triton", **options)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("width", [1, 4])
def test_gradients_of_the_convolution_asked_for(device, width):
    for activation, biased in ((None, False), ("silu", True)):
        given = conv_operands(width, biased=biased)
        expected = with_gradients(causal_conv1d_update, given, backend="reference", activation=activation)
        given = {name: x.to(device) for name, x in given.items()}
        got = with_gradients(causal_conv1d_update, given, backend="triton", activation=activation)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_torch_may_trust_the_operators(device):
    ops = torch.ops.ssm_core
    given = {name: x.to(device) for name, x in step_operands(True, "gf").items()}
    names = ("x", "state", "dt", "A", "B", "C", "D", "z", "dt_bias")
    opcheck(ops.selective_state_update.default, (*(given[n] for n in names), True, "zoh", "triton"))
    given = {name: scattered(x.to(device)) for name, x in conv_operands(4).items()}
    opcheck(ops.causal_conv1d_update.default, (*given.values(), "silu", "triton"))


def both(x: Tensor, state: Tensor, weight: Tensor, held: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, ...]:
    """A convolution and a scan, one step of each: what a layer of Mamba carries."""
    y, state = causal_conv1d_update(x, state, weight, None, "silu", backend="triton")
    y, held = selective_state_update(held, y, y, A, B, B, dt_softplus=True, backend="triton")
    return y, state, held


def layer(device: torch.device) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(2, 6), (2, 3, 6), (6, 4), (2, 6, 3), (6, 3), (2, 3)]
    x, state, weight, held, A, B = (torch.randn(shape, device=device) for shape in shapes)
    return [x, state, weight, held, -A.abs(), B]


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(device, dynamic):
    torch.compiler.reset()
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    operands = layer(device)
    for rows in (2, 1):
        given = [x[:rows] if i in (0, 1, 3, 5) else x for i, x in enumerate(operands)]
        with torch.no_grad():
            torch.testing.assert_close(compiled(*given), both(*given))


@pytest.mark.gpu
@torch.no_grad()
def test_a_graph_replays_steps_that_carry_their_state(device):
    """Captured without naming a backend: on a GPU these are the kernels, and nothing in them waits for the host."""
    x, state, weight, held, A, B = layer(device)

    def step(state: Tensor, held: Tensor) -> tuple[Tensor, ...]:
        y, state = causal_conv1d_update(x, state, weight, None, "silu")
        y, held = selective_state_update(held, y, y, A, B, B, dt_softplus=True)
        return y, state, held

    now = [state.clone(), held.clone()]
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        step(*now)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, *after = step(*now)
        for old, new in zip(now, after, strict=True):
            old.copy_(new)
    for old, new in zip(now, (state, held), strict=True):
        old.copy_(new)
    for turn in range(3):
        graph.replay()
        expected, state, held = step(state, held)
        torch.testing.assert_close([y, *now], [expected, state, held], msg=f"step {turn}")
