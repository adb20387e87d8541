"""Sphinx: MyST pages, the furo theme, tables written from the installed plug-ins while building."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "ssm"
author = "The ssm authors"
copyright = "The ssm authors. Apache-2.0"
version = release = installed("ssm-lab")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "registry_tables"]
# What `ssm study` wrote is included by the pages about it, and is no page of its own.
exclude_patterns = ["_build", "_ext", "results/studies"]
suppress_warnings = ["toc.empty_glob"]

myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "ssm"
html_show_sphinx = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Source"]

LITERAL = re.compile(r"(``.*?``|`[^`]*`)")
VERBATIM = re.compile(r"\s*(>>>|\.\.\. |\*{1,2}\w+:)")


def plain_stars(app, what, name, obj, options, lines):
    """Keep ``*F`` and ``|u|`` of the docstrings as they are: shapes and magnitudes, not emphasis and substitutions."""
    for i, line in enumerate(lines):
        if not VERBATIM.match(line):
            parts = LITERAL.split(line)
            lines[i] = "".join(p if p.startswith("`") else re.sub(r"([*|])", r"\\\1", p) for p in parts)


def setup(app):
    # Before napoleon, which has the default priority of 500.
    app.connect("autodoc-process-docstring", plain_stars, priority=400)
