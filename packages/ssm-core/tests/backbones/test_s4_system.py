"""The mathematics of S4: its kernel against the HiPPO matrix itself, and the powers that carry a state."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssm_core.backbones.s4.layer import S4
from ssm_core.backbones.s4.spec import S4Config
from ssm_core.backbones.s4.system import Powers
from ssm_core.hippo import dplr_start, hippo_system


def hippo_kernel(kind: str, s4: S4, length: int) -> Tensor:
    """K of one channel, from the HiPPO matrices themselves and a dense bilinear step.

    The eigenbasis is needed for C only, which has no meaning but in it.
    """
    a, b, _ = hippo_system(kind, 64)
    delta, eye = s4.inv_dt[0].exp().detach(), torch.eye(64, dtype=torch.float64)
    a_bar = torch.linalg.solve(eye - delta / 2 * a, eye + delta / 2 * a)
    x = torch.linalg.solve(eye - delta / 2 * a, delta * b)
    # x in the eigenbasis is V^* x; 2 Re(C V^* x) = c x with real c.
    normal = a + sum(torch.outer(p, p) for p in hippo_system(kind, 64)[2])
    lambda_n, _, _ = dplr_start(kind, 64)
    skew = (normal - normal.T) / 2
    w, v = torch.linalg.eigh(-1j * skew.to(torch.complex128))
    v = v[:, :32] * (v[:1, :32].abs() / v[:1, :32])
    torch.testing.assert_close(w[:32], lambda_n.imag, rtol=1e-9, atol=1e-9)
    c = 2 * (torch.view_as_complex(s4.C)[0, 0] @ v.mH).real.detach()
    kernel = []
    for _ in range(length):
        kernel.append(c @ x)
        x = a_bar @ x
    return torch.stack(kernel)


def exact(kind: str, dt: float) -> S4:
    """A layer of one channel whose parameters are HiPPO's to double precision: a start is drawn in float32."""
    torch.manual_seed(0)
    s4 = S4(1, S4Config(state_size=64, start=kind, dt_min=dt, dt_max=dt)).double()  # type: ignore[arg-type]
    a, p, b = dplr_start(kind, 64)
    with torch.no_grad():
        s4.A_real.copy_((-a.real).log()[None])
        s4.A_imag.copy_(-a.imag[None])
        s4.P.copy_(torch.view_as_real(p)[:, None])
        s4.B.copy_(torch.view_as_real(b)[None])
        s4.inv_dt.fill_(math.log(dt))
    return s4


@pytest.mark.parametrize("length", [1, 2, 63, 64, 1024])
@pytest.mark.parametrize("dt", [1e-3, 1e-1])
def test_the_kernel_is_that_of_the_hippo_matrix(length: int, dt: float) -> None:
    s4 = exact("legs", dt)
    expected = hippo_kernel("legs", s4, length)
    assert (s4.kernel(length)[0, 0] - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("length", [63, 64, 1024])
def test_the_kernel_of_float32_parameters_loses_their_rounding_only(length: int) -> None:
    """The same numbers in single and in double precision: what the layer puts out in float32 is right to 1e-6."""
    torch.manual_seed(0)
    s4 = S4(2, S4Config(state_size=64))
    impulse = torch.zeros(1, length, 2)
    impulse[:, 0] = 1
    y, _ = s4(impulse)
    expected, _ = s4.double()(impulse.double())
    assert (y - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_a_kernel_is_a_piece_of_the_longer_one() -> None:
    """C is what is trained, not what is left of it after a length: another length is the same function."""
    s4 = S4(4, S4Config(state_size=16, dt_max=0.5)).double()
    long = s4.kernel(97)
    for length in (1, 2, 31, 64):
        torch.testing.assert_close(s4.kernel(length), long[..., :length], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 13, 16, 17, 33])
def test_powers_carry_a_state_in_and_out(length: int) -> None:
    g = torch.Generator().manual_seed(length)
    a = 0.4 * torch.randn(3, 4, 4, generator=g, dtype=torch.float64)
    b, c = torch.randn(2, 3, 4, generator=g, dtype=torch.float64)
    x0, u = torch.randn(2, 3, 4, generator=g).double(), torch.randn(2, length, 3, generator=g).double()
    lengths = torch.tensor([length // 2, length])
    u = torch.where(torch.arange(length)[:, None] < lengths[:, None, None], u, 0)
    powers = Powers(a, length)
    ends, echoes = [], torch.zeros(2, length, 3, dtype=torch.float64)
    for row in range(2):
        x = torch.zeros(3, 4, dtype=torch.float64)
        for time in range(int(lengths[row])):
            x = torch.einsum("hmn,hn->hm", a, x) + b * u[row, time, :, None]
        ends.append(x)
        x = x0[row]
        for time in range(length):
            x = torch.einsum("hmn,hn->hm", a, x)
            echoes[row, time] = (c * x).sum(-1)
    torch.testing.assert_close(powers.last_state(u, b, lengths), torch.stack(ends), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(powers.echo(x0, c, length), echoes, rtol=1e-11, atol=1e-11)
    after = powers.after(x0, lengths)
    for row, steps in enumerate(lengths.tolist()):
        expected = torch.einsum("hmn,hn->hm", torch.linalg.matrix_power(a, steps), x0[row])
        torch.testing.assert_close(after[row], expected, rtol=1e-11, atol=1e-11)
    cut = c - torch.einsum("hmn,hm->hn", torch.linalg.matrix_power(a, length), c)
    torch.testing.assert_close(powers.cut(c[None])[0], cut, rtol=1e-11, atol=1e-11)
