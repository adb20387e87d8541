"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ssm_lab import complete

Backbone: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="NAME",
        autocompletion=complete.names("backbone"),
        help="Sequence mixer, such as s5.",
    ),
]
Addon: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--addon",
        metavar="NAME",
        autocompletion=complete.names("addon"),
        help="What goes round its slots, such as smr. Given more than once: innermost first.",
    ),
]
TaskName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--task", metavar="NAME", autocompletion=complete.names("task"), help="The problem, such as pendulum."
    ),
]
Recipe: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME",
        autocompletion=complete.names("recipe"),
        help="Shipped settings, TASK/NAME or just NAME; 'default' of the task if not given.",
    ),
]
ConfigFiles: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="TOML file or run folder with settings. Given more than once: the later wins.",
    ),
]
Set: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="A.B=VALUE", help="One setting, such as optim.lr=1e-3; stronger than all else."
    ),
]
Knob: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KNOB=VALUE", help="One of its knobs; `ssm show` lists them."),
]
Picture: TypeAlias = Annotated[
    Path | None,
    typer.Option("--picture", metavar="FILE", help="PNG to draw what was found into."),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
Run: TypeAlias = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]
