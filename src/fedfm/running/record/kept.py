"""Rounds that a run keeps for audits (`keep_rounds`): each in a folder that nothing later touches, and lived again from it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedfm.cards.registry import name_of
from fedfm.core.books import checkpoint, checkpoints
from fedfm.core.combine import stages_of
from fedfm.core.context import Ctx
from fedfm.core.errors import FedfmError
from fedfm.core.federation import Federation
from fedfm.core.loop import Run
from fedfm.core.memory import RunState
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Detector, State
from fedfm.core.session import Site
from fedfm.core.spending import planned
from fedfm.core.state import Store
from fedfm.engines.inprocess import InProcess
from fedfm.ledger import file as ledger
from fedfm.running.record.folder import ROUNDS, writing

STORES = ("clients", "checkpoints/senders", "checkpoints/receivers")


def keep(folder: Path, every: int) -> None:
    """Keep the round that was committed last, if it is one of every so many (round 0 is one) and is not kept yet.

    The checkpoint and the states that it names, as links: nothing is copied, and files of states are never written twice.
    """
    last = max(checkpoints(folder), default=None)
    if not every or last is None or last % every or (home := _place(folder, last)).exists():
        return
    part = home.with_name(f".{home.name}.0")
    with writing(folder):
        shutil.rmtree(part, ignore_errors=True)
        _link(checkpoint(folder, last), checkpoint(part, last))
        st = RunState.load(checkpoint(folder, last))
        named = [
            [*st.accepted.items(), *((i, job.base) for i, job in st.busy.items())],
            [*st.decode.items()],
            [*st.down.items()],
        ]
        for where, states in zip(STORES, named, strict=True):
            old, new = Store(folder / where), Store(part / where)
            for party, version in states:
                if version:
                    _link(old.path(party, version), new.path(party, version))
        part.replace(home)


def kept(folder: Path) -> dict[int, Path]:
    """The checkpoints of the rounds that were kept, by round."""
    there = (p for p in (folder / ROUNDS).glob("[0-9]*") if p.is_dir())
    return {int(p.name): checkpoint(p, int(p.name)) for p in sorted(there)}


def _place(folder: Path, round: int) -> Path:
    return folder / ROUNDS / f"{round:06d}"


def _link(old: Path, new: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    new.parent.mkdir(parents=True, exist_ok=True)
    new.unlink(missing_ok=True)
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)


# ---- lived again ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Listening(Detector):
    """The run's own detector, which lets the messages that it sees be seen."""

    inner: Detector = field(default_factory=Detector)
    heard: dict[str, Message] = field(default_factory=dict)

    reads = True

    def init(self, parties: Sequence[str], ctx: Ctx) -> State:
        return self.inner.init(parties, ctx)

    def flag(self, messages: Mapping[str, Message], state: State, ctx: Ctx) -> tuple[dict[str, str], State]:
        self.heard.update(messages)
        return self.inner.flag(messages, state, ctx)


def messages(folder: Path, fed: Federation, bound: Bound, parties: Any, round: int) -> dict[str, Message]:
    """What the server read of each party in that round (1, 2, ...), made anew from the round before it.

    Raises FedfmError where that one was not kept or there was no such round, where masks let nobody read a message,
    where noise or keys came from the operating system, and where what is made anew is not what the ledger noted.
    """
    last = max(checkpoints(folder), default=0)
    can = [k + 1 for k in kept(folder) if k < last]
    if round not in can:
        within = 1 <= round <= last
        why = f"round {round - 1} was not kept" if within else f"the run has rounds 1 to {last}"
        fix = "run with keep_rounds=1 (--keep-rounds 1)" if within or not can else "ask for one of these"
        raise FedfmError(
            f"{folder}: the messages of round {round} cannot be made anew: {why}\n"
            f"    why: only those of rounds {', '.join(map(str, can)) or 'none'} can\n    fix: {fix}"
        )
    for stage in stages_of(fed.uplink):
        if stage.opaque or stage.fresh:
            why = (
                "nobody reads single messages under masks"
                if stage.opaque
                else "its noise was real, and is gone"
            )
            raise FedfmError(
                f"{folder}: the messages of round {round} cannot be made anew under {name_of(stage)}: {why}"
            )
    heard = Listening(fed.detect)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "run"
        shutil.copytree(_place(folder, round - 1), home)
        st = RunState.load(checkpoint(home, round - 1))
        st.ledger = st.metrics = 0
        st.save(checkpoint(home, round - 1))
        site = Site(
            replace(planned(fed, len(parties.ids)), detect=heard, engine=InProcess()),
            bound,
            parties,
            Store(home / "clients"),
        )
        with _opened(site) as engine:
            lived = Run(site.fed, home, site.home, engine, resume=True).rounds()
            next((r for r in lived if r["round"] == round), None)  # before the first one the start is scored
        if unlike := _unlike(folder / "events.jsonl", home / "events.jsonl", round - 1):
            raise FedfmError(
                f"{folder}: round {round} does not come out as it was: the update of {unlike} is another one\n"
                "    why: other versions of libraries, another machine, or changed code\n    fix: restore what changed"
            )
    return heard.heard


@contextlib.contextmanager
def _opened(site: Site) -> Iterator[Any]:
    engine = site.fed.engine.make()
    engine.open(site)
    try:
        yield engine
    finally:
        engine.close()


def _unlike(was: Path, now: Path, round: int) -> str:
    """The first party whose upload in that round has not the size that was noted; empty: all have."""

    def norms(path: Path) -> dict[str, Any]:
        events = (e for e in ledger.read(path) if e["kind"] == "upload" and e["round"] == round)
        return {e["client"]: e.get("norm") for e in events}

    one, two = norms(was), norms(now)
    return next((i for i in {**one, **two} if one.get(i) != two.get(i)), "")
