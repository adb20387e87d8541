"""The block by itself: what it equals, what reaches what, gaps, edges, and what it says when it cannot."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from serpents import Same, close, drawn, serpent
from torch import Tensor

from ssm_core import build_model
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import Needs
from ssm_core.testing.tiny import TinyMixer
from ssm_serpent.build import build
from ssm_serpent.layer import SeRpEnt
from ssm_serpent.spec import SerpentConfig

both = pytest.mark.parametrize("causal", [True, False])
unhurried = settings(deadline=None)


@both
@unhurried
@given(width=st.integers(1, 5), length=st.integers(1, 40), seed=st.integers(0, 99))
def test_22_the_base_alone_is_the_mixer_alone(causal, device, width, length, seed):
    mixer = serpent(width, causal=causal, seed=seed, device=device, compression=(), split="slice")
    bare = TinyMixer(width, causal=causal).double().to(device)
    bare.load_state_dict(mixer.branches[0].inner.state_dict())
    x = drawn(2, length, width, seed, device)
    assert torch.equal(mixer(x)[0], bare(x)[0])


@both
@unhurried
@given(
    half=st.integers(1, 3),
    basis=st.integers(1, 4),
    length=st.integers(1, 40),
    gaps=st.booleans(),
    seed=st.integers(0, 99),
)
def test_22_without_compression_a_branch_is_the_base(causal, device, half, basis, length, gaps, seed):
    """kappa = 1, W = 1, nothing read off the distances: every token is its own point, both ways."""
    width, knobs = 2 * half, {"compression": (1.0,), "window": 1, "basis": basis}
    mixer = serpent(width, causal=causal, seed=seed, device=device, **knobs)
    base, other = mixer.each()
    with torch.no_grad():
        other.resampler.encoder.weight[:, 0, :width] = base.into.weight
        other.resampler.encoder.weight[:, 0, width:] = 0
        other.resampler.encoder.bias.copy_(base.into.bias)
    other.inner.load_state_dict(base.inner.state_dict())
    given = {"dt_bl": 0.2 + drawn(2, length, 1, seed + 1, device)[..., 0].abs()} if gaps else {}
    y, _ = mixer(drawn(2, length, width, seed, device), **given)
    close(y[..., half:], y[..., :half])


@unhurried
@given(
    kappa=st.sampled_from([0.15, 0.3, 0.5, 1.0]),
    bounds=st.sampled_from(["floor", "capped"]),
    window=st.integers(1, 6),
    changed=st.integers(15, 39),
    seed=st.integers(0, 99),
)
def test_the_nearest_form_looks_no_further_ahead_than_it_must(device, kappa, bounds, window, changed, seed):
    """A token is without effect on those more than W - 1 + ceil(1 / (2 lo)) before it, where S >= 1/2."""
    knobs = {"compression": (kappa,), "window": window, "bounds": bounds}
    mixer = serpent(2, causal=False, same=True, device=device, base=False, **knobs)
    x = drawn(1, 40, 2, seed, device)
    other = x.clone()
    other[:, changed] = drawn(1, 1, 2, seed + 1, device)
    reach = window - 1 + math.ceil(1 / (2 * mixer.config.interval_range(kappa)[0]))
    (trace,) = mixer.trace(x)
    far = (trace.spans.times_bl[0] >= 1 << 19) & (torch.arange(40, device=device) < changed - reach)
    found, expected = (mixer(each)[0][0, far] for each in (other, x))
    close(found, expected)


@both
@pytest.mark.parametrize("bounds", ["floor", "cap", "capped"])
def test_values_and_gradients_are_those_of_the_equations(causal, bounds, device):
    """Written out with times that are not rounded; indices, which have no gradient, are those of the block."""
    knobs = {"compression": (0.4,), "window": 3, "base": False, "bounds": bounds, "train_width": True}
    mixer = serpent(3, causal=causal, same=True, device=device, **knobs)
    x = drawn(2, 17, 3, device=device).requires_grad_()
    resampler = mixer.branches[0].resampler
    wanted = [x, *resampler.parameters()]
    y, _ = mixer(x)
    expected = written_out(mixer, x, causal)
    # Times are off by half a tick, 2^-21, for each interval they are a sum of.
    close(y, expected, 2e-5)
    weights = torch.cos(torch.arange(y.numel(), dtype=y.dtype, device=device)).view(y.shape)
    found = torch.autograd.grad((y * weights).sum(), wanted)
    for one, other in zip(found, torch.autograd.grad((expected * weights).sum(), wanted), strict=True):
        assert other.abs().max() > 0
        close(one, other, 1e-4)


def written_out(mixer: SeRpEnt, x: Tensor, causal: bool) -> Tensor:
    """Eqs. (9), (12a), (12b), (13) and (15a) for a branch whose mixer hands on its input."""
    resampler = mixer.branches[0].resampler
    interval_map, encoder = resampler.interval_map, resampler.encoder
    lo, hi = interval_map.lo, interval_map.hi
    u = lo + (hi - lo) * torch.sigmoid(x @ interval_map.weight + interval_map.bias)
    s = u.cumsum(1)
    index = mixer.trace(x.detach())[0].index
    rows = []
    for b in range(len(x)):
        points = [x.new_zeros(len(encoder.bias))]
        for k in range(1, int(index.count_b[b]) + 1):
            point = encoder.bias
            for j in range(resampler.window):
                if index.inside_bkw[b, k - 1, j]:
                    token = int(index.start_bk[b, k - 1]) + j
                    e = torch.exp(-encoder.log_gamma.exp() * (s[b, token] - k - encoder.centres) ** 2)
                    point = point + encoder.weight[:, j] @ torch.cat([x[b, token], e])
            points.append(point)
        rows.append(torch.stack([points[q] for q in index.point_bl[b].tolist()]))
    return torch.stack(rows)


@both
def test_compressed_branches_see_the_time_between_points(causal, device):
    mixer = serpent(2, causal=causal, device=device, compression=(0.4,), base=False, window=3)
    seen: list[Any] = []
    mixer.branches[0].inner.register_forward_pre_hook(
        lambda _, __, given: seen.append(given), with_kwargs=True
    )
    x, gaps = drawn(1, 30, 2, device=device), 0.2 + drawn(1, 30, 1, device=device)[..., 0].abs()
    mixer(x, dt_bl=gaps)
    (trace,) = mixer.trace(x)
    token = trace.index.event_bk[0]
    if not causal:
        times = trace.spans.times_bl[0] / (1 << 20)
        token = torch.stack([(times - k).abs().argmin() for k in range(1, len(token) + 1)])
    expected = gaps[0].cumsum(0)[token].diff(prepend=gaps.new_zeros(1))
    close(seen[0]["dt_bl"][0], expected)
    close(expected.sum(), gaps[0, : token[-1] + 1].sum())


@both
def test_rows_too_short_for_a_point_are_zero_and_give_no_gradient(causal, device):
    knobs = {"compression": (0.2,), "bounds": "cap", "base": False, "window": 5}
    mixer = serpent(2, causal=causal, same=True, device=device, **knobs)
    x = drawn(2, 3, 2, device=device).requires_grad_()
    mask = torch.tensor([[True, True, True], [False, False, False]], device=device)
    y, _ = mixer(x, mask_bl=mask)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    count = mixer.trace(x.detach(), mask)[0].index.count_b
    assert count.tolist() == ([0, 0] if causal else [1, 0])
    assert not y[count == 0].any()
    assert not gradient[count == 0].any()
    assert gradient.isfinite().all()
    for parameter in mixer.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_saturated_intervals_have_finite_gradients(device):
    for scale in (1e4, -1e4):
        mixer = serpent(2, device=device, compression=(0.3,), base=False)
        x = scale * torch.ones(1, 50, 2, dtype=torch.float64, device=device)
        y, _ = mixer(x)
        y.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in mixer.parameters())


def test_padding_and_batch_leave_indices_bit_for_bit(device):
    mixer = serpent(3, causal=False, device=device, compression=(0.3, 0.6))
    x = drawn(3, 40, 3, device=device)
    mask = torch.arange(40, device=device) < torch.tensor([[40], [17], [29]], device=device)
    padded = mixer.trace(x.masked_fill(~mask[..., None], torch.nan), mask)
    for b, length in enumerate((40, 17, 29)):
        for whole, alone in zip(padded, mixer.trace(x[b : b + 1, :length]), strict=True):
            count = int(alone.index.count_b)
            assert int(whole.index.count_b[b]) == count
            assert torch.equal(whole.index.event_bk[b, :count], alone.index.event_bk[0])
            assert torch.equal(whole.index.start_bk[b, :count], alone.index.start_bk[0])
            assert torch.equal(whole.index.point_bl[b, :length], alone.index.point_bl[0])


@both
@unhurried
@given(order=st.permutations(range(4)), length=st.integers(1, 40), seed=st.integers(0, 99))
def test_17_permuted_rows_have_permuted_outputs(causal, device, order, length, seed):
    """Bit for bit on a CPU, rows of unequal numbers of points included."""
    mixer = serpent(6, causal=causal, device=device, compression=(0.3, 0.7), window=3)
    x, lengths = drawn(4, length, 6, seed, device), [[length], [1], [(length + 1) // 2], [0]]
    mask = torch.arange(length, device=device) < torch.tensor(lengths, device=device)
    for given_mask in (None, mask):
        y, _ = mixer(x, mask_bl=given_mask)
        permuted, _ = mixer(x[order], mask_bl=None if given_mask is None else mask[order])
        if device == "cpu":
            assert torch.equal(permuted, y[order])
        close(permuted, y[order])


def test_it_tells_the_compression_it_reaches(device):
    mixer = serpent(6, device=device, compression=(0.5, 0.2), bounds="floor")
    x = drawn(2, 200, 6, device=device)
    mask = torch.arange(200, device=device) < torch.tensor([[200], [100]], device=device)
    said = mixer.observe(x, mask_bl=mask, state=None)
    counts = [
        mixer.trace(x[:1])[i].index.count_b.sum() + mixer.trace(x[1:, :100])[i].index.count_b.sum()
        for i in (0, 1)
    ]
    assert said == {f"compression.{i + 1}": int(count) / 300 for i, count in enumerate(counts)}
    assert 0.5 <= said["compression.1"] <= 1


def test_where_documents_begin_the_compression_is_that_of_each_alone(device):
    """A grid over all of them would finish points out of what is left of two documents."""
    mixer = serpent(6, device=device, compression=(0.5, 0.2), bounds="cap")
    x, reset = drawn(2, 60, 6, device=device), torch.zeros(2, 60, dtype=torch.bool, device=device)
    reset[0, [0, 7, 20, 26]] = reset[1, [3, 4]] = True
    mask = torch.arange(60, device=device) < torch.tensor([[60], [33]], device=device)
    said = mixer.observe(x, mask_bl=mask, reset_bl=reset, state=None)
    pieces = [(0, 0, 7), (0, 7, 20), (0, 20, 26), (0, 26, 60), (1, 0, 3), (1, 3, 4), (1, 4, 33)]
    counts = [
        sum(int(mixer.trace(x[b : b + 1, low:high])[i].index.count_b) for b, low, high in pieces)
        for i in (0, 1)
    ]
    assert said == {f"compression.{i + 1}": count / 93 for i, count in enumerate(counts)}
    assert said != mixer.observe(x, mask_bl=mask)
    assert mixer.observe(x[:, :0], reset_bl=reset[:, :0]) == dict.fromkeys(said, 0.0)


def test_the_form_of_a_state_does_not_depend_on_the_points(device):
    """One row, or two of unequal numbers of points: a mixer that takes gaps is given a mask in both."""
    mixer = serpent(2, device=device, compression=(0.5,), base=False)
    x = drawn(2, 30, 2, device=device)
    mask = torch.arange(30, device=device) < torch.tensor([[30], [12]], device=device)
    (one,), (two,) = (mixer(*given)[1]["branches"] for given in ((x[:1],), (x,)))
    masked = mixer(x, mask_bl=mask)[1]["branches"][0]
    assert one["inner"].keys() == two["inner"].keys() == masked["inner"].keys()


@both
def test_a_mask_is_made_where_rows_differ_only(causal):
    """On a CPU: elsewhere asking would make the host wait."""
    mixer, masks = serpent(2, causal=causal, same=True, compression=(0.5,), base=False), []
    mixer.branches[0].inner.register_forward_pre_hook(
        lambda _, __, given: masks.append(given["mask_bl"]), with_kwargs=True
    )
    x, mask = drawn(2, 30, 2), torch.arange(30) < torch.tensor([[30], [12]])
    y, _ = mixer(x[:1].expand(3, -1, -1))
    close(y, mixer(x, mask_bl=mask)[0][:1].expand_as(y))
    assert masks[0] is None
    counts = mixer.trace(x, mask)[0].index.count_b
    assert counts[0] > counts[1]
    assert masks[1].sum(1).tolist() == counts.tolist()


def test_a_branch_that_compresses_nothing_has_a_start_too():
    config = SerpentConfig(compression=(1.0, 0.5), start=(1.0, 0.6))
    mixer = build(config)(lambda w: Same(w, True), 6, layer_of(6))
    for branch, start in zip(mixer.branches[1:], config.start, strict=True):
        spans = branch.resampler.interval_map(torch.zeros(1, 3, 6))
        torch.testing.assert_close(spans.u_bl, torch.full((1, 3), start))


@pytest.mark.parametrize("start", [0.3, 0.9])
def test_training_starts_from_the_interval_asked_for(start):
    mixer = build(SerpentConfig(compression=(0.2,), start=(start,)))(lambda w: Same(w, True), 4, layer_of(4))
    spans = mixer.branches[1].resampler.interval_map(torch.zeros(1, 3, 4))
    torch.testing.assert_close(spans.u_bl, torch.full((1, 3), start))


def layer_of(width: int) -> Any:
    from ssm_core.protocols import LayerInfo

    return LayerInfo(index=0, n_layers=1, d_model=width)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"compression": (), "base": False}, "no branch is left"),
        ({"compression": (4.0,)}, r"in \(0, 1\].*a factor of 4 is 0.25"),
        ({"window": 0}, "window and basis must be at least 1"),
        ({"expand": 0.0}, "expand must be above 0"),
        ({"expand": math.nan}, "expand must be above 0 and finite"),
        ({"expand": math.inf}, "expand must be above 0 and finite"),
        ({"compression": (0.5, 1e-7), "bounds": "cap"}, r"at most, below 2\^-20.*bounds = cap"),
        ({"compression": (1e-7,), "bounds": "capped"}, r"at most, below 2\^-20.*bounds = capped"),
        ({"start": (0.6, 0.7)}, "start has 2 values for 1"),
        ({"start": (0.4,)}, r"start 0.4 is outside \(0.5, 1\)"),
    ],
)
def test_knobs_that_cannot_be_are_refused(knobs, words):
    with pytest.raises(ValueError, match=words):
        SerpentConfig(**knobs)


def test_the_smallest_compression_that_is_taken_runs():
    for bounds, kappa in (("cap", 2.0**-20), ("capped", 2.0**-20), ("floor", 1e-7)):
        mixer = serpent(2, base=False, compression=(kappa,), bounds=bounds)
        assert mixer(drawn(1, 9, 2))[0].isfinite().all()


def test_what_cannot_be_built_says_which_knob_helps():
    with pytest.raises(
        ConfigError, match=r"width 8 does not divide into 3 branches.*addons\.serpent\.compression"
    ):
        build_model("s5", ["serpent"], d_input=1, d_model=8, addon_configs=[{"compression": [0.5, 0.2]}])
    with pytest.raises(ConfigError, match=r"expand 0\.3 times the branch width 4"):
        build_model("s5", ["serpent"], d_input=1, d_model=8, addon_configs=[{"expand": 0.3}])


def test_looking_ahead_is_refused_where_a_model_must_not():
    from ssm_core.model import build_stack
    from ssm_core.run.config import Choice, ModelConfig

    ahead = Choice.of("addon", "serpent", {"mode": "nearest"}, "addons")
    s5 = Choice.of("backbone", "s5", {"state_size": 4}, "backbone")
    model = ModelConfig(d_model=4, n_layers=1)
    for needs in (Needs(causal=True), Needs(step=True), Needs(carry_state=True)):
        with pytest.raises(ConfigError, match=r"addons\.serpent\.mode=causal"):
            build_stack(s5, [ahead], model, needs, None)
    stack = build_stack(s5, [ahead], model, Needs(), None)
    assert not stack.causal
    mixer = stack.blocks[0].mixer
    with pytest.raises(ValueError, match=r"addons\.serpent\.mode=causal"):
        mixer.step(torch.zeros(1, 4), state=())
    with pytest.raises(ValueError, match=r"carries no state.*addons\.serpent\.mode=causal"):
        mixer(torch.zeros(1, 3, 4), state={"branches": ()})


@pytest.mark.slow
def test_the_nearest_form_compiles_whole():
    mixer, x = serpent(4, causal=False, compression=(0.5,), times="uniform").float(), drawn(2, 9).float()
    torch._dynamo.reset()
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    close(compiled(x)[0], mixer(x)[0], 1e-6)
