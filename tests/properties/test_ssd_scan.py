"""What must hold of ssd_scan: splitting, packing, linearity, causality, strides, padding, steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssm_core.ops import available_backends
from ssm_core.ops.ssd_scan import ssd_scan

BACKENDS = [name for name, status in available_backends("ssd_scan").items() if status == "ok"]
LENGTHS = st.sampled_from([0, 1, 2, 3, 7, 8, 9, 31, 64, 65])
Results = list[Tensor]


@pytest.fixture(autouse=True, scope="module")
def _poisoned_memory():
    """torch.empty and its kin hand out NaN, so reading what was never written shows."""
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode("default")


@dataclass(frozen=True)
class Dual:
    """Operands of an ssd_scan, and how to run it."""

    steps: tuple[Tensor, ...]  # x, dt, B, C and, or not, z
    A: Tensor
    D: Tensor | None
    dt_bias: Tensor | None
    state: Tensor
    chunk_size: int
    backend: str

    def __call__(self, **options) -> tuple[Tensor, Tensor]:
        x, dt, B, C, *z = self.steps
        options |= {"chunk_size": self.chunk_size, "backend": self.backend, "initial_state": self.state}
        bias = {} if self.dt_bias is None else {"dt_bias": self.dt_bias, "dt_softplus": True}
        return ssd_scan(x, dt, self.A, B, C, D=self.D, z=z[0] if z else None, **bias, **options)

    @property
    def length(self) -> int:
        return self.steps[0].shape[1]

    def part(self, start: int, stop: int, state: Tensor) -> Dual:
        return replace(self, steps=tuple(x[:, start:stop] for x in self.steps), state=state)

    def leaves(self) -> Results:
        rest = [x for x in (self.D, self.dt_bias) if x is not None]
        return [x.requires_grad_() for x in (*self.steps, self.A, *rest, self.state)]


@st.composite
def duals(draw: st.DrawFn, gate: bool | None = None, softplus: bool | None = None) -> Dual:
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    batch, length, G = draw(st.integers(1, 3)), draw(LENGTHS), draw(st.sampled_from([1, 2]))
    H, P, N = G * draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 5])), draw(st.sampled_from([1, 4, 7]))
    gate = draw(st.booleans()) if gate is None else gate
    softplus = draw(st.booleans()) if softplus is None else softplus

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype)

    dt = normal(batch, length, H) if softplus else torch.rand(batch, length, H, dtype=dtype)
    steps = [normal(batch, length, H, P), dt, normal(batch, length, G, N), normal(batch, length, G, N)]
    return Dual(
        steps=(*steps, normal(batch, length, H, P)) if gate else tuple(steps),
        A=-torch.rand(H, dtype=dtype),
        D=draw(st.sampled_from([None, normal(H), normal(H, P)])),
        dt_bias=normal(H) if softplus else None,
        state=normal(batch, H, P, N),
        chunk_size=draw(st.sampled_from([1, 4, 8, 64])),
        backend=draw(st.sampled_from(BACKENDS)),
    )


def check_close(got: Results, expected: Results) -> None:
    for x, y in zip(got, expected, strict=True):
        assert x.shape == y.shape
        if y.numel():
            tolerance = 1e-12 if y.dtype == torch.float64 else 1e-5
            assert (x - y).abs().max() <= tolerance * y.abs().max().clamp(min=1.0)


def gradients(outputs: Results, leaves: Results) -> Results:
    """Of a fixed linear function of the outputs."""
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (out * torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)).sum()
        for out in outputs
    )
    return list(torch.autograd.grad(loss, leaves, materialize_grads=True))


@given(duals(), st.data())
def test_split_anywhere_is_whole(dual: Dual, data: st.DataObject) -> None:
    leaves = dual.leaves()
    cut = data.draw(st.integers(0, dual.length))
    left, state = dual.part(0, cut, dual.state)()
    right, state = dual.part(cut, dual.length, state)()
    joined, whole = [torch.cat([left, right], 1), state], list(dual())
    check_close(joined + gradients(joined, leaves), whole + gradients(whole, leaves))


@given(duals(), st.data())
def test_packed_is_separate(dual: Dual, data: st.DataObject) -> None:
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, dual.length), max_size=5))), dual.length]
    state = torch.randn(len(edges) - 1, *dual.state.shape[1:], dtype=dual.state.dtype)
    dual = replace(dual, steps=tuple(x[:1] for x in dual.steps), state=state)
    leaves = dual.leaves()
    packed = list(dual(cu_seqlens=torch.tensor(edges, dtype=torch.int32)))
    rows = zip(edges, edges[1:], dual.state.split(1), strict=False)
    alone = [dual.part(start, stop, state)() for start, stop, state in rows]
    separate = [torch.cat([y for y, _ in alone], 1), torch.cat([last for _, last in alone])]
    check_close(packed + gradients(packed, leaves), separate + gradients(separate, leaves))


@given(duals())
def test_linear_in_inputs_and_state(dual: Dual) -> None:
    x, state = torch.randn_like(dual.steps[0]), torch.randn_like(dual.state)
    one, other = dual(), replace(dual, steps=(x, *dual.steps[1:]), state=state)()
    mixed = replace(
        dual, steps=(2 * dual.steps[0] - 3 * x, *dual.steps[1:]), state=2 * dual.state - 3 * state
    )()
    check_close(list(mixed), [2 * x - 3 * y for x, y in zip(one, other, strict=True)])


@given(duals(), st.data())
def test_no_gradient_from_the_future(dual: Dual, data: st.DataObject) -> None:
    now = data.draw(st.integers(0, max(dual.length - 1, 0)))
    leaves = [x.requires_grad_() for x in dual.steps]
    y, _ = dual()
    for grad in gradients([y[:, now : now + 1]], leaves):
        assert not grad[:, now + 1 :].any()


@given(duals())
def test_permuting_the_batch_permutes_the_outputs(dual: Dual) -> None:
    order = torch.randperm(len(dual.state))
    permuted = replace(dual, steps=tuple(x[order] for x in dual.steps), state=dual.state[order])()
    check_close(list(permuted), [x[order] for x in dual()])


@given(duals())
def test_step_by_step_is_scan(dual: Dual) -> None:
    state, steps = dual.state, []
    for t in range(dual.length):
        y, state = dual.part(t, t + 1, state)()
        steps.append(y)
    y, last = dual()
    check_close([torch.cat([y[:, :0], *steps], 1), state], [y, last])


@given(duals(softplus=False), st.integers(0, 4))
def test_steps_of_no_size_change_nothing(dual: Dual, extra: int) -> None:
    """dt = 0 leaves the state: padding on the right, or anywhere, is a no-op."""
    at, padded = dual.length // 2, []
    for i, x in enumerate(dual.steps):
        shape = (x.shape[0], extra, *x.shape[2:])
        between = x.new_zeros(shape) if i == 1 else x.new_ones(shape)
        padded.append(torch.cat([x[:, :at], between, x[:, at:]], 1))
    y, last = replace(dual, steps=tuple(padded))()
    check_close([torch.cat([y[:, :at], y[:, at + extra :]], 1), last], list(dual()))


def scattered(x: Tensor) -> Tensor:
    """The same values at other strides: axes reversed in memory, every second element."""
    reverse = tuple(reversed(range(x.ndim)))
    x = x.permute(reverse).contiguous().permute(reverse)
    return torch.stack([x, torch.full_like(x, float("nan"))], -1)[..., 0]


@given(duals())
def test_strides_do_not_matter(dual: Dual) -> None:
    leaves = dual.leaves()
    strided = replace(
        dual,
        steps=tuple(scattered(x) for x in dual.steps),
        A=scattered(dual.A),
        D=None if dual.D is None else scattered(dual.D),
        dt_bias=None if dual.dt_bias is None else scattered(dual.dt_bias),
        state=scattered(dual.state),
    )
    got, expected = list(strided()), list(dual())
    check_close(got + gradients(got, leaves), expected + gradients(expected, leaves))


@given(duals())
def test_two_runs_are_the_same_bits(dual: Dual) -> None:
    leaves = dual.leaves()
    first, second = ([*out, *gradients(list(out), leaves)] for out in (dual(), dual()))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@given(duals())
def test_backends_and_chunk_sizes_agree(dual: Dual) -> None:
    leaves = dual.leaves()
    got, expected = list(dual()), list(replace(dual, backend="reference")())
    check_close(got + gradients(got, leaves), expected + gradients(expected, leaves))
