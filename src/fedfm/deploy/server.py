"""The server of real parties: opens the model, greets the parties, and runs the same loop as a simulation."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fedfm.checks.names import strange
from fedfm.checks.place import settled
from fedfm.config import text
from fedfm.config.setup import Setup
from fedfm.core.books import checkpoint, checkpoints
from fedfm.core.errors import ConfigError, FedfmError, Problem, ResumeError
from fedfm.core.federation import Federation
from fedfm.core.memory import RunState
from fedfm.core.protocols import Adversary, Bound
from fedfm.core.session import Site
from fedfm.core.spending import planned
from fedfm.data.splits import opened
from fedfm.deploy.authority import Authority
from fedfm.deploy.course.arrivals import Arrivals, Key, read
from fedfm.deploy.course.presence import Presence, short
from fedfm.deploy.course.wall import OnTheWall, Wall
from fedfm.deploy.engine import RealParties
from fedfm.deploy.letters import Letter
from fedfm.deploy.reception import Reception, versions
from fedfm.deploy.transport import Transport
from fedfm.deploy.views import Roster, ServerSite
from fedfm.files import write
from fedfm.pace import by_the_wall
from fedfm.running.drive import Plan, drive
from fedfm.running.execute import PLAN
from fedfm.running.feasible import feasible
from fedfm.running.process import borrowed
from fedfm.running.progress import Progress, Silent
from fedfm.running.record.folder import CONFIG, RECORD, begun, holder, owned, recorded
from fedfm.running.record.identity import Identity, models_of, of_base, refuse
from fedfm.running.record.seal import unbroken
from fedfm.running.verdict import Result
from fedfm.tasks.probing import open_task

Listen = Callable[[str, Authority, int], Transport]  # address, whose parties, most bytes of a message
MOST = 1 << 26  # bytes that any message may have, beside MODELS of them
MODELS = 8
CANCEL = "cancel"  # a file in the run's folder: somebody asks for its end


@dataclass(frozen=True)
class Real(Federation):
    """A federation whose parties are real: noise is the operating system's, and little is told of what is at a party."""

    simulated = False


@dataclass(frozen=True)
class Service:
    """How a run is served: whose parties, where, and how long anybody is waited for.

    Without an `authority` it is a rehearsal: the parties are those of the config's own data, and each gets an
    invitation in DIR/join that holds everything; they belong on this machine. `quorum`: how many of the roster must be here
    before the run begins (None: all); who comes later takes part from the round after. `wait_s`: how long to wait for
    them (None: for ever). `grace_s`: how long a party that is gone may take to come back into its round. `answer_s`: how
    long one that is here may take over its next word (None: for ever); then it is out of that round.
    """

    authority: Path | None = None
    address: str = "127.0.0.1:0"
    wait_s: float | None = None
    grace_s: float = 15.0
    answer_s: float | None = None
    quorum: int | None = None
    baselines: Sequence[str] = ()
    progress: Progress = field(default_factory=Silent)
    tell: Callable[[str], None] = lambda text: None
    listen: Listen | None = None
    clock: Callable[[], float] = time.monotonic  # seconds


def serve(
    what: Setup | Federation | Mapping[str, Any],
    out: str | Path | None = None,
    service: Service | None = None,
) -> Result:
    """Run a federation with parties that dial in, into `out`; the same loop, checks, ledger and report as `run`.

    Raises ConfigError, MachineFault (nobody came, no port), and RunFailed as `run` does.
    """
    setup, service = Setup.of(what), service or Service()
    if problems := unfit(setup.fed, rehearsal=service.authority is None):
        raise ConfigError(problems)
    with begun(out, setup.recipe or "run") as folder:
        where = {"run": secrets.token_hex(8), "authority": str(service.authority or "")}
        real = {**where, "answer_s": service.answer_s, "grace_s": service.grace_s, "quorum": service.quorum}
        record = PLAN | {"baselines": ",".join(service.baselines) or "none", "real": real}
        return _served(setup, folder, record, service, resume=False)


def again(folder: Path, service: Service | None = None) -> Result:
    """Go on with a run that was served in `folder`, at its address; parties that are still there keep their models.

    Raises ResumeError as `resume` does, and what `serve` raises.
    """
    service = service or Service()
    with owned(folder):
        record = PLAN | recorded(folder)
        if not (real := record.get("real")):
            raise ResumeError(f"{folder} was run by one process: fedfm resume {folder}")
        if record["complete"]:
            result = Result.read(folder)
            unbroken(folder, record.get("seal") or {}, result.summary, again=False)
            return result.judged()
        authority = Path(real["authority"]) if real["authority"] else None
        kept = {k: real[k] for k in ("answer_s", "grace_s", "quorum") if k in real}
        service = replace(service, authority=authority, address=real["address"], **kept)
        (folder / CANCEL).unlink(missing_ok=True)
        setup = Setup.of(text.load(folder / CONFIG))
        if record.get("identity"):
            before = Identity.of(record["identity"])
            refuse(before.differs(replace(before, config=setup.config)), folder)
        return _served(setup, folder, record, service, resume=True)


def _served(setup: Setup, folder: Path, record: dict[str, Any], service: Service, *, resume: bool) -> Result:
    fed, rehearsal, progress = setup.fed, service.authority is None, service.progress
    with borrowed(fed.threads):
        with progress.step("data"):
            parties: Any = opened(fed.data, fed.seed, fed.task)
        if theirs := set(fed.evaluate.cases(parties)) & set(parties.ids):
            what, why = f"it scores rows of {min(theirs)} at the server", "rows of parties stay with them"
            raise ConfigError([Problem("evaluate", what, why, "evaluate=held-out evaluate.where=parties")])
        with progress.step("model"):
            bound = open_task(fed.task, parties, settled(fed))
        ca = _authority(service, folder, resume)
        names = parties.ids if rehearsal else tuple(sorted(ca.roster["sites"]))
        if not names:
            raise FedfmError("nobody is invited\n    fix: fedfm invite SITE --ca DIR")
        quorum = len(names) if service.quorum is None else service.quorum
        if problems := short(fed, len(names), quorum):
            raise ConfigError(problems)
        transport = (service.listen or _grpc)(service.address, ca, MOST + MODELS * 4 * bound.layout.size)
        transport.open()
        record["real"] |= {"address": transport.address}

        def stop() -> bool:
            return (folder / CANCEL).exists()

        reception = None
        try:
            if rehearsal and not resume:
                _invite(ca, names, transport.address, folder, service.tell)
            welcome = _welcome(setup, parties, record["real"]["run"], len(names), rehearsal)
            last = max(checkpoints(folder), default=None) if resume else None
            state = RunState() if last is None else RunState.load(checkpoint(folder, last))
            arrivals = Arrivals(folder, last)
            reception = Reception(transport, welcome, facts(setup.config, bound), names, arrivals.told)
            presence = Presence(fed, reception, arrivals, names, service.tell, state)
            presence.gather(quorum, service.wait_s, service.clock, stop)
            if by_the_wall(fed):
                presence.wall = Wall(service.clock, arrivals)
            engine = RealParties(reception, arrivals, service.grace_s, service.answer_s, service.clock)
            engine = replace(
                engine,
                tell=service.tell,
                stop=stop,
                lead=presence.lead,
                lost=presence.lost,
                landed=presence.wall.mark if presence.wall else None,
            )
            plan = Plan(folder, setup.config, shaped(fed, engine, rehearsal), record, resume)
            plan.listeners, plan.progress = (presence.sealed,), progress
            plan.open, plan.found = _opener(bound, parties, presence), lambda: read(folder).findings()
            plan.keep()
            result = drive(plan)
            _ended(reception, result.status)
            return result.judged()
        except KeyboardInterrupt as e:
            if reception is not None and stop():  # after Ctrl-C parties wait for a server that goes on
                _ended(reception, "cancelled")
                e.add_note("it was cancelled, and the parties were told that it has ended")
            raise
        finally:
            transport.close()


def shaped(
    fed: Federation, engine: Any, rehearsal: bool, moments: Mapping[Key, float] | None = None
) -> Federation:
    """The federation as it runs: noise of real parties is no simulated one. `moments`: of work, in a run that is done again."""
    shape = Federation if rehearsal else Real
    pace = OnTheWall(fed.pace, moments) if by_the_wall(fed) else fed.pace
    known = {f.name: getattr(fed, f.name) for f in fields(fed)}
    return shape(**known | {"engine": engine, "pace": pace})


def _ended(reception: Reception, status: str) -> None:
    for name in reception.present:
        reception.transport.send(name, Letter({"do": "ended", "status": status}))


def cancel(folder: Path) -> None:
    """Ask the process that serves the run in `folder` to end it: at once, resumable, and its parties are told.

    Raises ResumeError for a run that is not served, or not under way.
    """
    if not holder(folder):
        raise ResumeError(f"{folder} is not under way: no process writes to it")
    if (folder / RECORD).exists() and not recorded(folder).get("real"):
        raise ResumeError(f"{folder} has no parties elsewhere\n    fix: Ctrl-C in the terminal that runs it")
    write(folder / CANCEL, b"")


def _authority(service: Service, folder: Path, resume: bool) -> Authority:
    if service.authority is not None:
        return Authority(service.authority)
    own = folder / "authority"
    return Authority(own) if resume else Authority.create(own, "rehearsal")


def unfit(fed: Federation, *, rehearsal: bool) -> list[Problem]:
    """What a run of real parties cannot be, yet or at all."""
    found = []
    if fed.stages:
        fix = "run one stage after the other: task.start=DIR/model begins from the one before"
        found.append(
            Problem("stages", "stages are for simulations", "a stage's start is made at the server", fix)
        )
    if not fed.serving.whole or not fed.task.whole:
        why = "each party has a model of its own, and the server would write them"
        found.append(
            Problem("client", "it leaves a model for each party", why, "a client with one model for all")
        )
    if type(fed.adversary) is not Adversary and not rehearsal:
        why = "a real party cannot be told to attack"
        found.append(
            Problem("adversary", "an attack is for simulations", why, "adversary=null, or fedfm run")
        )
    if not rehearsal and (bool(fed.pace.drop) or bool(getattr(fed.pace, "dropout", 0.0))):
        why = "real parties drop out by themselves"
        found.append(Problem("pace", "drop-outs are drawn", why, "leave pace.drop and pace.dropout out"))
    return found


def facts(config: Mapping[str, Any], bound: Bound) -> dict[str, Any]:
    """What both sides must have alike: versions, the base model, wherever it lies, and the layout of what is trained."""
    still: Callable[[], dict[str, str]] | None = getattr(
        bound, "frozen", None
    )  # what is trained is sent to them
    base, template = of_base(dict(config), {} if still else {"start": bound.init})
    alike = base | template | (still() if still else {})
    for i, name in enumerate(sorted(set(models_of(config.get("task"))))):
        alike = {k.replace(name, f"model {i}"): v for k, v in alike.items()}
    return versions() | {"base": alike, "layout": bound.layout.digest}


def _welcome(setup: Setup, parties: Any, run: str, count: int, rehearsal: bool) -> dict[str, Any]:
    schema = asdict(parties.schema)
    return {
        "run": run,
        "parties": count,
        "config": setup.config,
        "schema": schema | {"shapes": {k: list(v) for k, v in schema["shapes"].items()}},
        "rehearsal": rehearsal,
    }


def _opener(bound: Bound, parties: Any, presence: Presence) -> Callable[..., Site]:
    """What `drive` opens instead of everybody's rows."""

    def opener(fed: Federation, folder: Path, progress: Progress) -> Site:
        rows = presence.rows
        if problems := [*feasible(fed, rows), *strange(fed, rows, bound.layout)]:
            raise ConfigError(problems)
        presence.site = ServerSite(planned(fed, len(rows)), bound, Roster(parties, rows))
        site: Any = presence.site
        return site  # type: ignore[no-any-return]

    return opener


def _invite(
    ca: Authority, names: Sequence[str], address: str, folder: Path, tell: Callable[[str], None]
) -> None:
    for name in names:
        path = folder / "join" / f"{name}.json"
        ca.rehearse(name, address).write(path)
        tell(f"fedfm join {path}")


def _grpc(address: str, ca: Authority, most: int) -> Transport:
    from fedfm.deploy.grpc import GrpcServer

    return GrpcServer(address, ca.server(), ca.admits, most)
