"""What must hold of the short causal convolution: splitting, packing, causality, linearity, strides, steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssm_core.ops import available_backends
from ssm_core.ops.causal_conv1d import causal_conv1d, causal_conv1d_update

BACKENDS = [name for name, status in available_backends("causal_conv1d").items() if status == "ok"]
LENGTHS = st.sampled_from([0, 1, 2, 3, 5, 16, 17, 31, 101])
Results = list[Tensor]


@pytest.fixture(autouse=True, scope="module")
def _poisoned_memory():
    """torch.empty and its kin hand out NaN, so reading what was never written shows."""
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode("default")


@dataclass(frozen=True)
class Conv:
    """Operands of a causal_conv1d, and how to run it."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    state: Tensor
    activation: str | None
    backend: str

    def __call__(self, **options) -> Results:
        operands = self.x, self.weight, self.bias, self.activation, self.state
        return list(causal_conv1d(*operands, backend=self.backend, **options))

    def part(self, start: int, stop: int, state: Tensor) -> Conv:
        return replace(self, x=self.x[:, start:stop], state=state)

    def leaves(self) -> Results:
        return [t.requires_grad_() for t in (self.x, self.weight, self.bias, self.state)]


@st.composite
def convs(draw: st.DrawFn) -> Conv:
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    batch, length, channels = draw(st.integers(1, 3)), draw(LENGTHS), draw(st.sampled_from([1, 3, 33]))
    width = draw(st.integers(1, 9))
    shapes = (batch, length, channels), (channels, width), (channels,), (batch, width - 1, channels)
    tensors = (torch.randn(shape, dtype=dtype) for shape in shapes)
    return Conv(*tensors, draw(st.sampled_from([None, "silu"])), draw(st.sampled_from(BACKENDS)))


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


@given(convs())
def test_backends_agree(conv: Conv) -> None:
    leaves = conv.leaves()
    got, expected = conv(), replace(conv, backend="reference")()
    check_close(got + gradients(got, leaves), expected + gradients(expected, leaves))


@given(convs(), st.data())
def test_split_anywhere_is_whole(conv: Conv, data: st.DataObject) -> None:
    leaves, length = conv.leaves(), conv.x.shape[1]
    cut = data.draw(st.integers(0, length))
    left, state = conv.part(0, cut, conv.state)()
    right, state = conv.part(cut, length, state)()
    joined, whole = [torch.cat([left, right], 1), state], conv()
    check_close(joined + gradients(joined, leaves), whole + gradients(whole, leaves))


@given(convs(), st.data())
def test_packed_is_separate(conv: Conv, data: st.DataObject) -> None:
    length = conv.x.shape[1]
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, length), max_size=5))), length]
    state = torch.randn(len(edges) - 1, *conv.state.shape[1:], dtype=conv.x.dtype)
    conv = replace(conv, x=conv.x[:1].clone(), state=state)
    leaves = conv.leaves()
    packed = conv(cu_seqlens=torch.tensor(edges, dtype=torch.int32))
    rows = zip(edges, edges[1:], conv.state.split(1), strict=False)
    alone = [conv.part(start, stop, state)() for start, stop, state in rows]
    separate = [torch.cat([y for y, _ in alone], 1), torch.cat([last for _, last in alone])]
    check_close(packed + gradients(packed, leaves), separate + gradients(separate, leaves))


@given(convs())
def test_one_packed_sequence_is_a_batch_of_one(conv: Conv) -> None:
    conv = replace(conv, x=conv.x[:1], state=conv.state[:1])
    packed = conv(cu_seqlens=torch.tensor([0, conv.x.shape[1]], dtype=torch.int32))
    check_close(packed, conv())


@given(convs(), st.data())
def test_a_step_sees_the_last_inputs_and_none_ahead(conv: Conv, data: st.DataObject) -> None:
    length, width = conv.x.shape[1], conv.weight.shape[1]
    if length == 0:
        return
    now = data.draw(st.integers(0, length - 1))
    leaves = conv.leaves()
    (grad, *_) = gradients([conv()[0][:1, now]], leaves)
    assert not grad[1:].any(), "rows are independent"
    assert not grad[:, now + 1 :].any(), "the future"
    assert not grad[:, : max(0, now - width + 1)].any(), "the past beyond the filter"


@given(convs())
def test_linear_in_inputs_and_state(conv: Conv) -> None:
    conv = replace(conv, activation=None, bias=torch.zeros_like(conv.bias))
    x, state = torch.randn_like(conv.x), torch.randn_like(conv.state)
    one, other = conv(), replace(conv, x=x, state=state)()
    mixed = replace(conv, x=2 * conv.x - 3 * x, state=2 * conv.state - 3 * state)()
    check_close(mixed, [2 * a - 3 * b for a, b in zip(one, other, strict=True)])


@given(convs())
def test_step_by_step_is_whole(conv: Conv) -> None:
    state, steps = conv.state, []
    for x_t in conv.x.unbind(1):
        y, state = causal_conv1d_update(x_t, state, conv.weight, conv.bias, conv.activation)
        steps.append(y)
    check_close([torch.stack(steps, 1) if steps else conv.x, state], conv())


@given(convs(), st.integers(0, 3))
def test_zeros_as_older_taps_change_nothing(conv: Conv, extra: int) -> None:
    weight = torch.nn.functional.pad(conv.weight, (extra, 0))
    older = torch.full((len(conv.x), extra, conv.x.shape[2]), 7.0, dtype=conv.x.dtype)
    state = torch.cat([older, conv.state], 1)
    y, last = replace(conv, weight=weight, state=state)()
    expected, kept = conv()
    check_close([y, last[:, extra:]], [expected, kept])


@given(convs())
def test_permuting_batch_and_channels_permutes_the_outputs(conv: Conv) -> None:
    rows, columns = torch.randperm(len(conv.x)), torch.randperm(conv.x.shape[2])
    moved = replace(
        conv,
        x=conv.x[rows][..., columns],
        state=conv.state[rows][..., columns],
        weight=conv.weight[columns],
        bias=conv.bias[columns],
    )
    check_close(moved(), [out[rows][..., columns] for out in conv()])


def scattered(x: Tensor) -> Tensor:
    """The same values at other strides: axes reversed in memory, every second element."""
    reverse = tuple(reversed(range(x.ndim)))
    x = x.permute(reverse).contiguous().permute(reverse)
    return torch.stack([x, torch.full_like(x, float("nan"))], -1)[..., 0]


@given(convs())
def test_strides_do_not_matter(conv: Conv) -> None:
    leaves = conv.leaves()
    x, weight, bias, state = (scattered(t) for t in leaves)
    plain, strided = conv(), replace(conv, x=x, weight=weight, bias=bias, state=state)()
    check_close(strided + gradients(strided, leaves), plain + gradients(plain, leaves))


@given(convs())
def test_two_runs_are_the_same_bits(conv: Conv) -> None:
    leaves = conv.leaves()
    runs = [[*out, *gradients(out, leaves)] for out in (conv(), conv())]
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))
