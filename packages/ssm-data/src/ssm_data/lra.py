"""The Long Range Arena: its paper, and the figures that models were published with."""

from __future__ import annotations

from typing import Literal, TypeAlias

from ssm_core.plugin.spec import Paper, Published

Name: TypeAlias = Literal["listops", "text", "retrieval", "image", "pathfinder", "pathx"]

PAPER = Paper(
    title="Long Range Arena: A Benchmark for Efficient Transformers",
    authors="Tay, Yi and Dehghani, Mostafa and Abnar, Samira and others",
    year=2021,
    arxiv="2011.04006",
    bibtex="""@inproceedings{tay2021long,
  title={Long Range Arena: A Benchmark for Efficient Transformers},
  author={Tay, Yi and Dehghani, Mostafa and Abnar, Samira and Shen, Yikang and Bahri, Dara and Pham, Philip and
    Rao, Jinfeng and Yang, Liu and Ruder, Sebastian and Metzler, Donald},
  booktitle={International Conference on Learning Representations},
  year={2021}
}""",
)

COLUMNS: tuple[Name, ...] = ("listops", "text", "retrieval", "image", "pathfinder", "pathx")

LIQUID = "Liquid-S4 (Hasani et al., 2023), table 1"
BIASED = "Yu et al., arXiv 2505.09022"
DFOUT = "S4D-DFouT, table 4"
MEGALODON = "Megalodon (Ma et al., 2024), table 6"

ROWS: tuple[tuple[str, str, str, tuple[float | None, ...]], ...] = (
    ("S5", "s5", DFOUT, (62.15, 89.31, 91.40, 88.00, 95.33, 98.58)),
    ("S4-LegS", "s4", LIQUID, (59.60, 86.82, 90.90, 88.65, 94.20, 96.35)),
    ("S4 (first version)", "s4", LIQUID, (58.35, 76.02, 87.09, 87.26, 86.05, 88.10)),
    ("S4D-LegS", "s4d", LIQUID, (60.47, 86.18, 89.46, 88.19, 93.06, 91.95)),
    ("S4D-Inv", "s4d", LIQUID, (60.18, 87.34, 91.09, 87.83, 93.78, 92.80)),
    ("S4D-Lin", "s4d", LIQUID, (60.52, 86.97, 90.96, 87.93, 93.96, None)),
    ("DSS", "dss", "dss repository (test at best validation)", (60.6, 84.8, 87.8, 85.7, 84.6, 87.8)),
    ("Liquid-S4 (validation)", "liquid_s4", LIQUID, (62.75, 89.02, 91.20, 89.50, 94.80, 96.66)),
    ("LRU", "lru", DFOUT, (60.2, 89.4, 89.9, 89.0, 95.1, 94.2)),
    ("Mega", "mega", MEGALODON, (63.14, 90.43, 91.25, 90.44, 96.01, 97.98)),
    ("Mega-chunk", "mega", MEGALODON, (58.76, 90.19, 90.97, 85.80, 94.41, 93.81)),
    ("H3", "h3", "State-Free Inference of SSMs", (57.5, 88.2, 91.0, 87.3, 93.0, 91.8)),
    ("ChordMixer", "chordmixer", "ChordMixer repository", (59.89, 88.87, 90.38, 89.95, 96.67, 98.63)),
    ("Mamba", "s6", f"{BIASED}, table 3", (38.02, 82.98, 72.14, 69.82, 69.26, 67.32)),
    ("Mamba-2", "mamba2", f"{BIASED}, table 3", (41.45, 86.09, 79.23, 71.96, 75.45, 69.07)),
    ("B2S6", "", f"{BIASED}, table 4", (63.85, 88.32, 91.44, 88.81, 95.93, 97.90)),
    ("Transformer", "transformer", "LRA repository", (36.37, 64.27, 57.46, 42.44, 71.40, None)),
    (
        "Transformer, run by the Mega authors",
        "transformer",
        MEGALODON,
        (37.11, 65.21, 79.14, 42.94, 71.83, None),
    ),
)
"""Model, our backbone, source, and test accuracies in percent in the order of the columns; None where it failed.
Of several rows of a backbone the first is the one printed beside a run."""


def published(task: Name, **settings: str) -> tuple[Published, ...]:
    """Return the test accuracies of a task, as shares.

    Args:
        task: Which one.
        **settings: Knobs under which they hold, as text.
    """
    column = COLUMNS.index(task)
    return tuple(
        Published(
            model=model,
            metric="accuracy",
            value=round(value / 100, 6),
            source=source,
            backbone=backbone,
            settings=tuple(settings.items()),
        )
        for model, backbone, source, values in ROWS
        if (value := values[column]) is not None
    )
