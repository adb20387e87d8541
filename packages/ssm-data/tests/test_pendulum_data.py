from __future__ import annotations

import functools
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import RandomState

from ssm_data.info import describe
from ssm_data.pendulum import noise
from ssm_data.pendulum.dataset import PUBLISHED, load_splits
from ssm_data.pendulum.generate import generate
from ssm_data.pendulum.render import CANVAS, CENTRE, ROD, clean_frame, render
from ssm_data.pendulum.simulate import simulate, targets
from ssm_data.pendulum.spec import PendulumConfig

SPLITS = ("train", "validation", "test")
TINY = PendulumConfig(n_train=4, n_test=2, n_validation=2, sample_rate=1.0)

# From an independent run of the reference generator: sum and sha256 of all 100 frames clean, of all 100 noisy, sum of
# the targets, and the last target of the first sequence.
GOLDEN = {
    "train": (
        1612791,
        "e341d741f647ae31",
        15730554,
        "faf234dbf31c3e8a",
        195.895116534157,
        (-0.17856057, 0.98392892),
    ),
    "test": (
        794560,
        "d8cf12eb4621d514",
        10103101,
        "cf863c7c8f242b1b",
        178.998458232433,
        (-0.07826174, 0.99693285),
    ),
    "validation": (
        806083,
        "d9cbb74751de674f",
        4357349,
        "83c37fd4b9945a85",
        87.432962717549,
        (0.93555094, -0.3531918),
    ),
}


def short_hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()[:16]


def clean(config: PendulumConfig) -> dict[str, np.ndarray]:
    """All clean frames of each split, drawing from the generators as the reference does."""
    frames = {}
    for seed, names in ((42, ("train", "test")), (43, ("validation",))):
        rng = RandomState(seed)
        for name in names:
            _, seen = simulate(config.size(name), rng)
            noise.clarity(config.size(name), rng)
            for _ in range(config.size(name)):
                noise.draw(rng)
            frames[name] = render(seen)
    return frames


@pytest.mark.parametrize("split", SPLITS)
def test_tiny_data_is_bit_identical_to_the_reference(split: str) -> None:
    clean_sum, clean_hash, noisy_sum, noisy_hash, target_sum, last = GOLDEN[split]
    frames = clean(TINY)[split]
    assert (frames.sum(dtype=np.int64), short_hash(frames)) == (clean_sum, clean_hash)
    arrays = dict(generate(TINY, SPLITS))[split]
    noisy = arrays["observations"]
    assert (noisy.sum(dtype=np.int64), short_hash(noisy)) == (noisy_sum, noisy_hash)
    assert arrays["targets"].sum() == pytest.approx(target_sum, rel=1e-9)
    assert arrays["targets"][0, 99] == pytest.approx(last, abs=1e-8)


@pytest.mark.slow
def test_full_validation_data_is_bit_identical_to_the_reference() -> None:
    split = load_splits(PendulumConfig())["validation"]
    described = describe("validation", split)["arrays"]
    observations = "ebf8dee8a4ca16e3f0149ed634fdc91b47e29f60b9f664f56a5917faf0db8384"
    times = "be38154566329c1f0123eed34a8b84a17a315a044f215ed4e14f6c6c8a35288c"
    assert described["observations"] == {
        "shape": [1000, 50, 24, 24],
        "dtype": "uint8",
        "sha256": observations,
        "sum": 1845795771,
    }
    assert described["time_points"] == {
        "shape": [1000, 50],
        "dtype": "int64",
        "sha256": times,
        "sum": 2478094,
    }
    assert described["targets"]["sum"] == pytest.approx(19100.230655265, rel=1e-9)
    assert split[0]["time_points"][:8].tolist() == [0, 1, 9, 10, 11, 12, 14, 16]
    assert observations == PUBLISHED["validation"]


@pytest.mark.slow
def test_full_data_under_all_knobs_is_the_published_one(caplog: pytest.LogCaptureFixture) -> None:
    for split in load_splits(PendulumConfig()).values():
        assert "bit-identical to the published data" in split.provenance
    assert not caplog.records
    frames = clean(PendulumConfig())["validation"]
    assert (frames.sum(dtype=np.int64), short_hash(frames)) == (402431177, "a5249f7825ead8da")


@functools.cache
def full(split: str) -> dict[str, np.ndarray]:
    return dict(generate(TINY, [split]))[split]


@settings(deadline=None)
@given(rate=st.floats(0.01, 1.0), seed=st.integers(0, 5), split=st.sampled_from(SPLITS))
def test_every_rate_sees_frames_of_the_same_sequences(rate: float, seed: int, split: str) -> None:
    config = PendulumConfig(n_train=4, n_test=2, n_validation=2, sample_rate=rate, subsample_seed=seed)
    part = dict(generate(config, [split]))[split]
    times = part["time_points"]
    rows = np.arange(len(times))[:, None]
    assert times.shape == (config.size(split), config.n_frames)
    assert (np.diff(times, axis=1) > 0).all()
    assert np.array_equal(part["observations"], full(split)["observations"][rows, times])
    assert np.array_equal(part["targets"], full(split)["targets"][rows, times])


def test_frames_are_chosen_by_the_published_seeds_and_others_by_subsample_seed() -> None:
    for split, base in (("train", 2000), ("validation", 1000), ("test", 0)):
        times = dict(generate(PendulumConfig(n_train=2, n_test=2, n_validation=2), [split]))[split][
            "time_points"
        ]
        for i, row in enumerate(times):
            expected = np.sort(np.random.default_rng(base + i).choice(100, 50, replace=False))
            assert row.tolist() == expected.tolist()
        other = PendulumConfig(n_train=2, n_test=2, n_validation=2, subsample_seed=1)
        again = dict(generate(other, [split]))[split]["time_points"]
        assert not np.array_equal(times, again)


def test_a_test_split_made_alone_is_the_one_made_with_the_rest(small: dict[str, int]) -> None:
    config = PendulumConfig(**small)
    alone = dict(generate(config, ["test"]))
    together = dict(generate(config, SPLITS))
    assert list(alone) == ["test"]
    assert all(np.array_equal(alone["test"][k], together["test"][k]) for k in alone["test"])


def test_a_small_data_set_is_not_the_beginning_of_a_big_one() -> None:
    few, more = (dict(generate(PendulumConfig(n_validation=n), ["validation"]))["validation"] for n in (2, 3))
    assert not np.array_equal(few["targets"], more["targets"][:2])


def test_only_frames_that_were_never_seen_are_drawn(small: dict[str, int]) -> None:
    clean_frame.cache_clear()
    dict(generate(PendulumConfig(**small, sample_rate=0.3), SPLITS))
    drawn = clean_frame.cache_info().misses
    dict(generate(PendulumConfig(**small, sample_rate=0.3), SPLITS))
    assert clean_frame.cache_info().misses == drawn
    dict(generate(PendulumConfig(**small, sample_rate=1.0), SPLITS))
    assert drawn < clean_frame.cache_info().misses <= 440


@settings(deadline=None)
@given(theta=st.floats(-10, 10))
def test_a_frame_is_the_one_that_pillow_draws_of_the_untruncated_line(theta: float) -> None:
    from PIL import Image, ImageDraw

    canvas = Image.new("F", (CANVAS, CANVAS), 0.0)
    tip = (CENTRE + ROD * np.sin(theta), CENTRE + ROD * np.cos(theta))
    ImageDraw.Draw(canvas).line([(CENTRE, CENTRE), tip], fill=1.0, width=8)
    expected = np.clip(np.asarray(canvas.resize((24, 24), Image.Resampling.LANCZOS)), 0, 1) * 255.0
    assert np.array_equal(render(np.array([theta]))[0], expected.astype(np.uint8))


def test_noise_leaves_the_first_frames_clean_and_hides_others() -> None:
    factor = noise.clarity(500, RandomState(0))
    assert (factor[:, :5] == 1).all()
    assert ((factor >= 0) & (factor <= 1)).all()
    assert (factor == 1).mean() == pytest.approx(0.21, abs=0.03)
    assert (factor == 0).mean() == pytest.approx(0.16, abs=0.03)


def test_targets_lie_on_the_circle() -> None:
    theta, seen = simulate(3, RandomState(1))
    assert np.allclose((targets(theta) ** 2).sum(-1), 1)
    assert 0 < np.abs(theta - seen).max() < 1e-4


def test_progress_is_told_of_every_sequence(small: dict[str, int]) -> None:
    calls: list[tuple[str, int, int]] = []
    dict(generate(PendulumConfig(**small), ["test"], lambda *call: calls.append(call)))
    assert calls[-1] == ("pendulum data: test", 2, 2)
    assert ("pendulum data: train", 6, 6) in calls
