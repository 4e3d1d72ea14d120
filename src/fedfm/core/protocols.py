"""The slots: what a method may be. Pure functions, state in, state out; facts about a method are class attributes.

Every base class here is the identity of its slot, so a method overrides only what it changes. States are nested
dicts of tensors, numbers and strings (they are saved, never pickled); an entry whose key starts with `_` lives
for one session only (secrets).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from fedfm.core.context import Ctx, Terms
from fedfm.core.message import Message
from fedfm.core.tree import Layout

State = dict[str, Any]
Scores = dict[str, tuple[float, int]]  # metric -> (sum over examples, number of examples)
Barrier = Literal["each", "all"]


@dataclass(frozen=True)
class Say:
    """What a client says in a conversation: `phase` names who answers and whether it waits for the others."""

    phase: str
    message: Message
    state_version: int = 0  # of the client's state, with an upload
    last: bool = False  # no answer is expected


Replies = dict[str, Message]


@dataclass(frozen=True)
class Slot:
    """What all slots share: two identities of a slot are equal, and print as what makes them."""

    info: ClassVar[frozenset[str]] = frozenset()  # keys of `Message.info` that it fills

    @classmethod
    def identity(cls) -> bool:
        """Is this the base class of its slot, which changes nothing?"""
        return cls.__module__.startswith("fedfm.core.protocols")


class Bound(Protocol):
    """An opened task: the trainable tensors live on the flat buffer `params`, their gradients on `grads`."""

    layout: Layout
    init: Tensor  # (layout.size,), on the CPU
    params: Tensor
    grads: Tensor
    device: torch.device
    total: int  # parameters of the whole model
    objective: Any  # primary, higher_is_better, target, save
    module: Any

    def load(self, flat: Tensor) -> None: ...
    def read(self) -> Tensor: ...
    def encode(self, rows: Any) -> Any: ...
    def batch(self, encoded: Any, index: Tensor) -> Any: ...
    def loss(self, batch: Any) -> float: ...
    def gradient(self, batch: Any) -> float: ...
    def score(self, encoded: Any) -> Scores: ...
    def front(self, params: Mapping[str, Tensor], batch: Any) -> Tensor: ...
    def back(self, params: Mapping[str, Tensor], acts: Tensor, target: Tensor) -> Tensor: ...
    def narrow(self, terms: Terms) -> Bound: ...


class Task(Slot):
    """A foundation model, a tuning and an objective; the frozen spec holds no loaded model."""

    def open(self, data: Any, device: str = "cpu") -> Bound:
        """Load the model and bind its trainable tensors to one flat buffer; once per process."""
        raise NotImplementedError


class Client(Slot):
    """ClientUpdate of Algorithm 1. `dialect` names what brief it expects: client and server must speak the same."""

    dialect: ClassVar[str] = "model"

    def gives(self, layout: Layout) -> Layout:
        """The layout of the message's `x`, from the layout of the model."""
        return layout

    def alone(self) -> Client:
        """What a party would run on its own, from and to plain weights (the baselines)."""
        return self

    def steps_for(self, rows: int) -> int:
        """Local steps a round for a party with so many examples; 0 if the method has no such number."""
        return 0

    def work(
        self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound
    ) -> tuple[Message, State] | Generator[Say, Message, tuple[Message, State]]:
        """Train on `data` from `brief`; or a generator that yields `Say`s and is sent the answers."""
        raise NotImplementedError


@dataclass(frozen=True)
class Aggregate:
    """What a round's messages became: `x` over the client's layout, and who contributed (not who was planned)."""

    x: Tensor
    count: int
    ids: tuple[str, ...]
    population: int  # parties there are in all, N


class Server(Slot):
    """What the server keeps, sends and does with an aggregate."""

    dialect: ClassVar[str] = "model"
    phases: ClassVar[Mapping[str, Barrier]] = {}

    def init(self, bound: Bound, ctx: Ctx) -> State:
        return {"w": bound.init.clone()}

    def gives(self, layout: Layout) -> Layout:
        """The layout of the brief."""
        return layout

    def brief(self, state: State, terms: Terms) -> Message:
        """What a client starts from; called once per distinct `terms.shape` and version."""
        return Message(state["w"], kind="weights")

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        raise NotImplementedError

    def model(self, state: State) -> Tensor:
        """The global model: a vector over the task's layout."""
        w: Tensor = state["w"]
        return w

    def serve(
        self, state: State, phase: str, messages: Mapping[str, Message], ctx: Ctx, bound: Bound
    ) -> tuple[Replies, State]:
        """Answer a phase. In an "each" phase messages come in arrival order: touch only that client's part of state."""
        raise NotImplementedError


@dataclass(frozen=True)
class Lift:
    """One client's summand: the fold adds `alpha * x` to the sum and `mass` (number or vector) to the weight."""

    x: Tensor
    alpha: float
    mass: float | Tensor


class Aggregator(Slot):
    """Messages to one vector: `lift`/`finish` in sum form (O(1) memory), or `combine` over all of them."""

    form: ClassVar[Literal["sum", "all"]] = "sum"
    shares: ClassVar[bool] = False  # `share` exists: the lift can run on the client, under masks
    takes: ClassVar[str] = ""  # the one kind of message it understands; "": any
    plain: ClassVar[bool] = False  # lift only scales: a clipped update stays bounded in the sum
    needs: ClassVar[int] = 1  # fewest messages that `combine` accepts

    @property
    def reads(self) -> bool:
        """Does it look at single messages?"""
        return self.form == "all"

    @property
    def alpha_max(self) -> float | None:
        """The largest `alpha` that any party can get; None: no public bound is known."""
        return None

    @property
    def alike(self) -> bool:
        """Does every party get the `alpha` 1, whatever it holds?"""
        return False

    @property
    def divisor(self) -> str:
        """What the sum is divided by: "public" (agreed beforehand), "count" of contributors, or "mass" (theirs)."""
        return "mass"

    def lift(self, m: Message, ctx: Ctx) -> Lift:
        raise NotImplementedError

    def share(self, m: Message, ctx: Ctx) -> Lift:
        """The part of `lift` that may run on the client: no staleness, the weight public."""
        raise NotImplementedError

    def lifted(self, layout: Layout) -> int:
        """The length of a lifted vector, from the layout of the messages."""
        return layout.size

    def finish(self, x: Tensor, mass: float | Tensor, count: int, ctx: Ctx) -> Tensor:
        """From the sum to the result; `x` belongs to the fold, which is done with it: it may be changed in place."""
        raise NotImplementedError

    def combine(self, messages: Sequence[Message], ctx: Ctx) -> Tensor:
        """`messages` decoded, in plan order."""
        raise NotImplementedError


class Wire(Slot):
    """A codec or a protection stage: client half, server half and, if it must, their conversation."""

    linear: ClassVar[bool] = False  # decode commutes with the sum
    unbiased: ClassVar[bool] = False  # the mean of decode(encode(x)) is x
    lossless: ClassVar[bool] = False  # decode(encode(x)) is x
    after_sum: ClassVar[bool] = False  # undone once, on the sum
    opaque: ClassVar[bool] = False  # no single message is readable; its payload is int64, its sum modulo 2^64
    perturbs: ClassVar[bool] = False  # adds noise for differential privacy
    covers: ClassVar[frozenset[str]] = frozenset()  # channels that it protects: "x", "mass", "side"
    against: ClassVar[str] = (
        ""  # from whom: "server" (then from everybody), or "recipients" of models and files
    )
    shares: int = 0  # parties among whom its noise is divided, so that it protects in a hidden sum alone; 0: it is whole
    step: ClassVar[float] = 0.0  # values travel as whole multiples of this; 0: as they are
    relation: str = ""  # what its guarantee hides of a party: "zero-out", "replace-one", "add-or-remove"
    least: ClassVar[int] = 1  # fewest parties of a round
    phases: ClassVar[Mapping[str, Barrier]] = {}  # in order; "upload" among them makes the upload a barrier

    @property
    def off(self) -> str:
        """Why this protection, asked for, gives nothing (its noise is 0); empty: it does."""
        return ""

    @property
    def accountant(self) -> Any:
        """Who knows what its releases cost (`core.exposure.Accountant`); None: it promises nothing."""
        return None

    def release(self) -> Mapping[str, Any]:
        """The facts of the `privacy` event of one release, its event as data; empty: it releases nothing."""
        return {}

    def survivors(self, parties: int) -> int:
        """The fewest parties of so many whose sum is ever revealed."""
        return 1

    def fits(self, magnitude: float, parties: int) -> str:
        """Why values of this magnitude of so many parties cannot travel, and the setting with which they can; empty: they can."""
        return ""

    def admits(self, host: State, phase: str, sender: str) -> str:
        """Why this party may not speak in this phase now; empty: it may. Asked before its words count."""
        return ""

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        return x, {}, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        """`state` is the server's memory for this sender."""
        return x, state

    def decode_sum(self, x: Tensor, host: State, ctx: Ctx) -> Tensor:
        """May raise RoundFailed. An opaque stage gets and returns the mass behind the payload."""
        return x

    def join(self, state: State, ctx: Ctx) -> Generator[Say, Message, State]:
        """The client's conversation before its work."""
        return state
        yield

    def leave(self, state: State, reply: Message, ctx: Ctx) -> Generator[Say, Message, None]:
        """The client's conversation after its upload was answered with `reply`."""
        return None
        yield

    def host(self, ctx: Ctx) -> State:
        """The server's state for one round."""
        return {}

    def serve(
        self, host: State, phase: str, messages: Mapping[str, Message], ctx: Ctx
    ) -> tuple[Replies, State]:
        raise NotImplementedError


@dataclass(frozen=True)
class Plan:
    """Whom to ask to work, on what terms, in a definite order; and what each was promised for it."""

    jobs: tuple[tuple[str, Terms], ...]
    promised: Mapping[str, float] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(
        default_factory=dict
    )  # how the cohort was drawn, for privacy accounting


class Selector(Slot):
    """Who takes part (by default everybody). One that `asks` hears private answers (bids, losses) before it plans."""

    asks: ClassVar[bool] = False
    releases: ClassVar[bool] = False  # the answers say something about the private data (a loss)
    random_size: ClassVar[bool] = False  # how many take part is random, hence private under sampling
    cuts: bool = False  # some parties get a sub-model

    @property
    def independent(self) -> bool:
        """Does a party's place depend on no other party?"""
        return self.identity()

    def most(self, parties: int) -> int:
        """The most parties of a plan, of so many."""
        return parties

    def init(self, pool: Mapping[str, int], ctx: Ctx) -> State:
        return {}

    def candidates(self, pool: Mapping[str, int], state: State, ctx: Ctx) -> Sequence[str]:
        """Whom to ask before planning; `pool` maps the free parties to their number of examples."""
        return ()

    def answer(self, brief: Message, data: Any, ctx: Ctx, bound: Bound) -> Message:
        """The client's half: what it tells when asked."""
        raise NotImplementedError

    def select(
        self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Mapping[str, Message]
    ) -> tuple[Plan, State]:
        return Plan(tuple((i, Terms()) for i in pool), sampling={"kind": "all"}), state


class Pace(Slot):
    """When a round closes, as data. Times are simulated seconds."""

    late: Literal["cancel", "keep"] = "cancel"
    partial: bool = False  # a round may close while parties are still working

    @property
    def independent(self) -> bool:
        """Does whether a party counts depend on no other party?"""
        return self.late == "cancel" and not self.partial

    @property
    def loses(self) -> bool:
        """May a planned party be missing from the sum, other than by its own failure?"""
        return self.partial

    def room(self, busy: int, want: int) -> int:
        """How many new sessions may start while `busy` are under way."""
        return want

    def due(self, now: float, ctx: Ctx) -> float:
        """When the work that this client starts at `now` will be done."""
        return now

    def enough(self, arrived: int, planned: int, waited_s: float) -> bool:
        """Close the round now, `waited_s` after its start (asked before each release with that release's time)?"""
        return False

    def quorum(self, planned: int) -> int:
        """The fewest contributions that make a round."""
        return 1

    def lost(self, phase: str, ctx: Ctx) -> bool:
        """Does this party vanish just before `phase` (simulated drop-out)?"""
        return False


class Adversary(Slot):
    """Malicious parties: poison a client from inside, or forge messages knowing all of them."""

    reads: ClassVar[bool] = False  # it forges

    def members(self, ids: Sequence[str], ctx: Ctx) -> frozenset[str]:
        """The malicious parties: the same for the whole run."""
        return frozenset()

    def wrap(self, client: Client) -> Client:
        return client

    def forge(self, messages: dict[str, Message], members: frozenset[str], ctx: Ctx) -> dict[str, Message]:
        return messages


class Detector(Slot):
    """Who is refused, and why, from the messages themselves."""

    reads: ClassVar[bool] = False

    def flag(self, messages: Mapping[str, Message], ctx: Ctx) -> dict[str, str]:
        return {}


class Valuer(Slot):
    """Contributions: `game(subset)` is the utility of the model that this subset alone would have made."""

    reads: ClassVar[bool] = False

    def value(self, ids: Sequence[str], game: Any, ctx: Ctx) -> dict[str, float]:
        return {}


class Reward(Slot):
    """Payments: only who delivered is paid."""

    def pay(
        self, plan: Plan, delivered: Sequence[str], values: Mapping[str, float], state: State, ctx: Ctx
    ) -> tuple[dict[str, float], State]:
        return {}, state
