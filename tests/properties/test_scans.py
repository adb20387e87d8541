"""What must hold of every scan: splitting, packing, direction, linearity, causality, strides, padding."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssm_core.ops import available_backends, diagonal_ssm, linear_scan

BACKENDS = [name for name, status in available_backends("diagonal_ssm").items() if status == "ok"]
LENGTHS = st.sampled_from([0, 1, 2, 3, 5, 16, 17, 31, 64, 101])
Results = list[Tensor]


@pytest.fixture(autouse=True, scope="module")
def _poisoned_memory():
    """torch.empty and its kin hand out NaN, so reading what was never written shows."""
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode("default")


@dataclass(frozen=True)
class Scan:
    """Operands of a linear_scan, and how to run it."""

    a: Tensor
    b: Tensor
    state: Tensor
    reverse: bool
    backend: str

    def __call__(self, **options) -> tuple[Tensor, Tensor]:
        return linear_scan(self.a, self.b, self.state, reverse=self.reverse, backend=self.backend, **options)

    @property
    def invariant(self) -> bool:
        return self.a.ndim == self.b.ndim - 2

    def part(self, start: int, stop: int, state: Tensor) -> Scan:
        a = self.a if self.invariant else self.a[:, start:stop]
        return replace(self, a=a, b=self.b[:, start:stop], state=state)

    def leaves(self) -> Results:
        return [x.requires_grad_() for x in (self.a, self.b, self.state)]


@st.composite
def scans(draw: st.DrawFn, invariant: bool | None = None) -> Scan:
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.complex64, torch.complex128]))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    batch, length = draw(st.integers(1, 3)), draw(LENGTHS)
    features = draw(st.sampled_from([(), (1,), (3,), (2, 5), (33,)]))
    if invariant is None:
        invariant = draw(st.booleans())
    a = torch.randn(features if invariant else (batch, length, *features), dtype=dtype)
    a = a / a.abs().clamp(min=1.0)
    b, state = torch.randn(batch, length, *features, dtype=dtype), torch.randn(batch, *features, dtype=dtype)
    return Scan(a, b, state, draw(st.booleans()), draw(st.sampled_from(BACKENDS)))


@dataclass(frozen=True)
class Model:
    """Operands of a diagonal_ssm, and how to run it."""

    u: Tensor
    dt: Tensor
    matrices: tuple[Tensor, ...]
    state: Tensor
    method: str
    backend: str

    def __call__(self, **options) -> tuple[Tensor, Tensor]:
        options |= {"discretization": self.method, "backend": self.backend}
        return diagonal_ssm(self.u, self.dt, *self.matrices, self.state, **options)

    def part(self, start: int, stop: int, state: Tensor) -> Model:
        dt = self.dt if self.dt.ndim == 1 else self.dt[:, start:stop]
        return replace(self, u=self.u[:, start:stop], dt=dt, state=state)

    def leaves(self) -> Results:
        return [x.requires_grad_() for x in (self.u, self.dt, *self.matrices, self.state)]


@st.composite
def models(draw: st.DrawFn, per_step: bool | None = None) -> Model:
    dtype, wide = draw(st.sampled_from([(torch.float32, torch.complex64), (torch.float64, torch.complex128)]))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    batch, length = draw(st.integers(1, 3)), draw(LENGTHS)
    H, N = draw(st.integers(1, 4)), draw(st.sampled_from([1, 3, 16, 19]))
    if per_step is None:
        per_step = draw(st.booleans())
    dt = torch.rand((batch, length, N) if per_step else N, dtype=dtype)
    A = torch.complex(-0.05 - torch.rand(N, dtype=dtype), 2 * torch.randn(N, dtype=dtype))
    A = A * (torch.rand(N) > 0.1)
    B, C, state = (torch.randn(shape, dtype=wide) for shape in ((N, H), (H, N), (batch, N)))
    u, D = torch.randn(batch, length, H, dtype=dtype), torch.randn(H, dtype=dtype)
    method, backend = draw(st.sampled_from(["zoh", "bilinear"])), draw(st.sampled_from(BACKENDS))
    return Model(u, dt, (A, B, C, D), state, method, backend)


def check_close(got: Results, expected: Results) -> None:
    for x, y in zip(got, expected, strict=True):
        assert x.shape == y.shape
        if y.numel():
            tolerance = 1e-12 if y.dtype in (torch.float64, torch.complex128) else 1e-5
            assert (x - y).abs().max() <= tolerance * y.abs().max().clamp(min=1.0)


def gradients(outputs: Results, leaves: Results) -> Results:
    """Of a fixed linear function of the outputs."""
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (out * torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)).real.sum()
        for out in outputs
    )
    return list(torch.autograd.grad(loss, leaves, materialize_grads=True))


@given(scans(), st.data())
def test_split_anywhere_is_whole(scan: Scan, data: st.DataObject) -> None:
    leaves = scan.leaves()
    cut = data.draw(st.integers(0, scan.b.shape[1]))
    spans = [(0, cut), (cut, scan.b.shape[1])]
    state, parts = scan.state, {}
    for span in reversed(spans) if scan.reverse else spans:
        parts[span], state = scan.part(*span, state)()
    joined = [torch.cat([parts[span] for span in spans], 1), state]
    whole = list(scan())
    check_close(joined + gradients(joined, leaves), whole + gradients(whole, leaves))


@given(models(), st.data())
def test_model_split_anywhere_is_whole(model: Model, data: st.DataObject) -> None:
    leaves = model.leaves()
    length = model.u.shape[1]
    cut = data.draw(st.integers(0, length))
    left, state = model.part(0, cut, model.state)()
    right, state = model.part(cut, length, state)()
    joined, whole = [torch.cat([left, right], 1), state], list(model())
    check_close(joined + gradients(joined, leaves), whole + gradients(whole, leaves))


@given(scans(), st.data())
def test_packed_is_separate(scan: Scan, data: st.DataObject) -> None:
    length, features = scan.b.shape[1], scan.b.shape[2:]
    cuts = sorted(data.draw(st.lists(st.integers(0, length), max_size=5)))
    edges = [0, *cuts, length]
    scan = Scan(scan.a if scan.invariant else scan.a[:1], scan.b[:1], scan.state, scan.reverse, scan.backend)
    scan = replace(scan, state=torch.randn(len(edges) - 1, *features, dtype=scan.b.dtype))
    leaves = scan.leaves()
    packed = list(scan(cu_seqlens=torch.tensor(edges, dtype=torch.int32)))
    rows = zip(edges, edges[1:], scan.state.split(1), strict=False)
    alone = [scan.part(start, stop, state)() for start, stop, state in rows]
    separate = [torch.cat([h for h, _ in alone], 1), torch.cat([last for _, last in alone])]
    check_close(packed + gradients(packed, leaves), separate + gradients(separate, leaves))


@given(models(), st.data())
def test_model_packed_is_separate(model: Model, data: st.DataObject) -> None:
    length = model.u.shape[1]
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, length), max_size=5))), length]
    dt = model.dt if model.dt.ndim == 1 else model.dt[:1]
    state = torch.randn(len(edges) - 1, model.state.shape[1], dtype=model.state.dtype)
    model = replace(model, u=model.u[:1], dt=dt, state=state)
    leaves = model.leaves()
    packed = list(model(cu_seqlens=torch.tensor(edges, dtype=torch.int32)))
    rows = zip(edges, edges[1:], model.state.split(1), strict=False)
    alone = [model.part(start, stop, state)() for start, stop, state in rows]
    separate = [torch.cat([y for y, _ in alone], 1), torch.cat([last for _, last in alone])]
    check_close(packed + gradients(packed, leaves), separate + gradients(separate, leaves))


@given(scans())
def test_reverse_is_flip_scan_flip(scan: Scan) -> None:
    mirrored = replace(
        scan, a=scan.a if scan.invariant else scan.a.flip(1), b=scan.b.flip(1), reverse=not scan.reverse
    )
    h, last = mirrored()
    check_close([h.flip(1), last], list(scan()))


@given(scans())
def test_linear_in_inputs_and_state(scan: Scan) -> None:
    b, state = torch.randn_like(scan.b), torch.randn_like(scan.state)
    one, other = scan(), replace(scan, b=b, state=state)()
    mixed = replace(scan, b=2 * scan.b - 3 * b, state=2 * scan.state - 3 * state)()
    check_close(list(mixed), [2 * x - 3 * y for x, y in zip(one, other, strict=True)])


@given(models())
def test_model_is_linear_in_inputs_and_state(model: Model) -> None:
    u, state = torch.randn_like(model.u), torch.randn_like(model.state)
    one, other = model(), replace(model, u=u, state=state)()
    mixed = replace(model, u=2 * model.u - 3 * u, state=2 * model.state - 3 * state)()
    check_close(list(mixed), [2 * x - 3 * y for x, y in zip(one, other, strict=True)])


@given(scans(invariant=False), st.data())
def test_no_gradient_from_the_future(scan: Scan, data: st.DataObject) -> None:
    length = scan.b.shape[1]
    now = data.draw(st.integers(0, max(length - 1, 0)))
    leaves = [x.requires_grad_() for x in (scan.a, scan.b)]
    h, _ = scan()
    future = slice(0, now) if scan.reverse else slice(now + 1, length)
    for grad in gradients([h[:, now : now + 1]], leaves):
        assert not grad[:, future].any()


@given(models(per_step=True), st.data())
def test_model_has_no_gradient_from_the_future(model: Model, data: st.DataObject) -> None:
    now = data.draw(st.integers(0, max(model.u.shape[1] - 1, 0)))
    leaves = [x.requires_grad_() for x in (model.u, model.dt)]
    y, _ = model()
    for grad in gradients([y[:, now : now + 1]], leaves):
        assert not grad[:, now + 1 :].any()


@given(scans())
def test_permuting_the_batch_permutes_the_outputs(scan: Scan) -> None:
    order = torch.randperm(len(scan.b))
    a = scan.a if scan.invariant else scan.a[order]
    permuted = replace(scan, a=a, b=scan.b[order], state=scan.state[order])()
    check_close(list(permuted), [x[order] for x in scan()])


@given(scans())
def test_step_by_step_is_scan(scan: Scan) -> None:
    length, state, steps = scan.b.shape[1], scan.state, {}
    for t in reversed(range(length)) if scan.reverse else range(length):
        steps[t], state = scan.part(t, t + 1, state)()
    h, last = scan()
    check_close([torch.cat([h[:, :0], *(steps[t] for t in range(length))], 1), state], [h, last])


@given(models())
def test_model_permuting_the_batch_permutes_the_outputs(model: Model) -> None:
    order = torch.randperm(len(model.u))
    dt = model.dt if model.dt.ndim == 1 else model.dt[order]
    permuted = replace(model, u=model.u[order], dt=dt, state=model.state[order])()
    check_close(list(permuted), [x[order] for x in model()])


@given(models())
def test_model_step_by_step_is_scan(model: Model) -> None:
    state, steps = model.state, [model.u[:, :0]]
    for t in range(model.u.shape[1]):
        y, state = model.part(t, t + 1, state)()
        steps.append(y)
    check_close([torch.cat(steps, 1), state], list(model()))


@given(models(), st.integers(0, 4))
def test_masked_steps_change_nothing(model: Model, extra: int) -> None:
    """Gaps of 0 leave the state: padding on the right, or anywhere, is a no-op."""
    batch, length, _ = model.u.shape
    dt = model.dt.expand(batch, length, -1)
    at = length // 2
    zeros, noise = dt.new_zeros(batch, extra, dt.shape[2]), model.u.new_ones(batch, extra, model.u.shape[2])
    padded = replace(
        model,
        u=torch.cat([model.u[:, :at], noise, model.u[:, at:]], 1),
        dt=torch.cat([dt[:, :at], zeros, dt[:, at:]], 1),
    )
    y, last = padded()
    check_close([torch.cat([y[:, :at], y[:, at + extra :]], 1), last], list(replace(model, dt=dt)()))


@given(scans(invariant=False), st.integers(0, 4))
def test_padding_with_one_and_zero_is_a_no_op(scan: Scan, extra: int) -> None:
    shape = (scan.b.shape[0], extra, *scan.b.shape[2:])
    ones, zeros = scan.b.new_ones(shape), scan.b.new_zeros(shape)
    padded = replace(scan, a=torch.cat([ones, scan.a, ones], 1), b=torch.cat([zeros, scan.b, zeros], 1))
    h, last = padded()
    check_close([h[:, extra : extra + scan.b.shape[1]], last], list(scan()))


@given(scans(invariant=True))
def test_time_invariant_is_broadcast(scan: Scan) -> None:
    leaves = scan.leaves()
    once, spread = list(scan()), list(replace(scan, a=scan.a.expand(scan.b.shape))())
    check_close(once + gradients(once, leaves), spread + gradients(spread, leaves))


@given(scans())
def test_real_is_complex_with_no_imaginary_part(scan: Scan) -> None:
    if scan.b.is_complex():
        scan = replace(scan, a=scan.a.abs(), b=scan.b.real, state=scan.state.imag)
    wide = torch.promote_types(scan.b.dtype, torch.complex64)
    embedded = replace(scan, a=scan.a.to(wide), b=scan.b.to(wide), state=scan.state.to(wide))()
    check_close([x.real for x in embedded], list(scan()))
    assert not any(x.imag.any() for x in embedded)


def scattered(x: Tensor) -> Tensor:
    """The same values at other strides: axes reversed in memory, every second element, a lazily conjugated view."""
    reverse = tuple(reversed(range(x.ndim)))
    x = x.permute(reverse).contiguous().permute(reverse)
    x = torch.stack([x, torch.full_like(x, float("nan"))], -1)[..., 0]
    return x.conj().resolve_conj().conj() if x.is_complex() else x


@given(scans())
def test_strides_do_not_matter(scan: Scan) -> None:
    leaves = scan.leaves()
    a, b, state = (scattered(x) for x in leaves)
    plain, strided = list(scan()), list(replace(scan, a=a, b=b, state=state)())
    check_close(strided + gradients(strided, leaves), plain + gradients(plain, leaves))


@given(models())
def test_model_strides_do_not_matter(model: Model) -> None:
    leaves = model.leaves()
    u, dt, *matrices, state = (scattered(x) for x in leaves)
    plain = list(model())
    strided = list(replace(model, u=u, dt=dt, matrices=tuple(matrices), state=state)())
    check_close(strided + gradients(strided, leaves), plain + gradients(plain, leaves))


@given(st.one_of(scans(), models()))
def test_two_runs_are_the_same_bits(run: Scan | Model) -> None:
    leaves = run.leaves()
    first, second = ([*out, *gradients(list(out), leaves)] for out in (run(), run()))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@given(models())
def test_backends_agree(model: Model) -> None:
    leaves = model.leaves()
    got, expected = list(model()), list(replace(model, backend="reference")())
    check_close(got + gradients(got, leaves), expected + gradients(expected, leaves))


@given(models(per_step=True), st.floats(0, 1))
def test_a_gap_split_in_two_is_the_same_flow(model: Model, share: float) -> None:
    """With a zero-order hold, a gap g equals share g, then (1 - share) g, the input held."""
    model = replace(model, method="zoh")
    halves = torch.stack([model.dt * share, model.dt * (1 - share)], 2).flatten(1, 2)
    y, last = replace(model, u=model.u.repeat_interleave(2, 1), dt=halves)()
    check_close([y[:, 1::2], last], list(model()))
