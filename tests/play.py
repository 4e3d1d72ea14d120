"""A federation run to its end in a folder, for tests of what the loop records."""

from __future__ import annotations

from typing import Any

from fedfm.core.federation import Federation
from fedfm.core.loop import Run
from fedfm.core.session import Site
from fedfm.core.state import Store
from fedfm.ledger.file import read


def play(fed: Federation, folder: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Run]:
    """Run the federation; returns its records, its events and the run."""
    parties, engine = fed.data.open(fed.seed), fed.engine.make()
    site = Site(fed, fed.task.open(parties), parties, Store(folder / "clients"))
    engine.open(site)
    run = Run(fed, folder, site.home, engine)
    records = list(run.rounds())
    engine.close()
    return records, list(read(folder / "events.jsonl")), run
