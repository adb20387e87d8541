"""What the probe nss is called and takes; loads no torch."""

from __future__ import annotations

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import ProbeSpec

SIZES = {"jitter": 0.5, "stretch": 1.2, "drop": 0.3, "rate": 0.5}
"""Kind of grid -> size of the perturbation, if none is given."""


@config
class NSSConfig:
    """Non-stable states: the error of the state when inputs are read at other times than the nominal ones.

    Without a RUN the system and its input are stated by knobs. With a RUN, they are the trained layers on sequences of
    the test split, and the knobs system, real, frequencies, states, step, signal, gate, tau, gate_scale and table do
    nothing.

    Attributes:
        grid: How the sampling points are moved: jitter (each by up to size steps, at random), stretch (a gap of size
            steps), drop (a share size of the points is left out at random), rate (sampled at size times the rate).
        size: Size of the perturbation; left out it is 0.5, 1.2, 0.3 and 0.5 for the four grids.
        system: modes are independent complex oscillators; hippo is the dense HiPPO-LegS matrix; random a dense Gaussian
            matrix. Each is held over a step (zero-order hold).
        real: Real part of the modes' eigenvalues, and largest real part of the random matrix's, per second.
        frequencies: Imaginary parts of the modes' eigenvalues, in Hz.
        states: Size of the systems hippo and random.
        step: Nominal step in seconds.
        signal: Frequencies of the sine waves, each of amplitude 1, whose sum is the input, in Hz, above 0.
        length: Elements of the stated system, at least 2; the most that are taken of a RUN's sequences.
        gate: Weights of the SMR gate on the input: drawn as a convolution layer's (default), or nearly open at 0.953.
        tau: Inputs that the gate sees.
        gate_scale: Factor on the sigmoid.
        seed: Seed of the grid, the gate's weights and the random matrix.
        table: Print the toy table of the explanation: four real parts, jitter of 0.5 and stretch of 1.2.
        shift: Settings of the run's task for the perturbed grid, such as ["grid=jittered", "jitter=0.25"]; the same
            sequences are then read on both grids. Left out, encoded inputs are interpolated between elements by grid
            and size, which any task allows.
        rows: Sequences of the test split.
    """

    grid: Literal["jitter", "stretch", "drop", "rate"] = "stretch"
    size: float | None = None
    system: Literal["modes", "hippo", "random"] = "modes"
    real: float = -0.5
    frequencies: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    states: int = 8
    step: float = 0.01
    signal: tuple[float, ...] = (1.0,)
    length: int = 1000
    gate: Literal["default", "open"] = "default"
    tau: int = 4
    gate_scale: float = 1.0
    seed: int = 0
    table: bool = False
    shift: tuple[str, ...] = ()
    rows: int = 2

    def __post_init__(self) -> None:
        """Check the ranges."""
        if min(self.states, self.tau, self.rows) < 1:
            raise ValueError("states, tau and rows must be at least 1")
        if self.length < 2:
            raise ValueError("length must be at least 2: the first element has no error before it")
        if self.step <= 0 or self.gate_scale <= 0:
            raise ValueError("step and gate_scale must be above 0")
        if not self.frequencies or not self.signal:
            raise ValueError("frequencies and signal need at least one entry")
        if min(self.signal) <= 0:
            raise ValueError("signal takes frequencies above 0, in Hz: a wave of 0 Hz is no input")
        if self.seed < 0:
            raise ValueError("seed must not be negative")
        if self.grid == "jitter" and not 0 <= self.amount <= 0.5:
            raise ValueError("jitter takes a size in [0, 0.5]: beyond it points would change places")
        if self.grid == "drop" and not 0 <= self.amount < 1:
            raise ValueError("drop takes a size in [0, 1): the share of points that is left out")
        if self.grid in ("stretch", "rate") and self.amount <= 0:
            raise ValueError(f"{self.grid} takes a size above 0, 1 being the nominal grid")
        if self.table and self.length < 1000:
            raise ValueError("the table reads the error after 1000 elements: leave length at 1000")

    @property
    def amount(self) -> float:
        """The size of the perturbation, given or not."""
        return SIZES[self.grid] if self.size is None else self.size

    @property
    def perturbation(self) -> str:
        """The grid in words."""
        return {
            "jitter": f"points moved by up to {self.amount:g} steps",
            "stretch": f"points {self.amount:g} steps apart",
            "drop": f"a share {self.amount:g} of the points left out",
            "rate": f"points at {self.amount:g} times the rate",
        }[self.grid]


SPEC = ProbeSpec(
    api=1,
    name="nss",
    summary="the state's error on a perturbed grid and its bounds, of a stated system or a trained model's layers",
    config=NSSConfig,
    build="ssm_smr.nss.probe:probe",
)
