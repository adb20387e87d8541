"""Laws of the selective scan, over odd sizes, both precisions, real and complex A, every form of B and C."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssm_core.opkit.dispatch import numba_problem
from ssm_core.ops import selective_scan, selective_state_update

BACKENDS = ["torch"] if numba_problem() else ["torch", "numba"]
LENGTHS = st.one_of(st.integers(0, 9), st.sampled_from([31, 32, 33, 64, 67]))


@pytest.fixture(autouse=True, scope="module")
def _poisoned_memory():
    """torch.empty and its kin hand out NaN, so reading what was never written shows."""
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode("default")


@dataclass
class Scan:
    """Operands, and how to run them; softplus is left out, so that a gap can be 0."""

    along: dict[str, Tensor]  # u, dt, z, and B and C where they change with time: (B, L, ...)
    fixed: dict[str, Tensor]
    state: Tensor
    options: dict[str, str]

    def __call__(self, **more) -> tuple[Tensor, Tensor]:
        return selective_scan(**self.along, **self.fixed, initial_state=self.state, **self.options, **more)

    def part(self, start: int, stop: int, state: Tensor) -> Scan:
        along = {name: x[:, start:stop] for name, x in self.along.items()}
        return replace(self, along=along, state=state)

    def leaves(self) -> list[Tensor]:
        return [x.requires_grad_() for x in (*self.along.values(), *self.fixed.values(), self.state)]


@st.composite
def scans(draw: st.DrawFn, method: str | None = None) -> Scan:
    real, wide = draw(st.sampled_from([(torch.float32, torch.complex64), (torch.float64, torch.complex128)]))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    kind = draw(st.sampled_from([real, wide]))
    batch, length, per_group, n = (
        draw(st.integers(1, 3)),
        draw(LENGTHS),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 4)),
    )
    width = 2 * per_group
    A = -2 * torch.rand(width, n, dtype=real)
    if kind.is_complex:
        A = torch.complex(A, 2 * torch.randn(width, n, dtype=real))
    along = {
        "u": torch.randn(batch, length, width, dtype=real),
        "dt": torch.rand(batch, length, width, dtype=real),
        "z": torch.randn(batch, length, width, dtype=real),
    }
    fixed = {"A": A, "D": torch.randn(width, dtype=real)}
    for name in "BC":
        form = draw(st.sampled_from(["fixed", "one", "groups"]))
        size = {"fixed": (width, n), "one": (batch, length, n), "groups": (batch, length, 2, n)}[form]
        (fixed if form == "fixed" else along)[name] = torch.randn(size, dtype=kind)
    method = method or draw(st.sampled_from(["euler", "zoh", "bilinear"]))
    options = {"discretization": method, "backend": draw(st.sampled_from(BACKENDS))}
    return Scan(along, fixed, torch.randn(batch, width, n, dtype=kind), options)


def check_close(got: list[Tensor], expected: list[Tensor]) -> None:
    for x, y in zip(got, expected, strict=True):
        assert x.shape == y.shape
        if y.numel():
            tolerance = 1e-11 if y.dtype in (torch.float64, torch.complex128) else 1e-5
            assert (x - y).abs().max() <= tolerance * y.abs().max().clamp(min=1.0)


def gradients(outputs: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Of a fixed linear function of the outputs."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in outputs]
    loss = sum((x * w).real.sum() for x, w in zip(outputs, weights, strict=True))
    return list(torch.autograd.grad(loss, leaves, materialize_grads=True))


@given(scans(), st.data())
def test_split_anywhere_is_whole(scan: Scan, data: st.DataObject) -> None:
    length, leaves = scan.along["u"].shape[1], scan.leaves()
    cut = data.draw(st.integers(0, length))
    left, state = scan.part(0, cut, scan.state)()
    right, state = scan.part(cut, length, state)()
    joined, whole = [torch.cat([left, right], 1), state], list(scan())
    check_close(joined + gradients(joined, leaves), whole + gradients(whole, leaves))


@given(scans(), st.data())
def test_packed_is_separate(scan: Scan, data: st.DataObject) -> None:
    length = scan.along["u"].shape[1]
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, length), max_size=5))), length]
    along = {name: x[:1].clone() for name, x in scan.along.items()}
    state = torch.randn(len(edges) - 1, *scan.state.shape[1:], dtype=scan.state.dtype)
    scan = replace(scan, along=along, state=state)
    leaves = scan.leaves()
    packed = list(scan(cu_seqlens=torch.tensor(edges, dtype=torch.int32)))
    rows = zip(edges, edges[1:], scan.state.split(1), strict=False)
    alone = [scan.part(start, stop, state)() for start, stop, state in rows]
    separate = [torch.cat([y for y, _ in alone], 1), torch.cat([last for _, last in alone])]
    check_close(packed + gradients(packed, leaves), separate + gradients(separate, leaves))


@given(scans())
def test_linear_in_inputs_and_state(scan: Scan) -> None:
    u, state = torch.randn_like(scan.along["u"]), torch.randn_like(scan.state)
    other = replace(scan, along=scan.along | {"u": u}, state=state)
    mixed = replace(
        scan, along=scan.along | {"u": 2 * scan.along["u"] - 3 * u}, state=2 * scan.state - 3 * state
    )
    check_close(list(mixed()), [2 * x - 3 * y for x, y in zip(scan(), other(), strict=True)])


@given(scans(), st.data())
def test_no_gradient_from_the_future(scan: Scan, data: st.DataObject) -> None:
    now = data.draw(st.integers(0, max(scan.along["u"].shape[1] - 1, 0)))
    leaves = [x.requires_grad_() for x in scan.along.values()]
    y, _ = scan()
    for grad in gradients([y[:, now : now + 1]], leaves):
        assert not grad[:, now + 1 :].any()


@given(scans())
def test_permuting_the_batch_permutes_the_outputs(scan: Scan) -> None:
    order = torch.randperm(len(scan.state))
    along = {name: x[order] for name, x in scan.along.items()}
    check_close(list(replace(scan, along=along, state=scan.state[order])()), [x[order] for x in scan()])


@given(scans(), st.integers(0, 4))
def test_gaps_of_zero_change_nothing(scan: Scan, extra: int) -> None:
    """Padding anywhere, whatever stands in it, leaves all other outputs and the state as they were."""
    at = scan.along["u"].shape[1] // 2

    def padded(name: str, x: Tensor) -> Tensor:
        fill = torch.full((x.shape[0], extra, *x.shape[2:]), 0.0 if name == "dt" else 7.0, dtype=x.dtype)
        return torch.cat([x[:, :at], fill, x[:, at:]], 1)

    y, last = replace(scan, along={name: padded(name, x) for name, x in scan.along.items()})()
    check_close([torch.cat([y[:, :at], y[:, at + extra :]], 1), last], list(scan()))


@given(scans())
def test_step_by_step_is_scan(scan: Scan) -> None:
    width, n = scan.fixed["A"].shape
    fixed = {name: x[None] if name in "BC" else x for name, x in scan.fixed.items()}
    state, steps = scan.state, []
    for t in range(scan.along["u"].shape[1]):
        now = {("x" if name == "u" else name): x[:, t] for name, x in scan.along.items()}
        y_t, state = selective_state_update(
            state, **now, **fixed, discretization=scan.options["discretization"]
        )
        steps.append(y_t)
    y, last = scan()
    check_close([torch.stack(steps, 1) if steps else y, state], [y, last])
    assert state.shape[1:] == (width, n)


def scattered(x: Tensor) -> Tensor:
    """The same values at other strides: axes reversed in memory, every second element."""
    reverse = tuple(reversed(range(x.ndim)))
    x = x.permute(reverse).contiguous().permute(reverse)
    return torch.stack([x, torch.full_like(x, float("nan"))], -1)[..., 0]


@given(scans())
def test_strides_do_not_matter(scan: Scan) -> None:
    leaves = scan.leaves()
    along = {name: scattered(x) for name, x in scan.along.items()}
    fixed = {name: scattered(x) for name, x in scan.fixed.items()}
    strided = list(replace(scan, along=along, fixed=fixed, state=scattered(scan.state))())
    plain = list(scan())
    check_close(strided + gradients(strided, leaves), plain + gradients(plain, leaves))


@given(scans())
def test_two_runs_are_the_same_bits(scan: Scan) -> None:
    leaves = scan.leaves()
    first, second = list(scan()), list(scan())
    pairs = zip(first + gradients(first, leaves), second + gradients(second, leaves), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)


@given(scans())
def test_backends_agree(scan: Scan) -> None:
    leaves = scan.leaves()
    got, expected = list(scan()), list(replace(scan, options=scan.options | {"backend": "reference"})())
    check_close(got + gradients(got, leaves), expected + gradients(expected, leaves))


@given(scans())
def test_fixed_matrices_are_their_broadcast_over_time(scan: Scan) -> None:
    """And one matrix for all channels, or a group of them, is that of each."""
    (batch, length, width), n = scan.along["u"].shape, scan.fixed["A"].shape[1]
    leaves, along = scan.leaves(), dict(scan.along)
    for name in "BC":
        m = scan.along.get(name, scan.fixed.get(name))
        m = m[:, :, None] if m.ndim == 3 else m
        m = m.repeat_interleave(width // m.shape[2], 2) if m.ndim == 4 else m
        along[name] = m.expand(batch, length, width, n)
    fixed = {name: x for name, x in scan.fixed.items() if name not in "BC"}
    spread, short = list(replace(scan, along=along, fixed=fixed)()), list(scan())
    check_close(spread + gradients(spread, leaves), short + gradients(short, leaves))


@given(scans())
def test_real_is_complex_with_no_imaginary_part(scan: Scan) -> None:
    """A complex state stands for itself and its conjugate, y = 2 Re(C x): so with half the C."""

    def real(x: Tensor) -> Tensor:
        return x.real.clone() if x.is_complex() else x

    along, fixed = ({name: real(x) for name, x in part.items()} for part in (scan.along, scan.fixed))
    scan = replace(scan, along=along, fixed=fixed, state=real(scan.state))
    leaves = scan.leaves()

    def wide(part: dict[str, Tensor]) -> dict[str, Tensor]:
        scales = {"A": 1.0, "B": 1.0, "C": 0.5}
        return {
            name: torch.complex(scales[name] * x, 0 * x) if name in scales else x for name, x in part.items()
        }

    y, last = replace(scan, along=wide(along), fixed=wide(fixed), state=scan.state + 0j)()
    assert not last.imag.any()
    embedded, plain = [y, last.real], list(scan())
    check_close(embedded + gradients(embedded, leaves), plain + gradients(plain, leaves))


@given(scans(method="zoh"), st.floats(0.1, 0.9))
def test_a_gap_split_in_two_is_the_same_flow(scan: Scan, share: float) -> None:
    """With a zero-order hold a gap g equals share g, then (1 - share) g, all inputs held."""
    along = {name: x.repeat_interleave(2, 1) for name, x in scan.along.items()}
    dt = scan.along["dt"]
    along["dt"] = torch.stack([dt * share, dt * (1 - share)], 2).flatten(1, 2)
    y, last = replace(scan, along=along)()
    check_close([y[:, 1::2], last], list(scan()))
