"""What takes long: a corpus larger than memory, and models trained as the default recipe says."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ssm_data
from ssm_core.model import build_for_task
from ssm_core.plugin import registry
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.recipes import default_recipe

LIMIT = 10**9
"""Bytes of memory of its own that the process may ask for, used or not."""

log = logging.getLogger(__name__)

PREPARE = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[2]),) * 2)
from ssm_core.plugin import registry
from test_text_lm_slow import held

seen = {}
def progress(what, done, total):
    seen.setdefault(what, {}).setdefault(10 * done // total, held("self"))

registry.build_task("text-lm", json.loads(sys.argv[1])).prepare(progress)
last = list(seen.values())[-1]
print(json.dumps([last[min(k for k in last if k >= 1)], held("self")]))
"""


def held(process: int | str) -> float:
    """Return the megabytes of a process's memory that no file stands behind; 0 if it has ended."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = re.search(r"RssAnon:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else 0.0


def prepared(given: dict[str, Any], seconds: float) -> tuple[float, float, float]:
    """Prepare the data in a process of its own, whose memory is limited.

    Returns:
        Its memory at a tenth of the encoding, at the end, and at most: looked at from here, every 20 ms, since a
        library at work may keep a thread of its own process waiting. All in megabytes.
    """
    code = [sys.executable, "-c", PREPARE, json.dumps(given), str(LIMIT)]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    peak, end = 0.0, time.monotonic() + seconds
    with subprocess.Popen(
        code, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    ) as child:
        while child.poll() is None:
            peak = max(peak, held(child.pid))
            if time.monotonic() > end:
                child.kill()
            time.sleep(0.02)
        assert child.stdout is not None
        out = child.stdout.read()
    assert child.returncode == 0
    early, late = json.loads(out)
    return early, late, peak


def corpus(path: Path, megabytes: int) -> Path:
    """Write a text of made-up words, a few of them often."""
    draw = np.random.default_rng(0)
    known = ["".join(map(chr, draw.integers(97, 123, n))) for n in draw.integers(2, 9, 5000)]
    with path.open("w", encoding="utf-8") as file:
        lines = [" ".join(known[i] for i in draw.zipf(1.3, 12) % 5000) + "\n" for _ in range(20_000)]
        text = "".join(lines)
        for _ in range(megabytes * 1_000_000 // len(text)):
            file.write(text)
    return path


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("level", "megabytes"), [("byte", 4000), ("bpe", 200)])
def test_a_corpus_of_any_size_is_encoded_in_the_same_memory(tmp_path, level: str, megabytes: int) -> None:
    given = {"path": str(corpus(tmp_path / "big.txt", megabytes)), "level": level}
    early, late, peak = prepared({**given, "cache": str(tmp_path / "cache")}, 3000)
    assert late - early < 50, f"{early:.0f} MB at a tenth, {late:.0f} MB at the end"
    log.info("%s: %.0f MB at a tenth, %.0f MB at the end, %.0f MB at most", level, early, late, peak)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_selective_model_halves_the_unigram_and_a_time_invariant_one_does_not(seed: int) -> None:
    recipe = default_recipe("text-lm")
    assert recipe is not None
    shares = {"validation": 0.1, "test": 0.1}
    train, test = (ssm_data.load("text-lm", name, **shares).arrays["tokens"] for name in ("train", "test"))
    counts = np.bincount(train, minlength=256) + 1
    unigram = -np.log2(counts / counts.sum())[test].mean()
    assert 4.5 < unigram < 5.5
    assert bits_per_byte(recipe.for_backbone("mamba2"), "mamba2", seed) < 0.48 * unigram
    assert 0.52 * unigram < bits_per_byte(recipe.for_backbone("s4d"), "s4d", seed) < 0.8 * unigram


def bits_per_byte(tree: dict[str, Any], backbone: str, seed: int) -> float:
    """Train as the recipe says, without the run folder that this package knows nothing of."""
    config = RunConfig.from_tree(layered(tree, {"backbone": {"name": backbone}}))
    assert config.task is not None
    task = registry.builder("task", config.task.name)[1](config.task.config)
    data, test = task.splits()["train"], task.splits()["test"]
    torch.manual_seed(seed)
    model, steps = build_for_task(config, task), config.train.steps
    assert steps is not None
    optimizer = torch.optim.AdamW(model.parameters(), config.optim.lr, weight_decay=config.optim.weight_decay)
    cosine = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.optim.lr, steps, pct_start=0.05)
    for _ in range(steps):
        rows = torch.randint(0, len(data), (config.train.batch_size,)).tolist()
        batch = task.collate([data[i] for i in rows])
        total, weight = task.loss(model(batch), batch)
        optimizer.zero_grad()
        (total / weight).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
        optimizer.step()
        cosine.step()
    nats = count = 0.0
    with torch.no_grad():
        for i in range(len(test)):
            batch = task.collate([test[i]])
            found = task.predictions(model.eval()(batch), batch)
            nats, count = nats - float(found["prediction"].sum()), count + float(found["bytes"].sum())
    return nats / count / np.log(2)
