"""One run, from opening its data and model to the folder that a finished run leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfm.checks.fitted import discreet
from fedfm.checks.names import strange
from fedfm.checks.place import forks, settled, tried
from fedfm.config import text
from fedfm.config.compose import Config
from fedfm.core.books import checkpoints
from fedfm.core.errors import ConfigError, MachineFault, Problem, words_of
from fedfm.core.federation import Federation
from fedfm.core.loop import Run
from fedfm.core.message import finite
from fedfm.core.session import Site
from fedfm.core.spending import planned
from fedfm.core.state import Store
from fedfm.data.splits import opened
from fedfm.files import short, write
from fedfm.ledger import file as ledger
from fedfm.pace import by_the_wall
from fedfm.running import baselines as base
from fedfm.running.course.leaving import leave, place
from fedfm.running.course.listening import Callback, listening
from fedfm.running.course.stages import Stage, Stages, named, told
from fedfm.running.feasible import caveats, feasible, idle, lonely, mute, undirected
from fedfm.running.findings.clipped import clipped, finding
from fedfm.running.process import borrowed
from fedfm.running.progress import Progress, Silent
from fedfm.running.record import kept, own
from fedfm.running.record.folder import CONFIG, record, writing
from fedfm.running.record.identity import Identity, of_base, of_data, refuse
from fedfm.running.record.places import renamed
from fedfm.running.record.public import publish
from fedfm.running.record.seal import sealed
from fedfm.running.repeated import changing, own_slots
from fedfm.running.summary import best_round, dumps, of_best, summarise, versions
from fedfm.running.verdict import FAILED, INTERRUPTED, STILL, Result, Verdict, judge, still
from fedfm.tasks.probing import apart, lean, open_task, probe
from fedfm.tasks.text.remarks import remarks
from fedfm.text import counted

Look = Callable[[Callable[[], list[Problem]]], list[Problem]]  # here, or in a process of its own


@dataclass
class Plan:
    """A run in its folder: what it is, and who listens to it. `record` is what run.json says."""

    folder: Path
    config: Config
    fed: Federation
    record: dict[str, Any]
    resume: bool = False
    listeners: Sequence[Callback] = ()
    trackers: Sequence[Any] = ()  # given as objects: open already
    progress: Progress = field(default_factory=Silent)
    open: Callable[[Federation, Path, Progress], Site] | None = (
        None  # of a server alone; null: everybody's rows
    )
    found: Callable[[], Sequence[str]] = tuple  # beside what the ledger tells: more reasons for a finding

    @property
    def kinds(self) -> tuple[str, ...]:
        return base.parse(self.record["baselines"])

    def keep(self, **more: Any) -> None:
        """Add to the record, durably."""
        self.record |= more
        record(self.folder, self.record)

    def write_config(self) -> None:
        """Make config.yaml what this run is of."""
        with writing(self.folder):
            write(self.folder / CONFIG, text.dump(self.config).encode())


def open_site(fed: Federation, folder: Path, progress: Progress) -> Site:
    """Open data and model (workers are forked from this). To be called where torch is `borrowed`."""
    import torch

    if by_the_wall(fed):
        what, why = "its seconds are the wall's", "in a simulation no work takes its own time"
        fix = "pace.wall=false with a pace.speed; or fedfm serve, with real parties"
        raise ConfigError([Problem("pace.wall", what, why, fix)])
    with progress.step("data"):
        parties = opened(fed.data, fed.seed, fed.task)
    if lost := parties.account.reasons():
        progress.tell(f"rows left out: {counted(lost)}")
    for note in parties.notes:
        progress.tell(note)
    device = settled(fed)
    sizes = {i: len(parties.train(i)) for i in parties.ids}
    if problems := feasible(fed, sizes):
        raise ConfigError(problems)
    for said in caveats(fed, len(sizes)):
        progress.tell(said)
    where: Look = apart if torch.cuda.is_available() and forks(fed) else _here
    with progress.step("model"):
        bound = open_task(fed.task, parties, device)
    with progress.step("probing"):
        found = tried(lambda: where(lambda: discreet(fed, probe(fed.task, bound, parties))))
        if problems := [*strange(fed, sizes, bound.layout), *found]:
            raise ConfigError(problems)
    site = Site(planned(fed, len(sizes)), bound, parties, Store(folder / "clients"))
    with progress.step("encoding"):
        if problems := lean(site) or [*mute(site), *idle(site), *lonely(site), *undirected(site)]:
            raise ConfigError(problems)
        for said in remarks(site):
            progress.tell(said)
    _own_code(site, apart if forks(fed) else _here, progress)
    return site


def _own_code(site: Site, where: Look, progress: Progress) -> None:
    if slots := own_slots(site.fed):
        with progress.step("own code"):
            if problems := where(lambda: changing(site, slots)):
                raise ConfigError(problems)


def _here(look: Callable[[], list[Problem]]) -> list[Problem]:
    return look()


# ---- one run --------------------------------------------------------------------------------------------------
def drive(plan: Plan) -> Result:
    """Open, identify, run the rounds, judge; then write what a finished run leaves."""
    try:
        with borrowed(plan.fed.threads):
            return _drive(plan)
    except Exception as e:
        if (fault := short(e)) is None:  # else in the opening, or in the last pages
            raise
        raise MachineFault(f"{fault}\n    {_stays(plan.folder)}") from e


def _drive(plan: Plan) -> Result:
    folder, progress, start = plan.folder, plan.progress, time.perf_counter()
    with listening(plan.folder, plan.config, plan.trackers, plan.record["trackers"], plan.listeners) as heard:
        opening = plan.open or open_site
        stages = Stages(plan.fed, folder, lambda fed: opening(fed, folder, progress), plan.resume)
        site = stages.rehearse()
        with progress.step("identity"):
            _identify(plan, site, stages)
        verdict, found, run, ended = None, dict[str, Any](), None, False
        try:
            with contextlib.closing(iter(stages)) as each:
                for stage in each:
                    run, site = stage.run, stage.site
                    _rounds(stage, plan, heard)
                    if stage.final:
                        with progress.bar("baselines") as tick:
                            kinds = plan.kinds if run.state.round else ()
                            kinds = tuple(k for k in kinds if k != "pooled" or stage.fed.task.whole)
                            found = base.baselines(run, kinds, tick, stage.origin) if kinds else {}
                        verdict, ended = _judged(run).with_findings(plan.found()), True
        except KeyboardInterrupt as e:
            verdict = Verdict(INTERRUPTED, ("it was interrupted by hand",))
            e.add_note(_kept(plan, run))
            raise
        except MachineFault as e:
            verdict = Verdict(INTERRUPTED, (str(e).split("\n")[0],))
            raise MachineFault(f"{e}\n    {_kept(plan, run)}") from e
        except Exception as e:
            if (fault := short(e)) is not None:
                verdict = Verdict(INTERRUPTED, (str(fault).split("\n")[0],))
                raise MachineFault(f"{fault}\n    {_kept(plan, run)}") from e
            verdict = Verdict(FAILED, (words_of(e).split("\n")[0],))
            raise
        finally:
            seconds = plan.record["seconds"] + time.perf_counter() - start
            with contextlib.nullcontext() if ended else contextlib.suppress(MachineFault, MemoryError):
                plan.keep(seconds=seconds)
                if run is not None and verdict is not None:
                    summary = summarise(run, site, plan.config, verdict, seconds=seconds, baseline=found)
                    summary["history"], summary["stages"] = plan.record["history"], told(stages.fed, run)
                    with writing(folder):
                        write(folder / "summary.json", dumps(summary))
    assert run is not None
    _leave(plan, run, site, summary)
    return Result(folder, summary)


def _rounds(stage: Stage, plan: Plan, heard: Callback) -> None:
    """The rounds of one stage that are left, with everything encoded once before."""
    site, fed, parts = stage.site, stage.fed, stage.fed.evaluate.parts
    folder, progress = plan.folder, plan.progress
    with progress.step("encoding"):
        for i in site.parties.ids:
            site.data(i)
        for _, bound, _ in (
            fed.task.each(site.bound, ()).values() if "public rows" in fed.client.needs else ()
        ):
            site.guard.public(bound)
        for case in site.home.cases if fed.serving.whole else ():
            for k in range(parts):
                site.home.test(case, k, parts)
    first, second = None, None  # the scores of the base model, and those that came next
    with progress.rounds(fed.last, stage.run) as shown:
        kept.keep(folder, plan.record["keep_rounds"])  # it may have been killed before it could
        for line in _lines(stage.run, folder):
            kept.keep(folder, plan.record["keep_rounds"])
            shown(line)
            heard(line)
            lost = line.get("failed")  # and says why itself
            if first and not second and not lost and (second := line.get("metrics")) and still(first, second):
                progress.tell(f"after round {line['round']} nothing has moved: {STILL}")
            first = first or line.get("metrics")


def _lines(run: Run, folder: Path) -> Iterator[dict[str, Any]]:
    """The records of the rounds; what the disk refuses on the way is a fault of the machine."""
    rounds = run.rounds()
    while True:
        with writing(folder):
            line = next(rounds, None)
        if line is None:
            return
        yield line


def _identify(plan: Plan, site: Site, stages: Stages) -> None:
    """Compare with the record, or make it; durable before the first round."""
    base_model, template = of_base(plan.config, stages.starts)
    base_model |= getattr(site.bound, "frozen", dict)()
    now = Identity(
        plan.config, of_data(site.parties), base_model, template, own.modules(plan.fed), versions(plan.fed)
    )
    if plan.resume and plan.record.get("identity"):
        before = Identity.of(plan.record["identity"])
        seen = dataclasses.replace(
            now,
            config=before.config,
            base=renamed(now.base, before.config, now.config),
            template=renamed(now.template, before.config, now.config),
            imports=before.imports,
            versions=before.versions,
        )
        refuse(before.differs(seen), plan.folder)
    plan.write_config()
    plan.keep(identity=now.plain(), complete=False)


def _judged(run: Run) -> Verdict:
    why = finding(clipped(run.fed, ledger.read(run.books.ledger.path)))
    found = judge(
        records=list(ledger.read(run.books.metrics.path)),
        events=ledger.read(run.books.ledger.path),
        rows=run.parties,
        malicious=run.malicious,
        primary=run.bound.objective.primary,
        higher=run.bound.objective.higher_is_better,
        finite=finite(run.final()),
        personal=not run.fed.serving.whole,
        best=best["round"] if (best := best_round(run))["kept"] else None,
    )
    return found.with_findings([why] if why and found.good else [])


def _stays(folder: Path) -> str:
    begun = bool(checkpoints(folder))
    return f"`fedfm resume {folder}` goes on" if begun else f"nothing is kept yet of {folder}: start it again"


def _kept(plan: Plan, run: Run | None) -> str:
    """What is kept of a run that stopped, and how it goes on."""
    if run is None or not checkpoints(plan.folder):
        return _stays(plan.folder)
    return (
        f"{named(plan.fed, run.state.round)} are kept in {plan.folder}; `fedfm resume {plan.folder}` goes on"
    )


def _leave(plan: Plan, run: Run, site: Site, summary: dict[str, Any]) -> None:
    """The tuned model, the page, and the public copy of both; a run is complete when all are there."""
    from fedfm import report

    folder, said = plan.folder, ""
    if (best := summary["best"]) and best["kept"]:
        which = of_best(best)
        said += f"\n## Which round\n\n{which[0].upper()}{which[1:]}.\n"
    if summary["privacy"]:  # whoever gets the model gets the definition of its epsilon with it
        said += f"\n## Privacy\n\n{summary['privacy']['sentence']}.\n"
    try:
        with writing(folder):
            leave(run, site, said)
            with plan.progress.step("report"):
                report.write([folder])
                publish(folder, plan.fed, plan.config, summary)
            seal = sealed(folder, place(run))
        plan.keep(complete=True, seal=seal)
    except MachineFault as e:
        raise MachineFault(f"{e}\n    {_kept(plan, run)}") from e
