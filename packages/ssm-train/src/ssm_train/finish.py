"""After the last step: the best checkpoint on the test split, the pictures, the closing lines."""

from __future__ import annotations

from ssm_core.protocols import Task
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder, read_json, write_json
from ssm_core.run.load import load_weights
from ssm_eval.evaluation import evaluate
from ssm_eval.plots import learning_curve, predictions
from ssm_eval.published import nearest_published
from ssm_train.display import Display, figures
from ssm_train.loop import Trainer
from ssm_train.record import Recorder


def finish(trainer: Trainer, config: RunConfig, task: Task, run: RunFolder, display: Display) -> None:
    """Test the best checkpoint, write metrics and pictures, and say where they are."""
    if "test" not in trainer.splits:
        return
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
        return
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
    which = "the best validation" if best_file.name == "best.json" else "the last"
    lines = [f"test {figures(result.metrics)}, at {which} epoch {epoch + 1}"]
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
    display.say(f"learning curve: {learning_curve(run)}")
    panels = task.plots(*result.first)
    if panels:
        display.say(f"predictions:    {predictions(panels, run.path / 'plots' / 'predictions.png')}")
