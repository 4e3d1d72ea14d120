"""The slots around the methods: what is learnt, from whose data, how it is scored, and where it runs."""

from __future__ import annotations

from fedfm.scaffold.bodies import Body

ROOMS = {
    "task": Body(
        "II.B",
        "Task",
        """\
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedfm.core.protocols import Scores, Task
from fedfm.cards.registry import knob, method
from fedfm.tasks.bound import BoundModule, Objective
from fedfm.tasks.export import write_weights
""",
        "min over w of the mean of (w x + b - y)^2 over rows {x, y}.",
        """\
    width: int = knob(1, "numbers in x of a row", low=1)

    def open(self, data: Any, device: str = "cpu") -> BoundModule:
        # `data` has the schema and, in simulation, the rows; every tensor that requires a gradient is trained
        torch.manual_seed(0)
        return BoundModule(nn.Linear(self.width, 1), CLASSObjective(), device=device)


class CLASSObjective(Objective):
    \"\"\"What the network is for: rows to tensors, tensors to losses and scores, and the file that a run leaves.\"\"\"

    primary = "loss"
    higher_is_better = False

    def encode(self, rows: Any) -> Tensor:
        return torch.tensor([[*torch.as_tensor(r["x"]).reshape(-1).tolist(), float(r["y"])] for r in rows.rows])

    def batch(self, encoded: Tensor, index: Tensor, device: torch.device) -> Tensor:
        return encoded[index].to(device)

    def losses(self, module: nn.Module, batch: Tensor) -> Tensor:
        return (module(batch[:, :-1]).reshape(-1) - batch[:, -1]) ** 2

    def score(self, module: nn.Module, encoded: Tensor, device: torch.device) -> Scores:
        n = len(encoded)  # sums and counts: parts are scored apart and added up
        return {"loss": (float(self.losses(module, encoded.to(device)).sum()) if n else 0.0, n)}

    def save(self, module: nn.Module, folder: str) -> None:
        tensors = {n: p.detach().clone() for n, p in module.named_parameters()}
        write_weights(tensors, Path(folder, "model.safetensors"))
""",
    ),
    "data": Body(
        "II.B",
        "Source",
        """\
from typing import Any

from fedfm.cards.registry import knob, method
from fedfm.data.source import Parties, Shard, stream
from fedfm.data.splits import Source
""",
        "Every party i has rows {x, y} with y = slope_i x; three more rows are held out.",
        """\
    parties: int = knob(3, "number of parties", low=1)
    rows: int = knob(4, "rows of a party", low=1)

    def read(self, seed: int, columns: Any) -> Parties:
        # `columns` are what the task reads; draw from stream(seed, "a purpose") alone
        rng = stream(seed, "NAME")
        shards = []
        for i, slope in enumerate(rng.normal(size=self.parties).tolist()):
            own = tuple({"x": x, "y": slope * x} for x in rng.normal(size=self.rows).tolist())
            shards.append(Shard(f"party-{i}", own))
        held = tuple({"x": x, "y": 0.0} for x in rng.normal(size=3).tolist())
        return Parties(tuple(shards), (Shard("", held),))
""",
    ),
    "partition": Body(
        "II.B",
        "Partition",
        """\
from collections.abc import Mapping, Sequence
from typing import Any

from fedfm.cards.registry import knob, method
from fedfm.data.partition.deal import enough
from fedfm.data.source import Partition, stream
""",
        "Row k of a random order goes to party k mod parties.",
        """\
    parties: int = knob(8, "number of parties", low=1)

    def split(self, rows: Sequence[Mapping[str, Any]], labels: Sequence[str] | None, generator_seed: int
              ) -> dict[str, list[int]]:
        enough(len(rows), self.parties, 1, "NAME")
        order = stream(generator_seed, "NAME").permutation(len(rows)).tolist()
        return {f"party-{i}": sorted(order[i :: self.parties]) for i in range(self.parties)}
""",
    ),
    "tuning": Body(
        "IV.B",
        "Tuning",
        """\
from pathlib import Path
from typing import Any

from fedfm.cards.registry import method
from fedfm.efficiency.computation.tuning.full import write_whole
from fedfm.models.identity import Base
from fedfm.tasks.tuning import Tuning
""",
        "Every bias is trained, and nothing else of the base.",
        """\
    def apply(self, base: Any) -> Any:
        for name, parameter in base.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))
        return base

    def save(self, network: Any, base: Base, folder: Path) -> None:
        write_whole(network, folder)
""",
    ),
    "evaluate": Body(
        "VII",
        "Evaluator",
        """\
from collections.abc import Mapping, Sequence

from fedfm.core.protocols import Evaluator, Scores
from fedfm.cards.registry import knob, method
""",
        "The mean of every score over the common test rows.",
        """\
    every: int = knob(1, "rounds between two scores (the last round is always scored)", low=1)
    parts: int = knob(1, "pieces of the held-out data, scored side by side", low=1)

    def finish(self, scores: Mapping[str, Sequence[Scores]]) -> dict[str, float]:
        # one entry a case: a list with the sums and counts of each piece, [{"accuracy": (37.0, 360)}, ...]. For more
        # than one case override `cases(self, parties)` and `rows(self, case, parties)`, which gives a
        # `fedfm.data.source.Shard`; a score by class is a case a class
        return super().finish(scores)
""",
    ),
    "audit": Body(
        "V.B",
        "Audit",
        """\
from typing import Any

from fedfm.cards.registry import method
from fedfm.core.context import Ctx
from fedfm.core.protocols import Audit
""",
        "What a finished run gives away.",
        """\
    def run(self, opened: Any, ctx: Ctx) -> dict[str, Any]:
        # `opened` holds the run's federation, its parties and its final model (fedfm.running.audits.Opened);
        # opened.bound.layout.views(opened.model) are its tensors by name. With `needs_rounds = True` also
        # opened.at(k), the model after round k, for k in opened.kept, and opened.messages(k), by party what the
        # server read in round k, for k in (j + 1 for j in opened.kept if j < opened.round). By row:
        # data = bound.encode(opened.parties.train(ID)), bound.load(opened.at(k)),
        # bound.losses(bound.batch(data, torch.arange(len(data)))), with bound = opened.bound
        return {"meaning": "Nothing was looked at yet."}
""",
    ),
    "speed": Body(
        "VII",
        "Speed",
        """\
from fedfm.core.context import Ctx
from fedfm.cards.registry import method
from fedfm.pace import Speed
""",
        "seconds = mean_s and step_s a local step, times a lognormal factor of the party and one of the round.",
        """\
    def duration(self, ctx: Ctx, steps: int = 0) -> float:
        # draw from ctx.rng("a purpose"): the party's own stream in this round
        return super().duration(ctx, steps)
""",
    ),
    "link": Body(
        "VII",
        "Link",
        """\
from fedfm.core.context import Ctx
from fedfm.cards.registry import method
from fedfm.pace import Link
""",
        "seconds = (latency_s + bytes over bandwidth) times a lognormal factor of the party.",
        """\
    def seconds(self, nbytes: int, mbit_s: float | None, ctx: Ctx) -> float:
        # draw from ctx.rng("a purpose"): the party's own stream in this round
        return super().seconds(nbytes, mbit_s, ctx)
""",
    ),
    "engine": Body(
        "VIII.B",
        "InProcess",
        """\
from fedfm.cards.registry import method
from fedfm.engines.inprocess import InProcess, InProcessEngine
""",
        "The very bits of `inprocess`: an engine says where sessions run, and never changes a result.",
        """\
    def make(self) -> InProcessEngine:
        # any object with the calls of fedfm.core.hub.Engine; one that forks this process declares forks = True
        return InProcessEngine()
""",
    ),
}
