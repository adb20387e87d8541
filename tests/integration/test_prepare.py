"""`ssm data prepare` under SIGKILL and in two processes at once: the cache ends up as if nothing had happened."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")


def preparing(text: Path, cache: Path) -> subprocess.Popen[bytes]:
    knobs = {"path": text, "level": "bpe", "vocab_size": 400, "cache": cache}
    sets = [part for name, value in knobs.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "ssm_lab", "data", "prepare", "text-lm", *sets]
    with (text.parent / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def held(cache: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cache)): path.read_bytes() for path in sorted(cache.rglob("*.npy"))}


def test_a_killed_preparation_is_made_up_for_by_two_at_once(tmp_path: Path) -> None:
    text, log = tmp_path / "text.txt", tmp_path / "log"
    text.write_text("".join(f"line {i} of {i * i % 9973} lines, {i % 7} times\n" for i in range(15_000)))
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    process = preparing(text, calm)
    assert process.wait(300) == 0, log.read_text()
    assert held(calm)

    process = preparing(text, rough)
    while not any(path.stat().st_size for path in rough.glob("text-lm/.*.packing/train.tokens")):
        assert process.poll() is None, log.read_text()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert list(rough.glob("text-lm/.*.packing/*")), "it was killed at work"
    assert not [name for name in held(rough) if name.startswith("text-lm/")], "half a split is no split"

    for process in [preparing(text, rough), preparing(text, rough)]:
        assert process.wait(300) == 0, log.read_text()
    assert held(rough) == held(calm)
    assert not list(rough.glob("**/.*.packing")), "rubble has to go"
