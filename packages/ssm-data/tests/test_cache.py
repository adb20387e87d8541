from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ssm_core.plugin.errors import UserError
from ssm_data import cache

IDENTITY = {"size": 3}
ARRAYS = {"x": np.arange(12).reshape(3, 4), "y": np.ones(3)}


def make(missing: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
    for name in missing:
        yield name, ARRAYS, "made here"


def fail(missing: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
    raise AssertionError(f"made again: {missing}")


def obtain(base: Path, maker: cache.Make = make) -> dict[str, cache.Part]:
    return cache.obtain(base, "toy", IDENTITY, ["a", "b"], maker)


def test_parts_are_made_once(tmp_path: Path) -> None:
    parts = obtain(tmp_path)
    again = obtain(tmp_path, fail)
    assert again == parts
    assert parts["a"].provenance == "made here"
    assert all(np.array_equal(parts["b"].open(name), array) for name, array in ARRAYS.items())
    assert not parts["a"].open("x").flags.writeable


def test_other_knobs_lie_elsewhere(tmp_path: Path) -> None:
    here = obtain(tmp_path)["a"]
    there = cache.obtain(tmp_path, "toy", {"size": 4}, ["a"], make)["a"]
    assert here.folder != there.folder
    assert here.fingerprint != there.fingerprint


def truncate(part: Path) -> None:
    with (part / "x.npy").open("r+b") as file:
        file.truncate(100)


def flip(part: Path) -> None:
    data = bytearray((part / "x.npy").read_bytes())
    data[-3] ^= 1
    (part / "x.npy").write_bytes(data)


def remove(part: Path) -> None:
    (part / "y.npy").unlink()


def garble(part: Path) -> None:
    (part / "manifest.json").write_bytes(b'{"files": \xff')


def empty(part: Path) -> None:
    (part / "manifest.json").write_text("")


def of_another_kind(part: Path) -> None:
    (part / "manifest.json").write_text("[1]")


@pytest.mark.parametrize("damage", [truncate, flip, remove, garble, empty, of_another_kind])
def test_damage_is_seen_told_and_mended(tmp_path: Path, damage, caplog: pytest.LogCaptureFixture) -> None:
    folder = obtain(tmp_path)["a"].folder
    damage(folder)
    remade = []

    def remake(missing: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
        remade.extend(missing)
        yield from make(missing)

    with caplog.at_level(logging.WARNING):
        part = obtain(tmp_path, remake)["a"]
    assert remade == ["a"], "the sound part has to stay"
    assert "damaged" in caplog.text
    assert str(folder) in caplog.text
    assert np.array_equal(part.open("x"), ARRAYS["x"])


def test_an_open_array_outlives_its_part_being_remade(tmp_path: Path) -> None:
    part = obtain(tmp_path)["a"]
    x = part.open("x")
    remove(part.folder)
    obtain(tmp_path)
    assert np.array_equal(x, ARRAYS["x"])


def make_slowly(base: str) -> None:
    def slow(missing: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
        for name in missing:
            with (Path(base) / "log").open("a") as file:
                file.write(f"{name} {os.getpid()}\n")
            time.sleep(0.1)
            yield name, ARRAYS, "made here"

    assert set(obtain(Path(base), slow)) == {"a", "b"}


def test_processes_at_once_make_each_part_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    processes = [context.Process(target=make_slowly, args=(str(tmp_path),)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    made = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(made) == ["a", "b"]


def write_for_ever(base: str) -> None:
    big = {"x": np.zeros((200, 1000)), "y": np.ones(3)}
    while True:
        folder = Path(base) / "toy" / "f"
        folder.mkdir(parents=True, exist_ok=True)
        cache.write(folder / "a", big, IDENTITY, "made here")


@pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")
@pytest.mark.parametrize("delay", [0.02, 0.05, 0.083, 0.11, 0.15])
def test_a_killed_writer_leaves_a_whole_part_or_none(tmp_path: Path, delay: float) -> None:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=write_for_ever, args=(str(tmp_path),))
    process.start()
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    part = tmp_path / "toy" / "f" / "a"
    assert not part.exists() or cache.read(part) is not None
    part.parent.mkdir(parents=True, exist_ok=True)
    cache.write(part, ARRAYS, IDENTITY, "made after")
    assert cache.read(part).provenance == "made after"
    assert sorted(path.name for path in part.parent.iterdir()) == ["a"], "rubble has to go"


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from ssm_core.plugin.errors import UserError
from ssm_data import cache
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # the nearest thing to a full disk
try:
    cache.obtain(Path(sys.argv[1]), "toy", {}, ["a"], lambda names: [("a", {"x": np.zeros(10_000)}, "")])
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file size")
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert f"cannot write the data cache {tmp_path}" in done.stdout, done.stderr
    assert "SSM_DATA_DIR" in done.stdout
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write the data cache"):
        obtain(tmp_path / "file")


def test_an_error_of_the_maker_is_its_own(tmp_path: Path) -> None:
    def broken(missing: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
        raise OSError("no such website")

    with pytest.raises(OSError, match="no such website"):
        obtain(tmp_path, broken)
    assert obtain(tmp_path), "the lock was let go"


def test_a_maker_that_forgets_a_part_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read back"):
        obtain(tmp_path, lambda names: make(names[:1]))


def test_the_cache_lies_where_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSM_DATA_DIR", str(tmp_path / "env"))
    assert cache.root() == tmp_path / "env"
    assert cache.root(tmp_path / "knob") == tmp_path / "knob"
    monkeypatch.delenv("SSM_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.root() == tmp_path / "xdg" / "ssm" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.root() == tmp_path / ".cache" / "ssm" / "data"


def test_the_manifest_says_what_lies_there(tmp_path: Path) -> None:
    part = obtain(tmp_path)["a"]
    manifest = json.loads((part.folder / "manifest.json").read_text())
    assert manifest["identity"] == IDENTITY
    assert manifest["files"]["x"]["content"] == cache.content_hash(ARRAYS["x"])
    assert manifest["fingerprint"] == part.fingerprint


def test_the_hash_of_the_content_does_not_go_by_what_it_was_made_from(tmp_path: Path) -> None:
    def other(missing: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
        for name in missing:
            yield name, {"x": ARRAYS["x"] + 1}, "made here"

    same = [cache.obtain(tmp_path, "toy", {"stamp": i}, ["a"], make)["a"] for i in range(2)]
    changed = cache.obtain(tmp_path, "toy", {"stamp": 2}, ["a"], other)["a"]
    assert same[0].fingerprint != same[1].fingerprint
    assert same[0].content == same[1].content != changed.content
