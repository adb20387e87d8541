"""Branches as one page of HTML that needs nothing else: every element, coloured by its interval."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ssm_serpent.resample.branches import Branch
from ssm_serpent.resample.shades import SHADES, steps

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color: #111;
  background: #fff; }
h2 { font-size: 1.1em; margin: 1.6em 0 0.2em; }
p.about { margin: 0 0 0.4em; color: #555; }
div.elements { font-family: ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  border: 1px solid #ccc; padding: 0.6em; line-height: 1.9; }
div.elements span { padding: 0.1em 0; }
div.elements span.none { color: #666; text-decoration: line-through; }
div.elements b { border-right: 2px solid #1f4fa3; margin: 0 1px; padding: 0.25em 0; }
details { margin: 0.4em 0; }
details code { white-space: pre-wrap; overflow-wrap: anywhere; background: #f2f2f2; padding: 0.1em 0.2em; }
span.key { display: inline-block; width: 1.4em; height: 0.9em; border: 1px solid #ccc; }
"""

ABOUT = (
    "Each element is coloured by the interval that the branch gives it, from the shortest of the branch to the "
    "longest. A stroke stands where the running time passes a multiple of the grid's spacing: the element before it "
    "finishes a point. A point is not made of the elements between two strokes but of those in its window, which are "
    "listed under each branch: the last ones up to the stroke where points are causal, the nearest on both sides of "
    "the point where they look ahead. So windows may share elements, and leave some out: an element in no window is "
    "crossed out, and only its interval counts. Hold the pointer over an element for its numbers, the points that are "
    "made of it, and the point that it reads back."
)


def page(branches: Sequence[Branch], texts: Sequence[str] | None, what: str) -> str:
    """Return the page.

    Args:
        branches: What was found.
        texts: What each element of the sequence stands for; None numbers them.
        what: Which sequence it is, in words.
    """
    shades = "".join(
        f".s{step} {{ background: rgb({red}, {green}, {blue}); }}\n"
        for step, (red, green, blue) in enumerate(SHADES)
    )
    body = "\n".join(_section(branch, texts) for branch in branches)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Resampling of {escape(what)}</title>\n<style>{STYLE}{shades}</style>\n</head>\n<body>\n"
        f"<h1>Resampling of {escape(what)}</h1>\n<p>{escape(ABOUT)}</p>\n{body}\n</body>\n</html>\n"
    )


def _section(branch: Branch, texts: Sequence[str] | None) -> str:
    count, points = len(branch.elements), branch.points
    numbers = ""
    if count:
        low, high = min(branch.intervals), max(branch.intervals)
        key = "".join(f'<span class="key s{step}"></span>' for step in range(len(SHADES)))
        numbers = f", {points / count:.3f} of them. Intervals {low:.3f} {key} {high:.3f}"
    return (
        f"<h2>{escape(branch.title)}, kappa {branch.kappa:g}</h2>\n"
        f'<p class="about">{points} points of {count} elements{branch.beyond}{numbers}; {branch.told}</p>\n'
        f'<div class="elements">{_elements(branch, texts)}</div>\n{_points(branch, texts)}'
    )


def _elements(branch: Branch, texts: Sequence[str] | None) -> str:
    ends, shades, holders = set(branch.events), steps(branch.intervals), branch.holders()
    out = []
    for place, element in enumerate(branch.elements):
        held, read = holders[place], branch.reads[place]
        told = (
            f"element {element}, interval {branch.intervals[place]:.4f}, time {branch.times[place]:.3f}, "
            f"{_held(held)}, reads {f'point {read}' if read else 'no point'}"
        )
        shade = f"s{shades[place]}" + ("" if held else " none")
        out.append(f'<span class="{shade}" title="{told}">{_content(texts, element)}</span>')
        if place in ends:
            out.append("<b></b>")
    return "".join(out)


def _held(held: tuple[int, int] | None) -> str:
    if held is None:
        return "in no window"
    first, last = held
    return (
        f"in the window of point {first}" if first == last else f"in the windows of points {first} to {last}"
    )


def _points(branch: Branch, texts: Sequence[str] | None) -> str:
    """Return the points in a list that opens, each with the elements it is made of."""
    rows = []
    for start, end in branch.windows:
        held = branch.elements[start:end]
        content = "".join(_content(texts, element) for element in held)
        rows.append(
            f"<li><code>{content}</code> (elements {held[0]} to {held[-1]})</li>" if held else "<li></li>"
        )
    return (
        f"<details><summary>The elements of each point</summary>\n<ol>{''.join(rows)}</ol></details>"
        if rows
        else ""
    )


def _content(texts: Sequence[str] | None, element: int) -> str:
    if texts is None or element >= len(texts):
        return f" {element} "
    # A newline is shown and obeyed; other controls are written out.
    shown = "".join(
        "\u21b5\n" if c == "\n" else c if c.isprintable() or c == "\t" else repr(c)[1:-1]
        for c in texts[element]
    )
    return escape(shown) if shown else "\u00b7"
