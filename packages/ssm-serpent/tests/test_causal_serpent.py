"""The causal form owes nothing to the future: the whole, its prefix, its chunks and its tokens one by one agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serpents import close, drawn, serpent
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ssm_serpent.layer import SeRpEnt

FORMS: list[dict[str, Any]] = [
    {"compression": (0.5,), "window": 3},
    {"compression": (0.3, 0.8), "window": 5, "bounds": "cap", "base": False, "times": "uniform"},
    {"compression": (0.2,), "window": 1, "bounds": "capped", "grad": "local", "expand": 2.0},
]

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
forms = st.sampled_from(range(len(FORMS)))


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations written out, window by window: a matrix product rounds a row differently with the number of rows."""
    monkeypatch.setenv("SSM_BACKEND", "reference")


def sequential(form: int, device: str) -> SeRpEnt:
    """No linear maps but the encoder's, so that every value is computed in one order."""
    return serpent(6, device=device, split="slice", **{**FORMS[form], "expand": 1.0})


@unhurried
@given(form=forms, length=st.integers(1, 14), cut=st.integers(0, 13), seed=st.integers(0, 99))
def test_a_prefix_gives_the_prefix_bit_for_bit(in_order, device, form, length, cut, seed):
    cut = min(cut, length - 1) + 1
    mixer, x = sequential(form, device), drawn(2, length, 6, seed, device)
    y, _ = mixer(x)
    y_prefix, _ = mixer(x[:, :cut])
    assert torch.equal(y_prefix, y[:, :cut])
    other = torch.cat([x[:, :cut], drawn(2, length, 6, seed + 1, device)[:, cut:]], 1)
    assert torch.equal(mixer(other)[0][:, :cut], y[:, :cut])


@unhurried
@given(form=forms, length=st.integers(1, 40), cut=st.integers(1, 40), seed=st.integers(0, 99))
def test_indices_of_a_prefix_are_those_of_the_whole(device, form, length, cut, seed):
    mixer, x = serpent(6, device=device, **FORMS[form]), drawn(2, length, 6, seed, device)
    for whole, part in zip(mixer.trace(x), mixer.trace(x[:, :cut]), strict=True):
        count = part.index.event_bk.shape[1]
        assert torch.equal(part.spans.ticks_bl, whole.spans.ticks_bl[:, :cut])
        assert torch.equal(part.index.point_bl, whole.index.point_bl[:, :cut])
        valid = part.index.valid_bk
        for name in ("event_bk", "start_bk", "inside_bkw", "distance_bkw"):
            kept = getattr(whole.index, name)[:, :count]
            assert torch.equal(getattr(part.index, name)[valid], kept[valid]), name


@unhurried
@given(form=forms, length=st.integers(2, 14), cut=st.integers(1, 13), seed=st.integers(0, 99))
def test_chunks_and_steps_are_the_whole_bit_for_bit(in_order, device, form, length, cut, seed):
    cut = min(cut, length - 1)
    mixer, x = sequential(form, device), drawn(2, length, 6, seed, device)
    y, after = mixer(x)
    first, state = mixer(x[:, :cut])
    second, state = mixer(x[:, cut:], state=state)
    assert torch.equal(torch.cat([first, second], 1), y)
    same_memory(state, after)
    stepped, state = in_steps(mixer, x)
    assert torch.equal(stepped, y)
    same_memory(state, after)


@pytest.mark.parametrize("form", range(len(FORMS)))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_fast_operations_agree_within_rounding(form, dtype, tolerance, device):
    mixer = serpent(6, device=device, **FORMS[form]).to(dtype)
    x = drawn(3, 130, 6, device=device).to(dtype)
    y, after = mixer(x)
    close(mixer(x[:, :100])[0], y[:, :100], tolerance)
    first, state = mixer(x[:, :71])
    second, state = mixer(x[:, 71:], state=state)
    close(torch.cat([first, second], 1), y, tolerance)
    same_memory(state, after)
    stepped, _ = in_steps(mixer, x)
    close(stepped, y, tolerance)


def test_a_step_without_a_point_encodes_nothing_and_leaves_the_mixer_alone():
    mixer, x = serpent(4, compression=(0.5,), base=False), drawn(1, 30)
    (trace,) = mixer.trace(x)
    state, ran, encoded = mixer.init_state(1), [], []
    mixer.branches[0].inner.register_forward_hook(lambda *_: ran.append(time))
    mixer.branches[0].resampler.encoder.register_forward_hook(lambda *_: encoded.append(time))
    for time in range(30):
        _, state = mixer.step(x[:, time], state=state)
    assert ran == encoded == trace.index.event_bk[0, : int(trace.index.count_b)].tolist()
    assert 15 <= len(ran) < 30


class Reads(TorchDispatchMode):
    """Counts values that are read on the host, for each of which a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_off_the_cpu_a_step_waits_for_nothing(monkeypatch):
    """There every step runs the mixer, and checks are assertions on the device."""
    for module in ("index", "intervals"):
        monkeypatch.setattr(f"ssm_serpent.{module}.require", lambda *_: None)
    monkeypatch.setattr("ssm_serpent.compressed._free_to_look", lambda _: False)
    mixer, x = serpent(4, compression=(0.5,), base=False), drawn(2, 12)
    expected, state = mixer(x)[0], mixer.init_state(2, dtype=x.dtype)
    for time in range(12):
        with Reads() as reads:
            y, state = mixer.step(x[:, time], state=state)
        assert reads.count == 0
        close(y, expected[:, time])


@pytest.mark.gpu
@pytest.mark.parametrize("base", [False, True])
def test_a_step_on_a_gpu_waits_for_nothing(base):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; none is visible to torch")
    mixer = serpent(4, device="cuda", compression=(0.5,), base=base)
    x = drawn(2, 12, device="cuda")
    expected, state = mixer(x)[0], mixer.init_state(2, dtype=x.dtype)
    y, state = mixer.step(x[:, 0], state=state)  # loading kernels may wait
    out = [y]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for x_bd in x[:, 1:].unbind(1):
            y, state = mixer.step(x_bd, state=state)
            out.append(y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    close(torch.stack(out, 1), expected)


def in_steps(mixer: SeRpEnt, x: Tensor) -> tuple[Tensor, Any]:
    state, out = mixer.init_state(len(x), dtype=x.dtype), []
    for x_bd in x.unbind(1):
        y, state = mixer.step(x_bd, state=state)
        out.append(y)
    return torch.stack(out, 1), state


def same_memory(found: Any, expected: Any) -> None:
    """What the grid goes on from is equal bit for bit."""
    for one, other in zip(found["branches"], expected["branches"], strict=True):
        if "ticks_bw" in one:
            assert torch.equal(one["ticks_bw"], other["ticks_bw"])
            assert torch.equal(one["x_bwd"], other["x_bwd"])
