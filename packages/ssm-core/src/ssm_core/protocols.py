"""The contracts between the rooms of the house: mixers, blocks, tasks and what flows between them.

Shape suffixes, here and everywhere: b batch, l length, d width, n state. A state is a nested tuple or dict of tensors
with the batch on axis 0; it is passed in and handed back, never kept on a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ssm_core.measured import BandPlot as BandPlot
from ssm_core.measured import Chart as Chart
from ssm_core.measured import Curve as Curve
from ssm_core.measured import Result as Result
from ssm_core.plugin.errors import UserError

State: TypeAlias = Any
"""A tree (dict, tuple) of tensors, batch on axis 0; ``()`` for a mixer without memory."""

Side: TypeAlias = Mapping[str, Tensor]
"""Tensors (B, L, ...) sampled together with x; a gate passes them on, a resampler resamples them with x."""


class Mixer(Protocol):
    """Mixes a sequence along time. Every mixer is also an :class:`torch.nn.Module`.

    **Optional members.** A mixer, or a module inside one, may have these too. They are looked up by name, and what
    stands in brackets is taken where there is none.

    - ``stateful`` (True): False in a causal mixer that cannot carry its state from call to call.
    - ``way_out`` (""): the settings that would give what it cannot do, such as ``--set backbone.version=exp``, for the
      message that refuses it.
    - ``wants_dt`` (""): not empty in what reads gaps itself, whatever the mixer inside does with them: the settings
      that give them or do without.
    - ``side_widths`` ({}): width by name of every tensor that it needs as ``side``; an add-on's are those of the mixer
      inside.
    - ``x_reverse_bld``: a keyword of ``forward``, which only bidirectional calls give: the input (B, L, D) of the
      reverse direction where it differs from ``x_bld``. Add-ons look for it in the signature.
    - ``recurrence``: lays a linear recurrence open for probes; :class:`ssm_core.recurrence.LinearRecurrence`.
    - ``observe``: tells something of itself in training; :class:`Observed`.
    - ``param_hints``: how its own parameters want to be trained, a mapping from their names to :class:`Hint`.
    - ``inner``: in an add-on, what it goes round; see :data:`Wrap`.
    """

    @property
    def d_model(self) -> int:
        """Width of its input and output."""
        ...

    @property
    def causal(self) -> bool:
        """Outputs depend on the present and the past only."""
        ...

    @property
    def streaming(self) -> bool:
        """:meth:`step` is available and equals :meth:`forward`."""
        ...

    @property
    def takes_dt(self) -> bool:
        """Honours ``dt_bl``."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, State]:
        """Run :meth:`forward` the way modules are called."""
        ...

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return the state before the first element, batch on axis 0."""
        ...

    def forward(
        self,
        x_bld: Tensor,
        *,
        dt_bl: Tensor | None = None,
        mask_bl: Tensor | None = None,
        reset_bl: Tensor | None = None,
        side: Side | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State]:
        """Mix a whole sequence.

        Args:
            x_bld: Input (B, L, D).
            dt_bl: Gap before each element (B, L) in units of the layer's own step, 0 or more; None is 1 everywhere.
                Time runs forwards: what a negative gap gives is not defined, and it is not looked for.
            mask_bl: True where an element is valid (B, L). A masked one leaves the state as it was, and its gap
                is added to the next valid element's. Whatever stands in masked places, NaN included, has no effect.
            reset_bl: True where the state is zeroed before the element (B, L).
            side: Tensors sampled together with x.
            state: State to go on from; None starts from :meth:`init_state`.

        Returns:
            Output (B, L, D), and the state after the last valid element of each row.
        """
        ...

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Mix one element (B, D), given the state before it; equals :meth:`forward` on a sequence of one."""
        ...


Block: TypeAlias = Mixer
"""A mixer on the residual stream: norm, mixer, channel mixing and skip connection together."""

Make: TypeAlias = Callable[[int], Mixer]
"""Builds the thing a slot holds, at a width."""


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """Where a block stands and how its surroundings are to be built.

    Attributes:
        index: Position in the stack, from 0.
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        causal: Whether outputs may depend on the past only.
        max_length: Longest sequence to expect; None if not known.
        dropout: Dropout rate.
        norm: ``"layer"``, ``"rms"``, ``"batch"``, ``"scale"`` or ``"none"``.
        prenorm: Norm before the mixer, rather than after the skip connection.
        tie_dropout: Share the dropout mask over time.
    """

    index: int
    n_layers: int
    d_model: int
    causal: bool = True
    max_length: int | None = None
    dropout: float = 0.0
    norm: str = "layer"
    prenorm: bool = True
    tie_dropout: bool = False


Wrap: TypeAlias = Callable[[Make, int, LayerInfo], Mixer]
"""What an add-on's builder returns: ``wrap(make, width, layer)``.

What comes from ``make`` is kept as an attribute called ``inner``, of the add-on or of a part of it. By that name
weights are told apart: those under ``inner`` belong to what was wrapped and can come from a run without the add-on,
all others are the add-on's own.
"""


class Observed(Protocol):
    """A module with something to tell of itself beside its output, such as how much it compresses. Optional.

    While a model is trained, every module in it that has this method is asked at each evaluation on the validation
    split, in its first batch; what it says is recorded among the metrics as ``<path of the module>.<key>``.
    """

    def observe(self, x_bld: Tensor, *, mask_bl: Tensor | None = None, **kwargs: Any) -> Mapping[str, float]:
        """Return numbers by name, given what ``forward`` has just been given; called without gradients.

        Args:
            x_bld: The module's input (B, L, D).
            mask_bl: True where an element is valid (B, L).
            kwargs: Whatever else ``forward`` was given.
        """
        ...


class SlotFn(Protocol):
    """Given to a backbone's builder; builds what a slot holds with the add-ons round it."""

    def __call__(self, name: str, make: Make, width: int) -> Mixer:
        """Return ``make(width)`` with the add-ons of slot ``name`` composed round it."""
        ...


@dataclass(frozen=True)
class Hint:
    """How one parameter wants to be trained.

    Attributes:
        lr_scale: Factor on the learning rate.
        weight_decay: Its own weight decay; None takes the run's.
        dtype: Type it must keep under mixed or reduced precision; None takes the run's.
    """

    lr_scale: float = 1.0
    weight_decay: float | None = None
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Batch:
    """One minibatch.

    Attributes:
        inputs: Model input, batch first: float (B, L, ...), uint8 frames, or token ids (B, L).
        targets: What the loss compares with; any shape the task likes, batch first.
        dt_bl: Gap before each element (B, L), or None for equal steps.
        mask_bl: True where an element is valid (B, L), or None if all are.
        reset_bl: True where a new document begins (B, L), or None.
        extra: Anything else the task needs, by name (time points for plots; a second tower's ``inputs_2``, ``mask_2``).
    """

    inputs: Tensor
    targets: Tensor
    dt_bl: Tensor | None = None
    mask_bl: Tensor | None = None
    reset_bl: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) of every tensor in the batch."""
        for name in ("inputs", "targets", "dt_bl", "mask_bl", "reset_bl"):
            value = getattr(self, name)
            if value is not None:
                yield name, value
        yield from self.extra.items()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch on another device."""
        moved = {name: value.to(device, non_blocking=non_blocking) for name, value in self.tensors()}
        fields = {name: moved.pop(name) for name in list(moved) if name not in self.extra}
        return replace(self, **fields, extra=moved)


class Output(NamedTuple):
    """What a model gives for a batch: the head's output (its form is the task's affair) and the state to carry on."""

    head: Any
    state: State


class Loss(NamedTuple):
    """A loss as sum and weight, so that accumulation and several processes average over elements, not over batches."""

    total: Tensor
    weight: Tensor


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a task asks of a model; checked when the model is built.

    Attributes:
        dt: Batches carry gaps.
        causal: Outputs must not look ahead.
        step: The model will be run one element at a time.
        carry_state: State is carried from batch to batch.
        mask: Batches carry a mask.
    """

    dt: bool = False
    causal: bool = False
    step: bool = False
    carry_state: bool = False
    mask: bool = False


class Split(Protocol):
    """A map-style data set: rows are dicts of NumPy arrays.

    It may have more, which training and evaluation look for: ``lengths()``, the length of each row (n,), by which rows
    are put together; ``streams``, where state is carried, how many rows run side by side, row i + streams going on
    where row i ended; and ``of_epoch(epoch)``, the split of an epoch, of as many rows, if epochs differ. A run keeps
    its ``provenance``, where the data comes from, in words, and its ``fingerprint``, which other data does not have.
    """

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """Return one row."""
        ...


Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)`` by long work."""


class Task(Protocol):
    """A problem: its data, the modules round the backbone, its loss and its metrics.

    Subclass it to inherit the parts that have a body.

    Attributes:
        needs: What it asks of a model.
        metrics: Names of the metrics that ``ssm_eval`` computes from :meth:`predictions`.
        primary: (metric, "min" or "max"): selects the best checkpoint on the validation split.
        max_length: Longest sequence it yields, None if unknown.
        labels: Names of the classes, in the order of their ids, or of the numbers that are asked for; empty if they
            have none.
    """

    needs: Needs = Needs()
    metrics: Sequence[str] = ()
    primary: tuple[str, str] = ("loss", "min")
    max_length: int | None = None
    labels: Sequence[str] = ()

    def prepare(self, progress: Progress | None = None) -> None:
        """Make or fetch the data, if it is not cached yet. Safe to call from several processes at once."""

    def splits(self) -> Mapping[str, Split]:
        """Return the data sets ``train``, ``validation`` and ``test`` (a task may lack some)."""
        ...

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack rows into a batch."""
        ...

    def encoder(self, d_model: int) -> nn.Module:
        """Return the module from :attr:`Batch.inputs` to (B, L, d_model); it is called with the batch."""
        ...

    def head(self, d_model: int) -> nn.Module:
        """Return the module from (B, L, d_model) to the task's own output; called with features and batch."""
        ...

    def run(self, model: Any, batch: Batch, state: State | None = None) -> Output:
        """Run a :class:`ssm_core.model.SequenceModel`; override for two towers, adaptive softmax and the like."""
        x_bld = model.encoder(batch)
        y_bld, state = model.stack(
            x_bld, dt_bl=batch.dt_bl, mask_bl=batch.mask_bl, reset_bl=batch.reset_bl, state=state
        )
        return Output(model.head(y_bld, batch), state)

    def loss(self, output: Output, batch: Batch) -> Loss:
        """Return the loss as (sum, weight)."""
        ...

    def predictions(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        """Return what metrics read: ``prediction`` and ``target`` (N, ...), and ``variance`` for a Gaussian head."""
        ...

    def plots(self, output: Output, batch: Batch) -> Sequence[BandPlot]:
        """Return panels of predictions for the run's second picture; none by default."""
        return ()

    def read(self, path: Path) -> Sequence[Mapping[str, Any]]:
        """Return the rows of a file of the user's own, for ``ssm predict``; targets may be missing in them.

        Rows in .npz and .npy files need no method of the task. A task whose data come from files of some other kind
        reads those here; what it returns may have ``names``, a word for each row.

        Raises:
            UserError: If it does not read such files, or the file is damaged.
        """
        raise UserError(
            f"{type(self).__name__} reads no {path.suffix or 'such'} files",
            "give the rows as .npz: an array for each that `ssm data info TASK` lists, rows on the first axis",
        )

    def question(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a row whose targets are not known as one that :meth:`collate` takes, in which everything is asked.

        The targets are zeros here, of the shape that the task's own rows have: as many as the row has elements, if
        each element has its own. A task whose rows have no ``targets`` finds them itself, and is left to it.
        """
        known = next(iter(self.splits().values()))[0]
        if "targets" not in known:
            return row
        kind = np.asarray(known["targets"])
        each = "inputs" in known and kind.ndim > 0 and len(kind) == len(known["inputs"])
        shape = (len(row["inputs"]), *kind.shape[1:]) if each else kind.shape
        return {**row, "targets": np.zeros(shape, kind.dtype)}
