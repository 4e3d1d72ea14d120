"""Runs of several stages: who begins from what, and what passes from one stage to the next.

A stage ends with its last checkpoint. What it has trained is turned into the start of the next one, written to
`checkpoints/stage-K.safetensors`, and noted in the ledger; then the next stage's first checkpoint takes the place of
the last one, so a run that is killed anywhere goes on in exactly one of the two.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fedfm.core import scoring
from fedfm.core.books import checkpoint, checkpoints
from fedfm.core.errors import ConfigError, ModelError, Problem, ResumeError
from fedfm.core.federation import Federation
from fedfm.core.hub import Engine
from fedfm.core.loop import Run
from fedfm.core.memory import RunState
from fedfm.core.session import Site
from fedfm.core.spending import planned
from fedfm.core.state import freeze, thaw
from fedfm.files import write
from fedfm.ledger import events
from fedfm.tasks.beginning.warm import begin, trail

Open = Callable[[Federation], Site]


def standing(folder: Path) -> int:
    """The stage (from 0) in which a run directory's last checkpoint stands."""
    last = max(checkpoints(folder), default=None)
    return 0 if last is None else RunState.load(checkpoint(folder, last)).stage


def _start(folder: Path, stage: int) -> Path:
    return folder / "checkpoints" / f"stage-{stage}.safetensors"


@dataclass
class Stage:
    """One stage under way: its site, its engine, its run. `origin`: the start that its task has by itself."""

    fed: Federation
    site: Site
    engine: Engine
    run: Run
    origin: Tensor
    final: bool


@dataclass
class Stages:
    """The stages of a run in `folder`, opened one after the other by `open`."""

    fed: Federation
    folder: Path
    open: Open
    resume: bool = False

    def __post_init__(self) -> None:
        self.at = standing(self.folder) if self.resume else 0
        self.starts: dict[
            str, Tensor
        ] = {}  # by name: the vector from which each stage's task begins by itself
        self._first: Site | None = None

    def rehearse(self) -> Site:
        """Open every stage and try the way from each to the next; returns the one that stands. Raises ConfigError."""
        feds, before, problems = self.fed.each, None, list[Problem]()
        for k, fed in enumerate(feds):
            site = self.open(fed)
            final, where = k == len(feds) - 1, f"stages.{k}" if k < len(feds) - 1 else "task"
            each = fed.task.each(site.bound, site.parties.ids)
            for pattern, (_, own, _) in each.items():
                of = "".join([f" of stage {k + 1}" * (not final), f" of {pattern}" * bool(pattern)])
                self.starts[f"start{of}"] = own.init
            try:
                if before is not None:
                    if before[1:] != _facts(site):
                        raise ModelError("the stages see other rows, or are scored by another metric")
                    begin(site.bound, before[0])
                before = None if final else (trail(site.bound, site.bound.init), *_facts(site))
            except ModelError as e:
                text = str(e).split("\n    ")
                why, fix = (
                    next((t[5:] for t in text if t.startswith(key)), "") for key in ("why: ", "fix: ")
                )
                problems.append(
                    Problem(where, text[0], why or "a stage begins from the one before", fix or "one task")
                )
                before = None if final else (trail(site.bound, site.bound.init), *_facts(site))
            if k == self.at:
                self._first = site
        if problems:
            raise ConfigError(problems)
        assert self._first is not None
        self.fed = planned(self.fed, len(self._first.parties.ids))
        return self._first

    def __iter__(self) -> Generator[Stage]:
        """Each stage that is left, ready to run; its engine is closed when the next one is asked for."""
        first, last = self._first or self.rehearse(), None
        for k, fed in enumerate(self.fed.each[self.at :], self.at):
            site = self.open(fed) if last else first
            self._first = None
            site.fed = site.home.fed = site.guard.fed = fed  # with the noise of the whole plan
            origin = site.bound.init
            before, kept = None, 1.0
            if last is not None:
                before = last.run.state
                site.bound.init, kept = begin(site.bound, trail(last.site.bound, last.run.final()))
                write(_start(self.folder, k), freeze({"start": site.bound.init}))
            elif k:
                site.bound.init = _kept(self.folder, k, origin)
            engine = fed.engine.make()
            try:
                engine.open(site)
                run = Run(fed, self.folder, site.home, engine, self.resume and before is None, before)
                if (lead := getattr(engine, "lead", None)) is not None:  # one that looks at the run itself
                    lead(run)
                if before is not None:
                    begun(run, k, kept)
                last = Stage(fed, site, engine, run, origin, k == len(self.fed.stages))
                yield last
            finally:
                engine.close()


def begun(run: Run, stage: int, kept: float) -> None:
    """Make the first state of stage `stage` (from 0) the run's, with the fact in the ledger; then sweep.

    States of the stage before are named by nobody any more.
    """
    folder, books, state = run.folder, run.books, run.state
    ctx = run.ctx0.at(round=state.round, events=[])
    ctx.note(events.Stage(stage + 1, kept, scoring.of_run(run)["metrics"]))
    books.ledger.commit(ctx.drain())
    state.ledger = books.ledger.length
    state.save(checkpoint(folder, state.round))
    for old in checkpoints(folder):
        if old != state.round:
            checkpoint(folder, old).unlink(missing_ok=True)
    for part in ("clients", "checkpoints/senders", "checkpoints/receivers"):
        shutil.rmtree(folder / part, ignore_errors=True)


def _facts(site: Site) -> tuple[Any, ...]:
    """What all stages of a run must have in common, once they are open."""
    rows = {i: len(site.parties.train(i)) for i in site.parties.ids}
    return site.parties.digest, rows, site.bound.objective.primary


def _kept(folder: Path, stage: int, like: Tensor) -> Tensor:
    path = _start(folder, stage)
    start: Tensor = thaw(path)["start"]
    if start.shape != like.shape:
        raise ResumeError(f"{path} is the start of another model than stage {stage + 1} has: restore it")
    return start


def named(fed: Federation, done: int) -> str:
    """How far a run has come, in words: "3 of 8 rounds", and of which stage."""
    if not fed.stages:
        return f"{done} of {fed.rounds} rounds"
    k, stage = next((k, s) for k, s in enumerate(fed.each) if done < s.last or s.last == fed.last)
    return f"{done} of {fed.last} rounds (stage {k + 1} of {len(fed.each)}, its round {done - stage.since} of {stage.rounds})"


def extended(fed: Federation, rounds: int) -> Federation:
    """The run with so many rounds in all: its last stage takes them. Raises ConfigError."""
    if rounds < fed.since:
        what = f"{rounds} rounds end before the last stage begins"
        raise ConfigError(
            [Problem("--rounds", what, f"the stages before have {fed.since}", f"at least {fed.since}")]
        )
    return replace(fed, rounds=rounds - fed.since)


def told(fed: Federation, run: Run) -> list[dict[str, Any]]:
    """The summary's account of the stages: rounds, what was trained, what a start kept, the scores at its start and end."""
    from fedfm.cards.registry import name_of
    from fedfm.ledger.file import read

    begun = {e["stage"]: e for e in read(run.folder / "events.jsonl") if e["kind"] == "stage"}
    scored = {r["round"]: r["metrics"] for r in read(run.folder / "metrics.jsonl") if r.get("metrics")}
    primary, found = run.bound.objective.primary, []
    for k, s in enumerate(fed.each if fed.stages else ()):
        event = begun.get(k + 1, {})
        ends = [
            m.get(primary) for t, m in sorted(scored.items()) if s.since < t <= min(s.last, run.state.round)
        ]
        found.append(
            {
                "stage": k + 1,
                "rounds": max(0, min(run.state.round, s.last) - s.since),
                "planned": s.rounds,
                "since": s.since,
                "client": name_of(s.client),
                "tuning": trains(s),
                "kept": event.get("kept"),
                "start": (event.get("metrics") or scored.get(0) or {}).get(primary)
                if k <= run.state.stage
                else None,
                "end": ends[-1] if ends else None,
            }
        )
    return found


def trains(fed: Federation) -> str:
    """What a stage trains: its tuning, or its task where that has none."""
    from fedfm.config.record import to_config

    said = to_config(fed.task)
    tuning = said.get("tuning") if isinstance(said, dict) else None
    return str((tuning or said or {}).get("name", type(fed.task).__name__))
