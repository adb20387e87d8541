"""What the probe `information` is called and takes; loads no torch."""

from __future__ import annotations

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import ProbeSpec


@config
class InformationConfig:
    """Proposition 1 on random systems, or, if a run is given, on the layers of its model.

    Attributes:
        systems: Random systems of each kind of eigenvalue.
        state_size: Size N of their states.
        length: Elements L of their sequences.
        eigenvalues: Real, complex, or a set of systems of each.
        intervals: The intervals that element n gets in them, one after the other.
        sequences: Sequences of the test split that a trained model is given, from the first.
        elements: Elements of each that are taken out, one at a time and without the others.
        layers: Blocks of the model to look into: "*", "0,2" or a slice such as "1::2".
        seed: Seed of the systems, and of which elements are taken.
    """

    systems: int = 200
    state_size: int = 8
    length: int = 32
    eigenvalues: Literal["real", "complex", "both"] = "both"
    intervals: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4)
    sequences: int = 4
    elements: int = 16
    layers: str = "*"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: Naming the knob that is out of its range.
        """
        for name in ("systems", "state_size", "length", "sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.elements < 2:
            raise ValueError("elements must be at least 2: there is no slope through one point")
        if len(set(self.intervals)) < 2 or not all(1e-5 <= value <= 1 for value in self.intervals):
            raise ValueError(
                "intervals must be two different numbers or more in [1e-5, 1], such as [0.1, 0.001]: below, rounding "
                "is larger than what is measured"
            )


SPEC = ProbeSpec(
    api=1,
    name="information",
    summary="how far an element moves the last state and the output, against its interval (Proposition 1)",
    config=InformationConfig,
    build="ssm_serpent.information.measure:probe",
)
