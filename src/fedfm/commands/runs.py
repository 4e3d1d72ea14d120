"""The commands around runs: run, resume, check, sweep, predict, export, audit."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fedfm.commands.terminal import EngineName, Rounds, RunDir, Seed, Settings, Strict, What, err, out
from fedfm.core.errors import MachineFault, RunFailed
from fedfm.files import path

if TYPE_CHECKING:
    from fedfm.running.commands.sweep import Point

Baselines = Annotated[str, typer.Option(help="what to compare with: local,pooled or none")]
Party = Annotated[str | None, typer.Option(help="whose model, where each party has its own")]


def run(
    what: What,
    settings: Settings = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="run directory (default: runs/NAME-K)", parser=path)
    ] = None,
    rounds: Rounds = None,
    seed: Seed = None,
    engine: EngineName = None,
    baselines: Baselines = "local,pooled",
    tracker: Annotated[
        list[str] | None, typer.Option(help="also log to tensorboard, mlflow or wandb")
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="so many runs, over as many seeds, with mean and spread")
    ] = 1,
    keep_rounds: Annotated[
        int, typer.Option(min=0, help="keep the states of every so many rounds, for audits (0: none)")
    ] = 0,
    strict: Strict = False,
) -> None:
    """Run a federation, with live progress, and write a run directory.

    fedfm run quickstart
    fedfm run fedit client.lr=0.001 --rounds 8 --seed 1
    fedfm run quickstart data=files 'data.path=party-*.jsonl' 'data.columns={text: body, label: topic}'
    fedfm run quickstart 'uplink=[{name: error-feedback, inner: {name: topk, fraction: 0.05}}, {name: entropy}]'
    """
    from fedfm.running.execute import configure, execute
    from fedfm.running.progress import Live

    if repeats > 1:
        from fedfm.running.commands.sweep import axes

        plain = axes(settings or ())[1]
        first = configure(what, plain, rounds=rounds, seed=seed, engine=engine).fed.seed
        seeds = "seed=" + ",".join(str(first + k) for k in range(repeats))
        said = {s for s in plain if s.partition("=")[0].strip() == "seed"}
        others = [s for s in settings or () if s not in said]
        kept = {"trackers": tracker or (), "keep_rounds": keep_rounds}
        _sweep(what, [*others, seeds], out_dir, rounds, engine, baselines, strict, **kept)
        return
    setup = configure(what, settings or (), rounds=rounds, seed=seed, engine=engine)
    _notes(setup)
    with interruptible():
        result = execute(
            setup,
            out_dir,
            baselines=baselines,
            progress=Live(err),
            trackers=tracker or (),
            keep_rounds=keep_rounds,
        )
    show(result, strict)


def _notes(setup: Any) -> None:
    """Which settings gave way to which, before anything runs."""
    for note in setup.notes:
        _note(note)


def _note(text: str) -> None:
    err.print(f"note: {text}", markup=False, highlight=False)


def resume(
    folder: RunDir,
    rounds: Annotated[int | None, typer.Option(help="extend the run to so many rounds in all")] = None,
    accept: Annotated[
        list[str] | None, typer.Option(help="imports: go on although your own modules have changed")
    ] = None,
    import_: Annotated[
        list[str] | None, typer.Option("--import", help="the file of an own method that has moved")
    ] = None,
    strict: Strict = False,
) -> None:
    """Continue an interrupted run, or extend a finished one; bit-identical to a run that was never interrupted.

    What the run is of must not have changed: its config, data, base model and your own modules. More rounds,
    evaluate.every, the engine, trackers and library versions may; rows and models that were moved are named in DIR/config.yaml.
    """
    from fedfm.running.execute import resume as go
    from fedfm.running.progress import Live
    from fedfm.running.record.folder import recorded

    with interruptible():
        if recorded(folder).get("real"):
            from fedfm.deploy.server import Service, again

            show(
                again(folder, Service(progress=Live(err), tell=lambda text: err.print(text, markup=False))),
                strict,
            )
            return
        result = go(folder, rounds=rounds, accept=accept or (), imports=import_ or (), progress=Live(err))
    show(result, strict)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C says what is kept and how to go on; a run that failed is shown as one that ended."""
    try:
        yield
    except KeyboardInterrupt as e:
        notes = getattr(e, "__notes__", ["nothing had begun"])
        err.print("interrupted: " + "; ".join(notes))
        raise typer.Exit(130) from None
    except RunFailed as e:
        show(e.result, False)
        raise typer.Exit(1) from None


def show(result: Any, strict: bool) -> None:
    """The verdict first, then the table; exit 1 for a run that failed, and with `strict` for one with findings."""
    from fedfm.running.printed import table, verdict

    out.print(verdict(result.summary))
    out.print(table(result.summary, str(result.folder)))
    out.print(f"look at {result.folder / 'report.html'}", style="dim")
    if (public := result.folder / "public").is_dir():
        out.print(f"what may leave the house is in {public}, and nothing else", style="dim")
    try:
        result.judged(strict)
    except RunFailed:
        raise typer.Exit(1) from None


def check(
    what: What,
    settings: Settings = None,
    rounds: Rounds = None,
    engine: EngineName = None,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="the config alone: open neither data nor model")
    ] = False,
) -> None:
    """Validate everything before a run; list all problems with a fix each; estimate memory, bytes, seconds.

    Opens the data, says which rows are left out, and takes a few local steps if the model is on this machine; no
    weights are ever fetched.
    """
    from fedfm.report.numbers import size
    from fedfm.running.commands.checking import probe
    from fedfm.running.execute import configure

    setup = configure(what, settings or (), rounds=rounds, engine=engine)
    _notes(setup)
    if no_model:
        out.print("the config is sound; data and model were not looked at")
        return
    err.print("the federation is sound; opening the data, and the model if it is here ...")
    found = probe(setup)
    for remark in found.remarks:
        err.print(remark, style="yellow")
    for name in found.absent:
        err.print(f"not probed: {name} is not here", style="yellow")
    if not found.remarks and not found.absent:
        err.print("no problems", style="green")
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("parties / rounds", f"{len(found.rows)} / {setup.fed.last}")
    table.add_row("rows to train on / to test on", f"{sum(found.rows.values()):,} / {found.test_rows:,}")
    if found.privacy:
        table.add_row("privacy of the plan", Text(found.privacy))
    if e := found.estimate:
        table.add_row("trained parameters", f"{e['trainable_parameters']:,} of {e['total_parameters']:,}")
        table.add_row(
            "bytes down / up, a party and round", f"{size(e['down_bytes'])} / {size(e['up_bytes'])}"
        )
        table.add_row("bytes in all, at most", size(e["total_bytes"]))
        table.add_row("memory of one process", size(e["memory_bytes"]))
        workers = f"{e['workers']} worker{'s' * (e['workers'] > 1)}"
        table.add_row("seconds of local work, about", f"{e['seconds']:.0f} on {workers}")
    out.print(table)


def sweep(
    what: What,
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="SLOT.FIELD=V1,V2,... ...", help="axes, e.g. client.lr=1e-4,1e-3 seed=0,1,2; and settings"
        ),
    ],
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="folder of the sweep (default: runs/NAME-sweep)", parser=path)
    ] = None,
    rounds: Rounds = None,
    engine: EngineName = None,
    baselines: Baselines = "none",
) -> None:
    """Run every combination of the given values, and show one table with mean and spread over the seeds.

    The same command again goes on where it stopped: finished runs are read, interrupted ones are resumed.
    """
    _sweep(what, settings, out_dir, rounds, engine, baselines)


def _sweep(
    what: str,
    settings: list[str],
    out_dir: Path | None,
    rounds: int | None,
    engine: str | None,
    baselines: str,
    strict: bool = False,
    **kept: Any,
) -> None:
    from fedfm.report.together import composed
    from fedfm.running.commands.sweep import sweep as go
    from fedfm.running.commands.sweep import table as tabulate
    from fedfm.running.progress import Live
    from fedfm.running.verdict import FAILED, FINDINGS

    folder = out_dir or Path("runs") / f"{Path(what).stem}-sweep"

    def progress(point: Point, k: int, n: int) -> Live:
        said = ", ".join(f"{name}={value}" for name, value in point.settings.items())
        err.print(f"run {k + 1} of {n}: {said}")
        return Live(err)

    try:
        points = go(
            what,
            settings,
            out=folder,
            baselines=baselines,
            engine=engine,
            rounds=rounds,
            progress=progress,
            tell=_note,
            **kept,
        )
    except KeyboardInterrupt as e:
        notes = getattr(e, "__notes__", [])
        err.print("interrupted: " + "; ".join([*notes, "the same command goes on"]))
        raise typer.Exit(130) from None
    rows = tabulate(points)
    shown = Table(box=None, padding=(0, 2, 0, 0))
    names = list(rows[0]["settings"]) if rows else []
    for column in (*names, "runs", rows[0]["metric"] or "score", "base", "local", "pooled", "status"):
        shown.add_column(column)
    for row in rows:
        numbers = (_spread(row, name) for name in ("federated", "base", "local", "pooled"))
        status = ", ".join(f"{n} {s}" for s, n in row["status"].items())
        shown.add_row(*(str(v) for v in row["settings"].values()), str(row["runs"]), *numbers, status)
    out.print(shown)
    if said := composed([p.folder for p in points]):
        out.print(said)
    out.print(f"{folder / 'sweep.json'}; look at {folder / 'report.html'}", style="dim")
    bad = (FAILED, FINDINGS) if strict else (FAILED,)
    if any(p.result is None or p.result.status in bad for p in points):
        raise typer.Exit(1)


def _spread(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return ""
    from fedfm.report.numbers import decimals
    from fedfm.report.seeds import shown

    return shown(row[name], row[f"{name}_spread"], decimals([row[name]]))


def predict(
    folder: RunDir,
    text: Annotated[list[str] | None, typer.Option(help="a text or an instruction; may be repeated")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="texts, one a line, or a column of a file of rows (.jsonl, .csv, .parquet, ...)", parser=path
        ),
    ] = None,
    column: Annotated[
        str, typer.Option(help="which column of --file (default: text, else instruction)")
    ] = "",
    party: Party = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON line a text")] = False,
) -> None:
    """The tuned model's label of each text, or its answer to each instruction."""
    from fedfm.core.errors import ConfigError, Problem
    from fedfm.running.commands.tuned import predict as go
    from fedfm.running.commands.tuned import read_texts, round_of

    texts = [*(text or ()), *(read_texts(file, column) if file is not None else ())]
    if not texts:
        raise ConfigError(
            [Problem("--text", "there is no text", "nothing was given", "--text '...' or --file F")]
        )
    answers = go(folder, texts, party)
    if which := round_of(folder):
        err.print(which, style="dim")
    for given, said in zip(texts, answers, strict=True):
        print(json.dumps({"text": given, "prediction": said}, ensure_ascii=False) if as_json else said)


def export(
    folder: RunDir,
    merged: Annotated[
        bool, typer.Option("--merged", help="add the adapter to the weights: a model of its own")
    ] = False,
    to: Annotated[
        Path | None, typer.Option("--to", help="where to (default: inside the run)", parser=path)
    ] = None,
    party: Party = None,
) -> None:
    """Write the tuned model as others expect it, read it back, and score it again on the run's test rows."""
    from fedfm.report.numbers import fixed
    from fedfm.running.commands.tuned import export as go
    from fedfm.running.commands.tuned import round_of

    try:
        found = go(folder, to, merged=merged, party=party)
    except OSError as e:
        raise MachineFault(f"{to or folder}: {e.strerror}\n    fix: give another folder with --to") from e
    out.print(str(found.folder))
    if which := round_of(folder):
        out.print(which, markup=False, highlight=False)
    for name, value in found.scores.items():
        if name in found.reported and "/" not in name:
            out.print(
                f"{name} {fixed(value, 4)} (reported {fixed(found.reported[name], 4)})",
                markup=False,
                highlight=False,
            )
    if found.unscored:
        err.print(f"not scored: {found.unscored}")


def audit(
    folder: RunDir,
    audit: Annotated[
        str, typer.Option(help="an audit (fedfm list --slot audit), or '{name: NAME, FIELD: VALUE}'")
    ] = "loss-threshold",
    as_json: Annotated[bool, typer.Option("--json", help="the findings as JSON")] = False,
) -> None:
    """Ask a finished run what its model gives away, e.g. who was trained on; the findings go to DIR/audit.json and to its report.

    Config, data and base model must be those of the run.
    """
    from fedfm.report.rundir import AUDIT
    from fedfm.report.sections.audit import cells
    from fedfm.running import audits

    found = audits.audit(folder, audit)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    names, *rows = cells(found)
    if rows:
        shown = Table(*names, box=None, padding=(0, 2, 0, 0))
        for row in rows:
            shown.add_row(*row)
        out.print(shown)
    out.print(found.get("meaning", ""), markup=False, highlight=False)
    out.print(str(folder / AUDIT), style="dim")


COMMANDS = (run, resume, check, sweep, predict, export, audit)
