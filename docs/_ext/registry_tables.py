"""Directives that write tables from the plug-in registry while the pages are built, so that they cannot go stale.

- ``{plugins} backbone``: every installed plug-in of a kind.
- ``{knobs} backbone s5``: the knobs of a plug-in, or of a section of the run (``{knobs} section optim``).
- ``{abilities} backbone s5``: what a backbone can honour.
- ``{paper} task pendulum``: the source, with its BibTeX entry.
- ``{published} task pendulum``: figures of the literature.
- ``{recipes} pendulum``: the shipped settings of a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from ssm_core.plugin import registry
from ssm_core.plugin.config import knobs, plain, to_toml
from ssm_core.run.config import SECTIONS
from ssm_core.run.recipes import recipes


class Written(SphinxDirective):
    """A directive whose content is Markdown that it writes itself."""

    required_arguments = 1
    optional_arguments = 1
    write: ClassVar[Any]

    def run(self) -> list[nodes.Node]:
        """Parse what :attr:`write` gives for the arguments."""
        self.env.note_reread()
        return self.parse_text_to_nodes(type(self).write(*self.arguments))


def directive(write: Any) -> type[Written]:
    """Make a directive of a function from its arguments to Markdown."""
    return type(write.__name__, (Written,), {"write": staticmethod(write)})


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )


def code(text: Any) -> str:
    """Return text as a literal, nothing as nothing."""
    return f"`{text}`" if str(text) else ""


def write_plugins(kind: str) -> str:
    """List the plug-ins of a kind with their one-line summaries."""
    folder = registry.KINDS[kind].removeprefix("ssm.")
    specs = [(entry, registry.describe(kind, entry.name)[1]) for entry in registry.found(kind)]
    return table(
        ["name", "package", "what it is"],
        [
            [f"[`{entry.name}`]({folder}/{entry.name}.md)", code(entry.dist), spec.summary]
            for entry, spec in specs
        ],
    )


def write_knobs(kind: str, name: str) -> str:
    """List the knobs of a plug-in or of a section."""
    config = SECTIONS[name] if kind == "section" else registry.describe(kind, name)[1].config
    prefix = {"section": name, "addon": f"addons.{name}"}.get(kind, kind)
    rows = [
        [
            code(f"{prefix}.{knob['name']}"),
            code(knob["type"]),
            "" if knob["default"] is None else code(to_toml(plain(knob["default"]))),
            knob["doc"],
        ]
        for knob in knobs(config)
    ]
    return table(["knob", "type", "default", "meaning"], rows) if rows else "It has no knobs.\n"


def write_abilities(kind: str, name: str) -> str:
    """List what a backbone can honour."""
    can = registry.describe(kind, name)[1].capabilities
    words = {True: "yes", False: "no"}
    rows = [
        ["looks back only (`model.causal = true`)", words[can.causal]],
        ["looks both ways (`model.causal = false`)", words[can.bidirectional]],
        ["one element at a time (`step`)", words[can.step]],
        ["gaps between elements (`dt_bl`)", words[can.dt]],
        ["state in and out of the parallel pass", words[can.state]],
        ["longest sequence", "no limit" if can.max_length is None else str(can.max_length)],
    ]
    return table(["ability", ""], rows)


def write_paper(kind: str, name: str) -> str:
    """Give the source of a plug-in."""
    paper = registry.describe(kind, name)[1].paper
    link = f" [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})." if paper.arxiv else ""
    authors = paper.authors.rstrip(".")
    return f"{authors}. *{paper.title}*. {paper.year}.{link}\n\n```bibtex\n{paper.bibtex}\n```\n"


def write_published(kind: str, name: str) -> str:
    """List the figures of the literature, the best first."""
    more_is_better = {"accuracy"}
    rows = sorted(
        registry.describe(kind, name)[1].published,
        key=lambda row: -row.value if row.metric in more_is_better else row.value,
    )
    return table(
        ["model", "metric", "mean", "std", "settings", "source"],
        [
            [
                row.model,
                row.metric,
                f"{row.value:.4g}",
                "" if row.std is None else f"{row.std:.2g}",
                ", ".join(code(f"{key}={value}") for key, value in row.settings),
                row.source,
            ]
            for row in rows
        ],
    )


def write_recipes(task: str) -> str:
    """List the recipes of a task."""
    shipped = [recipe for recipe in recipes() if recipe.name.partition("/")[0] == task]
    return table(
        ["recipe", "package", "what it is"], [[code(r.name), code(r.dist), r.summary] for r in shipped]
    )


def setup(app: Any) -> dict[str, bool]:
    """Register the directives."""
    writers = (write_plugins, write_knobs, write_abilities, write_paper, write_published, write_recipes)
    for write in writers:
        app.add_directive(write.__name__.removeprefix("write_"), directive(write))
    return {"parallel_read_safe": True}
