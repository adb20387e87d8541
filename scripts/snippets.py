"""The fenced code blocks of the documentation, and running them.

How a block is treated depends on its language:

- ``python``: run. The blocks of one page run from top to bottom in one namespace, in an empty folder.
- ``bash``: run with ``bash -eu`` in the same folder.
- ``toml``, ``json``: parsed.
- ``text``: prose that wants a fixed width; left alone. So are MyST's directives, such as ``{knobs}``.

A block that must not run says why in a comment on the line before it: ``<!-- not run: takes an hour -->``. A test
refuses any other language, or none: a block that nobody runs is soon wrong.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

from workspace import texts

PAGES = (
    "README.md",
    "docs/**/*.md",
    "docs/*.md",
    "packages/*/README.md",
    "apps/*/README.md",
    "CONTRIBUTING.md",
)

FENCE = re.compile(
    r"^(?:<!--[ ]*not[ ]run:[ ]*(?P<reason>.*?)[ ]*-->\n\n?)?"
    r"^(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=fence)[ ]*$",
    re.MULTILINE | re.DOTALL,
)

RUN = ("python", "bash")
LANGUAGES = (*RUN, "toml", "json", "text")


@dataclass(frozen=True)
class Snippet:
    """A fenced block.

    Attributes:
        page: Path of its page from the root.
        line: Line on which its code begins.
        language: What stands after the fence.
        code: Its lines.
        reason: Why it is not run; empty if it is.
    """

    page: str
    line: int
    language: str
    code: str
    reason: str

    @property
    def runs(self) -> bool:
        """Whether it is executed."""
        return self.language in RUN and not self.reason


def snippets() -> list[Snippet]:
    """Return every fenced block of every page, in order; MyST directives are left out."""
    return [snippet for page, text in texts(*PAGES) for snippet in read(page, text)]


def read(page: str, text: str) -> Iterator[Snippet]:
    """Yield the blocks of one page."""
    for match in FENCE.finditer(text):
        language = match["language"].strip()
        if not language.startswith("{"):
            line = text.count("\n", 0, match.start("code")) + 1
            yield Snippet(page, line, language, match["code"], match["reason"] or "")


def parse(snippet: Snippet) -> None:
    """Read a block that is data.

    Raises:
        ValueError: If it is not what it says.
    """
    if snippet.language == "toml":
        tomllib.loads(snippet.code)
    elif snippet.language == "json":
        json.loads(snippet.code)
