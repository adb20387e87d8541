from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssm_data.pendulum import trunk as module
from ssm_data.pendulum.trunk import plain, trunk

CHUNK = 16


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """Many chunks of few frames: what happens at their borders is what may go wrong."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", CHUNK)
        yield


def weights(seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    shapes = ((12, 1, 5, 5), (12,), (12, 12, 3, 3), (12,))
    scales = (0.2, 0.1, 0.1, 0.1)
    made = [torch.randn(shape, generator=rng) * scale for shape, scale in zip(shapes, scales, strict=True)]
    return tuple(w.to(device, dtype).requires_grad_() for w in made)


def frames(n: int, seed: int = 0) -> Tensor:
    """Half black, as pendulum frames are: ties between pooled places are the rule."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, 24, 24), dtype=torch.uint8, generator=rng)
    x[:, :, :12] = 0
    return x


def both(n: int, seed: int, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    x, w = frames(n, seed), weights(seed, dtype)
    results = []
    for form in (trunk, plain):
        y = form(x, w)
        up = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed + 1)).to(dtype)
        results.append([y.detach(), *torch.autograd.grad((y * up).sum(), w)])
    return results[0], results[1]


@settings(deadline=None)
@given(n=st.sampled_from([1, 2, 7, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3]), seed=st.integers(0, 3))
def test_fast_form_is_the_plain_one_in_float64(n: int, seed: int) -> None:
    for fast, slow in zip(*both(n, seed, torch.float64), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11 * float(slow.abs().max()))


@settings(deadline=None)
@given(n=st.sampled_from([1, 50, 2 * CHUNK]), seed=st.integers(0, 3))
def test_fast_form_is_the_plain_one_in_float32(n: int, seed: int) -> None:
    (fast, *_), (slow, *_) = both(n, seed, torch.float32)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


def test_gradients_are_as_close_to_exact_as_those_of_the_plain_form() -> None:
    fast, slow = both(50, 0, torch.float32)
    exact = both(50, 0, torch.float64)[1]
    for name, a, b, e in zip(("y", "k1", "b1", "k2", "b2"), fast, slow, exact, strict=True):
        scale = e.abs().max()
        error, plain_error = ((v.double() - e).abs().max() / scale for v in (a, b))
        assert error < 2e-5, name
        assert error < 4 * plain_error + 1e-6, name


def test_ties_have_one_winner() -> None:
    """Kernels of one sign on flat frames: all four pooled places are equal, and the gradient must count once."""
    w = tuple(torch.ones_like(v).requires_grad_() for v in weights(dtype=torch.float64))
    x = torch.full((3, 24, 24), 17, dtype=torch.uint8)
    fast, slow = (torch.autograd.grad(form(x, w).sum(), w) for form in (trunk, plain))
    # Where all are equal any choice is a gradient; the bias's does not depend on the choice.
    torch.testing.assert_close(fast[3], slow[3])
    torch.testing.assert_close(fast[1], slow[1])


def test_dead_units_get_no_gradient() -> None:
    w = weights()
    with torch.no_grad():
        w[1].fill_(-100.0)
    assert all(not g.any() for g in torch.autograd.grad(trunk(frames(3), w).sum(), w)[:1])


def test_it_is_deterministic() -> None:
    first, second = (both(CHUNK + 7, 1, torch.float32)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_no_frames_at_all() -> None:
    w = weights()
    y = trunk(frames(0), w)
    assert y.shape == (0, 108)
    assert all(not g.any() for g in torch.autograd.grad(y.sum(), w))


def test_a_strided_gradient_is_taken() -> None:
    w = weights()
    y = trunk(frames(4), w)
    (expected,) = torch.autograd.grad(y, w[:1], torch.ones_like(y), retain_graph=True)
    (found,) = torch.autograd.grad(y, w[:1], torch.ones(()).expand_as(y))
    torch.testing.assert_close(found, expected)


def test_frozen_weights_and_evaluation() -> None:
    w = weights()
    with torch.inference_mode():
        a = trunk(frames(3), w)
    frozen = tuple(v.detach() for v in w)
    assert torch.equal(trunk(frames(3), frozen), a)
    half = (frozen[0], frozen[1], w[2], w[3])
    assert torch.autograd.grad(trunk(frames(3), half).sum(), w[2:])[0].any()


def test_under_autocast_it_stays_in_float32() -> None:
    w = weights()
    with torch.autocast("cpu", torch.bfloat16):
        y = trunk(frames(5), w)
        (grad,) = torch.autograd.grad(y.sum(), w[:1])
    assert torch.equal(y, trunk(frames(5), w))
    assert grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_and_float_frames_take_the_plain_form(dtype: torch.dtype) -> None:
    w = weights(dtype=dtype)
    assert trunk(frames(2), w).dtype == dtype
    full = weights()
    torch.testing.assert_close(trunk(frames(2).float(), full), trunk(frames(2), full), rtol=1e-5, atol=1e-5)


def test_under_compile_the_plain_form_is_traced_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    w = weights()
    compiled = torch.compile(trunk, backend="eager", fullgraph=True)
    monkeypatch.setattr(module._Trunk, "forward", None)
    assert torch.equal(compiled(frames(2), w), plain(frames(2), w))


def test_a_second_derivative_is_refused() -> None:
    w = weights(dtype=torch.float64)
    up = torch.ones(1, 108, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(trunk(frames(1), w), w[:1], up, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    x, w = frames(5), weights(device="cuda")
    torch.testing.assert_close(trunk(x.cuda(), w).cpu(), plain(x, weights()), rtol=1e-3, atol=1e-3)
