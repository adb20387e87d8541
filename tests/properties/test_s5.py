"""S5 in all its guises: a scan, a recurrence and a convolution give one thing, however it is cut, masked or stepped."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssm_core.backbones.s5.layer import S5
from ssm_core.backbones.s5.spec import S5Config

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}

lengths = st.integers(1, 24) | st.sampled_from((31, 63, 65, 127))
dtypes = st.sampled_from((torch.float64, torch.float32))


@st.composite
def layers(draw: Any, causal: bool = True) -> tuple[S5, Any]:
    """Draw a layer away from its start, and a maker of tensors in its precision."""
    seed, dtype = draw(st.integers(0, 2**16)), draw(dtypes)
    blocks = draw(st.integers(1, 3))
    config = S5Config(
        state_size=2 * blocks * draw(st.integers(1, 3)),
        blocks=blocks,
        discretization=draw(st.sampled_from(("zoh", "bilinear"))),
        dt_min=0.02,
        dt_max=0.8,
        clip_eigs=draw(st.booleans()),
    )
    torch.manual_seed(seed)
    s5 = S5(draw(st.integers(1, 7)), config, causal=causal)
    with torch.no_grad():
        for parameter in s5.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    s5 = s5.to(dtype)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype)

    return s5, tensor


def close(actual: Tensor, expected: Tensor, slack: float = 1.0) -> None:
    """Compare relative to the largest value expected."""
    largest = expected.abs().max().item() if expected.numel() else 0.0
    tolerance = slack * TOLERANCE[actual.real.dtype] * max(1.0, largest)
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def discrete(s5: S5, gap: Tensor) -> tuple[Tensor, Tensor]:
    """Return A bar (N,) and B bar (N, H) for one gap, in double precision, by the formulas of the paper."""
    eigenvalues = torch.complex(s5.Lambda_re.double(), s5.Lambda_im.double())
    if s5.config.clip_eigs:
        eigenvalues = torch.complex(eigenvalues.real.clamp(max=-1e-4), eigenvalues.imag)
    z = s5.log_step.double().exp() * gap.double() * eigenvalues
    b = torch.view_as_complex(s5.B.double())
    if s5.config.discretization == "zoh":
        return z.exp(), ((z.exp() - 1) / eigenvalues)[:, None] * b
    return (1 + z / 2) / (1 - z / 2), (z / eigenvalues / (1 - z / 2))[:, None] * b


def recurrence(s5: S5, u: Tensor, gaps: Tensor) -> Tensor:
    """Run one row (L, H) element by element in double precision."""
    c, x, out = torch.view_as_complex(s5.C.double()), 0, []
    for u_k, gap in zip(u.double(), gaps, strict=True):
        a_bar, b_bar = discrete(s5, gap)
        x = a_bar * x + b_bar @ u_k.to(b_bar.dtype)
        out.append(2 * (c @ x).real + s5.D.double() * u_k)
    return torch.stack(out).to(u.dtype)


def convolution(s5: S5, u: Tensor) -> Tensor:
    """Convolve one row (L, H) with the kernel K_j = 2 Re(C A^j B), in double precision."""
    a_bar, b_bar = discrete(s5, torch.ones(()))
    powers = a_bar ** torch.arange(len(u))[:, None]
    kernel = 2 * torch.einsum("hn,jn,ni->jhi", torch.view_as_complex(s5.C.double()), powers, b_bar).real
    out = [
        torch.einsum("jhi,ji->h", kernel[: k + 1].flip(0), u.double()[: k + 1])
        + s5.D.double() * u[k].double()
        for k in range(len(u))
    ]
    return torch.stack(out).to(u.dtype)


@given(layers(), lengths)
def test_scan_is_recurrence_is_convolution(drawn: Any, length: int) -> None:
    s5, tensor = drawn
    u = tensor(2, length, s5.d_model)
    with torch.no_grad():
        y, _ = s5(u)
        for row in range(2):
            close(y[row], recurrence(s5, u[row], torch.ones(length)))
            close(y[row], convolution(s5, u[row]))


@given(layers(), lengths)
def test_scan_is_recurrence_with_gaps(drawn: Any, length: int) -> None:
    s5, tensor = drawn
    u, gaps = tensor(2, length, s5.d_model), tensor(2, length).abs() * 3
    with torch.no_grad():
        y, _ = s5(u, dt_bl=gaps)
        for row in range(2):
            close(y[row], recurrence(s5, u[row], gaps[row]))


@given(layers(), lengths, st.data())
def test_cut_anywhere_with_the_state_carried(drawn: Any, length: int, data: Any) -> None:
    s5, tensor = drawn
    cut = data.draw(st.integers(0, length))
    gaps = tensor(2, length).abs() if data.draw(st.booleans()) else None
    u = tensor(2, length, s5.d_model).requires_grad_()
    weights = tensor(2, length, s5.d_model)
    whole, end = s5(u, dt_bl=gaps)
    parts, state = [], None
    for piece in (slice(cut), slice(cut, None)):
        y, state = s5(u[:, piece], dt_bl=None if gaps is None else gaps[:, piece], state=state)
        parts.append(y)
    pieces = torch.cat(parts, 1)
    close(pieces, whole)
    close(state["x"], end["x"])
    wanted = (u, *s5.parameters())
    expected = torch.autograd.grad((whole * weights).sum(), wanted)
    for g, e in zip(torch.autograd.grad((pieces * weights).sum(), wanted), expected, strict=True):
        close(g, e, slack=10)


@given(layers(), st.integers(1, 24), st.booleans())
def test_steps_are_the_scan(drawn: Any, length: int, with_gaps: bool) -> None:
    s5, tensor = drawn
    u, gaps = tensor(3, length, s5.d_model), tensor(3, length).abs() if with_gaps else None
    with torch.no_grad():
        y, end = s5(u, dt_bl=gaps)
        state = s5.init_state(3)
        for k in range(length):
            y_k, state = s5.step(u[:, k], dt_b=None if gaps is None else gaps[:, k], state=state)
            close(y_k, y[:, k])
        close(state["x"], end["x"])


@given(layers(), lengths, st.data())
def test_no_gradient_comes_from_the_future_or_another_row(drawn: Any, length: int, data: Any) -> None:
    s5, tensor = drawn
    k = data.draw(st.integers(0, length - 1))
    u, gaps = tensor(3, length, s5.d_model).requires_grad_(), tensor(3, length).abs().requires_grad_()
    y, _ = s5(u, dt_bl=gaps)
    for gradient in torch.autograd.grad(y[1, k].square().sum(), (u, gaps)):
        assert not gradient[[0, 2]].any()
        assert not gradient[1, k + 1 :].any()


@given(layers(), lengths, st.data())
def test_padding_changes_nothing(drawn: Any, length: int, data: Any) -> None:
    s5, tensor = drawn
    valid = [data.draw(st.integers(0, length)) for _ in range(2)]
    mask = torch.arange(length) < torch.tensor(valid)[:, None]
    u = tensor(2, length, s5.d_model).masked_fill(~mask[..., None], torch.nan).requires_grad_()
    gaps = tensor(2, length).abs().masked_fill(~mask, torch.nan)
    y, end = s5(u, dt_bl=gaps, mask_bl=mask)
    for row, n in enumerate(valid):
        alone, state = s5(u[row : row + 1, :n], dt_bl=gaps[row : row + 1, :n])
        close(y[row, :n], alone[0])
        close(end["x"][row], state["x"][0])
    (gradient,) = torch.autograd.grad(torch.where(mask[..., None], y, 0).square().sum(), u)
    assert gradient.isfinite().all()
    assert not gradient[~mask].any()


@given(layers(), st.integers(1, 24), st.data())
def test_masked_elements_hand_on_their_gaps(drawn: Any, length: int, data: Any) -> None:
    s5, tensor = drawn
    mask = torch.tensor([data.draw(st.lists(st.booleans(), min_size=length, max_size=length))])
    u, gaps = tensor(1, length, s5.d_model), tensor(1, length).abs()
    with torch.no_grad():
        y, _ = s5(u, dt_bl=gaps, mask_bl=mask)
        ends = gaps.cumsum(1)[mask]
        merged = torch.diff(ends, prepend=ends.new_zeros(1))[None]
        alone, _ = s5(u[mask][None], dt_bl=merged)
        close(y[mask], alone[0])


@given(layers(), st.integers(1, 8), st.integers(2, 5), st.integers(0, 2**16))
def test_zero_order_hold_is_a_semigroup(drawn: Any, length: int, parts: int, seed: int) -> None:
    """Under an input that is held, it does not matter into how many gaps the time is cut."""
    s5, tensor = drawn
    if s5.config.discretization != "zoh":
        return
    u, gaps = tensor(1, length, s5.d_model), tensor(1, length).abs()
    shares = torch.rand(length, parts, generator=torch.Generator().manual_seed(seed)).to(u.dtype)
    shares = (gaps[0, :, None] * shares / shares.sum(1, keepdim=True)).view(1, -1)
    with torch.no_grad():
        y, end = s5(u, dt_bl=gaps)
        fine, state = s5(u.repeat_interleave(parts, 1), dt_bl=shares)
        close(state["x"], end["x"], slack=10)
        close(fine[:, parts - 1 :: parts], y, slack=10)


@given(layers(), lengths, st.floats(0.1, 4.0))
def test_time_has_no_unit_of_its_own(drawn: Any, length: int, factor: float) -> None:
    s5, tensor = drawn
    u, gaps = tensor(2, length, s5.d_model), tensor(2, length).abs()
    with torch.no_grad():
        scaled, _ = s5(u, dt_bl=gaps * factor)
        s5.log_step += torch.tensor(factor, dtype=torch.float64).log()
        close(scaled, s5(u, dt_bl=gaps)[0])


@given(layers(causal=False), st.integers(1, 24), st.booleans())
def test_the_bidirectional_layer_is_two_causal_ones(drawn: Any, length: int, with_gaps: bool) -> None:
    """The second one runs backwards, with its own C, no D, and the gaps moved by one."""
    both, tensor = drawn
    u = tensor(2, length, both.d_model)
    gaps = tensor(2, length).abs() if with_gaps else torch.ones(2, length, dtype=u.dtype)
    after = torch.cat([gaps[:, 1:], torch.ones(2, 1, dtype=u.dtype)], 1)
    one = S5(both.d_model, both.config).to(u.dtype)
    weights = {name: value for name, value in both.state_dict().items() if name != "C_reverse"}
    with torch.no_grad():
        y, _ = both(u, dt_bl=gaps if with_gaps else None)
        one.load_state_dict(weights)
        forwards, _ = one(u, dt_bl=gaps)
        one.load_state_dict({**weights, "C": both.C_reverse, "D": torch.zeros_like(both.D)})
        backwards, _ = one(u.flip(1), dt_bl=after.flip(1))
        close(y, forwards + backwards.flip(1))
