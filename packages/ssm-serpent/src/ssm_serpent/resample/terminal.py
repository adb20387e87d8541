"""Branches as lines of text: elements with a stroke where a point is finished, and the elements of each point."""

from __future__ import annotations

from collections.abc import Sequence

from ssm_serpent.resample.branches import Branch
from ssm_serpent.resample.shades import SHADES, steps


def printed(branches: Sequence[Branch], texts: Sequence[str] | None, shown: int, *, color: bool) -> str:
    """Return three lines a branch: what it is and how far it compresses, its elements, and those of each point.

    Args:
        branches: What was found.
        texts: What each element of the sequence stands for; None numbers them.
        shown: Elements printed of each branch, and points made of these only.
        color: Colour elements by their interval, with escape codes for terminals; those in no window are grey.
    """
    lines, between = [], " " if texts is None else ""
    for branch in branches:
        count, points = len(branch.elements), branch.points
        rate = f", {points / count:.2f}" if count else ""
        told = f"{points} points of {count} elements{branch.beyond}{rate}; {branch.told}"
        words = _words(branch, texts, shown, color=color)
        lines.append(f"{branch.title} (kappa {branch.kappa:g}): {told}")
        lines.append(_line(branch, words, between))
        lines.append(f"points: {_points(branch, words, between)}")
    return "\n".join(lines)


def _words(branch: Branch, texts: Sequence[str] | None, shown: int, *, color: bool) -> list[str]:
    """Return the first elements as they are printed."""
    rows = zip(branch.elements[:shown], steps(branch.intervals), branch.holders(), strict=False)
    words = ((_word(texts, element), shade, held is not None) for element, shade, held in rows)
    return [_painted(word, shade, held=held) if color else word for word, shade, held in words]


def _line(branch: Branch, words: Sequence[str], between: str) -> str:
    shown = len(words)
    parts = [between.join(words[start:end]) for start, end in branch.segments() if start < shown]
    more = len(branch.elements) - shown
    return f"[{'|'.join(parts)}]" + (f" and {more} more" if more else "")


def _points(branch: Branch, words: Sequence[str], between: str) -> str:
    """Return the windows as far as the elements go."""
    there = [(start, end) for start, end in branch.windows if end <= len(words)]
    parts = [f"{k} [{between.join(words[start:end])}]" for k, (start, end) in enumerate(there, 1)]
    more = len(branch.windows) - len(there)
    return " ".join([*parts, *([f"and {more} more"] if more else [])]) or "none"


def _word(texts: Sequence[str] | None, element: int) -> str:
    if texts is None or element >= len(texts):
        return str(element)
    # Printed as they are, newlines would break the line, and other controls the terminal.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in texts[element])


def _painted(word: str, shade: int, *, held: bool) -> str:
    red, green, blue = SHADES[shade]
    return f"\x1b[{'30' if held else '38;2;130;130;130'};48;2;{red};{green};{blue}m{word}\x1b[0m"
