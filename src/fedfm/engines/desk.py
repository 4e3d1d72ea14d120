"""Sessions under way at a worker or at a party: told what to start, go on with or drop, it says one word at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

from fedfm.core.job import Job, Said
from fedfm.core.message import Message


class Desk:
    """The sessions that one worker, or one party, has under way."""

    def __init__(self, site: Any):
        self.site = site
        self.talks: dict[tuple[str, int], Generator[Said, Message, None]] = {}
        self.briefs: dict[int, Message] = {}
        self.todo: deque[tuple[tuple[str, int], Message | None]] = deque()

    def told(self, head: dict[str, Any], message: Message | None) -> None:
        """Start, go on with or drop a session; forget states."""
        if head["do"] == "start":
            job = Job.of(head["job"])
            self.briefs = {k: b for k, b in self.briefs.items() if k in head["keep"]}
            if message is not None:
                self.briefs[head["brief"]] = message
            self.talks[job.id, job.epoch] = self.site.run(job, self.briefs[head["brief"]])
            self.todo.append(((job.id, job.epoch), None))
        elif head["do"] == "keep":
            self.site.store.keep(head["id"], set(head["versions"]), head["upto"])
        elif head["do"] == "send":
            self.todo.append(((head["id"], head["epoch"]), message))
        elif (talk := self.talks.pop((head["id"], head["epoch"]), None)) is not None:
            talk.close()

    def step(self) -> Said | None:
        """The next word of whoever is due; None when it was dropped meanwhile."""
        key, message = self.todo.popleft()
        if key not in self.talks:
            return None
        said = next(self.talks[key]) if message is None else self.talks[key].send(message)
        if said.last:
            del self.talks[key]
        return said
