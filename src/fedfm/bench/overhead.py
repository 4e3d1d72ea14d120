"""What a federation costs beside its training: CPU seconds of rounds over those of the same steps in a bare loop.

10 parties take 5 steps of batch 8 each in a round (LoRA r = 8 on MiniLM, AdamW). Party by party the same steps are
taken a second time by a bare loop, before or after in turns, so that both meet the same machine; the loop's seconds
are then taken out of the round's. `overhead` is what is left over the loop's; `outside` is the share of what is left
that was spent outside `Client.work`. Evaluation is on neither side.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from fedfm.bench import machine
from fedfm.bench.bed.arena import ENDLESS, NEVER, Lap, opened
from fedfm.bench.bed.bare import Network, Rows, parameters, train
from fedfm.core.context import Ctx
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, State
from fedfm.data.partition.iid import Iid
from fedfm.data.wordnet_topics import WordnetTopics
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local, batches
from fedfm.engines.inprocess import InProcess
from fedfm.engines.processes import Processes
from fedfm.models import path
from fedfm.tasks.network import quiet
from fedfm.tasks.text.classify import SequenceClassification

TARGETS = {"overhead": 1.05, "outside": 0.02}
LABELS = 10  # topics
RANK, ALPHA = 8, 16.0  # of LoRA


@dataclass(frozen=True)
class Paired(Local):
    """Local training, and the bare loop on the same batches from the same weights; notes the seconds of both."""

    network: Any = field(default=None, repr=False, compare=False)

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        bare_first = (ctx.round + sum(ctx.client.encode())) % 2 == 0
        facts = self._bare(brief, data, ctx, bound) if bare_first else {}
        cpu, wall = time.thread_time(), time.perf_counter()
        message, state = super().work(brief, data, state, ctx, bound)
        facts |= {"work_cpu": time.thread_time() - cpu, "work_wall": time.perf_counter() - wall}
        if not bare_first:
            facts |= self._bare(brief, data, ctx, bound)
        message.info["facts"].update(facts)
        return message, state

    def _bare(self, brief: Message, data: Any, ctx: Ctx, bound: Bound) -> dict[str, float]:
        begun, begun_wall = time.thread_time(), time.perf_counter()
        objective: Any = bound.objective
        order = [index.tolist() for index in batches(len(data), self, ctx)]
        start = {n: t.clone() for n, t in bound.layout.views(brief.x).items()}
        rows = texts_of(data)
        cpu, wall = time.thread_time(), time.perf_counter()
        loss = train(self.network, start, rows, order, self.lr, objective.tokenizer.pad_token_id)
        now, now_wall = time.thread_time(), time.perf_counter()
        return {
            "bare_cpu": now - cpu,
            "bare_wall": now_wall - wall,
            "bare_loss": loss,
            "aside_cpu": now - begun,
            "aside_wall": now_wall - begun_wall,
        }


def measure(
    quick: bool = False,
    *,
    clients: int = 10,
    steps: int = 5,
    batch: int = 8,
    repeats: int = 5,
    model: str = "minilm",
    workers: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """`overhead` and `outside` of rounds in one process; `inprocess` and `processes`: the same, and all raw numbers.

    On `cuda` the ratios are of wall seconds, and there are no workers.
    """
    task, repeats = SequenceClassification(model=model, tuning=LoRA(RANK, ALPHA)), 1 if quick else repeats
    with quiet():
        network = Network(path(model), LABELS, RANK, ALPHA, task.scale).to(device)
    client = Paired(optimizer="adamw", lr=3e-3, steps=steps, batch=batch, network=network)
    found = {}
    engines: dict[str, Any] = {"processes": Processes(workers)} if device == "cpu" else {}
    engines["inprocess"] = (
        InProcess()
    )  # last: where CUDA is, a process that has computed gradients cannot be forked
    for name, engine in engines.items():
        fed = Federation(
            task,
            WordnetTopics(partition=Iid(parties=clients)),
            client=client,
            engine=engine,
            evaluate=NEVER,
            rounds=ENDLESS,
            device=device,
        )
        with opened(fed) as arena:
            if other := set(parameters(network)) ^ {e.name for e in arena.run.bound.layout.entries}:
                raise RuntimeError(f"overhead: only one of the two models trains {sorted(other)}")
            arena.lap()  # a warm-up
            laps = []
            for k in range(repeats):
                laps.append(arena.lap())
                print(f"  {name} {k + 1}/{repeats}", file=sys.stderr, flush=True)
            found[name] = _ratios(
                laps, clients, "cpu" if device == "cpu" else "wall", one=name == "inprocess"
            )
            found[name]["workers"] = len(machine.workers(arena.run.engine))
    return {
        "overhead": found["inprocess"]["overhead"],
        "outside": found["inprocess"]["outside"],
        **found,
        "targets": TARGETS,
        "threads": 1,
        "setup": {
            "model": model,
            "clients": clients,
            "steps": steps,
            "batch": batch,
            "repeats": repeats,
            "tuning": "lora r=8",
            "optimizer": "adamw",
            "data": "wordnet-topics, iid",
            "device": device,
        },
    }


def texts_of(data: Any) -> Rows:
    """A party's encoded rows as plain token ids and labels."""
    starts: list[int] = data.tokens.starts.tolist()
    return [
        (data.tokens.tokens[a:b].long(), label)
        for a, b, label in zip(starts, starts[1:], data.labels.tolist(), strict=False)
    ]


def _ratios(laps: list[Lap], clients: int, clock: str, one: bool) -> dict[str, Any]:
    """Seconds a round of the federation (the bare loop taken out), of its work, of the bare loop; and the ratios."""
    sums: dict[str, list[float]] = {}
    differ = 0.0
    for lap in laps:
        uploads = [e for e in lap.events if e["kind"] == "upload"]
        if len(uploads) != clients:
            raise RuntimeError(f"overhead: {len(uploads)} of {clients} parties delivered")
        differ = max(differ, *(abs(e["loss_last"] - e["bare_loss"]) for e in uploads))
        for key in ("work_cpu", "work_wall", "bare_cpu", "bare_wall", "aside_cpu", "aside_wall"):
            sums.setdefault(key, []).append(sum(e[key] for e in uploads))
    cpu = [lap.cpu - aside for lap, aside in zip(laps, sums["aside_cpu"], strict=True)]
    wall = [lap.wall - aside for lap, aside in zip(laps, sums["aside_wall"], strict=True)]
    spent = cpu if clock == "cpu" else wall
    overhead = [s / b for s, b in zip(spent, sums[f"bare_{clock}"], strict=True)]
    outside = [1 - w / s for s, w in zip(spent, sums[f"work_{clock}"], strict=True)]
    rest = [
        (lap.wall - aside - work) / (lap.wall - aside)  # of wall time: meant for one process
        for lap, aside, work in zip(laps, sums["aside_wall"], sums["work_wall"], strict=True)
    ]
    return {
        "overhead": round(statistics.median(overhead), 4),
        "outside": round(statistics.median(outside), 5),
        "outside_wall": round(statistics.median(rest), 5) if one else None,
        "overheads": machine.spread(overhead),
        "outsides": machine.spread(outside, 5),
        "cpu": machine.spread(cpu),
        "round_wall": machine.spread(lap.wall for lap in laps),
        **{key: machine.spread(values) for key, values in sums.items()},
        "largest_loss_difference": differ,
    }
