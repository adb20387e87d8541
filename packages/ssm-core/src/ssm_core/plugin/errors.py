"""Errors that are the user's to mend, told so that the message is enough to mend them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: a name, a knob, a file or a combination that cannot work.

    The command line prints the message without a traceback and exits with status 2.

    Args:
        what: What is wrong, in one sentence, naming the value and where it stands.
        hint: What to do next; printed on its own line.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(f"{what}\n  {hint}" if hint else what)
        self.what = what
        self.hint = hint


class PluginError(UserError):
    """A plugin that was asked for by name is unknown, broken, clashing or of another API number."""


class ConfigError(UserError):
    """A configuration value is unknown, of the wrong type, or contradicts another."""


def install(requirement: str) -> str:
    """Return the command that installs a package: an environment that uv makes holds no ``pip`` of its own."""
    return f"uv pip install {requirement}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the closest known word, or the sorted list of all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(known)}" if known else "none is installed"
