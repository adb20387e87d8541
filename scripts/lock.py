"""Writes ``requirements.lock``: every version of the resolution with its hashes, and no address of an index.

Usage: ``python scripts/lock.py``. ``uv.lock`` itself is not committed: it carries an index address on every line.
"""

from __future__ import annotations

import subprocess

from workspace import ROOT, uv

FILE = ROOT / "requirements.lock"

HEADER = """\
# Every third-party version of this workspace with its hashes, all extras and groups; written by `just lock`.
# Install it as it stands with `uv pip sync requirements.lock`, or use it as a constraint file.
"""


def export() -> str:
    """Return what the committed file has to hold.

    Raises:
        SystemExit: If uv.lock does not fit the pyproject files.
    """
    command = [
        uv(),
        "export",
        "--locked",
        "--quiet",
        "--format",
        "requirements.txt",
        "--no-header",
        "--no-annotate",
    ]
    command += ["--all-packages", "--all-extras", "--all-groups", "--no-emit-workspace"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{run.stderr}uv.lock does not fit the pyproject files: just lock")
    return HEADER + run.stdout


if __name__ == "__main__":
    FILE.write_text(export(), encoding="utf-8")
    print(f"wrote {FILE.name}")
