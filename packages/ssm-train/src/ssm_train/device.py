"""Where and how a run computes: device, precision, threads, processes."""

from __future__ import annotations

import atexit
import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from ssm_core.plugin.errors import ConfigError
from ssm_core.run.config import TrainConfig

_PRECISION = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


def check_device(config: TrainConfig) -> None:
    """Check that this machine has what a run asks for.

    Raises:
        ConfigError: If it has no such device, or one that cannot compute in the precision.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device = cuda, but torch finds no CUDA device here", "--device cpu")
    if config.precision == "fp16" and (config.device == "cpu" or not torch.cuda.is_available()):
        raise ConfigError("train.precision = fp16 needs a CUDA device", "--set train.precision=bf16")


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Return the accelerator a run asks for; under ``accelerate launch`` it spans all processes.

    Raises:
        ConfigError: If the device is not there, or the batch does not divide over processes and slices.
    """
    check_device(config)
    # accelerate keeps one state a process; a second run in it may want other settings.
    if AcceleratorState._shared_state and "WORLD_SIZE" not in os.environ:
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=config.device == "cpu" or not torch.cuda.is_available(),
        mixed_precision=_PRECISION[config.precision],
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if torch.distributed.is_initialized():
        atexit.register(_leave_group)
    slices = accelerator.num_processes * config.accumulate
    if config.batch_size % slices:
        raise ConfigError(
            f"train.batch_size = {config.batch_size} does not divide over {accelerator.num_processes} processes "
            f"and train.accumulate = {config.accumulate}",
            f"use a multiple of {slices}",
        )
    return accelerator


def _leave_group() -> None:
    # Interpreters that end while the group's own threads still run are sometimes aborted, after a good run.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def set_threads(threads: int) -> None:
    """Use so many CPU threads; 0 leaves torch's own choice."""
    if threads:
        torch.set_num_threads(threads)


def is_main() -> bool:
    """Whether this process is the one that speaks, before any accelerator exists."""
    return os.environ.get("RANK", "0") == "0"
