"""A grid of runs over settings and seeds: resumable, one table with mean and spread."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedfm import report
from fedfm.config.compose import Config
from fedfm.config.record import digest
from fedfm.config.setup import Setup
from fedfm.config.yaml import read
from fedfm.core.errors import ConfigError, FedfmError, Problem, RunFailed
from fedfm.core.spending import noises
from fedfm.data.splits import opened
from fedfm.files import path as meant
from fedfm.files import write
from fedfm.report.seeds import averaged
from fedfm.report.together import WORDS
from fedfm.running.execute import configure, execute, resume
from fedfm.running.progress import Progress
from fedfm.running.record import own
from fedfm.running.record.folder import CONFIG, RECORD, TAKEN, recorded, writing
from fedfm.running.record.identity import Identity, of_base, of_data
from fedfm.running.record.places import moved, placed, renamed
from fedfm.running.verdict import Result

LONGEST = 80  # letters of a folder's name


@dataclass(frozen=True)
class Point:
    """One run of the grid: its settings by path, its folder, what it came to (None: not yet), or why not."""

    settings: dict[str, Any]
    folder: Path
    result: Result | None
    error: str = ""


def axes(settings: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """`client.lr=1e-4,1e-3` is an axis of two values; what has one value is an ordinary setting.

    Commas inside brackets or quotation marks belong to the value.
    """
    grid: dict[str, list[str]] = {}
    plain: list[str] = []
    for setting in settings:
        path, eq, text = setting.partition("=")
        values = _split(text)
        if eq and len(values) > 1:
            if path in grid:
                raise ConfigError(
                    [
                        Problem(
                            path, "this axis is given twice", f"{path}={','.join(grid[path])}", "give it once"
                        )
                    ]
                )
            grid[path] = _unlike(path, values)
        else:
            plain.append(setting)
    return grid, plain


def _meant(text: str) -> str:
    """A value in one spelling."""
    try:
        return repr(float(text))
    except ValueError:
        return json.dumps(read(text), sort_keys=True, default=str)


def _unlike(path: str, values: list[str]) -> list[str]:
    """The values of an axis; one that is spelled twice would be a mean over one run."""
    seen: dict[str, str] = {}
    for text in values:
        meant = _meant(text)
        if (other := seen.setdefault(meant, text)) != text or values.count(text) > 1:
            why = "each value is one run, and the table counts runs"
            raise ConfigError([Problem(path, f"{other} and {text} are one value", why, "name it once")])
    return values


def sweep(
    what: Any,
    settings: Sequence[str] = (),
    *,
    out: str | Path,
    baselines: str = "none",
    engine: str | None = None,
    rounds: int | None = None,
    trackers: Sequence[str] = (),
    keep_rounds: int = 0,
    progress: Callable[[Point, int, int], Progress | None] = lambda point, k, n: None,
    tell: Callable[[str], None] = lambda note: None,
) -> list[Point]:
    """Run every combination of the axes in `settings`, each in a folder of its own under `out`.

    Called again with the same `out` it goes on: finished runs are read, interrupted ones resumed, and those that
    another process is writing are left to it. All configs are checked before the first run. A run that fails is a
    row of the table; `report.html` is one page on all of them. `trackers` and `keep_rounds` are those of each run that
    begins; `tell` hears which settings gave way to which. Raises ConfigError.
    """
    grid, plain = axes(settings)
    beside = {"baselines": baselines, "trackers": trackers, "keep_rounds": keep_rounds}
    out, points, problems = meant(out), [], list[Problem]()
    for values in itertools.product(*grid.values()):
        assigned = dict(zip(grid, values, strict=True))
        try:
            setup = configure(
                what, [*plain, *(f"{k}={v}" for k, v in assigned.items())], rounds=rounds, engine=engine
            )
        except ConfigError as e:
            problems += [p for p in e.problems if p not in problems]
            continue
        points.append((assigned, setup))
    if problems:
        raise ConfigError(problems)
    said = (n for _, setup in points for n in setup.notes)
    for note in dict.fromkeys([*said, *_one_start(grid, points), *_several([s for _, s in points])]):
        tell(note)
    done = []
    for k, (assigned, setup) in enumerate(points):
        point = Point({p: read(v) for p, v in assigned.items()}, out / _slug(assigned), None)
        done.append(_run(point, setup, beside, progress(point, k, len(points))))
        _note(out, done)
    for k in [
        k for k, p in enumerate(done) if TAKEN in p.error
    ]:  # another process may be done with it by now
        done[k] = _run(done[k], points[k][1], beside, progress(done[k], k, len(points)))
        _note(out, done)
    if any(p.result is not None for p in done):
        report.write([out])
    return done


def _one_start(grid: Mapping[str, Any], points: Sequence[tuple[Any, Setup]]) -> Iterator[str]:
    """Say that seeds differ in everything but the initial weights, where the task has a seed of its own for them."""
    start = getattr(points[0][1].fed.task, "init_seed", None)
    if "seed" in grid and start is not None and "task.init_seed" not in grid:
        yield (
            f"every run begins with the same weights (task.init_seed={start}): a mean over seeds leaves out how much hangs on "
            "the start; task.init_seed=0,1,2 tries others"
        )


def _several(setups: Sequence[Setup]) -> Iterator[str]:
    """Say before they run that several runs under a guarantee spend more than each says."""
    private = sum(any(noises(stage) for stage in setup.fed.each) for setup in setups)
    if private > 1:
        yield f"{private} runs under a guarantee: {WORDS}"


def _note(out: Path, done: Sequence[Point]) -> None:
    with writing(out):
        write(out / "sweep.json", json.dumps({"format": 1, "table": table(done)}, indent=1).encode())


def table(points: Sequence[Point], over: str = "seed") -> list[dict[str, Any]]:
    """One row a combination of all axes but `over`: number of runs, mean and sample deviation of their scores."""
    groups: dict[str, list[Point]] = {}
    for p in points:
        key = json.dumps({k: v for k, v in p.settings.items() if k != over})
        groups.setdefault(key, []).append(p)
    rows = []
    for key, group in groups.items():
        ran = [p.result for p in group if p.result is not None]
        row: dict[str, Any] = {"settings": json.loads(key), "runs": len(group), "status": _states(group)}
        row["metric"] = ran[0].metric["name"] if ran else None
        for name in ("base", "local", "federated", "pooled"):
            values = [r.metric[name] for r in ran if r.metric.get(name) is not None]
            row[name], row[f"{name}_spread"] = averaged(values)
        rows.append(row)
    return rows


def _states(group: Sequence[Point]) -> dict[str, int]:
    states = [p.result.status if p.result is not None else "not run: " + p.error for p in group]
    return {s: states.count(s) for s in dict.fromkeys(states)}


def _run(point: Point, setup: Setup, beside: Mapping[str, Any], progress: Progress | None) -> Point:
    """Run one point or go on with it; what goes wrong with it stays its own."""
    result: Result | None = None
    error = ""
    try:
        if (point.folder / RECORD).exists() or (point.folder / CONFIG).exists():
            there = _config_of(point.folder) if (point.folder / CONFIG).exists() else setup.config
            if digest(placed(there, setup.config)) != digest(setup.config):
                raise ConfigError(
                    [
                        Problem(
                            "--out",
                            f"{point.folder} is a run of another config",
                            "the sweep that began here had other settings",
                            "give another folder for this sweep",
                        )
                    ]
                )
            _of_today(point.folder, setup)
            again = setup.fed if moved(there, setup.config) else None
            result = resume(point.folder, again, progress=progress)
        else:
            result = execute(setup, point.folder, progress=progress, **beside)
    except ConfigError:
        raise
    except RunFailed as e:
        result = e.result if isinstance(e.result, Result) else None
        error = str(e).split("\n")[0]
    except FedfmError as e:
        error = str(e).split("\n")[0]
    return Point(point.settings, point.folder, result, error)


def _of_today(folder: Path, setup: Setup) -> None:
    """Raises ConfigError for a run of other rows, base weights or own code: its score would stand beside those of others."""
    was = recorded(folder).get("identity")
    if not was:
        return  # it has not begun
    before, fed = Identity.of(was), setup.fed
    base, template = of_base(setup.config, {})
    now = replace(
        before,
        data=of_data(opened(fed.data, fed.seed, fed.task)),
        base={
            **before.base,
            **renamed(base, before.config, setup.config),
        },  # what training began from is known when the model is open
        template=renamed(template, before.config, setup.config),
        imports=own.modules(fed),
    )
    if bad := [d for d in before.differs(now) if not d.allowed]:
        what = f"{folder} is a run of something else ({bad[0]}{', ...' * (len(bad) > 1)})"
        why = "what the sweep that began here read has changed, and one table would mix both"
        raise ConfigError([Problem("--out", what, why, "give another folder, or remove this one")])


def _config_of(folder: Path) -> Config:
    from fedfm.config import text

    return text.load(folder / CONFIG)


def _slug(assigned: dict[str, str]) -> str:
    """A folder's name that says the settings; a digest ends it where it would be too long or ambiguous."""
    said = ",".join(f"{k}={v}" for k, v in assigned.items()) or "run"
    name = re.sub(r"[^\w.=,+-]+", "_", said)
    if name == said and len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def _split(text: str) -> list[str]:
    """At the commas outside of brackets and quotation marks."""
    parts, depth, quote = [""], 0, ""
    for c in text:
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c in "[{(":
            depth += 1
        elif c in ")}]":
            depth -= 1
        if c == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += c
    return [p.strip() for p in parts]
