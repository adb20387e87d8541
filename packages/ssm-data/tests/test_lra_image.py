from __future__ import annotations

import gzip
import logging
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ssm_core.block import ResidualBlock
from ssm_core.model import SequenceModel
from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError
from ssm_core.protocols import LayerInfo
from ssm_core.stack import Stack
from ssm_core.testing import TaskSuite
from ssm_data.info import describe
from ssm_data.lra_image import cifar, idx
from ssm_data.lra_image.grey import grey_of

N = 4  # pictures a file


def pictures(seed: int, n: int = N) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3072), dtype=np.uint8), rng.integers(0, 10, n).tolist()


def text(value: bytes) -> bytes:
    """A string as Python 2 pickled it."""
    return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value


def python2_pickle(data: np.ndarray, labels: list[int], kind: bytes = b"u1") -> bytes:
    """A batch as the official files hold it: a dict with strings of bytes, the array by NumPy's old names."""
    dtype = b"cnumpy\ndtype\n" + text(kind) + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xff"
    dtype += b"J\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    shape = b"J" + struct.pack("<i", data.shape[0]) + b"J" + struct.pack("<i", data.shape[1]) + b"\x86"
    array += b"(K\x01" + shape + dtype + b"\x89" + text(data.tobytes()) + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    body = text(b"batch_label") + text(b"training batch 1 of 5") + text(b"labels") + listed
    return b"\x80\x02}(" + body + text(b"data") + array + b"u."


def write_python(root: Path, n: int = N) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i, name in enumerate((*cifar.TRAIN, *cifar.TEST)):
        (folder / name).write_bytes(python2_pickle(*pictures(i, n)))
    return folder


def write_binary(root: Path) -> Path:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for i, name in enumerate((*cifar.TRAIN, *cifar.TEST)):
        data, labels = pictures(i)
        rows = np.concatenate([np.array(labels, np.uint8)[:, None], data], 1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder


def write_idx(root: Path, packed: bool = True, label: int = 9) -> Path:
    folder = root / "fashion-mnist"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for (images, labels), n in zip(idx.FILES.values(), (20, 6), strict=True):
        content = {
            images: struct.pack(">4i", 0x803, n, 28, 28) + rng.integers(0, 256, (n, 784), np.uint8).tobytes(),
            labels: struct.pack(">2i", 0x801, n)
            + bytes([*range(n - 1), label][i] % 10 for i in range(n - 1)),
        }
        content[labels] += bytes([label])
        for name, each in content.items():
            path = folder / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(each) if packed else each)
    return folder


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("official")
    write_python(root)
    write_binary(root / "binary")
    write_idx(root)
    return root


def make(root: Path, **given: Any) -> Any:
    return registry.build_task("lra-image", {"root": str(root), **given})


class Averages(nn.Module):
    """Each step with the mean of those before it: the suite's own mixer loops over 1024 steps in Python."""

    d_model, causal, streaming, takes_dt = 4, True, False, False

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, self.d_model))

    def forward(self, x_bld: torch.Tensor, **_: Any) -> tuple[torch.Tensor, tuple[()]]:
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
    def _where(self, files: Path) -> None:
        self.root = files

    def make(self) -> Any:
        return make(self.root, **self.given)


class TestValues(Suite):
    pass


class TestTokens(Suite):
    given: ClassVar = {"inputs": "tokens", "split": "first", "pooling": "last", "grey": "tensorflow"}


class TestFashion(Suite):
    given: ClassVar = {"dataset": "fashion-mnist"}


del Suite


def pool() -> tuple[np.ndarray, np.ndarray]:
    """All training pictures in colour, and labels, as the fixtures hold them."""
    pieces = [pictures(i) for i in range(5)]
    return np.concatenate([data for data, _ in pieces]), np.concatenate([labels for _, labels in pieces])


def by_pillow(planes: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(planes.reshape(3, 32, 32).transpose(1, 2, 0)).convert("L")).ravel()


def test_rows_are_grey_pictures_in_the_order_of_the_files(files: Path) -> None:
    splits = make(files, split="first").splits()
    colour, labels = pool()
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [18, 2, 4]
    rows = [*splits["train"], *splits["validation"]]
    for row, planes, label in zip(rows, colour, labels, strict=True):
        assert (row["inputs"].dtype, row["inputs"].shape) == (np.uint8, (1024,))
        assert np.array_equal(row["inputs"], by_pillow(planes))
        assert row["targets"] == label
        assert row["targets"].dtype == np.int64
    tested, test_labels = pictures(5)
    assert np.array_equal(splits["test"][3]["inputs"], by_pillow(tested[3]))
    assert [row["targets"] for row in splits["test"]] == test_labels


def test_the_random_split_is_that_of_pytorch(files: Path) -> None:
    splits = make(files).splits()
    ours = torch.utils.data.random_split(range(20), [18, 2], generator=torch.Generator().manual_seed(42))
    _, labels = pool()
    for name, subset in zip(("train", "validation"), ours, strict=True):
        assert [row["targets"] for row in splits[name]] == [labels[i] for i in subset]
    other = make(files, split_seed=7).splits()["train"]
    assert not np.array_equal(other.arrays["inputs"], splits["train"].arrays["inputs"])


def test_binary_files_give_the_same_pictures(files: Path) -> None:
    ours, theirs = (make(root).splits() for root in (files, files / "binary"))
    for name, split in ours.items():
        assert np.array_equal(split.arrays["inputs"], theirs[name].arrays["inputs"])
    assert "binary version" in theirs["train"].provenance
    assert "NOT the published files" in ours["train"].provenance


def test_published_hashes_make_it_official(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import hashlib

    folder = write_python(tmp_path)
    found = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(cifar, "OFFICIAL", found)
    with caplog.at_level(logging.INFO, logger="ssm_data"):
        provenance = make(tmp_path, cache=str(tmp_path / "cache")).splits()["test"].provenance
    assert "official" in provenance
    assert str(folder) in provenance
    assert "official" in caplog.text


def test_grey_is_as_the_two_libraries_make_it() -> None:
    colour, _ = pictures(1, 50)
    assert np.array_equal(grey_of(colour, "pillow"), np.stack([by_pillow(row) for row in colour]))
    red, green, blue = colour.reshape(50, 3, -1).astype(np.float64).swapaxes(0, 1)
    exact = (0.2989 * red + 0.587 * green + 0.114 * blue) / 255 * 255.5
    found = grey_of(colour, "tensorflow")
    near = np.abs(exact - np.round(exact)) < 1e-4  # where float32 may fall on either side
    assert np.array_equal(found[~near], exact.astype(np.uint8)[~near])
    assert 0 < (found != grey_of(colour, "pillow")).mean() < 0.4
    white = np.full((1, 3072), 255, np.uint8)
    assert (grey_of(white, "tensorflow") == grey_of(white, "pillow")).all()


def test_values_are_normalised_in_the_encoder(files: Path) -> None:
    task = make(files)
    batch = task.collate([task.splits()["train"][i] for i in range(2)])
    assert (batch.inputs.dtype, batch.inputs.shape, batch.mask_bl) == (torch.uint8, (2, 1024), None)
    encoder = task.encoder(3)
    expected = encoder.linear((batch.inputs[..., None] / 255 - 122.6 / 255) / (61 / 255))
    torch.testing.assert_close(encoder(batch), expected)
    assert not hasattr(task.splits()["train"], "vocabulary")


def test_tokens_have_a_vocabulary(files: Path) -> None:
    task = make(files, inputs="tokens")
    split = pickle.loads(pickle.dumps(task.splits()["validation"]))
    assert split.vocabulary == [str(i) for i in range(256)]
    assert task.encoder(4).embedding.weight.shape == (256, 4)


def test_fashion_is_framed_and_called_a_stand_in(files: Path, tmp_path: Path) -> None:
    split = make(files, dataset="fashion-mnist", split="first").splits()["train"]
    picture = split[0]["inputs"].reshape(32, 32)
    raw = gzip.decompress((files / "fashion-mnist/train-images-idx3-ubyte.gz").read_bytes())
    assert np.array_equal(picture[2:30, 2:30].ravel(), np.frombuffer(raw, np.uint8, 784, 16))
    assert not picture[:2].any()
    assert not picture[:, 30:].any()
    assert split.provenance.startswith("stand-in")
    write_idx(tmp_path, packed=False)
    again = make(tmp_path, dataset="fashion-mnist", split="first").splits()["train"]
    assert np.array_equal(again.arrays["inputs"], split.arrays["inputs"])


def test_a_split_travels_as_its_place_on_disk_and_is_described(files: Path) -> None:
    split = make(files).splits()["train"]
    sent = pickle.dumps(split)
    assert len(sent) < 1500
    assert np.array_equal(pickle.loads(sent)[2]["inputs"], split[2]["inputs"])
    found = describe("train", split)["arrays"]
    assert {k: (v["shape"], v["dtype"]) for k, v in found.items()} == {
        "inputs": ([18, 1024], "uint8"),
        "targets": ([18], "uint8"),
    }
    assert np.array_equal(split.arrays["inputs"][-1], split[17]["inputs"])


def test_new_content_in_the_same_place_is_read_anew(tmp_path: Path) -> None:
    folder = write_python(tmp_path)
    before = make(tmp_path).splits()["test"][0]["inputs"]
    (folder / "test_batch").write_bytes(python2_pickle(*pictures(99)))
    after = make(tmp_path).splits()["test"][0]["inputs"]
    assert not np.array_equal(before, after)
    assert np.array_equal(after, by_pillow(pictures(99)[0][0]))


def test_the_hub_is_asked_at_the_pinned_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(*args: Any, **named: Any) -> Any:
        asked.append((*args, named))
        colour, labels = pictures(0 if named["split"] == "train" else 1)
        images = [Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)) for row in colour]
        return datasets.Dataset.from_dict(
            {"img": images, "label": labels},
            features=datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")}),
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    given = {"source": "hub", "cache": str(tmp_path)}
    splits = make(tmp_path, **given).splits()
    assert [row["targets"] for row in splits["test"]] == pictures(1)[1]
    assert np.array_equal(splits["test"][1]["inputs"], by_pillow(pictures(1)[0][1]))
    assert [(name, config) for name, config, _ in asked] == [("uoft-cs/cifar10", "plain_text")] * 2
    assert {named["revision"] for *_, named in asked} == {"0b2714987fa478483af9968de7c934580d0bb9a2"}
    make(tmp_path, **given).splits()
    assert len(asked) == 2, "what is cached is not asked for again"
    assert "official" in splits["train"].provenance
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no"))
    )
    with pytest.raises(UserError, match="cannot be had: no"):
        make(tmp_path, source="hub", revision="main", cache=str(tmp_path)).splits()


def test_what_is_nowhere_is_told_with_all_the_places(tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        make(tmp_path).splits()
    assert str(tmp_path / "cifar-10-batches-py") in told.value.hint
    assert "(and so below lra_release and lra_release/lra_release)" in told.value.hint
    assert "uoft-cs/cifar10" in told.value.hint
    with pytest.raises(UserError, match="Fashion-MNIST"):
        make(tmp_path, dataset="fashion-mnist").splits()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("evil-was-here"),)


def damaged(folder: Path) -> dict[str, tuple[str, bytes, str]]:
    """Name -> file, its content, what is to be told."""
    whole = (folder / "data_batch_3").read_bytes()
    colour, labels = pictures(2)
    return {
        "truncated": ("data_batch_3", whole[:-2000], "not a whole"),
        "empty": ("data_batch_3", b"", "not a whole"),
        "evil": ("data_batch_3", pickle.dumps({"data": Evil(), "labels": []}), "asks for"),
        "floats": ("data_batch_3", python2_pickle(colour, labels, b"f4"), "of type f4"),
        "narrow": ("data_batch_3", python2_pickle(colour[:, :3071], labels), "shape"),
        "no data": ("data_batch_3", pickle.dumps({"labels": [1]}), "not a whole"),
        "a list": ("data_batch_3", pickle.dumps([1, 2]), "not a whole"),
        "label": ("data_batch_3", python2_pickle(colour, [*labels[:2], 10, labels[3]]), "row 2: label 10"),
        "few labels": ("data_batch_3", python2_pickle(colour, labels[:2]), "4 pictures and 2 labels"),
        "no pictures": ("data_batch_3", python2_pickle(colour[:0], []), "no pictures"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "truncated",
        "empty",
        "evil",
        "floats",
        "narrow",
        "no data",
        "a list",
        "label",
        "few labels",
        "no pictures",
    ],
)
def test_damaged_files_are_told_and_leave_nothing(case: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)  # where a pickle that is run would leave its trace
    folder = write_python(tmp_path)
    name, content, reason = damaged(folder)[case]
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=reason) as told:
        make(tmp_path, cache=str(tmp_path / "cache")).splits()
    assert str(folder / name) in told.value.what
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != ".lock"]
    assert left == []
    assert not Path("evil-was-here").exists()


def test_pickles_of_python_3_are_read_too(tmp_path: Path) -> None:
    folder = write_python(tmp_path)
    colour, labels = pictures(8)
    for protocol in (2, 3, 4):
        record = {b"data": colour, "labels": labels}
        (folder / "test_batch").write_bytes(pickle.dumps(record, protocol=protocol))
        assert np.array_equal(make(tmp_path).splits()["test"][3]["inputs"], by_pillow(colour[3]))


def test_damaged_binary_and_idx_files_are_told(tmp_path: Path) -> None:
    folder = write_binary(tmp_path)
    whole = (folder / "test_batch.bin").read_bytes()
    for content, reason in (
        (whole[:-1], "not whole pictures"),
        (b"", "0 bytes"),
        (whole[:3073] + b"\x0b" + whole[3074:], "row 1: label 11"),
    ):
        (folder / "test_batch.bin").write_bytes(content)
        with pytest.raises(UserError, match=reason):
            make(tmp_path).splits()
    folder = write_idx(tmp_path)
    path = folder / "train-images-idx3-ubyte.gz"
    packed = path.read_bytes()
    for content, reason in (
        (packed[:-30], "cannot be unpacked"),
        (b"", "not an idx file|cannot be unpacked"),
        (b"no gzip", "cannot be unpacked"),
        (gzip.compress(struct.pack(">4i", 0x801, 1, 28, 28) + bytes(784)), "not an idx file"),
        (gzip.compress(struct.pack(">4i", 0x803, 2, 28, 28) + bytes(784)), "its head"),
        (gzip.compress(struct.pack(">4i", 0x803, 1, 28, 27) + bytes(756)), "shape"),
        (gzip.compress(struct.pack(">4i", 0x803, 1, 28, 28) + bytes(784)), "1 pictures"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=reason):
            make(tmp_path, dataset="fashion-mnist").splits()
    (tmp_path / "more").mkdir()
    write_idx(tmp_path / "more", label=10)
    with pytest.raises(UserError, match="row 19: label 10"):
        make(tmp_path / "more", dataset="fashion-mnist").splits()
