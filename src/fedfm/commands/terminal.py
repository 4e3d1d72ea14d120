"""What all commands share: the two consoles, and the arguments that several of them take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedfm.files import path
from fedfm.report.console import Terminal

out = Terminal()
err = Terminal(stderr=True)

What = Annotated[
    str, typer.Argument(metavar="NAME_OR_FILE", help="a recipe (fedfm list --slot recipe) or a YAML config")
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SLOT.FIELD=VALUE ...]", help="e.g. client.lr=0.001 'uplink={name: topk, fraction: 0.01}'"
    ),
]
RunDir = Annotated[Path, typer.Argument(metavar="DIR", help="the run directory", parser=path)]
Seed = Annotated[int | None, typer.Option(help="seed of every stream of randomness")]
Rounds = Annotated[int | None, typer.Option(help="rounds to run")]
EngineName = Annotated[
    str | None, typer.Option("--engine", help="inprocess, processes or ray; never changes a result")
]
Strict = Annotated[bool, typer.Option("--strict", help="exit 1 also when the run has findings")]
