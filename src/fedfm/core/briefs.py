"""What parties start from: made once per version and terms; one a receiver where the downlink remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fedfm.cards.registry import name_of
from fedfm.core import blame
from fedfm.core.context import Ctx
from fedfm.core.errors import MethodFault
from fedfm.core.federation import Federation
from fedfm.core.job import Job
from fedfm.core.memory import Memories, RunState
from fedfm.core.message import Message
from fedfm.core.protocols import Bound
from fedfm.vectors.cut import cut


class Briefs:
    """The briefs of a run, encoded, by round and terms."""

    def __init__(self, fed: Federation, bound: Bound, state: RunState, receivers: Memories):
        self.fed, self.bound, self.state, self.receivers = fed, bound, state, receivers

    def of(self, job: Job) -> Message:
        """What the job starts from."""
        fed, st = self.fed, self.state
        receiver = job.id if fed.downlink.remembers else ""
        key = _key(job) + (f"|{job.kind}|{receiver}" if receiver else "")
        if key not in st.briefs:
            m, layout = fed.serving.brief(st.server, job.terms), fed.serving.gives(self.bound.layout)
            if (c := cut(layout, *job.terms.shape)) is not None:
                m, layout = replace(m, x=c.narrow(m.x)), c.layout
            ctx = Ctx(fed.seed, job.round, client=receiver, layout=layout, simulated=fed.simulated)
            memory = self.receivers.of(receiver) if receiver else {}
            with blame.of_slot("downlink", fed.downlink):
                x, side, memory = fed.downlink.encode(m.x, memory, ctx.within("down"))
            if memory and not receiver:
                raise MethodFault(
                    "downlink", f"{name_of(fed.downlink)} keeps a state: declare `remembers = True`"
                )
            if receiver and job.kind == "train":
                st.pending[receiver] = memory  # moves, like the receiver's, when its answer is accepted
            st.briefs[key] = {"x": x, "side": {**m.side, **side}, "kind": m.kind, "info": dict(m.info)}
        return Message(version=job.round, sender="server", **st.briefs[key])

    def keep(self, busy: Mapping[str, Job]) -> None:
        """Forget what nobody at work has started from."""
        st, alive = self.state, tuple(map(_key, busy.values()))
        st.briefs = {
            k: b for k, b in st.briefs.items() if any(k == a or k.startswith(a + "|") for a in alive)
        }
        st.pending = {i: s for i, s in st.pending.items() if i in busy}


def _key(job: Job) -> str:
    return f"{job.round}|{job.terms.key}"
