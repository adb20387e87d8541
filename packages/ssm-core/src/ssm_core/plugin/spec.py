"""What a plugin says about itself: frozen records that import nothing heavy.

A plugin is a pair of modules. ``spec.py`` holds a config dataclass and one ``SPEC``; it imports neither torch
nor numpy, so listing, help, checking and documentation are quick. ``layer.py`` (any name will do: ``build`` points at
it) does the work and is imported only when the plugin is built.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

API = 1
"""The contract's number. A plugin writes its own literal, so that a mismatch can be seen."""

Slot = Literal["ssm", "mixer"]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """The source of a plugin.

    Attributes:
        title: Title of the paper.
        authors: Authors, as in the citation.
        year: Year of publication.
        arxiv: arXiv number, empty if there is none.
        bibtex: The whole BibTeX entry, printed by ``ssm cite``.
    """

    title: str
    authors: str
    year: int
    arxiv: str = ""
    bibtex: str = ""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What every kind of plugin declares.

    Attributes:
        api: The contract number the plugin was written for, as a literal (``api=1``), never a name imported from here:
            an imported one would always match and so check nothing.
        name: The name users type; the same as its entry point's.
        summary: One line for listings.
        config: A dataclass made with :func:`ssm_core.plugin.config.config`; its docstring documents each knob.
        build: ``"package.module:function"``, imported only when the plugin is built.
        paper: Where it comes from.
        status: ``"stable"`` or ``"experimental"``.
    """

    api: int
    name: str
    summary: str
    config: type
    build: str
    paper: Paper | None = None
    status: Literal["stable", "experimental"] = "stable"


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What some setting of a backbone's knobs can honour; the conformance suite checks each claim.

    A request beyond it fails before anything is built, and one that the chosen setting cannot honour when it is built.

    Attributes:
        causal: Has a form in which outputs depend on the past only.
        bidirectional: Has a form that looks both ways.
        step: The causal form runs one element at a time.
        dt: Takes a gap before each element (irregular sampling).
        state: Takes and returns its state in the parallel pass.
        max_length: Longest sequence it can be built for; None is no limit.
    """

    causal: bool = True
    bidirectional: bool = False
    step: bool = True
    dt: bool = False
    state: bool = True
    max_length: int | None = None


@dataclass(frozen=True, kw_only=True)
class BackboneSpec(Spec):
    """A sequence mixer and its block. ``build(config, layer, slot) -> Block``.

    Attributes:
        capabilities: What it can honour.
    """

    capabilities: Capabilities = field(default_factory=Capabilities)


@dataclass(frozen=True, kw_only=True)
class AddonSpec(Spec):
    """Something that goes round a slot of any backbone. ``build(config) -> wrap``.

    Attributes:
        slot: The slot it wraps: ``ssm`` (the recurrence) or ``mixer`` (what shares its time axis).
    """

    slot: Slot = "ssm"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A figure from the literature to print beside ours.

    Attributes:
        model: The model's name in the source.
        metric: Name of the metric.
        value: The mean.
        std: Its standard deviation over seeds, if given.
        source: Where it was read.
        backbone: Our backbone that it corresponds to; empty for models we do not have.
        addons: Our add-ons that it corresponds to.
        settings: Task knobs under which it holds, as (name, value) pairs.
    """

    model: str
    metric: str
    value: float
    std: float | None = None
    source: str = ""
    backbone: str = ""
    addons: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class TaskSpec(Spec):
    """Data, encoder, head, loss and metrics of one problem. ``build(config) -> Task``.

    Attributes:
        published: Figures of the literature for this task.
    """

    published: tuple[Published, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ProbeSpec(Spec):
    """A measurement on a trained model. ``build`` names ``probe(model, dataset, config) -> Result``.

    Attributes:
        flags: Knobs that everybody types, each a number, a word or a text: ``--index 3`` is ``--set index=3``.
    """

    flags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BenchSpec(Spec):
    """A timing with its correctness check. ``build`` names ``bench(config) -> Result``."""
