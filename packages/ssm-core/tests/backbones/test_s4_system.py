"""The mathematics of S4: its kernel against the HiPPO matrix itself, and the powers that carry a state."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from ssm_core.backbones.s4.layer import S4
from ssm_core.backbones.s4.powers import Powers, Squares, Steps
from ssm_core.backbones.s4.powers import powers as powers_of
from ssm_core.backbones.s4.spec import S4Config
from ssm_core.backbones.s4.system import System
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
@pytest.mark.parametrize("dt", [1e-3, 1e-1])
@torch.no_grad()
def test_the_kernel_is_what_steps_make_of_an_impulse(length: int, dt: float) -> None:
    s4 = exact("legs", dt)
    s4.D.zero_()
    state, outputs = s4.init_state(1), []
    for time in range(length):
        y, state = s4.step(torch.full((1, 1), float(time == 0), dtype=torch.float64), state=state)
        outputs.append(y[0, 0])
    kernel = s4.kernel(length)[0, 0]
    assert (torch.stack(outputs) - kernel).abs().max() <= 1e-12 * kernel.abs().max()


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


def some_system(rank: int) -> System:
    """Three channels of two pairs of states, away from any start."""
    g = torch.Generator().manual_seed(rank)
    a = torch.complex(-0.2 - torch.rand(3, 2, generator=g), torch.randn(3, 2, generator=g)).to(
        torch.complex128
    )
    p = torch.randn(3, rank, 2, generator=g, dtype=torch.complex128)
    b = torch.randn(3, 2, generator=g, dtype=torch.complex128)
    parts = [each.requires_grad_() for each in (a, p, b)]
    return System(*parts, dt=(0.1 + torch.rand(3, generator=g, dtype=torch.float64)).requires_grad_())


def ways(system: System, length: int) -> dict[str, Powers]:
    return {"squares": Squares(system.matrices()[0], length), "steps": Steps(system, length)}


@pytest.mark.parametrize("way", ["squares", "steps"])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 13, 16, 17, 33])
def test_powers_carry_a_state_in_and_out(length: int, way: str) -> None:
    g = torch.Generator().manual_seed(length)
    system = some_system(rank=1 + length % 2)
    a, b = (each.detach() for each in system.matrices())
    c = torch.randn(3, 4, generator=g, dtype=torch.float64)
    x0, u = torch.randn(2, 3, 4, generator=g).double(), torch.randn(2, length, 3, generator=g).double()
    lengths = torch.tensor([length // 2, length])
    u = torch.where(torch.arange(length)[:, None] < lengths[:, None, None], u, 0)
    powers = ways(system, length)[way]
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
    exact = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-11)
    exact(powers.last_state(u, b, lengths).detach(), torch.stack(ends))
    exact(powers.echo(x0, c).detach(), echoes)
    after = powers.after(x0, lengths).detach()
    for row, steps in enumerate(lengths.tolist()):
        exact(after[row], torch.einsum("hmn,hn->hm", torch.linalg.matrix_power(a, steps), x0[row]))
    cut = c - torch.einsum("hmn,hm->hn", torch.linalg.matrix_power(a, length), c)
    exact(powers.cut(c[None])[0].detach(), cut)


def test_both_ways_have_the_same_gradients() -> None:
    found = []
    for way in ("squares", "steps"):
        system = some_system(rank=2)
        u, c = torch.linspace(-1, 1, 54, dtype=torch.float64).view(2, 9, 3), torch.ones(1, 3, 4).double()
        powers = ways(system, 9)[way]
        x = powers.last_state(u, system.inputs(), None)
        scalar = (powers.cut(c) ** 2).sum() + (powers.echo(x, c[0]) ** 2).sum()
        found.append(torch.autograd.grad(scalar, (system.a, system.p, system.b, system.dt)))
    for squares, steps in zip(*found, strict=True):
        torch.testing.assert_close(steps, squares, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("states", "length", "way"), [(64, 64, Steps), (64, 1024, Squares), (256, 1024, Steps)]
)
def test_many_states_and_short_sequences_go_step_by_step(states: int, length: int, way: type) -> None:
    layer = S4(1, S4Config(state_size=states))
    assert type(powers_of(layer.system(), length)) is way
