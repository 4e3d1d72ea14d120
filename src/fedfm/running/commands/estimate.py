"""What a run will take, measured on one party's first steps."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedfm.config.setup import Setup
from fedfm.core.briefs import Briefs
from fedfm.core.context import Ctx, Terms
from fedfm.core.federation import Federation
from fedfm.core.job import UPLOAD, Job
from fedfm.core.memory import Memories, RunState
from fedfm.core.message import Message
from fedfm.core.session import Site
from fedfm.core.state import Store
from fedfm.machine import peak_bytes
from fedfm.running.process import borrowed
from fedfm.running.progress import Progress
from fedfm.tasks.probing import left_out
from fedfm.tasks.text.remarks import remarks

STEPS = 3  # local steps that are timed


def estimate(setup: Setup) -> dict[str, Any]:
    """Parameters, bytes a party and round, memory of one process, seconds of local work (no scoring), rows that are cut or lost.

    Of several stages the last is told of; bytes, seconds and rounds are those of all. Raises ConfigError where one
    cannot begin from the one before.
    """
    from fedfm.running.course.stages import Stages
    from fedfm.running.execute import open_site

    fed = setup.fed
    with borrowed(fed.threads):
        if fed.stages:
            with tempfile.TemporaryDirectory() as folder:
                Stages(fed, Path(folder), lambda part: open_site(part, Path(folder), Progress())).rehearse()
        each = [_of(stage) for stage in fed.each]
    return each[-1] | {k: sum(e[k] for e in each) for k in ("rounds", "seconds", "total_bytes")}


def _of(fed: Federation) -> dict[str, Any]:
    from fedfm.running.execute import open_site

    with tempfile.TemporaryDirectory() as folder:
        site = open_site(fed, Path(folder), Progress())
        site.store = Store(Path(folder) / "clients")
        each = fed.task.each(site.bound, site.parties.ids)
        rows = {i: len(site.data(i)) for i in site.parties.ids}  # those that are left
        steps = fed.client.steps_for(max(rows.values()))
        seconds = _seconds_a_step(site) * sum(fed.client.steps_for(n) for n in rows.values()) * fed.rounds
        traffic = _traffic(site, rows)
        cut = sum(getattr(site.data(i), "cut", 0) for i in rows)
        lost, said = left_out(site), remarks(site)
    workers = fed.engine.make().workers
    return {
        "trainable_parameters": sum(b.layout.trainable for _, b, _ in each.values()),
        "total_parameters": site.bound.total,
        "parties": len(rows),
        "rounds": fed.rounds,
        "local_steps": steps,
        **traffic,
        "memory_bytes": peak_bytes(),
        "workers": workers,
        "seconds": seconds / workers,
        "rows": rows,
        "cut": cut,
        "remarks": said,
        "lost": lost,
    }


def _seconds_a_step(site: Site) -> float:
    """Of the middle-sized party's plain local work."""
    client, ids = site.fed.client.alone(), sorted(site.parties.ids, key=lambda i: len(site.parties.train(i)))
    middle = ids[len(ids) // 2]
    bound = site.bound.at(middle, Terms())
    data, brief = site.data(middle), Message(bound.init, "weights")
    ctx = site.guard.context(Job("alone", middle, 0, terms=Terms(steps=STEPS))).muted()
    client.work(brief, data, {}, ctx.at(terms=Terms(steps=1)), bound)  # warm up
    start = time.perf_counter()
    client.work(brief, data, {}, ctx, bound)
    return (time.perf_counter() - start) / STEPS


def _traffic(site: Site, rows: dict[str, int]) -> dict[str, int]:
    """Bytes of one round, measured on a session for each shape of model that the first round's plan hands out.

    `down_bytes`, `up_bytes`, `talk_bytes` are a party's, the mean over the plan; `total_bytes` is of the whole run with
    every party in every round. A conversation is counted for as many local steps as the party takes.
    """
    fed, ctx = site.fed, Ctx(site.fed.seed, horizon=site.fed.span)
    state = RunState(server=fed.serving.init(site.bound, ctx))
    briefs = Briefs(fed, site.bound, state, Memories(site.store.folder, {}))
    plan = {i: Terms() for i in rows}
    if not fed.select.asks:
        plan = dict(fed.select.select(rows, fed.select.init(rows, ctx), ctx, {})[0].jobs) or plan
    known: dict[Any, tuple[int, int, int]] = {}
    totals = [0, 0, 0]
    for k, (i, terms) in enumerate(plan.items()):
        if terms.shape not in known:
            job = Job("train", i, k + 1, terms=replace(terms, steps=1))
            known[terms.shape] = _session(site, job, briefs.of(job), state.server)
        down, up, talk = known[terms.shape]
        sizes = down, up or down, talk * (terms.steps or fed.client.steps_for(rows[i]) or 1)
        totals = [a + b for a, b in zip(totals, sizes, strict=True)]
    down, up, talk = (round(t / len(plan)) for t in totals)
    return {
        "down_bytes": down,
        "up_bytes": up,
        "talk_bytes": talk,
        "total_bytes": (down + up + talk) * len(rows) * fed.rounds,
    }


def _session(site: Site, job: Job, brief: Message, server: dict[str, Any]) -> tuple[int, int, int]:
    """Bytes down, up and of talk in one session of one step; up is 0 where it needs the others (secure aggregation)."""
    fed, talk = site.fed, 0
    session = site.run(job, brief)
    said = next(session)
    while said.phase in fed.serving.phases:
        replies, server = fed.serving.serve(
            server, said.phase, {job.id: said.message}, Ctx(fed.seed), site.bound
        )
        talk += said.message.nbytes + replies[job.id].nbytes
        said = session.send(replies[job.id])
    return brief.nbytes, said.message.nbytes if said.phase == UPLOAD else 0, talk
