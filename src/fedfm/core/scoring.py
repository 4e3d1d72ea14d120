"""Scores of models: of the evaluator's cases, of parties' own models, and of coalitions; the house they stand in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import FedfmError, MethodFault, RoundFailed
from fedfm.core.job import VALIDATION, Job
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Scores, State
from fedfm.ledger.events import Bytes

if TYPE_CHECKING:
    from fedfm.core.loop import Run

BATCH = 64  # rows of one pass over the server's rows


def tell(scores: Scores) -> Message:
    """Scores as a message: the sums as a tensor, for a sum may be infinite, and JSON has no number for that."""
    sums = torch.tensor([total for total, _ in scores.values()], dtype=torch.float64)
    return Message(sums, "scores", info={"counts": {name: n for name, (_, n) in scores.items()}})


def told(m: Message) -> Scores:
    """The inverse of `tell`."""
    return {name: (float(total), n) for (name, n), total in zip(m.info["counts"].items(), m.x, strict=True)}


def scores(run: Run, model: Tensor, ctx: Ctx | None = None) -> dict[str, float]:
    """The evaluator's metrics of a model, measured in pieces wherever sessions run, or by each party on its own rows."""
    evaluate, home = run.fed.evaluate, run.home
    if evaluate.where == "parties":
        return _visited(run, model, ctx)
    return evaluate.finish(_measured(run, model, home.cases))


def of_run(run: Run, ctx: Ctx | None = None) -> dict[str, dict[str, float]]:
    """What a record says of the present model: its `metrics`, and `validation` where the best round is looked for."""
    fed, found = run.fed, dict[str, float]()
    if fed.serving.whole:
        found = scores(run, run.model(), ctx)
    if fed.evaluate.personal or not fed.serving.whole:
        found |= _spread("own", _own(run, "", ctx), run)
    if not fed.serving.whole:
        found |= {n: v for n, v in ((k.removeprefix("own/"), v) for k, v in found.items()) if "/" not in n}
    if not fed.evaluate.validates:
        return {"metrics": found}
    if fed.serving.whole:
        parts = _measured(run, run.model(), (VALIDATION,))[VALIDATION]
        return {"metrics": found, "validation": fed.evaluate.finish({"": parts})}
    mean = {name: math.fsum(v.values()) / len(v) for name, v in _own(run, VALIDATION, ctx).items()}
    return {"metrics": found, "validation": mean}


def _measured(run: Run, model: Tensor, cases: Sequence[str]) -> dict[str, list[Scores]]:
    """Sums and counts by case, piece by piece."""
    parts = run.fed.evaluate.parts
    pieces = [(case, (k, parts)) for case in cases for k in range(parts)]
    jobs = [
        replace(run.job("score", f"score/{k}", k), case=case, part=part)
        for k, (case, part) in enumerate(pieces)
    ]
    brief = Message(model, "weights")
    found: dict[str, list[Scores]] = {}
    for session in run.hub.collect(jobs, lambda job: brief):
        if session.upload is None:
            raise FedfmError(f"the model cannot be scored: {session.error}")
        found.setdefault(session.job.case, []).append(told(session.upload))
    return found


def _visited(run: Run, model: Tensor, ctx: Ctx | None) -> dict[str, float]:
    """One model at every party, on its own test rows: over all of these rows, by party, and how parties differ."""
    jobs, brief = [run.job("visit", i, k) for k, i in enumerate(run.parties)], Message(model, "weights")
    parts, by_metric = list[Scores](), dict[str, dict[str, float]]()
    for id, found in _answered(run, jobs, lambda job: brief, ctx):
        parts.append(found)
        for name, value in run.fed.evaluate.finish({"": [found]}).items():
            by_metric.setdefault(name, {})[id] = value
    return {**run.fed.evaluate.finish({"": parts}), **_spread("parties", by_metric, run)}


def _own(run: Run, case: str, ctx: Ctx | None) -> dict[str, dict[str, float]]:
    """Every party's own model on its own rows, by metric and party."""
    jobs = [replace(run.job("own", i, k), case=case) for k, i in enumerate(run.parties)]
    by_metric: dict[str, dict[str, float]] = {}
    for id, found in _answered(run, jobs, run.briefs.of, ctx):
        for name, (total, n) in found.items():
            if n and "/" not in name:
                by_metric.setdefault(name, {})[id] = total / n
    return by_metric


def _answered(
    run: Run, jobs: list[Job], briefs: Callable[[Job], Message], ctx: Ctx | None
) -> Iterator[tuple[str, Scores]]:
    """What parties say of what they were sent, whose bytes count both ways."""
    sent: dict[str, int] = {}

    def brief(job: Job) -> Message:
        sent[job.id] = (m := briefs(job)).nbytes
        return m

    for s in run.hub.collect(jobs, brief):
        if ctx is not None and ctx.events is not None:
            ctx.at(client=s.job.id).note(Bytes("down", sent.get(s.job.id, 0), {}))
            ctx.events.extend(e for e in s.events if e["kind"] == Bytes.kind)
        if s.upload is not None:
            yield s.job.id, told(s.upload)


def _spread(head: str, by_metric: Mapping[str, Mapping[str, float]], run: Run) -> dict[str, float]:
    """`metric/party`, and under `head` their mean, the worst, the worst tenth."""
    found: dict[str, float] = {}
    for name, values in by_metric.items():
        up = run.bound.objective.rises(name)
        ordered = sorted(values.values(), reverse=not up)  # the worst first
        tenth = ordered[: max(1, math.ceil(len(ordered) / 10))]
        found |= {f"{name}/{i}": v for i, v in values.items()}
        found |= {
            f"{head}/{name}": math.fsum(ordered) / len(ordered),
            f"{head}/{name}/worst": ordered[0],
            f"{head}/{name}/worst tenth": math.fsum(tenth) / len(tenth),
        }
    return found


class View:
    """The house of one round (`protocols.House`): lazy, cached, without the test rows."""

    def __init__(self, run: Run, ctx: Ctx):
        self.run, self.home, self.bound, self.parties = run, run.home, run.bound, run.parties
        self.before: State = run.state.server
        self.messages: Mapping[str, Message] = {}
        self._bare = ctx.muted()
        self._learned: Message | None = None
        self._worth: dict[frozenset[str], float] = {}

    @property
    def ctx(self) -> Ctx:
        """The round's, which knows this house; not kept, or a round's messages would wait for the collector."""
        return self._bare.at(house=self)

    @property
    def model(self) -> Tensor:
        return self.run.fed.serving.model(self.before)

    @property
    def rows(self) -> Any:
        return self.home.rows()

    @property
    def public(self) -> Any:
        return self.home.public()

    def learn(self) -> Message:
        if self._learned is None:
            fed = self.run.fed
            brief = replace(fed.serving.brief(self.before, Terms()), version=self.ctx.round, sender="server")
            ctx = self._bare.at(client="")
            with ctx.ambient("house"), torch.enable_grad():
                out = fed.client.work(brief, self.rows, {}, ctx, self.bound)
            if not isinstance(out, tuple):
                raise FedfmError("the server cannot learn by a client that converses; use another client")
            self._learned = out[0]
        return self._learned

    def after(self, x: Tensor) -> Tensor:
        fed = self.run.fed
        versions = tuple(m.version for m in self.messages.values()) or (self.ctx.round,)
        agg = Aggregate(x, max(1, len(self.messages)), tuple(self.messages), len(self.parties), versions)
        return fed.serving.model(fed.serving.step(self.before, agg, self.ctx))

    def score(self, model: Tensor) -> float:
        self.bound.load(model)
        objective = self.bound.objective
        total, n = self.bound.score(self.rows)[objective.primary]
        worth = (total / n if n else 0.0) * (1.0 if objective.higher_is_better else -1.0)
        return max(-1e30, min(1e30, worth)) if worth == worth else -1e30

    def risk(self, model: Tensor) -> float:
        self.bound.load(model)
        with self.ctx.ambient("house"):
            total, n = self.bound.risk(self.rows)
        return total / max(1, n)

    def gradient(self, model: Tensor) -> Tensor:
        rows, total = self.rows, torch.zeros_like(self.bound.init)
        self.bound.load(model)
        modes = [(m, m.training) for m in self.bound.module.modules()]
        self.bound.module.eval()  # in what mode another work has left it hangs on the engine
        with self.ctx.ambient("house"), torch.enable_grad():
            for part in torch.split(torch.arange(len(rows)), BATCH):
                self.bound.gradient(self.bound.batch(rows, part))
                total += self.bound.grads.cpu() * (len(part) / len(rows))
        for module, training in modes:
            module.training = training
        return total

    def game(self, subset: frozenset[str]) -> float:
        if not self.run.reads_each:
            raise MethodFault(
                "value", "the coalition game needs each party's message: declare `reads = True`"
            )
        if subset not in self._worth:
            fed, state = self.run.fed, self.before
            with suppress(RoundFailed):  # a coalition too small to aggregate moves nothing
                if subset:
                    kept = [m for i, m in self.messages.items() if i in subset]
                    agg = self.run.settle(kept, self.ctx)[0]
                    state = fed.serving.step(self.before, agg, self.ctx)
            self._worth[subset] = self.score(fed.serving.model(state))
        return self._worth[subset]

    @cached_property
    def ask(self) -> Callable[[str, Sequence[str], Message], dict[str, Message]]:
        return self.run.ask
