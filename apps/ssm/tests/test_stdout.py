"""Standard output that cannot be written, or is read no further."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssm_lab.main import main

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux's")


class Broken(io.StringIO):
    """A pipe or disk that fails when it is flushed, as a buffered one does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def flush(self) -> None:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["--help"], ["--version"]])
@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 1), (errno.EPIPE, 0)])
def test_a_full_disk_is_told_in_a_line_and_a_reader_that_leaves_is_not(
    monkeypatch, capsys, words, number, status
):
    stream = Broken(number)
    monkeypatch.setattr("sys.stdout", stream)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == status
    assert sys.stdout is stream
    told = capsys.readouterr().err
    assert told == ("failed: cannot write to standard output: No space left on device\n" if status else "")


@needs_full
def test_a_full_device_for_real():
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ssm_lab", "list", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    told = done.stderr.decode().splitlines()
    assert (done.returncode, told) == (
        1,
        ["failed: cannot write to standard output: No space left on device"],
    )


@pytest.mark.skipif(os.name == "nt", reason="pipes of a POSIX shell")
def test_head_breaks_no_pipe():
    process = subprocess.Popen(
        [sys.executable, "-m", "ssm_lab", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 0)
    process.stderr.close()
