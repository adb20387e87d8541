"""What State Memory Replay guarantees: short causal memory, bounded gain, bounded response to disturbed inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ssm_core.testing import TinyMixer
from ssm_smr import smr_gate
from ssm_smr.layer import SMR
from ssm_smr.spec import SMRConfig

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@dataclass(frozen=True)
class Gate:
    """A drawn gate and inputs for it: u (B, L, H), weight (H, tau) or (H, H, tau)."""

    u: Tensor
    weight: Tensor
    bias: Tensor | None
    scale: float
    memory: Tensor

    @property
    def tau(self) -> int:
        return self.weight.shape[-1]

    def __call__(self, u: Tensor | None = None, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return smr_gate(self.u if u is None else u, self.weight, self.bias, memory, gate_scale=self.scale)


class Through(nn.Module):
    """A mixer that hands back what it is given: what SMR round it returns is u'."""

    causal = streaming = takes_dt = True

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    def init_state(self, batch_size: int, **_: Any) -> tuple[()]:
        return ()

    def forward(self, x_bld: Tensor, **_: Any) -> tuple[Tensor, tuple[()]]:
        return x_bld, ()


def in_a_layer(weight: Tensor, bias: Tensor | None, scale: float) -> SMR:
    """The gate with these weights, as a layer has it."""
    dense = weight.ndim == 3
    config = SMRConfig(
        tau=weight.shape[-1],
        mode="dense" if dense else "depthwise",
        bias=bias is not None,
        gate_scale=scale,
    )
    smr = SMR(Through(len(weight)), config)
    with torch.no_grad():
        smr.weight = nn.Parameter(weight.clone())
        smr.bias = None if bias is None else nn.Parameter(bias.clone())
    return smr


@st.composite
def gates(draw: Any) -> Gate:
    b, l, h = draw(st.integers(1, 3)), draw(st.integers(1, 17)), draw(st.integers(1, 5))
    tau, dense, bias = draw(st.integers(1, 6)), draw(st.booleans()), draw(st.booleans())
    dtype = draw(st.sampled_from((torch.float64, torch.float32)))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    weight = tensor(h, h, tau) if dense else tensor(h, tau)
    scale = draw(st.sampled_from((1.0, 2.0)))
    return Gate(tensor(b, l, h), weight, tensor(h) if bias else None, scale, tensor(b, tau - 1, h))


def close(actual: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def sums(gate: Gate, u: Tensor, memory: Tensor) -> Tensor:
    """What the sigmoid is taken of: z_k = b + sum_i W_i u_(k-i)."""
    padded = torch.cat([memory, u], 1)
    out = []
    for k in range(u.shape[1]):
        z = torch.zeros_like(u[:, 0]) if gate.bias is None else gate.bias.expand_as(u[:, 0])
        for i in range(gate.tau):
            past, w = padded[:, k + gate.tau - 1 - i], gate.weight[..., gate.tau - 1 - i]
            z = z + (past @ w.T if w.ndim == 2 else past * w)
        out.append(z)
    return torch.stack(out, 1)


def by_loop(gate: Gate, u: Tensor, memory: Tensor) -> Tensor:
    """The second equation of the two: u'_k = s sigmoid(z_k) u_k."""
    return gate.scale * torch.sigmoid(sums(gate, u, memory)) * u


@given(gates())
def test_the_gate_is_its_equation(gate: Gate) -> None:
    gated, memory = gate(memory=gate.memory)
    close(gated, by_loop(gate, gate.u, gate.memory))
    assert torch.equal(memory, torch.cat([gate.memory, gate.u], 1)[:, gate.u.shape[1] :])
    close(gate()[0], by_loop(gate, gate.u, torch.zeros_like(gate.memory)))


@given(gates(), st.data())
def test_memory_reaches_back_tau_steps_and_never_ahead(gate: Gate, data: Any) -> None:
    k = data.draw(st.integers(0, gate.u.shape[1] - 1))
    u = gate.u.clone().requires_grad_()
    gradient = torch.autograd.grad(gate(u)[0][0, k].square().sum(), u)[0]
    assert not gradient[1:].any(), "rows are independent"
    assert not gradient[0, k + 1 :].any(), "the future"
    assert not gradient[0, : max(0, k - gate.tau + 1)].any(), "the past beyond the memory"


@given(gates(), st.data())
def test_steps_and_pieces_are_the_whole(gate: Gate, data: Any) -> None:
    length = gate.u.shape[1]
    cut = data.draw(st.integers(0, length))
    whole, end = gate(memory=gate.memory)
    first, held = gate(gate.u[:, :cut], gate.memory)
    second, held = gate(gate.u[:, cut:], held)
    close(torch.cat([first, second], 1), whole)
    assert torch.equal(held, end)
    held, out = gate.memory, []
    for k in range(length):
        one, held = gate(gate.u[:, k : k + 1], held)
        out.append(one)
    close(torch.cat(out, 1), whole)
    assert torch.equal(held, end)


@given(gates())
def test_the_factor_lies_between_0_and_the_scale(gate: Gate) -> None:
    gated, _ = gate()
    assert (gated.abs() <= gate.scale * gate.u.abs()).all()
    assert (gated * gate.u >= 0).all(), "the sign is kept"
    ones = torch.ones_like(gate.u)
    factor, _ = gate(ones)
    assert ((factor > 0) & (factor <= gate.scale)).all()
    # Far above zero the sigmoid rounds to 1: from 17 on in float32.
    moderate = sums(gate, ones, torch.zeros_like(gate.memory)).abs() < 15
    assert (factor < gate.scale)[moderate].all()


@given(gates())
def test_an_open_gate_is_the_identity_and_an_empty_one_halves(gate: Gate) -> None:
    wide = torch.full((gate.u.shape[2],), 1e4, dtype=gate.u.dtype)
    assert torch.equal(smr_gate(gate.u, gate.weight, wide)[0], gate.u)
    nothing = torch.zeros_like(gate.weight)
    assert torch.equal(smr_gate(gate.u, nothing)[0], gate.u / 2)
    assert torch.equal(smr_gate(gate.u, nothing, 0 * wide, gate_scale=2.0)[0], gate.u)


@given(gates())
def test_depthwise_is_dense_with_a_diagonal(gate: Gate) -> None:
    if gate.weight.ndim == 3:
        return
    diagonal = torch.diag_embed(gate.weight.T).permute(1, 2, 0)
    dense = Gate(gate.u, diagonal.contiguous(), gate.bias, gate.scale, gate.memory)
    close(dense(memory=gate.memory)[0], gate(memory=gate.memory)[0])


@given(gates(), st.data())
def test_masked_inputs_are_as_if_removed(gate: Gate, data: Any) -> None:
    length = gate.u.shape[1]
    mask = torch.tensor(
        [data.draw(st.lists(st.booleans(), min_size=length, max_size=length)) for _ in gate.u]
    )
    poisoned = gate.u.masked_fill(~mask[..., None], torch.nan)
    smr = in_a_layer(gate.weight, gate.bias, gate.scale)
    gated, state = smr(poisoned, mask_bl=mask, state={"memory": gate.memory, "inner": ()})
    memory = state["memory"]
    assert not gated[~mask].any()
    for row in range(len(mask)):
        alone, left = gate(gate.u[row : row + 1, mask[row]], gate.memory[row : row + 1])
        close(gated[row, mask[row]], alone[0])
        assert torch.equal(memory[row], left[0])


@given(gates(), st.data())
def test_memory_does_not_cross_a_reset(gate: Gate, data: Any) -> None:
    length = gate.u.shape[1]
    cut = data.draw(st.integers(0, length - 1))
    reset = torch.arange(length).eq(cut).expand(len(gate.u), -1)
    smr = in_a_layer(gate.weight, gate.bias, gate.scale)
    gated, state = smr(gate.u, reset_bl=reset, state={"memory": gate.memory, "inner": ()})
    memory = state["memory"]
    before, _ = gate(gate.u[:, :cut], gate.memory)
    after, left = gate(gate.u[:, cut:])
    close(gated, torch.cat([before, after], 1))
    assert torch.equal(memory, left)


@given(gates(), st.floats(1e-3, 10.0), st.integers(0, 2**16))
def test_disturbed_inputs_move_the_output_no_more_than_the_bound(gate: Gate, size: float, seed: int) -> None:
    """|du'_k| <= s (|d_k| + |u_k| / 4 sum_i |W_i| |d_(k-i)|): the sigmoid is 1/4-Lipschitz and below 1."""
    delta = size * torch.randn(
        gate.u.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    u, weight = gate.u.double(), gate.weight.double()
    double = Gate(
        u, weight, None if gate.bias is None else gate.bias.double(), gate.scale, gate.memory.double()
    )
    moved = (double(u + delta)[0] - double()[0]).abs()
    padded = torch.cat([torch.zeros_like(double.memory), delta], 1).abs()
    reach = torch.zeros_like(u)
    for i in range(gate.tau):
        past, w = padded[:, gate.tau - 1 - i :][:, : u.shape[1]], weight[..., gate.tau - 1 - i].abs()
        reach = reach + (past @ w.T if w.ndim == 2 else past * w)
    bound = gate.scale * (delta.abs() + u.abs() * reach / 4)
    assert (moved <= bound * (1 + 1e-12) + 1e-12).all()


@pytest.mark.parametrize("mode", ["dense", "depthwise"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("h", "tau"), [(1, 1), (5, 4), (30, 4), (7, 16)])
def test_parameters_are_counted(mode: Any, bias: bool, h: int, tau: int) -> None:
    """tau weights a channel, or a channel pair, and a bias a channel."""
    smr = SMR(TinyMixer(h), SMRConfig(mode=mode, tau=tau, bias=bias))
    own = sum(p.numel() for p in smr.parameters()) - sum(p.numel() for p in smr.inner.parameters())
    assert own == (h * h if mode == "dense" else h) * tau + (h if bias else 0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_gradients_are_those_of_finite_differences(dense: bool, masked: bool) -> None:
    torch.manual_seed(0)
    double: dict[str, Any] = {"dtype": torch.float64, "requires_grad": True}
    u, memory = torch.randn(2, 5, 3, **double), torch.randn(2, 2, 3, **double)
    smr = in_a_layer(torch.randn((3, 3, 3) if dense else (3, 3)), torch.randn(3), 1.5).double()
    mask = torch.tensor([[True, False, True, True, False], [True] * 5]) if masked else None
    reset = torch.tensor([[False] * 5, [False, False, True, False, False]]) if masked else None

    def function(u: Tensor, memory: Tensor, *weights: Tensor) -> Any:
        named = dict(zip(("weight", "bias"), weights, strict=True))
        before = {"memory": memory, "inner": ()}
        gated, after = torch.func.functional_call(
            smr, named, (u,), {"mask_bl": mask, "reset_bl": reset, "state": before}
        )
        return gated, after["memory"]

    weights = [p.detach().requires_grad_() for p in (smr.weight, smr.bias)]
    assert torch.autograd.gradcheck(function, (u, memory, *weights))
