"""What a party has said, so that nothing leaks by being said twice.

Work of a round is deterministic, but what protects it is not: of two secure sums of one round whose cohorts differ, the
difference is a party's update; fresh noise on the same update is a second release that no accountant has counted. A
party under such protection answers a round once, whatever the server says has happened.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from fedfm.core.combine import Pipe
from fedfm.core.errors import FedfmError, MachineFault
from fedfm.core.federation import Federation
from fedfm.core.job import Job
from fedfm.files import write

LOST = "lost"  # a key of the file beside the rounds


def once(fed: Federation) -> bool:
    """May a party under this federation answer a round one time only?"""
    stack = Pipe(fed.uplink)
    return stack.hidden is not None or (not fed.simulated and any(s.against for s in stack.stages))


@contextlib.contextmanager
def durable(folder: Path) -> Iterator[None]:
    """What the disk refuses inside ends the party, in words: nothing leaves that is not written down."""
    try:
        yield
    except (OSError, MachineFault) as e:
        what = e.strerror or type(e).__name__ if isinstance(e, OSError) else str(e)
        raise FedfmError(
            f"{folder} cannot be written to: {what}\n    why: nothing leaves this site that is not written down first\n"
            "    fix: make room on the disk, or a --folder that can be written to; then join again"
        ) from e


def bind(path: Path, run: str, config: str) -> None:
    """A run is of one config for ever: what was booked and said for it holds for no other. Raises FedfmError."""
    if path.exists():
        if (found := path.read_text(encoding="utf-8")) != config:
            raise FedfmError(
                f"the server offers run {run} with the config {config}, and it began with {found}\n    why: what this site has "
                "booked and said in that run was for that config\n    fix: the server begins another run"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, config.encode())


def answered(states: Path, run: str, config: str) -> str:
    """Another run of the same config in which this party has spoken; empty: none.

    The same rows, seed and start give the same update: of two secure sums of it whose cohorts differ, the difference is
    a party's own.
    """
    for folder in sorted(states.glob("*")):
        same = folder.name != run and (folder / "config").is_file() and _text(folder / "config") == config
        if same and (folder / "journal.json").is_file() and Journal(folder / "journal.json").spoken:
            return folder.name
    return ""


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


class Journal:
    """The rounds that a party has spoken in, in a file that is durable before the word leaves.

    `rounds`: round -> epoch. `lost`: up to which round it may have spoken in any, as a journal before this one is gone (-1: none).
    """

    def __init__(self, path: Path):
        """Raises FedfmError where the file cannot be read: what was said is not known then."""
        self.path = path
        try:
            found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            self.lost = int(found.pop(LOST, -1))
            self.rounds = {int(k): int(v) for k, v in found.items()}
        except (OSError, ValueError, AttributeError, TypeError) as e:
            raise FedfmError(
                f"{path} cannot be read ({e})\n    why: it says in which rounds this party has spoken, and none may be "
                "answered twice\n    fix: restore it, or leave this run"
            ) from e

    @property
    def spoken(self) -> bool:
        """May this party have spoken in any round?"""
        return bool(self.rounds) or self.lost >= 0

    def bars(self, job: Job, *, begun: bool = False) -> str:
        """Why the party will not work on a job, or, once it has `begun`, say its next word; empty: it will."""
        if job.kind == "train" and job.round <= self.lost:
            return (
                f"round {job.round} may have been answered already: this site has lost its journal, and under its protection no "
                "party says a round twice"
            )
        spoken = job.kind == "train" and job.round in self.rounds
        if spoken and not (begun and self.rounds[job.round] == job.epoch):
            return f"round {job.round} was answered already: under its protection no party says a round twice"
        return ""

    def speaks(self, job: Job) -> None:
        """The party is about to say its first word in a job's round."""
        if job.kind == "train" and job.round not in self.rounds:
            self.rounds[job.round] = job.epoch
            self._keep()

    def begin(self) -> None:
        """It is there from now on: where it is missing later, it was lost."""
        self._keep()

    def lose(self, upto: int) -> None:
        """The one before is gone, which may have named any round up to this one."""
        self.lost = max(self.lost, upto)
        self._keep()

    def _keep(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lost = {LOST: self.lost} if self.lost >= 0 else {}
        write(self.path, json.dumps(lost | self.rounds).encode())
