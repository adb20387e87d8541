"""Diagonal systems with constant coefficients, against their recurrence written as a loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ssm_core.lti import diagonal_lti, echo, equal_steps, last_state, two_sided

KINDS = {"conj": (True, True), "complex": (True, False), "real": (False, False)}


def system(kind: str, h: int = 3, n: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log_a, b, c (H, N) and D (H,), in double precision."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    log_a, b, c, d = -0.05 - 0.5 * draw(h, n).abs(), draw(h, n), draw(h, n), draw(h)
    if KINDS[kind][0]:
        log_a, b, c = (torch.complex(each, 2 * draw(h, n)) for each in (log_a, b, c))
    return log_a, b, c, d


def inputs(b: int, length: int, h: int = 3, seed: int = 5) -> Tensor:
    return torch.randn(b, length, h, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop(
    u: Tensor, log_a: Tensor, b: Tensor, c: Tensor, d: Tensor, x: Tensor | None, lengths: Any, conj: bool
) -> tuple[Tensor, Tensor]:
    """The recurrence, row by row and step by step."""
    ys, xs = torch.zeros_like(u), []
    for row in range(len(u)):
        now = torch.zeros_like(b) if x is None else x[row]
        for time in range(u.shape[1] if lengths is None else int(lengths[row])):
            now = log_a.exp() * now + b * u[row, time, :, None]
            y = (c * now).sum(-1).real
            ys[row, time] = (2 * y if conj else y) + d * u[row, time]
        xs.append(now)
    return ys, torch.stack(xs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 16, 17, 37])
@pytest.mark.parametrize("carried", [False, True])
def test_it_is_the_recurrence(kind: str, length: int, carried: bool) -> None:
    log_a, b, c, d = system(kind)
    u = inputs(2, length)
    x = (
        system(kind, seed=9)[1].repeat(2, 1, 1) * torch.tensor([1.0, -2.0])[:, None, None]
        if carried
        else None
    )
    y, after = diagonal_lti(u, log_a, b, c, d, x, conj=KINDS[kind][1])
    expected, x_expected = loop(u, log_a, b, c, d, x, None, KINDS[kind][1])
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after, x_expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_end_where_their_lengths_say(kind: str) -> None:
    log_a, b, c, d = system(kind)
    lengths, x = torch.tensor([0, 1, 7, 11]), system(kind, seed=9)[1].repeat(4, 1, 1)
    u = torch.where(torch.arange(11)[:, None] < lengths[:, None, None], inputs(4, 11), 0)
    y, after = diagonal_lti(u, log_a, b, c, d, x, lengths_b=lengths, conj=KINDS[kind][1])
    expected, x_expected = loop(u, log_a, b, c, d, x, lengths, KINDS[kind][1])
    torch.testing.assert_close(after, x_expected, rtol=1e-12, atol=1e-12)
    for row, stop in enumerate(lengths.tolist()):
        torch.testing.assert_close(y[row, :stop], expected[row, :stop], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_with_carried_state_are_the_whole(kind: str) -> None:
    log_a, b, c, d = system(kind)
    u = inputs(2, 23)
    y, after = diagonal_lti(u, log_a, b, c, d, conj=KINDS[kind][1])
    first, x = diagonal_lti(u[:, :9], log_a, b, c, d, conj=KINDS[kind][1])
    second, x = diagonal_lti(u[:, 9:], log_a, b, c, d, x, conj=KINDS[kind][1])
    torch.testing.assert_close(torch.cat([first, second], 1), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x, after, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    log_a, b, c, d = system(kind, h=2, n=2)
    x, conj = system(kind, h=2, n=2, seed=9)[1].repeat(2, 1, 1), KINDS[kind][1]
    given = [t.clone().requires_grad_() for t in (inputs(2, 6, h=2), log_a, b, c, d, x)]
    lengths = torch.tensor([4, 6])

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        y, after = diagonal_lti(*tensors, lengths_b=lengths, conj=conj)
        return y, torch.view_as_real(after) if after.is_complex() else after

    assert torch.autograd.gradcheck(run, given)


@pytest.mark.parametrize("wide_log", [False, True])
def test_float32_is_near_float64_over_4096_steps(wide_log: bool) -> None:
    """Slow modes that turn fast: what rounding does to a phase is seen at the end, unless log_a is wide."""
    log_a, b, c, d = system("conj")
    log_a = torch.complex(log_a.real / 500, log_a.imag)
    u = inputs(1, 4096)
    narrow = (
        u.float(),
        log_a if wide_log else log_a.to(torch.complex64),
        *(t.to(torch.complex64) for t in (b, c)),
    )
    x = b[None]
    expected, x_expected = diagonal_lti(u, log_a, b, c, d, x)
    y, after = diagonal_lti(*narrow, d.float(), x.to(torch.complex64))
    assert (y.dtype, after.dtype) == (torch.float32, torch.complex64)
    allowed = 2e-6 if wide_log else 2e-4
    assert (y - expected).abs().max() < allowed * expected.abs().max()
    assert (after - x_expected).abs().max() < allowed * x_expected.abs().max()


def test_the_state_is_complex_where_only_the_decays_are() -> None:
    log_a, _, _, _ = system("conj")
    b = torch.ones(3, 4, dtype=torch.float64)
    x = last_state(inputs(2, 5), log_a, b)
    expected = last_state(inputs(2, 5), log_a, b.to(log_a.dtype))
    assert x.is_complex()
    torch.testing.assert_close(x, expected)
    y = echo(b.expand(2, 3, 4), log_a, b, 5)
    torch.testing.assert_close(y, echo(b.expand(2, 3, 4).to(log_a.dtype), log_a, b, 5))


@pytest.mark.parametrize("start", ["next", "same"])
def test_two_kernels_convolve_to_both_sides(start: str) -> None:
    u, v = inputs(2, 6), inputs(2, 6, seed=6)
    k, k_back, d = inputs(1, 6, seed=1)[0].mT, inputs(1, 6, seed=2)[0].mT, inputs(1, 1, seed=3)[0, 0]
    lag = 1 if start == "next" else 0
    for other in (None, v):
        expected = d * u
        for t in range(6):
            for s in range(6):
                if s <= t:
                    expected[:, t] += k[:, t - s] * u[:, s]
                if s >= t + lag:
                    expected[:, t] += k_back[:, s - t - lag] * (u if other is None else other)[:, s]
        y = two_sided(u, k, k_back, d, u_back_blh=other, start=start)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


def test_equal_steps_are_those_of_1_before_the_end() -> None:
    ones, lengths = torch.ones(2, 3), torch.tensor([1, 3])
    assert equal_steps(None, None)
    assert equal_steps(ones, None)
    padded = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert equal_steps(padded, lengths)
    assert not equal_steps(padded, None)
    assert not equal_steps(ones * 2, lengths)
    assert not equal_steps(ones.clone().requires_grad_(), None)
