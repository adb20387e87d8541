"""Branches as lines of text: elements in brackets, a stroke where a point is finished."""

from __future__ import annotations

from collections.abc import Sequence

from ssm_serpent.resample.branches import Branch
from ssm_serpent.resample.shades import SHADES, steps


def printed(branches: Sequence[Branch], texts: Sequence[str] | None, shown: int, *, color: bool) -> str:
    """Return two lines a branch: what it is and how far it compresses, and its elements.

    Args:
        branches: What was found.
        texts: What each element of the sequence stands for; None numbers them.
        shown: Elements printed of each branch.
        color: Colour elements by their interval, with escape codes for terminals.
    """
    lines = []
    for branch in branches:
        count, points = len(branch.elements), branch.points
        rate = f", {points / count:.2f}" if count else ""
        told = f"{points} points of {count} elements{branch.beyond}{rate}"
        lines.append(f"{branch.title} (kappa {branch.kappa:g}): {told}")
        lines.append(_line(branch, texts, shown, color=color))
    return "\n".join(lines)


def _line(branch: Branch, texts: Sequence[str] | None, shown: int, *, color: bool) -> str:
    parts, left = [], shown
    shades = steps(branch.intervals)
    for start, end in branch.segments():
        if left <= 0:
            break
        end = min(end, start + left)
        left -= end - start
        words = [
            _painted(_word(texts, branch.elements[place]), shades[place], color=color)
            for place in range(start, end)
        ]
        parts.append((" " if texts is None else "").join(words))
    more = len(branch.elements) - shown
    return f"[{'|'.join(parts)}]" + (f" and {more} more" if more > 0 else "")


def _word(texts: Sequence[str] | None, element: int) -> str:
    if texts is None or element >= len(texts):
        return str(element)
    # Printed as they are, newlines would break the line, and other controls the terminal.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in texts[element])


def _painted(word: str, shade: int, *, color: bool) -> str:
    if not color:
        return word
    red, green, blue = SHADES[shade]
    return f"\x1b[30;48;2;{red};{green};{blue}m{word}\x1b[0m"
