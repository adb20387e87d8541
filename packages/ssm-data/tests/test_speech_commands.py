"""Speech Commands on tiny synthetic clips that the tests make: no audio is shipped, none is fetched."""

from __future__ import annotations

import io
import pickle
import tarfile
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ssm_core import build_model
from ssm_core.block import ResidualBlock
from ssm_core.model import SequenceModel
from ssm_core.plugin import registry
from ssm_core.plugin.config import field_docs, knobs
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.protocols import LayerInfo
from ssm_core.stack import Stack
from ssm_core.testing import TaskSuite
from ssm_data.info import info
from ssm_data.speech_commands import find, wav
from ssm_data.speech_commands.blob import collect
from ssm_data.speech_commands.spec import TEN, SpeechCommandsConfig

WORDS = (*TEN, *(f"word{i:02d}" for i in range(25)))
EACH = 4
"""Clips of a word: two for training, one each for validation and testing."""


def tone(word: int, clip: int) -> np.ndarray:
    """A clip of its own: a tone whose pitch is the word's; all but the third of a word last a second."""
    n = 16_000 if clip != 2 else 9_001
    time = np.arange(n) / 16_000
    return (8000 * np.sin(2 * np.pi * (100 + 20 * word) * time + clip)).astype(np.int16)


def as_wav(samples: np.ndarray, channels: int = 1, width: int = 2, rate: int = 16_000) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()


def write_folder(root: Path, words: tuple[str, ...] = WORDS) -> Path:
    folder = root / "speech_commands_v0.02"
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for number, word in enumerate(words):
        (folder / word).mkdir(parents=True)
        for clip in range(EACH):
            name = f"{word}/{clip}_nohash_0.wav"
            (folder / name).write_bytes(as_wav(tone(number, clip)))
            if clip >= 2:
                lists[list(lists)[clip - 2]].append(name)
    (folder / "_background_noise_").mkdir()
    (folder / "_background_noise_" / "tap.wav").write_bytes(as_wav(np.zeros(100_000)))
    (folder / "README.md").write_text("clips")
    for name, rows in lists.items():
        (folder / name).write_text("".join(f"{row}\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    write_folder(root)
    return root


def make(root: Path, **given: Any) -> Any:
    return registry.build_task("speech-commands", {"root": str(root), **given})


class Averages(nn.Module):
    """Each step with the mean of those before it, gaps counted: the suite's own mixer loops over 16,000 steps."""

    d_model, causal, streaming, takes_dt = 4, True, False, True

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, self.d_model))

    def forward(self, x_bld: torch.Tensor, mask_bl: torch.Tensor | None = None, **_: Any) -> Any:
        if mask_bl is not None:
            x_bld = x_bld.where(mask_bl[..., None], 0.0)
        steps = torch.arange(1, x_bld.shape[1] + 1)[:, None]
        return x_bld + self.gain * x_bld.cumsum(1) / steps, ()


class Suite(TaskSuite):
    given: ClassVar[dict[str, Any]] = {}
    d_model, n_rows = Averages.d_model, 3

    def model(self, task: Any) -> SequenceModel:
        torch.manual_seed(0)
        layer = LayerInfo(index=0, n_layers=1, d_model=self.d_model, causal=True)
        stack = Stack([ResidualBlock(Averages(), layer)], self.d_model, "layer")
        return SequenceModel(task.encoder(self.d_model), stack, task.head(self.d_model), task).eval()

    @pytest.fixture(autouse=True)
    def _where(self, clips: Path) -> None:
        self.root = clips

    def make(self) -> Any:
        return make(self.root, **self.given)


class TestAllWords(Suite):
    pass


class TestTenWordsAtHalfTheRate(Suite):
    given: ClassVar = {"classes": 10, "rate": 8000, "time": "true", "pooling": "last"}


class TestMasked(Suite):
    given: ClassVar = {"pad": "mask", "rate": 8000, "scaled": False}


del Suite


def test_splits_are_the_official_lists(clips: Path) -> None:
    splits = make(clips).splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 70, "validation": 35, "test": 35}
    names = sorted(WORDS)
    assert splits["test"].vocabulary == names
    for row, word in zip(splits["test"], names, strict=True):
        assert (row["inputs"].dtype, row["targets"]) == (np.int16, names.index(word))
        assert np.array_equal(row["inputs"], tone(WORDS.index(word), 3))
    assert splits["validation"][0]["length"] == 9001
    assert "NOT the official number" in splits["train"].provenance
    assert str(clips) in splits["train"].provenance


def test_ten_words_are_full_seconds_split_alike_by_the_seed(clips: Path) -> None:
    splits = make(clips, classes=10).splits()
    assert sum(len(split) for split in splits.values()) == 30
    assert splits["train"].vocabulary == sorted(TEN)
    assert all(row["length"] == 16_000 for split in splits.values() for row in split)
    seen = [tuple(sorted(split.arrays["targets"].tolist())) for split in splits.values()]
    assert set(seen[0]) == set(range(10)), "every word is trained on"
    other = make(clips, classes=10, seed=1).splits()
    assert splits["train"].part == other["train"].part, "one copy of the clips serves all"
    assert splits["train"].rows.tolist() != other["train"].rows.tolist()
    rows = np.concatenate([split.rows for split in splits.values()])
    assert len(set(rows.tolist())) == 30


def test_half_the_rate_is_every_second_sample_and_gaps_of_two(clips: Path) -> None:
    full, half = (make(clips, rate=rate, time="true") for rate in (16_000, 8000))
    for name, split in full.splits().items():
        whole, seen = split[1]["inputs"], half.splits()[name][1]["inputs"]
        assert np.array_equal(seen, whole[::2])
    short = half.splits()["validation"]
    assert short.lengths().tolist() == [len(row["inputs"]) for row in short] == [4501] * 35
    batches = [task.collate([task.splits()["train"][i] for i in (0, 1)]) for task in (full, half)]
    assert [batch.inputs.shape for batch in batches] == [(2, 16_000, 1), (2, 8000, 1)]
    assert [batch.dt_bl.unique().tolist() for batch in batches] == [[1.0], [2.0]]
    assert (full.max_length, half.max_length) == (16_000, 8000)
    assert make(clips).collate([full.splits()["train"][0]]).dt_bl is None
    assert torch.equal(full.encoder(2).std, half.encoder(2).std), (
        "the scale is that of training, whatever the rate"
    )


def test_gaps_of_two_are_what_s5_means_by_its_step_rescale(clips: Path) -> None:
    """The published zero-shot test sets the layer's step; ours tells the gap. They are the same."""
    half = make(clips, rate=8000, time="true")
    batch = half.collate([half.splits()["test"][3]])
    x = batch.inputs[:, :500].double() / 8000
    outputs = []
    for rescale, gap in ((2.0, None), (1.0, batch.dt_bl[:, :500].double())):
        torch.manual_seed(0)
        model = build_model(
            "s5", d_input=1, d_output=1, d_model=4, n_layers=1, backbone_config={"step_rescale": rescale}
        ).double()
        outputs.append(model(x, dt_bl=gap)[0])
    assert torch.allclose(*outputs, atol=1e-9)


def test_padding_is_zeros_or_hidden(clips: Path) -> None:
    zeros, hidden = make(clips), make(clips, pad="mask")
    row = zeros.splits()["validation"][0]
    for task, mask in ((zeros, None), (hidden, [9001, 16_000])):
        batch = task.collate([row, task.splits()["train"][0]])
        assert batch.inputs.shape == (2, 16_000, 1)
        assert not batch.inputs[0, 9001:].any()
        assert (None if batch.mask_bl is None else batch.mask_bl.sum(1).tolist()) == mask


def test_the_encoder_scales_by_the_training_samples(clips: Path) -> None:
    task = make(clips)
    values = task.splits()["train"].arrays["values"].astype(float)
    encoder = task.encoder(2)
    assert float(encoder.mean[0]) == pytest.approx(values.mean(), abs=1e-3)
    assert float(encoder.std[0]) == pytest.approx(values.std(), rel=1e-6)


def write_archive(clips: Path, file: Path, extra: str = "", prefix: str = "./") -> None:
    folder = clips / "speech_commands_v0.02"
    with tarfile.open(file, "w:gz") as out:
        for path in sorted(
            folder.rglob("*"), reverse=True
        ):  # lists come after clips, and clips in another order
            if path.is_file():
                out.add(path, f"{prefix}{path.relative_to(folder).as_posix()}")
        if extra:
            member = tarfile.TarInfo(extra)
            member.size = 4
            out.addfile(member, io.BytesIO(b"evil"))


@pytest.mark.parametrize("prefix", ["./", "", "speech_commands_v0.02/"])
def test_the_archive_gives_the_same_and_is_not_unpacked(clips: Path, tmp_path: Path, prefix: str) -> None:
    write_archive(clips, tmp_path / "speech_commands_v0.02.tar.gz", prefix=prefix)
    cache = str(tmp_path / "cache")
    ours, theirs = make(tmp_path, cache=cache).splits(), make(clips).splits()
    for name, split in ours.items():
        assert all(np.array_equal(split.arrays[key], theirs[name].arrays[key]) for key in split.arrays)
    assert not list(tmp_path.rglob("*.wav"))
    assert not list(tmp_path.rglob("*.reading")), "scratch files are gone"


@pytest.mark.parametrize("member", ["../evil.txt", "/etc/evil", "yes/../../evil.wav"])
def test_a_member_outside_is_refused(clips: Path, tmp_path: Path, member: str) -> None:
    write_archive(clips, tmp_path / "speech_commands_v0.02.tar.gz", extra=member)
    with pytest.raises(UserError, match=r"tar\.gz, row \d+: the member .* lies outside"):
        make(tmp_path, cache=str(tmp_path / "cache")).splits()
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("keep", [0, 10, 5000, -9])
def test_an_archive_that_is_cut_short_is_told(clips: Path, tmp_path: Path, keep: int) -> None:
    file = tmp_path / "speech_commands_v0.02.tar.gz"
    write_archive(clips, file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"tar\.gz: .*damaged or cut short"):
        make(tmp_path, cache=str(tmp_path / "cache")).splits()
    assert not list((tmp_path / "cache").rglob("*.npy"))


def damage(content: bytes) -> dict[str, tuple[bytes, str]]:
    return {
        "no wav": (b"RIFFxx", "no wav file"),
        "empty": (b"", "no wav file"),
        "cut": (content[:1000], "cut short|no wav"),
        "stereo": (as_wav(np.zeros(100), channels=2), "2 channels of 16 bits at 16000"),
        "slow": (as_wav(np.zeros(100), rate=8000), "1 channels of 16 bits at 8000 Hz"),
        "narrow": (as_wav(np.zeros(100), width=1), "of 8 bits"),
        "silent": (as_wav(np.zeros(0)), "0 samples"),
        "long": (as_wav(np.zeros(16_001)), "16001 samples"),
    }


@pytest.mark.parametrize("case", list(damage(b"")))
def test_a_bad_clip_is_named(tmp_path: Path, case: str) -> None:
    folder = write_folder(tmp_path, WORDS[:3])
    file = folder / WORDS[1] / "1_nohash_0.wav"
    content, message = damage(file.read_bytes())[case]
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path, cache=str(tmp_path / "cache")).splits()
    assert str(file) in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.npy"))


Change = Callable[[Path], object]
LISTS: dict[str, tuple[Change, str]] = {
    "unknown": (
        lambda p: p.write_text("up/1_nohash_0.wav\nup/9.wav\n"),
        "txt, row 2: there is no clip 'up/9.wav'",
    ),
    "twice": (
        lambda p: p.write_text("up/3_nohash_0.wav\n" * 2),
        "txt, row 2: the clip 'up/3_.*is listed before",
    ),
    "both": (lambda p: p.write_text("up/2_nohash_0.wav\n"), "txt, row 1: the clip 'up/2_.*the other list"),
    "latin": (lambda p: p.write_bytes(b"caf\xe9\n"), "txt: byte 4 is not UTF-8"),
    "empty": (lambda p: p.write_text("\n"), "35 words, and 0 clips for test"),
}


@pytest.mark.parametrize("case", LISTS)
def test_a_bad_list_is_named_with_its_row(tmp_path: Path, case: str) -> None:
    change, message = LISTS[case]
    change(write_folder(tmp_path) / "testing_list.txt")
    with pytest.raises(UserError, match=message):
        make(tmp_path, cache=str(tmp_path / "cache")).splits()


def test_too_few_words_are_told(tmp_path: Path) -> None:
    write_folder(tmp_path, TEN)
    with pytest.raises(UserError, match=r"has 10 words, .* 35 words are asked for") as caught:
        make(tmp_path, cache=str(tmp_path / "cache")).splits()
    assert "task.classes=10" in str(caught.value)
    assert len(make(tmp_path, cache=str(tmp_path / "cache"), classes=10).splits()["train"]) == 21


def test_what_is_nowhere_is_told_with_the_places_looked_at(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found no Speech Commands") as caught:
        make(tmp_path).splits()
    for word in (
        str(tmp_path / "SpeechCommands"),
        "speech_commands_v0.02.tar.gz",
        "SSM_DATA_ROOT",
        "task.root",
    ):
        assert word in str(caught.value)


@given(st.binary(max_size=80), st.integers(0, 60))
def test_damaged_heads_are_told_and_nothing_else_happens(noise: bytes, place: int) -> None:
    whole = bytearray(as_wav(np.arange(50)))
    whole[place : place + len(noise)] = noise
    try:
        found = wav.samples(bytes(whole))
    except ValueError:
        return
    assert found.dtype == np.int16
    assert 0 < len(found) <= 16_000


@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=200))
def test_samples_come_back_as_they_were(values: list[int]) -> None:
    assert wav.samples(as_wav(np.array(values))).tolist() == values


@pytest.mark.parametrize("count", [256, 257])
def test_words_are_numbered_however_many_there_are(tmp_path: Path, count: int) -> None:
    names = [f"word{i:03d}/a.wav" for i in range(count)]
    files = [(name, as_wav(np.ones(3))) for name in names] + [
        (listing, f"{name}\n".encode()) for listing, name in zip(find.LISTS, names, strict=False)
    ]
    arrays, words = collect(find.Origin(tmp_path, (), lambda: iter(files)), tmp_path)
    assert sorted(arrays["targets"].tolist()) == list(range(count))
    assert len(words) == count
    assert arrays["targets"].dtype == (np.uint8 if count == 256 else np.uint16)


def test_rows_go_to_other_processes_and_are_described(clips: Path) -> None:
    split = make(clips, rate=8000).splits()["test"]
    again = pickle.loads(pickle.dumps(split))
    assert np.array_equal(again[4]["inputs"], split[4]["inputs"])
    about = info("speech-commands", root=str(clips), rate=8000)["splits"]["test"]
    assert about["size"] == 35
    assert about["arrays"]["values"]["shape"] == [35 * 8000]


def test_bad_knobs_are_told_and_all_are_documented() -> None:
    for wrong in ({"classes": 12}, {"rate": 44_100}, {"seed": -1}, {"time": "appended"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            registry.build_task("speech-commands", wrong)
    assert set(field_docs(SpeechCommandsConfig)) == {knob["name"] for knob in knobs(SpeechCommandsConfig)}
