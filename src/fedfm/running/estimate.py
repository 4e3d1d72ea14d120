"""What a run will take, measured on one party's first steps."""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from fedfm.config import plain as configs
from fedfm.core.context import Ctx, Terms
from fedfm.core.job import UPLOAD, Job
from fedfm.core.message import Message
from fedfm.core.session import Site
from fedfm.core.state import Store
from fedfm.running.progress import Silent

STEPS = 3  # local steps that are timed


def estimate(config: configs.Config) -> dict[str, Any]:
    """Parameters, bytes a party and round, memory of one process, and seconds of local work (no scoring)."""
    from fedfm.running.execute import open_site

    fed = configs.from_config(config)
    with tempfile.TemporaryDirectory() as folder:
        site = open_site(fed, Path(folder), Silent())
        site.store = Store(Path(folder) / "clients")
        rows = {i: len(site.parties.train(i)) for i in site.parties.ids}
        brief = fed.serving.brief(fed.serving.init(site.bound, Ctx(fed.seed)), Terms())
        steps = fed.client.steps_for(max(rows.values()))
        seconds = _seconds_a_step(site) * sum(fed.client.steps_for(n) for n in rows.values()) * fed.rounds
        up = _upload_bytes(site) or site.bound.layout.size * 4
        cut = sum(getattr(site.data(i), "cut", 0) for i in rows)
    workers = fed.engine.make().workers
    return {
        "trainable_parameters": site.bound.layout.trainable,
        "total_parameters": site.bound.total,
        "parties": len(rows),
        "rounds": fed.rounds,
        "local_steps": steps,
        "down_bytes": brief.nbytes,
        "up_bytes": up,
        "total_bytes": (brief.nbytes + up) * len(rows) * fed.rounds,
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "workers": workers,
        "seconds": seconds / workers,
        "rows": sum(rows.values()),
        "cut": cut,
    }


def _seconds_a_step(site: Site) -> float:
    """Of the middle-sized party's plain local work."""
    client, ids = site.fed.client.alone(), sorted(site.parties.ids, key=lambda i: len(site.parties.train(i)))
    middle = ids[len(ids) // 2]
    data, brief = site.data(middle), Message(site.bound.init, "weights")
    ctx = Ctx(site.fed.seed, client=middle, terms=Terms(steps=STEPS))
    client.work(brief, data, {}, ctx.at(terms=Terms(steps=1)), site.bound)  # warm up
    start = time.perf_counter()
    client.work(brief, data, {}, ctx, site.bound)
    return (time.perf_counter() - start) / STEPS


def _upload_bytes(site: Site) -> int:
    """Measured on one party's upload; 0 when it cannot be had without the others (secure aggregation, split models)."""
    fed, first = site.fed, site.parties.ids[0]
    brief = fed.serving.brief(fed.serving.init(site.bound, Ctx(fed.seed)), Terms())
    said = next(site.run(Job("train", first, 1, terms=Terms(steps=1)), brief))
    return said.message.nbytes if said.phase == UPLOAD else 0
