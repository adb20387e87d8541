"""The data flow of State Memory Replay, drawn for its page of reference.

uv run python scripts/smr_picture.py            write docs/reference/addons/smr-data-flow.svg
uv run python scripts/smr_picture.py FILE       write another file, PNG or SVG by its name
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

PAGE_PICTURE = Path(__file__).parent.parent / "docs" / "reference" / "addons" / "smr-data-flow.svg"

INK, MEMORY, GATE, SSM, OPTION = "#222222", "#56b4e9", "#e69f00", "#009e73", "#777777"
HIGH, LOW = 0.52, 1.0
"""Heights of the boxes, and of the lane of inputs."""


def box(axes: Axes, x: float, y: float, width: float, text: str, colour: str, dashed: bool = False) -> None:
    """Draw a box with its middle at (x, y)."""
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - HIGH / 2),
            width,
            HIGH,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=colour + ("00" if dashed else "33"),
            edgecolor=colour,
            linestyle="--" if dashed else "-",
            linewidth=1.4,
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=9.5, color=INK)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], dashed: bool = False) -> None:
    """Draw an arrow."""
    style = {
        "arrowstyle": "-|>",
        "color": OPTION if dashed else INK,
        "linewidth": 1.2,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.annotate("", end, start, arrowprops=style | ({"linestyle": "--"} if dashed else {}))


def note(axes: Axes, x: float, y: float, text: str) -> None:
    """Write a remark."""
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5, color=OPTION)


def draw(axes: Axes) -> None:
    """Draw the whole."""
    inputs = ("u(k-3)", "u(k-2)", "u(k-1)", "u(k)")
    for i, name in enumerate(inputs):
        box(axes, 0.9 + 1.0 * i, LOW, 0.86, name, MEMORY)
        arrow(axes, (0.9 + 1.0 * i, LOW + HIGH / 2), (0.9 + 1.0 * i, 2.2 - HIGH / 2))
    note(axes, 1.9, 0.5, "memory: the last tau - 1 inputs, as they came")
    note(axes, 3.9, 0.5, "now")
    box(axes, 2.4, 2.2, 3.86, "b + Σ W(i) u(k-i)   a convolution over tau inputs", GATE)
    arrow(axes, (4.33, 2.2), (4.7, 2.2))
    box(axes, 5.1, 2.2, 0.8, "P", GATE, dashed=True)
    note(axes, 5.1, 2.72, "pointwise")
    arrow(axes, (5.5, 2.2), (5.87, 2.2))
    box(axes, 6.35, 2.2, 0.96, "s · \N{GREEK SMALL LETTER SIGMA}(z)", GATE)
    note(axes, 6.35, 2.72, "the gate, in (0, s)")
    box(axes, 2.4, 3.3, 2.2, "log dt(k), log dt(k-1), ...", GATE, dashed=True)
    arrow(axes, (2.4, 3.3 - HIGH / 2), (2.4, 2.2 + HIGH / 2), dashed=True)
    note(axes, 4.85, 3.3, "gap: the time as one more input")
    arrow(axes, (6.35, 2.2 - HIGH / 2), (6.35, LOW + 0.2))
    arrow(axes, (3.9 + 0.43, LOW), (6.15, LOW))
    axes.text(6.35, LOW, "\N{MULTIPLICATION SIGN}", ha="center", va="center", fontsize=20, color=INK)
    arrow(axes, (6.55, LOW), (7.2, LOW))
    axes.text(6.88, LOW + 0.16, "u'(k)", ha="center", va="bottom", fontsize=9.5, color=INK)
    box(axes, 8.6, LOW, 2.8, "x(k) = A x(k-1) + B u'(k)", SSM)
    arrow(axes, (10.0, LOW), (10.55, LOW))
    axes.text(10.6, LOW, "y(k)", ha="left", va="center", fontsize=9.5, color=INK)
    note(axes, 8.6, 0.5, "the recurrence, unchanged")
    note(axes, 8.9, 2.2, "dashed: options, off as a rule")


def main(path: Path) -> None:
    """Write the picture."""
    # Text stays text, and the same picture is the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "smr", "font.family": "sans-serif"}):
        figure = Figure(figsize=(11.2, 3.7), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlim(0.2, 11.3)
        axes.set_ylim(0.2, 3.7)
        axes.set_aspect("equal")
        axes.set_axis_off()
        draw(axes)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE_PICTURE)
