"""The commands that look and change nothing: doctor and status."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fedfm.commands.terminal import RunDir, out
from fedfm.core.errors import ConfigError, Problem
from fedfm.files import path
from fedfm.report.console import said

AsJson = Annotated[bool, typer.Option("--json", help="for machines")]


def doctor(
    joinfile: Annotated[
        Path | None,
        typer.Argument(
            metavar="[JOINFILE]", help="a site: its join file, or the folder beside it", parser=path
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="what the site keeps (default: beside JOINFILE)", parser=path),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="the site's policy, as fedfm join takes it", parser=path)
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="seconds for each step to the server")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """What is installed, what this machine has, and what would run here. Asks no network.

    With a JOINFILE: what stands in the way of joining, and how to mend it. Dials the server; exits with 1 if anything does.

    fedfm doctor
    fedfm doctor hospital-a.json --policy site.yaml
    """
    if joinfile is not None:
        _site(joinfile, folder, policy, timeout_s, as_json)
        return
    if folder is not None or policy is not None:
        what, why = "there is no JOINFILE", "--folder and --policy are of a site"
        raise ConfigError([Problem("doctor", what, why, "fedfm doctor JOINFILE --policy site.yaml")])
    from fedfm.running.commands.doctor import facts

    found = facts()
    if as_json:
        print(json.dumps({topic: dict(rows) for topic, rows in found.items()}, indent=1))
        return
    for topic, rows in found.items():
        table = Table(title=topic, title_justify="left", show_header=False, box=None, padding=(0, 2))
        for what, how in rows:
            table.add_row(what, how)
        out.print(table)


STYLES = {"good": "green", "note": "yellow", "bad": "red", "open": "dim"}


def _site(joinfile: Path, folder: Path | None, policy: Path | None, timeout_s: float, as_json: bool) -> None:
    from fedfm.deploy.site.doctor import examine

    found = examine(joinfile, folder, policy, timeout_s=timeout_s)
    bad = [f for f in found if f.grade == "bad"]
    if as_json:
        print(json.dumps([asdict(f) for f in found], indent=1))
    else:
        for f in found:
            out.print(said((f"{f.grade:<5}", STYLES[f.grade]), f"{f.topic:<12} {f.said}"), soft_wrap=True)
            for name, text in (("why", f.why), ("fix", f.fix)):
                if text:
                    out.print(f"{'':18} {name}: {text}", soft_wrap=True)
        out.print(
            f"{len(bad)} thing{'s' * (len(bad) != 1)} in the way of joining"
            if bad
            else "nothing stands in the way of joining"
        )
    if bad:
        raise typer.Exit(1)


def status(folder: RunDir, as_json: AsJson = False) -> None:
    """How a run stands, served or simulated, from its folder alone: its round, since when, its parties' last round.

    fedfm status runs/quickstart-1
    """
    from fedfm.report.numbers import fixed, span
    from fedfm.running.commands.status import ago
    from fedfm.running.commands.status import status as standing

    found = standing(folder)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
        return
    out.print(said((found.state, "bold"), "".join(f"\n  {reason}" for reason in found.reasons)))
    table = Table(show_header=False, box=None, padding=(0, 2))
    lost = f", {found.lost} of them without a model" if found.lost else ""
    table.add_row("round", f"{found.round} of {'?' if found.of is None else found.of} sealed{lost}")
    for what, at in (("begun or resumed", found.began), ("last round sealed", found.sealed)):
        if at is not None:
            table.add_row(what, f"{at}, {span(ago(at))} ago")
    table.add_row("written by", found.process or "no process")
    for name, value in found.scores.items():
        table.add_row(name, fixed(value, 4))
    for name, what in found.parties.items():
        table.add_row(f"{name}, last round", what)
    if found.served:
        table.add_row("served at", found.address or "not written yet")
        table.add_row("invited", ", ".join(found.invited) or "its authority is not on this machine")
        table.add_row("linked now", "is in no file: ask the terminal of fedfm serve")
    out.print(table)


COMMANDS = (doctor, status)
