"""Proves, measures and trains on a machine with a GPU, in slices that each end within minutes.

    uv run python scripts/gpu.py wheels      here: this workspace and what that machine lacks, as wheels in dist/gpu
    python3 scripts/gpu.py prove             there: the tests that need a GPU
    python3 scripts/gpu.py sanitize          there: one test of each kernel under compute-sanitizer
    python3 scripts/gpu.py measure           there: the benches
    python3 scripts/gpu.py train             there: the pendulum's studies
    python3 scripts/gpu.py rivals            there: mamba-ssm and causal-conv1d compiled, as wheels for dist/gpu
    python3 scripts/gpu.py install           there: only what the others begin with

That machine needs no network and no uv: Python >= 3.11, a torch that sees its GPU, pip and pytest. `--wheels dist/gpu`
installs the wheels into a folder of their own first; without it, what is installed already is used. `2/3` after a
slice does every third piece of its work from the second on, a word those pieces whose names hold it, `--list` says
which there are. Results go to `--out`, else to the folder that the variable OUT names, else to build/gpu: no more than
eight files, none above a few megabytes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import gpu_rivals
import gpu_slices
import gpu_wheels
from gpu_work import Work

SLICES: dict[str, Callable[[Work], int]] = {
    "install": lambda _: 0,
    "rivals": gpu_rivals.build,
    "prove": gpu_slices.prove,
    "sanitize": gpu_slices.sanitize,
    "measure": gpu_slices.measure,
    "train": gpu_slices.train,
}


def main() -> int:
    """Parse the command line and do one slice; return 0, 1 if something failed, 3 if time ran out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slice", choices=["wheels", *SLICES])
    parser.add_argument("which", nargs="?", default="1/1", help="K/N, or a word of the names")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="install these first")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "build/gpu"), metavar="DIR")
    parser.add_argument("--minutes", type=float, default=8.5, help="after which it stops and saves")
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="side by side; 0 chooses")
    parser.add_argument("--list", action="store_true", help="say what there is to do, and do nothing")
    parser.add_argument("--anyway", action="store_true", help="even if torch sees no GPU")
    given = parser.parse_args()
    if given.slice == "wheels":
        return gpu_wheels.gather(given.wheels or gpu_wheels.FOLDER)
    work = Work(
        out=given.out.resolve(),
        seconds=60 * given.minutes,
        which=given.which,
        listing=given.list,
        processes=given.processes,
        carried=(given.wheels or gpu_wheels.FOLDER).resolve(),
    )
    if given.wheels and (problem := gpu_wheels.install(given.wheels, work)):
        print(problem, file=sys.stderr)
        return 1
    if not (given.anyway or given.list) and not gpu_wheels.machine(work):
        print("torch sees no GPU here: --anyway goes on all the same", file=sys.stderr)
        return 1
    return SLICES[given.slice](work)


if __name__ == "__main__":
    sys.exit(main())
