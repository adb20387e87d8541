"""What must hold of the fused gate on every backend: splitting, packing, batches, strides, determinism."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssm_core.ops import available_backends
from ssm_smr import smr_gate
from ssm_smr.taps import convolve

BACKENDS = [name for name, status in available_backends("smr_gate").items() if status == "ok"]
LENGTHS = st.sampled_from([0, 1, 2, 3, 5, 16, 17, 31, 101])
Results = list[Tensor]


@pytest.fixture(autouse=True, scope="module")
def _poisoned_memory():
    """torch.empty and its kin hand out NaN, so reading what was never written shows."""
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode("default")


@dataclass(frozen=True)
class Gate:
    """Operands of a smr_gate, and how to run it."""

    u: Tensor
    weight: Tensor
    bias: Tensor
    state: Tensor
    scale: float
    backend: str

    def __call__(self, **options) -> Results:
        options |= {"gate_scale": self.scale, "backend": self.backend}
        return list(smr_gate(self.u, self.weight, self.bias, self.state, **options))

    def part(self, start: int, stop: int, state: Tensor) -> Gate:
        return replace(self, u=self.u[:, start:stop], state=state)

    def leaves(self) -> Results:
        return [t.requires_grad_() for t in (self.u, self.weight, self.bias, self.state)]


@st.composite
def gates(draw: st.DrawFn) -> Gate:
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    batch, length, h = draw(st.integers(1, 3)), draw(LENGTHS), draw(st.sampled_from([1, 3, 17]))
    tau, dense = draw(st.integers(1, 9)), draw(st.booleans())
    u, bias, state = (torch.randn(s, dtype=dtype) for s in ((batch, length, h), (h,), (batch, tau - 1, h)))
    weight = torch.randn((h, h, tau) if dense else (h, tau), dtype=dtype) / (h if dense else 1)
    scale = draw(st.floats(0.1, 3.0))
    return Gate(u, weight, bias, state, scale, draw(st.sampled_from(BACKENDS)))


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


@given(gates())
def test_backends_agree(gate: Gate) -> None:
    leaves = gate.leaves()
    got, expected = gate(), replace(gate, backend="reference")()
    check_close(got + gradients(got, leaves), expected + gradients(expected, leaves))


@given(gates(), st.data())
def test_split_anywhere_is_whole(gate: Gate, data: st.DataObject) -> None:
    leaves, length = gate.leaves(), gate.u.shape[1]
    cut = data.draw(st.integers(0, length))
    left, state = gate.part(0, cut, gate.state)()
    right, state = gate.part(cut, length, state)()
    joined, whole = [torch.cat([left, right], 1), state], gate()
    check_close(joined + gradients(joined, leaves), whole + gradients(whole, leaves))


@given(gates(), st.data())
def test_packed_is_separate(gate: Gate, data: st.DataObject) -> None:
    length = gate.u.shape[1]
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, length), max_size=5))), length]
    state = torch.randn(len(edges) - 1, *gate.state.shape[1:], dtype=gate.u.dtype)
    gate = replace(gate, u=gate.u[:1].clone(), state=state)
    leaves = gate.leaves()
    packed = gate(cu_seqlens=torch.tensor(edges, dtype=torch.int32))
    rows = zip(edges, edges[1:], gate.state.split(1), strict=False)
    alone = [gate.part(start, stop, state)() for start, stop, state in rows]
    separate = [torch.cat([y for y, _ in alone], 1), torch.cat([last for _, last in alone])]
    check_close(packed + gradients(packed, leaves), separate + gradients(separate, leaves))


@given(gates(), st.data())
def test_segments_are_packed_sequences(gate: Gate, data: st.DataObject) -> None:
    """Where ids rather than offsets cut the memory, as a layer's masks and resets do."""
    gate = replace(gate, u=gate.u[:1], state=gate.state[:1])
    length = gate.u.shape[1]
    edges = [0, *sorted(data.draw(st.sets(st.integers(1, max(length - 1, 1)), max_size=4))), length]
    edges = [edge for i, edge in enumerate(edges) if i == 0 or edges[i - 1] < edge <= length]
    cu_seqlens = torch.tensor(edges, dtype=torch.int32)
    ids = torch.repeat_interleave(torch.arange(len(edges) - 1), torch.tensor(edges).diff())[None]
    states = torch.cat([gate.state, torch.zeros_like(gate.state).expand(len(edges), -1, -1)])
    packed = replace(gate, state=states[: len(edges) - 1])(cu_seqlens=cu_seqlens)
    z = convolve(gate.u, gate.weight, gate.bias, gate.state, ids)
    check_close([gate.scale * torch.sigmoid(z) * gate.u], packed[:1])


@given(gates())
def test_permuting_the_batch_permutes_the_outputs(gate: Gate) -> None:
    order = torch.randperm(len(gate.u))
    moved = replace(gate, u=gate.u[order], state=gate.state[order])()
    check_close(moved, [out[order] for out in gate()])


@given(gates(), st.data())
def test_no_gradient_from_the_future_or_beyond_the_memory(gate: Gate, data: st.DataObject) -> None:
    length, tau = gate.u.shape[1], gate.weight.shape[-1]
    if length == 0:
        return
    now = data.draw(st.integers(0, length - 1))
    leaves = gate.leaves()
    (grad, *_) = gradients([gate()[0][:1, now]], leaves)
    assert not grad[1:].any()
    assert not grad[:, now + 1 :].any()
    assert not grad[:, : max(0, now - tau + 1)].any()


def scattered(x: Tensor) -> Tensor:
    """The same values at other strides: axes reversed in memory, every second element."""
    reverse = tuple(reversed(range(x.ndim)))
    x = x.permute(reverse).contiguous().permute(reverse)
    return torch.stack([x, torch.full_like(x, float("nan"))], -1)[..., 0]


@given(gates())
def test_strides_do_not_matter(gate: Gate) -> None:
    leaves = gate.leaves()
    u, weight, bias, state = (scattered(t) for t in leaves)
    plain, strided = gate(), replace(gate, u=u, weight=weight, bias=bias, state=state)()
    check_close(strided + gradients(strided, leaves), plain + gradients(plain, leaves))


@given(gates())
def test_two_runs_are_the_same_bits(gate: Gate) -> None:
    leaves = gate.leaves()
    runs = [[*out, *gradients(out, leaves)] for out in (gate(), gate())]
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))
