"""Small federations in which a method is tried: quadratics with a known optimum, and tiny images."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedfm.cards.registry import load, methods
from fedfm.checks.place import settled
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import FedfmError
from fedfm.core.federation import Federation
from fedfm.core.job import Job
from fedfm.core.loop import Run
from fedfm.core.message import Message
from fedfm.core.protocols import (
    Adversary,
    Aggregator,
    Client,
    Detector,
    Evaluator,
    Pace,
    Reward,
    Scores,
    Selector,
    Server,
    State,
    Task,
    Valuer,
    Wire,
)
from fedfm.core.session import Site
from fedfm.core.state import Store
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.training.local import Local
from fedfm.evaluation.held_out import HeldOut
from fedfm.laws.examples import knobs, turned
from fedfm.ledger import file as ledger
from fedfm.ledger.events import Line
from fedfm.running.course.stages import Stages
from fedfm.tasks.bound import BoundModule, Objective
from fedfm.tasks.by_client import TaskByClient
from fedfm.tasks.hosted.rows import Trainers
from fedfm.tasks.hosted.task import Hosted
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.tasks.vision.image import ImageClassification

SLOTS: Mapping[type, str] = {
    Client: "client",
    Server: "server",
    Aggregator: "aggregate",
    Wire: "uplink",
    Selector: "select",
    Pace: "pace",
    Adversary: "adversary",
    Detector: "detect",
    Valuer: "value",
    Evaluator: "evaluate",
    Reward: "reward",
}


@dataclass(frozen=True)
class Pictures:
    """Random images of two classes, for methods that need a network with a cut."""

    parties: int = 5
    rows: int = 6
    house: int = 0  # rows of the server's own

    agreed: ClassVar[frozenset[str]] = frozenset({"schema", "test"})

    def open(self, seed: int) -> Parties:
        rng = torch.Generator().manual_seed(seed)

        def row(k: int) -> dict[str, Any]:
            return {
                "image": torch.randint(0, 256, (1, 4, 4), generator=rng, dtype=torch.uint8),
                "label": str(k % 2),
            }

        shards = tuple(
            Shard(f"party-{i}", tuple(row(k) for k in range(self.rows + i))) for i in range(self.parties)
        )
        held_out = (Shard("", tuple(row(k) for k in range(4))),)
        own = tuple(Shard(s.party, tuple(row(k) for k in range(2))) for s in shards)
        shown = Shard("public", tuple(row(k) for k in range(5)))
        house = Shard("server", tuple(row(k) for k in range(self.house))) if self.house else None
        return Parties(shards, held_out, labels=("0", "1"), own=own, house=house, shown=shown)


@dataclass(frozen=True)
class Factored(Task):
    """Minimise the mean of a/2 ||B A 1 - b||^2 over rows {a, b}: A (2, 3) begins random, B (3, 2) at zero."""

    def open(self, data: Any, device: str = "cpu") -> BoundModule:
        return BoundModule(_Product(), _Fit(), device=device)


class _Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.lora_A, self.lora_B = (
            nn.Parameter(torch.randn(2, 3, generator=g)),
            nn.Parameter(torch.zeros(3, 2)),
        )

    def forward(self) -> Tensor:
        return (self.lora_B @ self.lora_A).sum(1)


class _Fit(Objective):
    primary = "loss"
    higher_is_better = False

    def encode(self, rows: Any) -> Tensor:
        return torch.tensor([[r["a"], r["b"]] for r in rows.rows]).reshape(-1, 2)

    def batch(self, encoded: Tensor, index: Tensor, device: torch.device) -> Tensor:
        return encoded[index].to(device)

    def loss(self, module: nn.Module, batch: Tensor) -> Tensor:
        found: Tensor = (batch[:, :1] / 2 * (module() - batch[:, 1:]) ** 2).sum(1).mean()
        return found

    def score(self, module: nn.Module, encoded: Tensor, device: torch.device) -> Scores:
        n = len(encoded)
        return {"loss": (float(self.loss(module, encoded.to(device))) * n if n else 0.0, n)}


def quadratics(**slots: Any) -> Federation:
    """Five parties with different curvatures and optima; three values to learn."""
    base: dict[str, Any] = {
        "task": Quadratic(dim=3),
        "client": Local(lr=0.05, steps=3, batch=2),
        "rounds": 2,
        "evaluate": HeldOut(parts=1),
        "data": Quadratics(a=(1.0, 2.0, 4.0, 8.0, 3.0), b=(0.0, 1.0, -1.0, 0.5, 2.0), rows=4),
    }
    return Federation(**base | slots)


def pictures(**slots: Any) -> Federation:
    """Five parties with a two-block convolutional network."""
    base: dict[str, Any] = {
        "task": ImageClassification(channels=(2, 4)),
        "data": Pictures(),
        "client": Local(lr=0.05, steps=2, batch=4),
        "rounds": 2,
        "evaluate": HeldOut(parts=1),
    }
    return Federation(**base | slots)


def mixed(**slots: Any) -> Federation:
    """The pictures, where the first party has another network than the others."""
    rules = {"party-0": ImageClassification(channels=(3,)), "*": ImageClassification(channels=(2, 4))}
    return pictures(**{"task": TaskByClient(rules)} | slots)


def factored(**slots: Any) -> Federation:
    """The quadratics with a product of two factors as their model."""
    return quadratics(**{"task": Factored()} | slots)


class _Lent(nn.Module):
    """The quadratics, as a trainer calls a model."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.full((3,), 0.25))

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"loss": (a[:, None] / 2 * (self.x - b[:, None]) ** 2).sum(1).mean()}


def trainer(party: str) -> Any:
    """A trainer of transformers on a party's quadratics."""
    from transformers import Trainer, TrainingArguments

    number = int(party[-1])
    args = TrainingArguments(
        tempfile.gettempdir(), use_cpu=True, report_to="none", learning_rate=0.05, label_names=["b"]
    )
    rows = [{"a": 1.0 + number, "b": 0.5 * number - 1.0}] * (4 + number)
    return Trainer(_Lent(), args, train_dataset=rows, eval_dataset=rows[:2])


def hosting(**slots: Any) -> Federation:
    """The quadratics, each party with a trainer of its own."""
    data = Trainers(trainer, ("party-0", "party-1"))
    return quadratics(**{"task": Hosted(), "data": data} | slots)


@dataclass(frozen=True)
class Played:
    """A federation that has run: its records (one a round), its events, its ledger's digest."""

    run: Run
    records: list[dict[str, Any]]
    events: list[Line]
    digest: str

    @property
    def failed(self) -> list[str]:
        """Why rounds failed."""
        return [r["failed"] for r in self.records if r.get("failed")]

    @property
    def model(self) -> torch.Tensor:
        return self.run.fed.serving.model(self.run.state.server)


def play(
    fed: Federation,
    folder: Path | None = None,
    *,
    resume: bool = False,
    around: Callable[[Run], None] = lambda run: None,
) -> Played:
    """Run `fed` in `folder` (None: a temporary one); `around(run)` sees each stage's run before its first round."""
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return play(fed, Path(temporary), resume=resume, around=around)
    parties = fed.data.open(fed.seed)
    device = settled(fed) if fed.device == "cuda" else "cpu"
    store = Store(folder / "clients")
    stages = Stages(
        fed, folder, lambda part: Site(part, part.task.open(parties, device), parties, store), resume
    )
    stages.rehearse()
    records: list[dict[str, Any]] = []
    with contextlib.closing(iter(stages)) as each:
        for stage in each:
            run = stage.run
            around(run)
            records += run.rounds()
    events = folder / "events.jsonl"
    return Played(run, records, list(ledger.read(events)), ledger.digest(events))


class Home:
    """An opened federation in which single sessions can be run by hand."""

    def __init__(self, fed: Federation, folder: Path):
        self.fed = fed
        self.parties = fed.data.open(fed.seed)
        self.bound = fed.task.open(self.parties)
        self.store = Store(folder / "clients")
        self.site = Site(fed, self.bound, self.parties, self.store)
        self.ids: tuple[str, ...] = self.parties.ids

    def session(
        self, id: str, client: Client | None = None, *, round: int = 0, base: int = 0
    ) -> tuple[Message | None, int, str]:
        """What `id` uploads in `round` from the initial model; the version of its new state; or the error."""
        fed = self.fed if client is None else dataclasses.replace(self.fed, client=client)
        site = Site(fed, self.bound, self.parties, self.store)
        site.guard.data = self.site.guard.data
        ctx = Ctx(fed.seed, round, layout=fed.client.gives(self.bound.layout))
        state = fed.serving.init(self.bound, ctx)
        brief = fed.serving.brief(state, Terms())
        said, talk = None, site.run(Job("train", id, round + 1, round, base=base), brief)
        for _ in range(10_000):
            said = (
                next(talk)
                if said is None
                else talk.send(self._answer(fed, said.phase, id, said.message, state, ctx))
            )
            if said.phase == "gone" or said.last:
                break
        assert said is not None
        return said.message, said.state_version, said.error

    def _answer(
        self, fed: Federation, phase: str, id: str, m: Message | None, state: State, ctx: Ctx
    ) -> Message:
        assert m is not None
        replies, new = fed.serving.serve(state, phase, {id: m}, ctx, self.bound)
        state.update(new)
        return replies[id]


def opened(spec: Any, within: Federation | None, folder: Path) -> Home:
    """The first federation in which `spec` works (or `within`); AssertionError with every reason when there is none."""
    errors = []
    for fed in [dataclasses.replace(within, **{slot_of(spec): spec})] if within is not None else tries(spec):
        try:
            home = Home(fed, folder)
        except FedfmError as e:  # not on this task
            errors.append(str(e))
            continue
        _, _, error = home.session(home.ids[0])
        if not error:
            return home
        errors.append(error)
    raise AssertionError(
        "it works in no federation that the laws know; give them one (within=...): " + "; ".join(errors)
    )


def slot_of(spec: Any) -> str:
    """The slot of `Federation` that `spec` fills; empty for a part of a slot (a tuning, a partition)."""
    for protocol, slot in SLOTS.items():
        if isinstance(spec, protocol):
            return slot
    name = getattr(spec, "method_name", "")
    known = {f.name for f in dataclasses.fields(Federation)}
    return next((s for s in (methods()[name].slots if name in methods() else ()) if s in known), "")


def tries(spec: Any) -> Iterator[Federation]:
    """Federations around `spec`, the other half of its method found by dialect."""
    halves: dict[str, Any] = {}
    if isinstance(spec, Server) and spec.dialect != "model":
        halves["client"] = _half(spec)
    elif isinstance(spec, Server) and spec.takes == "weights":
        halves["client"] = Local(lr=0.05, steps=3, batch=2, send="weights")
    client = spec if isinstance(spec, Client) else halves.get("client")
    if client is not None and client.makes not in ("delta", "weights"):
        halves["aggregate"] = _taker(client)
    split = isinstance(spec, Client | Server) and spec.dialect.startswith("split")
    homes: Any = (pictures, quadratics) if split else (quadratics, pictures, factored)
    if getattr(client, "hosted", False):
        homes = (hosting,)
    for make in (mixed,) if client is not None and client.mixed else homes:
        fed = make(**halves | {slot_of(spec): spec})
        if make is quadratics and (isinstance(spec, Evaluator) or not fed.serving.whole):
            fed = dataclasses.replace(fed, data=dataclasses.replace(fed.data, own_test=0.25))
        yield fed
    yield pictures(
        **halves | {slot_of(spec): spec, "data": Pictures(house=4)}
    )  # for whom a server's rows are needed


def _taker(client: Client) -> Aggregator:
    """An aggregator that takes what this client sends, with its settings where it has them."""
    same = {f.name: getattr(client, f.name) for f in dataclasses.fields(client) if f.init}
    for card in methods().values():
        if "aggregate" not in card.slots:
            continue
        plain: Aggregator = load(card.name)()
        for found in (plain, turned(plain, **{k: v for k, v in same.items() if k in knobs(plain)})):
            if client.makes in found.takes:
                taker: Aggregator = found
                return taker
    raise AssertionError(f"no registered aggregator takes '{client.makes}'")


def _half(server: Server) -> Client:
    """The client whose own server half speaks like this one, with this one's settings where it has them."""
    same = {f.name: getattr(server, f.name) for f in dataclasses.fields(server) if f.init}
    for card in methods().values():
        client: Client | None = load(card.name)() if "client" in card.slots else None
        if client is None or client.server_half() is None:
            continue
        for tried in (client, turned(client, **{k: v for k, v in same.items() if k in knobs(client)})):
            half = tried.server_half()
            if half is not None and half.dialect == server.dialect:
                found: Client = tried
                return found
    raise AssertionError(f"no registered client has a server half that speaks '{server.dialect}'")
