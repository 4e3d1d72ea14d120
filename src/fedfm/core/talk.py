"""A session as the stream of words that an engine passes on, with its end and whose fault that was."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Generator

import torch

from fedfm.core import blame
from fedfm.core.context import Ctx
from fedfm.core.job import Fault, Job, Said
from fedfm.core.message import Message
from fedfm.core.protocols import Say

Talk = Generator[Say, Message, None]


def by_hand(e: BaseException) -> bool:
    """Is it a person who interrupts? Workers hear nothing of that: what is raised there is their code's own."""
    return isinstance(e, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def words(job: Job, talk: Talk, ctx: Ctx) -> Generator[Said, Message, None]:
    """A session as a stream of `Said`; ends with phase "done", or "gone" with the error and whose fault it is."""
    reply: Message | None = None
    fault: Fault = ""
    phase, error, where, turn, theirs = "gone", "", "", 0, True  # theirs: its own code runs; else it waits

    def word(reply: Message | None) -> Said:
        nonlocal theirs
        theirs = True
        with torch.enable_grad():
            said = talk.send(reply)  # type: ignore[arg-type]  # None begins
        theirs = False
        return Said(
            job.id, job.epoch, said.phase, said.message, said.state_version, said.last, ctx.drain(), turn=turn
        )

    try:
        for turn in itertools.count():  # noqa: B007 - told with every word
            reply = yield word(reply)
    except StopIteration:
        phase = "done"
    except BaseException as e:  # noqa: BLE001 - whatever it is, somebody's fault it is
        if not theirs or by_hand(e):
            raise
        fault, error, where = blame.of_session(e, reply is not None, ctx.simulated)
    yield Said(
        job.id,
        job.epoch,
        phase,
        last=True,
        events=ctx.drain(),
        error=error,
        fault=fault,
        where=where,
        turn=turn,
    )
