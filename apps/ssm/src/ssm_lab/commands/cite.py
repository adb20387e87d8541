"""``ssm cite``: the papers behind a run."""

from __future__ import annotations

import typer

from ssm_core.plugin import registry
from ssm_core.plugin.errors import PluginError
from ssm_core.run.folder import RunFolder
from ssm_lab import console, options

app = typer.Typer()


@app.command()
def cite(run: options.Run) -> None:
    """Print the BibTeX entries of the parts of a run: backbone, add-ons, task."""
    tree = RunFolder.open(run).config_tree()
    named = [(kind, tree[kind]["name"]) for kind in ("backbone", "task") if kind in tree]
    named[1:1] = [("addon", name) for name in tree.get("addons", {})]
    entries: dict[str, list[str]] = {}
    for kind, name in named:
        try:
            with console.results_only():
                _, spec = registry.describe(kind, name)
        except PluginError as error:
            console.say(f"{kind} {name} is left out: {error.what}")
            continue
        if spec.paper is None or not spec.paper.bibtex:
            console.say(f"{kind} {name} names no paper")
            continue
        entries.setdefault(spec.paper.bibtex.strip(), []).append(f"{kind} {name}")
    for bibtex, users in entries.items():
        console.emit(f"% {', '.join(users)}\n{bibtex}\n")
