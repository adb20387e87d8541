from __future__ import annotations

import json
import signal
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import gpu_plan
import gpu_rivals
import gpu_slices
import gpu_wheels
from gpu_work import LEAVING, Work
from ssm_core.plugin import registry
from ssm_core.plugin.config import parse_set
from workspace import ROOT, members

REPORT = """<testsuites><testsuite>
<testcase classname="a" name="good"/>
<testcase classname="a" name="off"><failure message="0.2 != 0.1&#10;more">text</failure></testcase>
<testcase classname="a" name="none"><skipped message="no CUDA device"/></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize("name", gpu_plan.BENCHES)
def test_every_bench_has_the_knobs_that_it_is_given(name):
    bench, *words = gpu_plan.BENCHES[name]
    assert words[::2] == ["--set"] * (len(words) // 2)
    found = registry.configure("bench", bench, parse_set(words[1::2]))
    assert found.device == "cuda"
    if "long" in name:
        assert found.long == 262144


def test_a_study_of_its_own_is_read():
    study = tomllib.loads((ROOT / "scripts" / "gpu_pendulum.toml").read_text(encoding="utf-8"))
    assert study["recipe"] == "pendulum/paper"
    assert len(study["seeds"]) == 10


def test_what_travels_and_what_is_there_do_not_overlap():
    there = gpu_wheels.THERE.split()
    assert len(there) == len(set(there))
    wanted = {line.partition("==")[0] for line in gpu_wheels.requirements()}
    assert {"torch", "numpy", "pydantic"} <= wanted
    assert set(there) <= wanted, "no longer needed by the workspace"
    assert not wanted & {member.name for member in members()}


def test_parts_are_disjoint_and_together_all(tmp_path):
    pieces = [f"piece {i}" for i in range(10)]
    parts = [Work(tmp_path, 60, f"{k}/3").chosen(pieces) for k in (1, 2, 3)]
    assert sorted(piece for part in parts for piece in part) == pieces
    assert sum(map(len, parts)) == 10
    assert Work(tmp_path, 60, "e 7").chosen(pieces) == ["piece 7"]
    for wrong in ("4/3", "0/3", "nothing"):
        with pytest.raises(SystemExit):
            Work(tmp_path, 60, wrong).chosen(pieces)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_command_is_told_to_stop_in_time_and_may_save(tmp_path, how):
    code = "import signal, sys, time\nprint('on', flush=True)\n"
    code += f"signal.signal({int(how)}, lambda *_: (print('saved'), sys.exit(0)))\ntime.sleep(60)"
    work = Work(tmp_path, LEAVING + 4)
    log = tmp_path / "log"
    assert work.run([sys.executable, "-c", code], log, stop=how) is None
    assert "saved" in log.read_text()


def test_a_command_that_ends_says_how(tmp_path):
    work = Work(tmp_path, 60)
    kept = tmp_path / "kept"
    assert (
        work.run([sys.executable, "-c", "print('out'); raise SystemExit('err')"], tmp_path / "log", keep=kept)
        == 1
    )
    assert kept.read_text() == "out\n"
    assert "err" in (tmp_path / "log").read_text()


def test_outcomes_are_counted_and_failures_named(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    counts, bad = gpu_slices._outcomes(report)
    assert counts == {"passed": 1, "failed": 1, "error": 0, "skipped": 1}
    assert bad == ["failed: a::off: 0.2 != 0.1"]
    assert sum(gpu_slices._outcomes(tmp_path / "none")[0].values()) == 0


def test_a_bench_that_fails_does_not_lose_the_others(tmp_path):
    work = Work(tmp_path, 60)
    commands = {
        "bad": [sys.executable, "-c", "raise SystemExit(2)"],
        "good": [sys.executable, "-c", "print('{\"rows\": []}')"],
    }
    assert gpu_slices._each(work, "measure", commands, results=True) == 1
    found = json.loads((tmp_path / "measure.json").read_text())
    assert found["bad"]["status"] == 2
    assert found["good"]["result"] == {"rows": []}


def test_weights_of_a_study_are_packed_where_they_are_still_needed(tmp_path):
    folder = tmp_path / "study"
    for name, state, tests in (("done", "finished", 2), ("untested", "finished", 1), ("half", "running", 0)):
        run = folder / "runs" / "task" / name
        (run / "eval").mkdir(parents=True)
        (run / "checkpoints").mkdir()
        (run / "status.json").write_text(json.dumps({"state": state}))
        (run / "checkpoints" / "model.safetensors").write_text("weights")
        for i in range(tests):
            (run / "eval" / f"{i}.json").write_text("{}")
    gpu_slices._keep(folder, "grid", Work(tmp_path / "out", 60))
    with tarfile.open(tmp_path / "out" / "grid.tgz") as packed:
        kept = {Path(name).parts[2] for name in packed.getnames() if name.endswith(".safetensors")}
        assert sum(name.endswith("status.json") for name in packed.getnames()) == 3
    assert kept == {"untested", "half"}


def test_a_source_is_cut_down_to_one_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_rivals.tempfile, "gettempdir", lambda: str(tmp_path))
    source = tmp_path / "it-1"
    (source / "mamba_ssm").mkdir(parents=True)
    (source / "mamba_ssm" / "__init__.py").write_text('__version__ = "1"\nimport tilelang\n')
    blocks = "".join(
        f'    if bare_metal_version >= {v}:\n        cc_flag.append("-gencode")\n'
        f'        cc_flag.append("arch=compute_{c},code=sm_{c}")\n'
        for v, c in ((11, 90), (12, 100))
    )
    (source / "setup.py").write_text(f"bare_metal_version, cc_flag = 13, []\nif True:\n{blocks}")
    archive = tmp_path / "it-1.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(source, arcname="it-1")
    made = gpu_rivals.unpacked(archive)
    scope: dict[str, list[str]] = {}
    exec((made / "setup.py").read_text(), scope)
    assert scope["cc_flag"] == ["-gencode", "arch=compute_90,code=sm_90"]
    assert (made / "mamba_ssm" / "__init__.py").read_text() == '__version__ = "1"\n'
