"""What a party still has of a run: versions of its state, and the rounds that it may have spoken in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from fedfm.core.errors import ResumeError
from fedfm.core.state import Store
from fedfm.deploy.site.journal import Journal


def held(store: Store, party: str) -> list[int]:
    """The versions of its state that are there and can be read."""
    found = []
    for path in sorted(store.path(party, 0).parent.glob("*.safetensors")):
        with contextlib.suppress(ResumeError, ValueError):
            version = int(path.stem)
            store.load(party, version)
            found.append(version)
    return found


def opened(journal: Journal, run: str, told: Mapping[str, Any], receipts: Iterable[Mapping[str, Any]]) -> str:
    """Make sure that a run has a journal; what to tell where one was lost.

    A party that has taken part and has no journal does not know in which rounds it has spoken: it stays out of all that it may
    have spoken in, by what the server says is under way and by its own receipts.
    """
    if journal.path.exists():
        return ""
    said = [int(line["round"]) for line in receipts if line["run"] == run and line["kind"] == "train"]
    if not said and told.get("known") is not True:
        journal.begin()
        return ""
    last = max([int(told.get("round", 0))] * (told.get("known") is True) + said)
    journal.lose(last)
    return (
        f"{journal.path} is gone: what this site has said in this run is not known, so it stays out of the rounds up to "
        f"{last + 1}, which it may have answered"
    )
