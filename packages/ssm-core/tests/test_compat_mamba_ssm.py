"""The originals' signatures and layouts, against the formulas written out."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.compat.mamba_ssm import selective_scan_fn, selective_state_update


def test_signatures_are_the_originals():
    scan = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus", "return_last_state"]
    update = ["state", "x", "dt", "A", "B", "C", "D", "z", "dt_bias", "dt_softplus", "state_batch_indices"]
    assert list(inspect.signature(selective_scan_fn).parameters) == scan
    assert list(inspect.signature(selective_state_update).parameters) == update


def loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """x <- exp(delta A) x + delta B u and y = C x, time last, B and C (B, D, N, L)."""
    x, out = A.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        gap = delta[:, :, t, None]
        x = torch.exp(gap * A) * x + gap * B[..., t] * u[:, :, t, None]
        y = (C[..., t] * x).sum(-1)
        out.append(2 * y.real if y.is_complex() else y)
    return torch.stack(out, 2), x


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("form", ["fixed", "one", "groups"])
def test_selective_scan_fn(wide, form):
    torch.manual_seed(0)
    batch, width, n, length = 2, 4, 3, 6
    kind = torch.complex64 if wide else torch.float32
    u, delta, z = torch.randn(3, batch, width, length)
    A = -torch.rand(width, n)
    A = torch.complex(A, torch.randn(width, n)) if wide else A
    D, bias = torch.randn(2, width)
    size = {"fixed": (width, n), "one": (batch, n, length), "groups": (batch, 2, n, length)}[form]
    B, C = torch.randn(size, dtype=kind), torch.randn(size, dtype=kind)

    def spread(m: Tensor) -> Tensor:
        if form == "fixed":
            return m[None, ..., None].expand(batch, width, n, length)
        return m[:, None].expand(-1, width, -1, -1) if form == "one" else m.repeat_interleave(width // 2, 1)

    gap = F.softplus(delta + bias[:, None])
    y, x = loop(u, gap, A, spread(B), spread(C))
    expected = (y + D[:, None] * u) * F.silu(z)
    pack = wide and form != "fixed"
    B, C = (torch.view_as_real(m).flatten(-2) if pack else m for m in (B, C))
    got, last = selective_scan_fn(u, delta, A, B, C, D, z, bias, True, True)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last, x, rtol=1e-4, atol=1e-5)
    alone = selective_scan_fn(u, delta, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True)
    assert torch.equal(alone, got)


def test_packed_complex_matrices_keep_double_precision():
    torch.manual_seed(0)
    u, delta = torch.randn(2, 4, 6, dtype=torch.float64), torch.rand(2, 4, 6, dtype=torch.float64)
    A = torch.complex(-torch.rand(4, 3).double(), torch.randn(4, 3).double())
    B, C = torch.randn(2, 2, 3, 6, dtype=torch.complex128)
    expected, _ = loop(u, delta, A, B[:, None].expand(-1, 4, -1, -1), C[:, None].expand(-1, 4, -1, -1))
    got = selective_scan_fn(u, delta, A, *(torch.view_as_real(m).flatten(-2) for m in (B, C)))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_the_update_goes_on_where_the_scan_ended():
    torch.manual_seed(0)
    u, delta = torch.randn(2, 4, 6), torch.rand(2, 4, 6)
    A, B, C = -torch.rand(4, 3), torch.randn(2, 3, 6), torch.randn(2, 3, 6)
    whole, last = selective_scan_fn(u, delta, A, B, C, return_last_state=True)
    _, half = selective_scan_fn(u[..., :5], delta[..., :5], A, B[..., :5], C[..., :5], return_last_state=True)
    states = torch.full((5, 4, 3), 7.0)
    rows = torch.tensor([3, 1], dtype=torch.int32)
    states[rows.long()] = half
    y = selective_state_update(
        states, u[..., 5], delta[..., 5], A, B[..., 5], C[..., 5], state_batch_indices=rows
    )
    torch.testing.assert_close(y, whole[..., 5])
    torch.testing.assert_close(states[rows.long()], last)
    assert (states[[0, 2, 4]] == 7).all()


def test_the_update_takes_heads():
    torch.manual_seed(0)
    state, x, dt = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4), torch.rand(2, 3, 4)
    A, B, C = -torch.rand(3, 4, 5), torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    expected = torch.exp(dt[..., None] * A) * state + (dt * x)[..., None] * B[:, :, None]
    y = selective_state_update(state, x, dt, A, B, C)
    torch.testing.assert_close(state, expected)
    torch.testing.assert_close(y, (expected * C[:, :, None]).sum(-1))
