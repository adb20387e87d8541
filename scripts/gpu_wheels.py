"""The wheels that a machine with a GPU and without network lacks: built and downloaded here, installed there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gpu_rivals
from gpu_work import Work
from workspace import ROOT, uv

FOLDER = ROOT / "dist" / "gpu"

PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")

RIVALS = ("accelerated-scan==0.3.1", "fla-core==0.6.0", "mambapy==1.2.0", "s5-pytorch==0.2.1")
"""Others' implementations without compiled code, for the benches; transformers is there."""

THERE = """
    accelerate annotated-doc anyio click cloudpickle contourpy cycler filelock fonttools fsspec h11 hf-xet
    huggingface-hub hypothesis idna iniconfig jinja2 joblib kiwisolver lightning-utilities llvmlite markdown-it-py
    markupsafe matplotlib mdurl mpmath narwhals networkx numba numpy packaging pandas pillow pluggy psutil pyarrow
    pygments pyparsing pytest python-dateutil pyyaml rich safetensors scikit-learn scipy sentencepiece setuptools
    shellingham sortedcontainers sympy threadpoolctl torch torchmetrics tqdm triton typer typing-extensions xxhash
"""
"""Of what the workspace needs, what the machine has: a PyTorch image with the usual scientific packages."""

# Read by the interpreter there, with the wheels on its path: what is missing, and what is not the version asked for.
CHECK = """
from importlib.metadata import PackageNotFoundError, distribution
from packaging.requirements import Requirement
missing, other, seen, queue = set(), set(), set(), [Requirement("ssm-lab[testing]")]
while queue:
    wanted = queue.pop()
    if (wanted.name, frozenset(wanted.extras)) in seen:
        continue
    seen.add((wanted.name, frozenset(wanted.extras)))
    try:
        found = distribution(wanted.name)
    except PackageNotFoundError:
        missing.add(str(wanted))
        continue
    if not wanted.specifier.contains(found.version, prereleases=True):
        other.add(f"{wanted}, {found.version} is there")
    if wanted.name in TRAVELLED:
        for line in found.requires or ():
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in wanted.extras or {""}):
                queue.append(need)
print("versions:", ", ".join(sorted(other)) or "all as asked for")
print("missing:", ", ".join(sorted(missing)) or "nothing")
raise SystemExit(bool(missing))
"""

MACHINE = """
import json, platform, subprocess, sys, torch
gpu = torch.cuda.is_available()
try:
    import triton
    release = triton.__version__
except ImportError:
    release = None
query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,power.draw", "--format=csv"]
try:
    told = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
except OSError:
    told = []
print(json.dumps({"gpu": torch.cuda.get_device_name() if gpu else None, "torch": torch.__version__,
    "cuda": torch.version.cuda, "triton": release, "python": platform.python_version(), "nvidia-smi": told}))
sys.exit(not gpu)
"""


def gather(folder: Path) -> int:
    """Put every wheel into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _run(uv(), "build", "--quiet", "--all-packages", "--wheel", "--out-dir", folder)
    (folder / ".gitignore").unlink(missing_ok=True)
    wanted = [line for line in requirements() if line.partition("==")[0] not in THERE.split()]
    # s5-pytorch has no wheel; one is built, of Python only.
    binary = ["--only-binary", ":all:", "--no-deps", "--python-version", PYTHON, "--implementation", "cp"]
    binary += [part for platform in PLATFORMS for part in ("--platform", platform)]
    sources = [line for line in RIVALS if line.startswith("s5-pytorch")]
    _pip("download", "--dest", folder, *binary, *wanted, *(r for r in RIVALS if r not in sources))
    _pip("wheel", "--wheel-dir", folder, "--no-deps", *sources)
    gpu_rivals.fetch(folder / "sources")
    for file in sorted(folder.rglob("*.*")):
        print(f"{file.stat().st_size / 1e6:7.2f} MB  {file.name}")
    return 0


def requirements() -> list[str]:
    """Return name==version of everything third-party that the workspace needs there, GPU libraries left out."""
    from packaging.requirements import Requirement

    command = [uv(), "export", "--frozen", "--quiet", "--format", "requirements.txt", "--no-header"]
    command += ["--no-annotate", "--no-hashes", "--package", "ssm-lab", "--extra", "testing"]
    listing = subprocess.run(
        [*command, "--no-emit-workspace"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    there = {
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "python_version": PYTHON,
        "python_full_version": f"{PYTHON}.0",
    }
    found = [Requirement(line) for line in listing.splitlines()]
    return [
        f"{each.name}{each.specifier}"
        for each in found
        if not each.name.startswith(("nvidia-", "cuda-"))
        and (each.marker is None or each.marker.evaluate(there))
    ]


def install(folder: Path, work: Work) -> str:
    """Install a folder's wheels into one beside the interpreter's own and put it on the commands' path.

    Returns:
        What is wrong, or nothing.
    """
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        return f"no wheels in {folder}: uv run python scripts/gpu.py wheels, and carry the folder along"
    site = Path(tempfile.gettempdir(), f"ssm-gpu-{os.getuid()}")
    shutil.rmtree(site, ignore_errors=True)
    log = work.out / "install.log"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--no-cache-dir",
    ]
    if work.run([*command, "--quiet", "--target", site, *wheels], log) != 0:
        return f"the wheels cannot be installed; {log} says why"
    work.environment["PYTHONPATH"] = str(site)
    names = {file.name.partition("-")[0].replace("_", "-") for file in wheels}
    state = work.run([sys.executable, "-c", f"TRAVELLED = {names!r}\n{CHECK}"], log)
    print(log.read_text(encoding="utf-8").partition("\nversions:")[2].join(("versions:", "")).strip())
    return "" if state == 0 else f"something is missing; {log} says what"


def machine(work: Work) -> bool:
    """Write what the machine is to machine.json, and return whether torch sees its GPU."""
    file, log = work.out / "machine.json", work.out / "install.log"
    found = work.run([sys.executable, "-c", MACHINE], log, keep=file) == 0
    print(file.read_text(encoding="utf-8").strip())
    return found


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True)


def _pip(*arguments: str | Path) -> None:
    _run(
        uv(), "run", "--no-project", "--quiet", "--with", "pip", "python", "-m", "pip", "--quiet", *arguments
    )
