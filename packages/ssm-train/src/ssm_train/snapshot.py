"""All that a run goes on from, taken out of a trainer and put back into one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from torch import Tensor

from ssm_core.plugin.errors import UserError
from ssm_core.run.load import Misfit, fitting
from ssm_train import rng
from ssm_train.checkpoint import Checkpoint, check, pointer
from ssm_train.feed import Counts

if TYPE_CHECKING:
    from ssm_train.loop import Trainer


def take(trainer: Trainer, value: float | None, wall: float) -> Checkpoint | None:
    """Return a checkpoint of this very step, None but in the first process; every one has to call this.

    Args:
        trainer: The run.
        value: The primary metric on the validation split, if it was evaluated at this step.
        wall: Seconds of training so far.
    """
    # Between epochs there is no state to go on from.
    inside = trainer.step % trainer.plan.steps_per_epoch > 0
    streams, forms = trainer.steps.carried.stored() if inside else ({}, {})
    tensors, plain = rng.capture()
    own = {"rng": plain, "streams": forms, "counts": trainer.feed.counts.state()}
    parts = gather_object([{str(trainer.accelerator.process_index): (tensors, streams, own)}])
    if not trainer.accelerator.is_main_process:
        return None
    states = {rank: state for part in parts for rank, state in part.items()}
    scaler = trainer.accelerator.scaler
    return Checkpoint(
        step=trainer.step,
        model=trainer.bare.state_dict(),
        optimizer=trainer.optimizer.tensors(),
        rng={f"{rank}/{key}": t for rank, (ts, _, _) in states.items() for key, t in ts.items()},
        streams={f"{rank}/{key}": t for rank, (_, ts, _) in states.items() for key, t in ts.items()},
        state={
            **{key: {rank: plain[key] for rank, (_, _, plain) in states.items()} for key in own},
            "scaler": scaler.state_dict() if scaler else {},
            "latest": pointer(trainer.run, trainer.step, trainer.task.primary[0], value),
            "best": trainer.best,
            "validated": trainer.validated,
            "plateau": trainer.plateau.state(),
            "empty": trainer.empty,
            "wall": wall,
            "recent": trainer.recent,
        },
    )


def put_back(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Make a trainer go on from a checkpoint exactly as if the run had never stopped.

    Raises:
        UserError: If it does not fit the model, or holds the streams of another number of processes.
    """
    state, accelerator = checkpoint.state, trainer.accelerator
    if checkpoint.streams and len(state["streams"]) != accelerator.num_processes:
        raise UserError(
            f"step {checkpoint.step} holds the streams of {len(state['streams'])} processes, "
            f"and these are {accelerator.num_processes}",
            "resume with as many processes",
        )
    file = trainer.run.path / state["latest"]["path"] / "model.safetensors"
    try:
        trainer.bare.load_state_dict(fitting(trainer.bare.state_dict(), checkpoint.model, file))
    except Misfit as error:
        raise Misfit(error.what, "give the model that the run was made with") from None
    trainer.optimizer.load(checkpoint.optimizer)
    rank = str(accelerator.process_index)
    if rank in state["rng"]:
        rng.restore(_of_rank(checkpoint.rng, rank), state["rng"][rank])
    if accelerator.scaler and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])
    forms: Mapping[str, Any] = state.get("streams", {}).get(rank, {})
    trainer.steps.carried.load(_of_rank(checkpoint.streams, rank), forms, accelerator.device)
    trainer.feed.counts = Counts(**state.get("counts", {}).get(rank, {}))
    trainer.plateau.load(state.get("plateau", {}))
    trainer.step, trainer.wall = checkpoint.step, state["wall"]
    trainer.best = _held(trainer, state["best"])
    trainer.empty = state.get("empty", 0)
    trainer.validated = state.get("validated", checkpoint.step)
    trainer.recent, trainer.saved = dict(state["recent"]), checkpoint.step


def _held(trainer: Trainer, best: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the pointer to the best checkpoint, None if that is no longer there to be tested in the end."""
    if best is None or best["step"] == trainer.step:
        return best
    try:
        check(trainer.run.path / best["path"])
    except UserError as error:
        lost = f"the best checkpoint so far, of step {best['step']}, is lost: {error.what}"
        trainer.display.say(f"{lost}; the next validation will be the best so far")
        return None
    return best


def _of_rank(tensors: Mapping[str, Tensor], rank: str) -> dict[str, Tensor]:
    """Return one process's tensors by their own names."""
    return {key.partition("/")[2]: t for key, t in tensors.items() if key.startswith(f"{rank}/")}
