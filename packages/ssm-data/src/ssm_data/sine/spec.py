"""What the sine task says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import Paper, TaskSpec


@config
class SineConfig:
    """Knobs of the sine task.

    Attributes:
        time: What the model is told of the sampling points. "true": the gap before each as dt (one nominal step = 1);
            "ignored": nothing; "appended": the gap as one more input channel.
        grid: Where the signals are seen: every step ("uniform"), each point moved at random ("jittered"), some left out
            ("dropped"), or at another rate ("stretched"). The signals stay the same; change it when a trained model is
            evaluated, to see what sampling points cost that it was not trained on.
        jitter: Largest move of a point on the jittered grid, in steps, in [0, 0.5].
        drop: Share of the points that the dropped grid leaves out, drawn for each sequence, in [0, 1).
        stretch: Gap between points on the stretched grid, in steps.
        length: Points on the full grid.
        step: Nominal step in seconds.
        horizon: How far ahead the signal is asked for, in steps.
        components: Sine waves in a signal.
        f_min: Lowest frequency in Hz.
        f_max: Highest frequency in Hz.
        noise: Standard deviation of the noise on what is seen; the targets have none.
        n_train: Training sequences.
        n_validation: Validation sequences.
        n_test: Test sequences.
        seed: Seed of the data; each split draws from a stream of its own.
        cache: Folder of made data; by default the one that SSM_DATA_DIR names, else ~/.cache/ssm/data.
    """

    time: Literal["true", "ignored", "appended"] = "true"
    grid: Literal["uniform", "jittered", "dropped", "stretched"] = "uniform"
    jitter: float = 0.5
    drop: float = 0.3
    stretch: float = 1.2
    length: int = 512
    step: float = 0.01
    horizon: float = 10.0
    components: int = 3
    f_min: float = 0.5
    f_max: float = 2.0
    noise: float = 0.1
    n_train: int = 2000
    n_validation: int = 500
    n_test: int = 500
    seed: int = 0
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a knob is out of its range.
        """
        if self.length < 1 or self.components < 1:
            raise ValueError("length and components have to be at least 1")
        if not 0 <= self.jitter <= 0.5:
            raise ValueError(f"jitter = {self.jitter} has to lie in [0, 0.5], or points would change places")
        if not 0 <= self.drop < 1 or self.kept < 1:
            raise ValueError(f"drop = {self.drop} leaves no point: it has to lie in [0, 1)")
        if self.stretch <= 0 or self.step <= 0:
            raise ValueError("stretch and step have to be above 0")
        if not 0 < self.f_min <= self.f_max:
            raise ValueError(f"0 < f_min <= f_max must hold, not {self.f_min} and {self.f_max}")
        if self.noise < 0 or self.seed < 0:
            raise ValueError("noise and seed must not be negative")
        for name in ("n_train", "n_validation", "n_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: a split needs at least one sequence")

    @property
    def kept(self) -> int:
        """Points of a sequence on the grid."""
        return round(self.length * (1 - self.drop)) if self.grid == "dropped" else self.length


SPEC = TaskSpec(
    api=1,
    name="sine",
    summary="a sum of three sine waves, foretold from noisy points at uniform or perturbed times",
    config=SineConfig,
    build="ssm_data.sine.task:build",
    paper=Paper(
        title="SMR: State Memory Replay for Long Sequence Modeling",
        authors=(
            "Qi, Biqing and Gao, Junqi and Zhang, Kaiyan and Li, Dong and Liu, Jianxing and Wu, Ligang and Zhou, Bowen"
        ),
        year=2024,
        arxiv="2405.17534",
        bibtex="""@inproceedings{qi2024smr,
  title={{SMR}: State Memory Replay for Long Sequence Modeling},
  author={Qi, Biqing and Gao, Junqi and Zhang, Kaiyan and Li, Dong and Liu, Jianxing and Wu, Ligang and Zhou, Bowen},
  booktitle={Findings of the Association for Computational Linguistics: ACL 2024},
  pages={8102--8116},
  year={2024}
}""",
    ),
)
