"""A site's policy: what may be asked of it and what may leave, kept at the site and out of the server's reach.

`site.yaml` is read before the site dials, and everything in it is enforced in its own process: what the federation must
be before the site says that it is ready, what a job may ask before any work, what a word may hold just before its bytes
leave. It fails closed: an unknown key, a value of another type, or a question that cannot be answered is a refusal.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fedfm.config.record import digest
from fedfm.config.yaml import read
from fedfm.core.combine import Pipe, stages_of
from fedfm.core.errors import ClientFailed, ConfigError, FedfmError, Problem
from fedfm.core.federation import Federation
from fedfm.core.job import Job, Said
from fedfm.core.spending import RECIPIENTS, SERVER, planned
from fedfm.files import write
from fedfm.running.feasible import spends
from fedfm.text import nearest

TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d")
WORDS = {  # what a list or a text may hold, where that is known
    "jobs": ("train", "own", "visit", "ask", "alone"),
    "against": (SERVER, RECIPIENTS),
}
SORTS = {
    "str": "a text",
    "int": "a whole number above 0",
    "float": "a number above 0",
    "tuple[str, ...]": "a list of texts",
    "tuple[str, str]": 'two times of day, ["22:00", "06:00"]',
}


@dataclass(frozen=True)
class Needs:
    """What the uplink must hold: updates clipped to at most `clip_norm`, sums of at least `secure_aggregation` parties."""

    clip_norm: float | None = None
    secure_aggregation: int | None = None


@dataclass(frozen=True)
class Epsilon:
    """The most that a run may spend of this party's privacy, and all runs together, against whom.

    Against the `server` only noise counts that the parties add; what the server promises to add itself protects, if it
    does, against `recipients` of the model alone.
    """

    run: float | None = None
    life: float | None = None
    against: str = SERVER


@dataclass(frozen=True)
class Policy:
    """A null allows everything; a list allows what it names."""

    authority: str | None = None  # fingerprint of the federation's authority
    configs: tuple[str, ...] | None = None  # digests
    models: tuple[str, ...] | None = None  # names of base models
    kinds: tuple[str, ...] | None = None  # of messages: delta, weights, ...
    phases: tuple[str, ...] | None = None  # words that may leave: upload, ...
    jobs: tuple[str, ...] | None = None  # train, own, visit, ask, alone
    needs: Needs = field(default_factory=Needs)
    epsilon: Epsilon = field(default_factory=Epsilon)
    most_bytes: int | None = None  # of a word
    most_steps: int | None = None  # of a session
    most_rounds: int | None = None  # of a run
    hours: tuple[str, str] | None = None  # local time, from and to
    tell: tuple[str, ...] | None = (
        None  # beside the update: loss, errors, ... (numbers of rows are always told)
    )

    @classmethod
    def read(cls, path: Path) -> Policy:
        """Raises ConfigError with everything that is wrong in the file."""
        try:
            found = read(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as e:
            raise FedfmError(
                f"{path} cannot be read: {e}\n    fix: mend it; without it this site takes no part"
            ) from e
        problems: list[Problem] = []
        made = _made(cls, {} if found is None else found, "", problems)
        if problems:
            raise ConfigError([dataclasses.replace(p, where=f"{path}: {p.where}") for p in problems])
        assert isinstance(made, cls)
        return made

    # ---- before the site says that it is ready --------------------------------------------------------------------
    def refuses(self, fed: Federation, config: Mapping[str, Any], parties: int, rows: int) -> list[str]:
        """Why this federation is none that the site takes part in; [] where it may be."""
        return [*self._config(fed, config), *self._uplink(fed, parties), *self._work(fed, rows)]

    def _config(self, fed: Federation, config: Mapping[str, Any]) -> Iterator[str]:
        if self.configs is not None and (found := digest(config)) not in self.configs:
            yield f"configs: this one's digest is {found}"
        task = config.get("task")
        named = {str(v) for k in ("model", "start") for v in _values(task, k) if v is not None}
        if self.models is not None and not named:
            yield f"models: this federation names none, and only {', '.join(self.models)} may be"
        if self.models is not None and (strange := named - set(self.models)):
            yield f"models: {', '.join(sorted(strange))} is not among {', '.join(self.models)}"
        if self.kinds is not None and fed.client.makes not in self.kinds:
            yield f"kinds: it sends '{fed.client.makes}', allowed is {', '.join(self.kinds)}"
        if self.tell is not None and (extra := set(fed.client.info) - set(self.tell)):
            yield f"tell: beside the update it tells {', '.join(sorted(extra))}"
        if self.most_rounds is not None and fed.last > self.most_rounds:
            yield f"most_rounds: {fed.last} rounds, at most {self.most_rounds}"

    def _uplink(self, fed: Federation, parties: int) -> Iterator[str]:
        clip, sums = self.needs.clip_norm, self.needs.secure_aggregation
        found = [float(s.clip_norm) for s in stages_of(fed.uplink) if hasattr(s, "clip_norm")]
        if clip is not None and not any(c <= clip for c in found):
            yield f"needs.clip_norm: updates are clipped to {min(found, default='nothing')}, at most {clip:g} is asked for"
        if sums is not None:
            stack = Pipe(fed.uplink)
            if stack.hidden is None:
                yield "needs.secure_aggregation: the server would see single updates"
            else:  # of the plan; who really comes is seen by the stage itself, which refuses fewer than its share
                share = float(getattr(stack.stages[stack.hidden], "threshold", 1.0))
                if (least := math.ceil(share * fed.select.most(parties))) < sums:
                    yield f"needs.secure_aggregation: a sum may be of {least} parties, at least {sums} are asked for"
        if self.epsilon.run is not None or self.epsilon.life is not None:
            spent, most = spends(planned(fed, parties), parties), self.epsilon.run
            if spent is None:
                yield "epsilon: this federation promises none"
            elif self.epsilon.against == SERVER != spent.observer:
                yield (
                    "epsilon.against: the noise is the server's to add, which sees the updates before; a site that trusts it "
                    f"says `epsilon: {{against: {RECIPIENTS}}}`"
                )
            elif most is not None and spent.epsilon > most:
                yield f"epsilon.run: the plan would spend {spent.epsilon:.2f}, at most {most:g} is allowed"

    def _work(self, fed: Federation, rows: int) -> Iterator[str]:
        if self.most_steps is not None and (steps := fed.client.steps_for(rows)) > self.most_steps:
            yield f"most_steps: {steps} steps a session, at most {self.most_steps}"

    # ---- before any work, and before bytes leave ------------------------------------------------------------------
    def enter(self, job: Job, now: datetime.time | None = None) -> None:
        """Raises ClientFailed for a job that may not be asked for, now or at all."""
        if self.jobs is not None and job.kind not in self.jobs:
            raise ClientFailed(f"the site's policy takes no job of the kind '{job.kind}'")
        if self.jobs is None and job.kind != "train" and (self.needs, self.epsilon) != (Needs(), Epsilon()):
            raise ClientFailed(
                f"the site's policy has needs that an answer of the kind '{job.kind}' does not meet, and does not name it "
                "among its jobs"
            )
        if self.most_steps is not None and (job.terms.steps or 0) > self.most_steps:
            raise ClientFailed(f"the site's policy allows {self.most_steps} steps")
        now = now or datetime.datetime.now().time()
        if self.hours is not None and not _within(now, self.hours):
            raise ClientFailed(f"the site works from {self.hours[0]} to {self.hours[1]}")

    def leaves(self, said: Said) -> str:
        """Why a word may not leave; empty: it may."""
        if self.phases is not None and said.phase not in (*self.phases, "gone", "done"):
            return f"its policy lets no '{said.phase}' leave"
        updates = ("upload", "model")
        if self.kinds is not None and said.phase in updates and said.message.kind not in self.kinds:
            return f"its policy lets no '{said.message.kind}' leave"
        if self.most_bytes is not None and said.message.nbytes > self.most_bytes:
            return f"its policy lets {self.most_bytes:,} bytes leave at once, not {said.message.nbytes:,}"
        return ""

    def worded(self, error: str) -> str:
        """What the server is told of an error."""
        return error if not error or self.tell is None or "errors" in self.tell else "it failed"


def epsilon(fed: Federation, parties: int) -> float | None:
    """What the plan of a federation spends; None where nothing is promised."""
    spent = spends(planned(fed, parties), parties)
    return None if spent is None else float(spent.epsilon)


def booked(path: Path) -> dict[str, float]:
    """What a site has booked of its life's epsilon, by run. Raises FedfmError where it cannot be known."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {str(k): float(v) for k, v in found.items()}
    except (OSError, ValueError, AttributeError, TypeError) as e:
        raise FedfmError(
            f"{path} cannot be read ({e}): what this site has spent is not known\n    fix: restore it"
        ) from e


def reserve(path: Path, run: str, cost: float, life: float) -> None:
    """Book a run's whole plan for this site's life, durably. Raises FedfmError where it does not fit or cannot be known."""
    runs = booked(path)
    cost = max(cost, runs.get(run, 0.0))  # what was booked stays so, whatever the plan is said to be now
    others = sum(v for k, v in runs.items() if k != run)
    if others + cost > life:
        raise FedfmError(
            f"the site's policy allows epsilon {life:g} for life: {others:.2f} is spent, this run plans {cost:.2f}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(runs | {run: cost}, indent=1).encode())


def _within(now: datetime.time, hours: tuple[str, str]) -> bool:
    begin, end = (datetime.time.fromisoformat(h) for h in hours)
    return begin <= now < end if begin <= end else now >= begin or now < end


def _values(node: Any, key: str) -> Iterator[Any]:
    """Every value under a key, at any depth."""
    if isinstance(node, Mapping):
        for k, v in node.items():
            yield from [v] if k == key and not isinstance(v, Mapping) else _values(v, key)
    elif isinstance(node, list | tuple):
        for v in node:
            yield from _values(v, key)


def _made(cls: Any, found: Any, where: str, problems: list[Problem]) -> Any:
    """A policy, or a part of one, of plain data; every field is checked."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    if not isinstance(found, Mapping):
        fix = f"keys of these, with their values: {', '.join(known)}"
        problems.append(
            Problem(where or "policy", "it is no mapping", "what is not known cannot be kept", fix)
        )
        return None
    given = {}
    for name, value in found.items():
        at = f"{where}.{name}" if where else name
        if name not in known:
            problems.append(
                Problem(at, "there is no such key", "what is not known cannot be kept", nearest(name, known))
            )
        elif known[name].default_factory is not dataclasses.MISSING:
            given[name] = _made({"needs": Needs, "epsilon": Epsilon}[name], value, at, problems)
        elif (fit := _fit(str(known[name].type), value)) is None and value is not None:
            sort = str(known[name].type).removesuffix(" | None")
            problems.append(Problem(at, f"{value!r} cannot stand here", f"it is {SORTS[sort]}", "correct it"))
        elif name in WORDS and (odd := set([fit] if isinstance(fit, str) else fit or ()) - set(WORDS[name])):
            why = "what is not known cannot be kept"
            problems.append(Problem(at, f"there is no '{min(odd)}'", why, nearest(min(odd), WORDS[name])))
        else:
            given[name] = fit
    return cls(**given) if not problems else None


def _fit(sort: str, value: Any) -> Any:
    """The value as its field wants it; None where it does not fit."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
    if sort.startswith("float"):
        return float(value) if number else None
    if sort.startswith("int"):
        return value if number and isinstance(value, int) else None
    if sort.startswith("str"):
        return value if isinstance(value, str) else None
    words = isinstance(value, list) and all(isinstance(v, str) for v in value)
    if sort.startswith("tuple[str, str]"):
        return tuple(value) if words and len(value) == 2 and all(map(TIME.fullmatch, value)) else None
    return tuple(value) if words else None
