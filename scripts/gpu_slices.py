"""The slices of work on a GPU: each does its pieces in order, writes after every one, and stops when time is out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpu_plan import BENCHES, SANITIZERS, STUDIES, TESTS
from gpu_work import OUT_OF_TIME, Work, tail

SSM = [sys.executable, "-m", "ssm_lab"]

# Another torch than the locked one warns of other things: warnings are shown, and are no failures.
PYTEST = [sys.executable, "-m", "pytest", "-m", "gpu", "-W", "default", "-p", "no:randomly"]
PYTEST += ["-p", "no:cacheprovider"]

# What the tests' switch to deterministic algorithms asks of cuBLAS.
DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}

LEAST = 20.0
"""Seconds without which no further piece is begun."""


def prove(work: Work) -> int:
    """Run the tests that need a GPU, many at once: most of their time goes into compiling kernels."""
    work.environment |= DETERMINISTIC
    chosen = work.chosen(_tests(work))
    if work.listing:
        print(*chosen, f"{len(chosen)} tests", sep="\n")
        return 0
    name = f"prove-{work.which.replace('/', '-of-')}"
    ids, report, log = (
        Path(tempfile.gettempdir(), f"{name}.txt"),
        work.out / f"{name}.xml",
        work.out / f"{name}.log",
    )
    ids.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    command = [*PYTEST, "-n", str(work.processes or 10), "-v", "--timeout", "300", "--durations", "15", "-ra"]
    state = work.run([*command, "--junitxml", report, f"@{ids}"], log, stop=signal.SIGINT)
    counts, bad = _outcomes(report)
    print(tail(log, 25), *bad, sep="\n")
    print(f"{len(chosen)} tests chosen: {counts}; exit status {state}")
    work.write(f"{name}.json", {"chosen": len(chosen), "outcomes": counts, "bad": bad, "status": state})
    if state is None or sum(counts.values()) < len(chosen):
        print("not all of them ended: take more slices, 1/3 for one")
        return OUT_OF_TIME
    return int(state != 0 or not counts["passed"])


def sanitize(work: Work) -> int:
    """Run two tests of each file of kernel tests under each tool of compute-sanitizer."""
    files = [list(found) for _, found in groupby(_tests(work), key=lambda test: test.partition("::")[0])]
    few = [(found[0], found[len(found) // 2]) for found in files if found[0].startswith("tests/gpu")]
    pieces = [(f"{tool} {tests[0]}", tool, tests) for tool in SANITIZERS for tests in few]
    # Memory that torch hands out again and again hides from the tool where one tensor ends.
    work.environment |= {**DETERMINISTIC, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    commands = {
        name: ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *PYTEST, "-n", "0", "-q", *tests]
        for name, tool, tests in work.chosen(pieces, lambda piece: piece[0])
    }
    return _each(work, "sanitize", commands, results=False)


def measure(work: Work) -> int:
    """Run the benches, each in a process of its own: one that fails takes no other with it."""
    commands = {name: [*SSM, "bench", *words, "--json"] for name, words in BENCHES.items()}
    chosen = work.chosen(list(commands))
    return _each(work, "measure", {name: commands[name] for name in chosen}, results=True)


def train(work: Work) -> int:
    """Run studies, going on with what an earlier slice left in the folder of the wheels or on this machine."""
    state = 0
    for name in work.chosen(list(STUDIES)):
        folder = Path(tempfile.gettempdir(), "ssm-gpu-studies", name)
        workers = work.processes or max(1, min(12, len(os.sched_getaffinity(0)) - 4))
        command = [*SSM, "study", *STUDIES[name], "--out", str(folder), "--workers", str(workers), "--quiet"]
        # Side by side they share the cores.
        command += ["--set", "train.threads=1", "--set", "train.device=cuda"]
        if work.listing:
            print(name, *command)
            continue
        earlier = work.carried / f"{name}.tgz"
        if earlier.exists() and not folder.exists():
            with tarfile.open(earlier) as archive:
                archive.extractall(folder, filter="data")
        ended = work.run(command, work.out / "train.log")
        state = max(state, OUT_OF_TIME if ended is None else int(ended != 0))
        _keep(folder, name, work)
    if not work.listing:
        print(tail(work.out / "train.log", 40))
    return state


def _each(work: Work, what: str, commands: dict[str, list[str]], *, results: bool) -> int:
    """Run commands in turn; write name -> command, status, seconds and what it printed as JSON."""
    if work.listing:
        for name, command in commands.items():
            print(f"{name}: {' '.join(command)}")
        return 0
    tag = "" if work.which == "1/1" else "-" + "".join(c if c.isalnum() else "-" for c in work.which)
    log, done, answer = work.out / f"{what}.log", dict[str, Any](), Path(tempfile.gettempdir(), f"{what}.out")
    for name, command in commands.items():
        if work.left < LEAST:
            print(f"{name}: no time left")
            continue
        began = time.monotonic()
        state = work.run(command, log, keep=answer if results else None)
        seconds = round(time.monotonic() - began, 1)
        done[name] = {"command": command[1:], "status": state, "seconds": seconds}
        if results and state == 0:
            done[name]["result"] = json.loads(answer.read_text(encoding="utf-8"))
        work.write(f"{what}{tag}.json", done)
        print(f"{name}: {'ok' if state == 0 else f'exit status {state}'}, {seconds} s", flush=True)
        _rows(done[name])
    if any(entry["status"] for entry in done.values()):
        print(tail(log))
        return 1
    return OUT_OF_TIME if len(done) < len(commands) or None in [e["status"] for e in done.values()] else 0


def _rows(entry: dict[str, Any]) -> None:
    """Print the ratios of a bench's rows, as far as it has such."""
    for row in entry.get("result", {}).get("rows", ()):
        if "times_floor" in row:
            kept = (
                "op",
                "shape",
                "who",
                "forward_ms",
                "both_ms",
                "forward_times_floor",
                "times_floor",
                "times_ours",
            )
            print("  ", *(f"{key} {row[key]}" if "_" in key else row[key] for key in kept), row["error"])


def _tests(work: Work) -> list[str]:
    """Return the ids of all tests that need a GPU.

    Raises:
        SystemExit: If they cannot be collected.
    """
    listing, log = Path(tempfile.gettempdir(), "gpu-tests.txt"), work.out / "collect.log"
    command = [*PYTEST, "-n", "0", "--collect-only", "-q", "--continue-on-collection-errors", *TESTS]
    state = work.run(command, log, keep=listing)
    lines = listing.read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if "::" in line and not line.startswith(("ERROR", " "))]
    if state:  # a file that cannot be loaded is said, and the others are run
        print(tail(listing, 12))
    if not found:
        raise SystemExit(f"no tests could be collected; {log} and this say why:\n{tail(listing, 40)}")
    return found


def _outcomes(report: Path) -> tuple[dict[str, int], list[str]]:
    """Return how many tests ended how, and one line for each that failed."""
    counts: dict[str, int] = {"passed": 0, "failed": 0, "error": 0, "skipped": 0}
    bad: list[str] = []
    if not report.exists():
        return counts, ["no report was written"]
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag: child for child in case if child.tag in ("failure", "error", "skipped")}
        how = next(iter(kinds), "passed").replace("failure", "failed")
        counts[how] += 1
        if how in ("failed", "error"):
            why = (next(iter(kinds.values())).get("message") or "").partition("\n")[0]
            bad.append(f"{how}: {case.get('classname')}::{case.get('name')}: {why[:300]}")
    return counts, bad


def _keep(folder: Path, name: str, work: Work) -> None:
    """Copy a study's results, and pack its folder without weights of finished runs: with it, another slice goes on."""
    for file, kept in (("results.json", f"{name}.json"), ("table.md", f"{name}.md")):
        if (folder / file).exists():
            shutil.copy(folder / file, work.out / kept)

    runs = [file.parent for file in folder.glob("runs/*/*/status.json")]
    tests = {run: len(list(run.glob("eval/*.json"))) for run in runs}
    light = {
        run.relative_to(folder)
        for run in runs
        if _state(run) == "finished"
        and tests[run] == max(tests.values())  # none is left to do that needs weights
    }

    def filtered(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        file = Path(entry.name)
        weights = file.suffix == ".safetensors" and not light.isdisjoint(file.parents)
        return None if weights or "plots" in file.parts else entry

    if folder.exists():
        with tarfile.open(work.out / f"{name}.tgz", "w:gz") as archive:
            archive.add(folder, arcname=".", filter=filtered)


def _state(run: Path) -> str:
    return json.loads((run / "status.json").read_text(encoding="utf-8"))["state"]
