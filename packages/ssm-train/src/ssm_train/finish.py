"""After the last step: the best checkpoint on the test split, the closing lines, the pictures."""

from __future__ import annotations

import math
import traceback
from typing import Any

from ssm_core.protocols import Task
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder, read_json, write_json
from ssm_core.run.load import load_weights
from ssm_eval.evaluation import Evaluation, evaluate
from ssm_eval.plots import learning_curve, predictions
from ssm_eval.published import nearest_published
from ssm_train.display import Display, figures
from ssm_train.loop import Trainer
from ssm_train.record import Recorder


def finish(
    trainer: Trainer, config: RunConfig, task: Task, run: RunFolder, display: Display
) -> Evaluation | None:
    """Test the best checkpoint and write its metrics.

    Returns:
        What the first process has to draw pictures of; None without a test split, and in other processes.
    """
    if "test" not in trainer.splits:
        return None
    trainer.accelerator.wait_for_everyone()  # the first process may still be writing the last checkpoint
    load_weights(trainer.bare, run.checkpoint("best") / "model.safetensors")
    result = evaluate(
        trainer.bare,
        task,
        trainer.splits["test"],
        batch_size=config.train.eval_batch_size,
        device=trainer.accelerator.device,
        precision=config.train.precision,
    )
    if not trainer.accelerator.is_main_process:
        return None
    best_file = run.path / ("best.json" if (run.path / "best.json").is_file() else "latest.json")
    best = read_json(best_file)
    recorder = Recorder(run, config.train.tracker, trainer.wall)
    epoch = trainer.plan.epoch(best["step"] - 1)
    recorder.metrics(best["step"], epoch, "test", result.metrics)
    report = {
        "run": str(run.path),
        "step": best["step"],
        "split": "test",
        "overrides": {},
        "metrics": result.metrics,
        "n": result.n,
    }
    (run.path / "eval").mkdir(exist_ok=True)
    write_json(run.path / "eval" / f"test@{best['step']}.json", report)
    lines = [f"test {figures(result.metrics)}, at {_chosen(best_file.stem, best)} epoch {epoch + 1}"]
    published = nearest_published(config)
    if published is not None:
        spread = f" (std {published.std:.2g})" if published.std is not None else ""
        lines.append(
            f"published {published.model}: {published.metric} {published.value:.4g}{spread}; {published.source}"
        )
    for line in lines:
        display.say(line)
        recorder.log(line)
    recorder.close()
    return result


def draw(task: Task, run: RunFolder, result: Evaluation, display: Display) -> None:
    """Draw the pictures and say where they are. What goes wrong with one is told; the run is as good without it."""
    try:
        display.say(f"learning curve: {learning_curve(run)}")
        panels = task.plots(*result.first)
        if panels:
            display.say(f"predictions:    {predictions(panels, run.path / 'plots' / 'predictions.png')}")
    except Exception as error:  # noqa: BLE001 - a foreign task: anything may come out
        log = run.path / "log.txt"
        display.say(f"warning: a picture could not be drawn: {type(error).__name__}: {error}; see {log}")
        with log.open("a", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)))


def _chosen(name: str, pointer: dict[str, Any]) -> str:
    if name != "best":
        return "the last"
    if pointer["value"] is None or math.isnan(pointer["value"]):  # JSON has null for NaN
        return f"the first (no validation {pointer['metric']} was a number)"
    return "the best validation"
