"""What a run writes after each round: ledger, metrics, checkpoint, in this order; a checkpoint rewrites what changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedfm.core.memory import Memories, RunState
from fedfm.ledger.events import Bytes, Line, Seconds
from fedfm.ledger.file import Ledger


def checkpoints(folder: Path) -> list[int]:
    """The rounds of a run directory that have a checkpoint, oldest first."""
    return sorted(int(p.stem.split("-")[1]) for p in (folder / "checkpoints").glob("round-*.safetensors"))


def checkpoint(folder: Path, round: int) -> Path:
    """Where the checkpoint of a round lies."""
    return folder / "checkpoints" / f"round-{round:06d}.safetensors"


def latest(folder: Path) -> RunState | None:
    """The newest state of a run directory, as a new attempt; None where no round was committed."""
    last = max(checkpoints(folder), default=None)
    if last is None:
        return None
    state = RunState.load(checkpoint(folder, last))
    state.attempt += 1
    state.epoch = max(state.epoch, state.attempt << 32)  # above all that a dead attempt used
    state.save(checkpoint(folder, last))  # an attempt counts even if it commits nothing
    return state


class Books:
    """The files of one run."""

    def __init__(self, folder: Path, state: RunState):
        self.folder = folder
        self.ledger = Ledger(folder / "events.jsonl", state.ledger)
        self.metrics = Ledger(folder / "metrics.jsonl", state.metrics)
        self.senders = Memories(folder / "checkpoints" / "senders", state.decode)
        self.receivers = Memories(folder / "checkpoints" / "receivers", state.down)

    def commit(
        self, state: RunState, record: dict[str, Any], events: list[Line], workers: int
    ) -> dict[str, Any]:
        """Complete the round's record from its facts, and make all of it last."""
        record |= _tally(events)
        if "seconds" in record:  # sessions run side by side: their encoding's share of the wall time
            coded = min(record["cpu"]["encode"] / workers, record["seconds"]["train"])
            record["seconds"] |= {"encode": coded, "train": record["seconds"]["train"] - coded}
        self.ledger.commit(events)
        self.metrics.commit([{"kind": "round", **record}])
        state.ledger, state.metrics = self.ledger.length, self.metrics.length
        state.save(checkpoint(self.folder, state.round))
        for old in checkpoints(self.folder)[:-2]:  # first what names states, then the states
            checkpoint(self.folder, old).unlink(missing_ok=True)
        self.senders.settle()
        self.receivers.settle()
        return record


def _tally(events: list[Line]) -> dict[str, Any]:
    """Bytes by direction, CPU seconds by what they were spent on, the mean of the last local losses."""
    total = {
        way: sum(e["total"] for e in events if e["kind"] == Bytes.kind and e["direction"] == way)
        for way in ("up", "down", "talk")
    }
    cpu = {k: sum(e[k] for e in events if e["kind"] == Seconds.kind) for k in ("work", "encode")}
    ends = [x for e in events if isinstance(x := e.get("loss_last"), int | float)]  # of uploads
    return {"cpu": cpu, "bytes": total, "train_loss": sum(ends) / len(ends) if ends else None}
