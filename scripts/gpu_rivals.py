"""Others' kernels that have to be compiled: their sources fetched here, built there for that machine's GPU alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from gpu_work import OUT_OF_TIME, Work, tail
from workspace import ROOT, uv

SOURCES = """\
causal-conv1d==1.7.0 --hash=sha256:3202758494eaa7b597ce1c282dfa188889506bfcb92cad3c407d26736bfcd32b
mamba-ssm==2.3.2.post1 --hash=sha256:104cc47e9101e5401a675fa2b784f2952b9b037f3b1dd83b5ac544394e95d028
"""

TARGET = re.compile(
    r'^ *cc_flag\.append\("-gencode"\)\n *cc_flag\.append\("arch=compute_(\d+),code=sm_\d+"\)\n', re.M
)


def fetch(folder: Path) -> None:
    """Put the sources into a folder; pip insists on running their setup.py, which is told to compile nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / "wanted.txt"
    wanted.write_text(SOURCES, encoding="utf-8")
    # They import torch to say what they are: this workspace's, as it stands.
    command = [
        uv(),
        "run",
        "--no-sync",
        "--quiet",
        "--with",
        "pip,setuptools,wheel,packaging,ninja",
        "python",
    ]
    command += [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
        "--no-build-isolation",
    ]
    skip = {"MAMBA_SKIP_CUDA_BUILD": "TRUE", "CAUSAL_CONV1D_SKIP_CUDA_BUILD": "TRUE"}
    subprocess.run(
        [*command, "--dest", str(folder), "--requirement", str(wanted)],
        cwd=ROOT,
        env=os.environ | skip,
        check=True,
    )
    wanted.unlink()


def build(work: Work) -> int:
    """Build a wheel of each source into the folder of the results, to be carried along from then on."""
    sources = work.chosen(sorted(work.carried.glob("sources/*.tar.gz")))
    if work.listing:
        print(*sources, sep="\n")
        return 0
    log = work.out / "rivals.log"
    for name in ("MAMBA", "CAUSAL_CONV1D"):
        work.environment[f"{name}_FORCE_BUILD"] = "TRUE"
    work.environment["MAX_JOBS"] = str(work.processes or 16)
    states = []
    for archive in sources:
        command = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation"]
        states.append(work.run([*command, "--wheel-dir", work.out, unpacked(archive)], log))
        print(f"{archive.name}: {'built' if states[-1] == 0 else f'exit status {states[-1]}'}", flush=True)
    if any(states) or None in states:
        print(tail(log, 30))
        return OUT_OF_TIME if None in states else 1
    return 0


def unpacked(archive: Path, capability: str = "90") -> Path:
    """Unpack a source, cut down to what is compared: one kind of GPU, and operations without the layers round them.

    Those layers ask for packages that nothing here needs, as soon as anything of theirs is imported.
    """
    folder = Path(tempfile.gettempdir(), "ssm-gpu-sources")
    with tarfile.open(archive) as packed:
        top = packed.getnames()[0].partition("/")[0]
        shutil.rmtree(folder / top, ignore_errors=True)
        packed.extractall(folder, filter="data")
    setup = folder / top / "setup.py"
    text = setup.read_text(encoding="utf-8")
    text = TARGET.sub(lambda found: found[0] if found[1] == capability else "", text)
    # An if whose whole body went must not be left without one.
    text = re.sub(r"^( *)(if bare_metal_version >= .*:\n)(?!\1 +\S)", r"\1\2\1    pass\n", text, flags=re.M)
    setup.write_text(text, encoding="utf-8")
    first = folder / top / "mamba_ssm" / "__init__.py"
    if first.exists():
        lines = first.read_text(encoding="utf-8").splitlines(keepends=True)
        first.write_text("".join(line for line in lines if line.startswith("__version__")), encoding="utf-8")
    return folder / top
