"""Laws of the Triton kernels of the scans, over sizes that nobody picked: the time loop's values, and split = whole.

Sizes and examples are few, for the interpreter's sake; what else holds of every backend is in `tests/properties`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from ssm_core.ops import (
    causal_conv1d,
    causal_conv1d_update,
    linear_scan,
    selective_scan,
    selective_state_update,
    ssd_scan,
)

# The fixtures are the device and the poisoned memory, the same for every example.
few = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
REALS = st.sampled_from([torch.float32, torch.float64])
LENGTHS = st.integers(0, 7)

Results = list[Tensor]


class Case:
    """A call on operands, some of which run along time, and the state it begins with."""

    def __init__(
        self, function: Callable[..., tuple[Tensor, Tensor]], along: Results, fixed: Results, state: Tensor
    ):
        self.function, self.along, self.fixed, self.state = function, along, fixed, state

    @property
    def length(self) -> int:
        return self.along[0].shape[1]

    def to(self, place: torch.device | torch.dtype) -> Case:
        def moved(x: Tensor) -> Tensor:
            if isinstance(place, torch.dtype):
                return x.to(torch.promote_types(x.dtype, place))
            return x.to(place)

        return Case(self.function, [*map(moved, self.along)], [*map(moved, self.fixed)], moved(self.state))

    def leaves(self) -> Results:
        return [x.requires_grad_() for x in (*self.along, *self.fixed, self.state)]

    def __call__(self, start: int, stop: int, state: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        along = [x[:, start:stop] for x in self.along]
        return self.function(along, self.fixed, state, backend=backend)


def seeded(draw: st.DrawFn) -> None:
    torch.manual_seed(draw(st.integers(0, 10**6)))


@st.composite
def linear_scans(draw: st.DrawFn) -> Case:
    seeded(draw)
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.complex64, torch.complex128]))
    batch, length, width = draw(st.integers(1, 2)), draw(LENGTHS), draw(st.integers(1, 5))
    invariant = draw(st.booleans())
    a = torch.randn((width,) if invariant else (batch, length, width), dtype=dtype)
    a = a / a.abs().clamp(min=1.0)
    b, state = torch.randn(batch, length, width, dtype=dtype), torch.randn(batch, width, dtype=dtype)

    def run(along: Results, fixed: Results, state: Tensor, **options) -> tuple[Tensor, Tensor]:
        return linear_scan(*fixed, *along, state, **options)

    return Case(run, [b], [a], state) if invariant else Case(run, [a, b], [], state)


@st.composite
def selective_scans(draw: st.DrawFn) -> Case:
    seeded(draw)
    dtype = draw(REALS)
    kind = draw(st.sampled_from([dtype, dtype.to_complex()]))
    batch, length, n = (
        1,
        draw(st.integers(0, 4)),
        draw(st.integers(1, 3)),
    )  # the slowest here, so the smallest
    width = 2 * draw(st.integers(1, 2))
    A = -torch.rand(width, n, dtype=dtype)
    A = torch.complex(A, torch.randn(width, n, dtype=dtype)) if kind.is_complex else A
    sizes = {"one": (batch, length, n), "groups": (batch, length, 2, n)}
    B, C = (torch.randn(sizes[draw(st.sampled_from(["one", "groups"]))], dtype=kind) for _ in "BC")
    u, dt = torch.randn(batch, length, width, dtype=dtype), torch.rand(batch, length, width, dtype=dtype)
    method = draw(st.sampled_from(["euler", "zoh", "bilinear"]))

    def run(along: Results, fixed: Results, state: Tensor, **options) -> tuple[Tensor, Tensor]:
        u, dt, B, C = along
        return selective_scan(u, dt, *fixed, B, C, initial_state=state, discretization=method, **options)

    return Case(run, [u, dt, B, C], [A], torch.randn(batch, width, n, dtype=kind))


@st.composite
def ssd_scans(draw: st.DrawFn) -> Case:
    seeded(draw)
    normal = partial(torch.randn, dtype=draw(REALS))
    batch, length, G = (
        draw(st.integers(1, 2)),
        draw(st.sampled_from([0, 1, 3, 16, 19])),
        draw(st.integers(1, 2)),
    )
    H, P, N = G * draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    along = [normal(batch, length, H, P), normal(batch, length, H).abs()]
    along += [normal(batch, length, G, N), normal(batch, length, G, N)]

    def run(along: Results, fixed: Results, state: Tensor, **options) -> tuple[Tensor, Tensor]:
        x, dt, B, C = along
        A, D = fixed
        return ssd_scan(x, dt, A, B, C, D=D, initial_state=state, chunk_size=16, **options)

    return Case(run, along, [-normal(H).abs(), normal(H)], normal(batch, H, P, N))


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    seeded(draw)
    normal = partial(torch.randn, dtype=draw(REALS))
    batch, length, width = draw(st.integers(1, 2)), draw(LENGTHS), draw(st.integers(1, 5))
    taps, activation = draw(st.integers(1, 9)), draw(st.sampled_from([None, "silu"]))

    def run(along: Results, fixed: Results, state: Tensor, **options) -> tuple[Tensor, Tensor]:
        return causal_conv1d(*along, *fixed, activation, state, **options)

    fixed = [normal(width, taps), normal(width)]
    return Case(run, [normal(batch, length, width)], fixed, normal(batch, taps - 1, width))


def with_gradients(outputs: Results, leaves: Results) -> Results:
    """Outputs and the gradients of a fixed linear function of them, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in outputs]
    grads = torch.autograd.grad(outputs, leaves, weights, materialize_grads=True)
    return [x.detach().cpu() for x in (*outputs, *grads)]


def check_close(got: Results, expected: Results) -> None:
    for place, (x, y) in enumerate(zip(got, expected, strict=True)):
        assert x.shape == y.shape, f"output {place}"
        if y.numel():
            tolerance = 1e-11 if x.dtype in (torch.float64, torch.complex128) else 1e-5
            assert (x - y).abs().max() <= tolerance * y.abs().max().clamp(min=1.0), f"output {place}"


def check_the_laws(case: Case, cut: int, device: torch.device) -> None:
    """Values and every gradient are the time loop's in double precision; of two parts they are those of the whole."""
    oracle, case = case.to(torch.float64), case.to(device)
    leaves, length = oracle.leaves(), case.length
    expected = with_gradients([*oracle(0, length, oracle.state, "reference")], leaves)
    leaves = case.leaves()
    whole = with_gradients([*case(0, length, case.state, "triton")], leaves)
    check_close(whole, expected)
    left, state = case(0, cut, case.state, "triton")
    right, state = case(cut, length, state, "triton")
    check_close(with_gradients([torch.cat([left, right], 1), state], leaves), whole)


@pytest.mark.parametrize(
    "cases",
    [linear_scans(), selective_scans(), ssd_scans(), convolutions()],
    ids=["linear_scan", "selective_scan", "ssd_scan", "causal_conv1d"],
)
@few
@given(data=st.data())
def test_the_time_loop_and_split_is_whole(
    device: torch.device, cases: st.SearchStrategy[Case], data: st.DataObject
) -> None:
    case = data.draw(cases)
    check_the_laws(case, data.draw(st.integers(0, case.length)), device)


def check_the_steps(case: Case, step: Callable[..., tuple[Tensor, Tensor]], device: torch.device) -> None:
    """One kernel a step gives the outputs and the last state of the time loop in double precision."""
    oracle, case = case.to(torch.float64), case.to(device)
    expected = oracle(0, oracle.length, oracle.state, "reference")
    state, rows = case.state, [case.along[0][:, :0]]
    for t in range(case.length):
        y, state = step(state, [x[:, t] for x in case.along], case.fixed)
        rows.append(y[:, None])
    check_close([torch.cat(rows, 1).cpu(), state.cpu()], [*expected])


@few
@given(case=selective_scans(), method=st.sampled_from(["euler", "zoh", "bilinear"]))
def test_steps_are_the_selective_scan(device: torch.device, case: Case, method: str) -> None:
    def run(along: Results, fixed: Results, state: Tensor, **options) -> tuple[Tensor, Tensor]:
        u, dt, B, C = along
        return selective_scan(u, dt, *fixed, B, C, initial_state=state, discretization=method, **options)

    def step(state: Tensor, along: Results, fixed: Results) -> tuple[Tensor, Tensor]:
        u, dt, B, C = along
        return selective_state_update(state, u, dt, *fixed, B, C, discretization=method, backend="triton")

    check_the_steps(Case(run, case.along, case.fixed, case.state), step, device)


@few
@given(case=convolutions(), activation=st.sampled_from([None, "silu"]))
def test_steps_are_the_convolution(device: torch.device, case: Case, activation: str | None) -> None:
    def run(along: Results, fixed: Results, state: Tensor, **options) -> tuple[Tensor, Tensor]:
        return causal_conv1d(*along, *fixed, activation, state, **options)

    def step(state: Tensor, along: Results, fixed: Results) -> tuple[Tensor, Tensor]:
        return causal_conv1d_update(*along, state, *fixed, activation, backend="triton")

    check_the_steps(Case(run, case.along, case.fixed, case.state), step, device)
