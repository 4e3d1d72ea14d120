"""What a party has said, so that nothing leaks by being said twice.

Work of a round is deterministic, but what protects it is not: of two secure sums of one round whose cohorts differ, the
difference is a party's update; fresh noise on the same update is a second release that no accountant has counted. A
party under such protection answers a round once, whatever the server says has happened.
"""

from __future__ import annotations

import json
from pathlib import Path

from fedfm.core.combine import Pipe
from fedfm.core.errors import FedfmError
from fedfm.core.federation import Federation
from fedfm.core.job import Job
from fedfm.files import write


def once(fed: Federation) -> bool:
    """May a party under this federation answer a round one time only?"""
    stack = Pipe(fed.uplink)
    return stack.hidden is not None or (not fed.simulated and any(s.against for s in stack.stages))


class Journal:
    """The rounds that a party has spoken in, in a file that is durable before the word leaves. `rounds`: round -> epoch."""

    def __init__(self, path: Path):
        """Raises FedfmError where the file cannot be read: what was said is not known then."""
        self.path = path
        try:
            found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            self.rounds = {int(k): int(v) for k, v in found.items()}
        except (OSError, ValueError, AttributeError, TypeError) as e:
            raise FedfmError(
                f"{path} cannot be read ({e})\n    why: it says in which rounds this party has spoken, and none may be "
                "answered twice\n    fix: restore it, or leave this run"
            ) from e

    def bars(self, job: Job) -> str:
        """Why the party will not work on a job; empty: it will."""
        if job.kind == "train" and self.rounds.get(job.round, job.epoch) != job.epoch:
            return f"round {job.round} was answered already: under its protection no party says a round twice"
        return ""

    def speaks(self, job: Job) -> None:
        """The party is about to say its first word in a job's round."""
        if job.kind == "train" and job.round not in self.rounds:
            self.rounds[job.round] = job.epoch
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write(self.path, json.dumps(self.rounds).encode())
