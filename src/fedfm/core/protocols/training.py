"""Task, client and server: what is trained, by whom, and what becomes of it. And the server's view, the house."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import Problem
from fedfm.core.message import Message
from fedfm.core.protocols.folding import Aggregate
from fedfm.core.protocols.slot import Barrier, Replies, Say, Scores, Slot, State
from fedfm.core.schema import Column
from fedfm.vectors.layout import Layout

Loss = Callable[[Any, Any], Tensor]  # of a module and a batch


class Bound(Protocol):
    """An opened task: the trainable tensors live on the flat buffer `params`, their gradients on `grads`."""

    layout: Layout
    init: Tensor  # (layout.size,), on the CPU
    params: Tensor
    grads: Tensor
    device: torch.device
    total: int  # parameters of the whole model
    objective: Any  # primary, higher_is_better, parts, save
    module: Any

    def load(self, flat: Tensor) -> None: ...
    def read(self) -> Tensor: ...
    def check(self) -> None:
        """Raises FedfmError for a tensor or gradient that no longer lies on its buffer."""
        return

    def encode(self, rows: Any) -> Any: ...
    def batch(self, encoded: Any, index: Tensor) -> Any: ...
    def loss(self, batch: Any) -> float: ...
    def losses(self, batch: Any) -> Tensor:
        """The loss of each example (n,), without a gradient."""

    def gradient(self, batch: Any, loss: Loss | None = None) -> float:
        """Fill `grads` with the gradient of the objective's loss, or of another one; returns the loss."""

    def score(self, encoded: Any) -> Scores: ...
    def risk(self, encoded: Any) -> tuple[float, float]:
        """The sum of the losses of all examples, in evaluation mode, and how many there are (or what they weigh)."""

    def part(self, name: str, params: Mapping[str, Tensor], *inputs: Any) -> Tensor:
        """One part of a split model, as a function of tensors of one's own; the last part gives the loss."""

    def at(self, client: str, terms: Terms) -> Bound:
        """What this client trains on these terms: a sub-model, an architecture of its own, or this very one."""


class Task(Slot):
    """A foundation model, a tuning and an objective; the frozen spec holds no loaded model."""

    columns: tuple[Column, ...] = ()  # what it reads of a row
    whole: ClassVar[bool] = True  # one architecture for all; False: `Bound.at` gives each party its own

    def each(self, bound: Bound, ids: Sequence[str]) -> Mapping[str, tuple[Task, Bound, tuple[str, ...]]]:
        """By name: each architecture's task, bound, and which of the parties `ids` have it."""
        return {"": (self, bound, tuple(ids))}

    def open(self, data: Any, device: str = "cpu") -> Bound:
        """Load the model and bind its trainable tensors to one flat buffer; once per process."""
        raise NotImplementedError

    def probe(self, bound: Bound, rows: Any) -> list[Problem]:
        """What is wrong with the opened task on a few real rows, before any work; [] when nothing is."""
        return []


class Client(Slot):
    """ClientUpdate of Algorithm 1. `dialect` names what brief it expects: client and server must speak the same."""

    dialect: ClassVar[str] = "model"  # knobs that both halves must set alike are part of it
    remembers: bool = False  # its state holds tensors of the model's size from round to round
    exact: tuple[str, ...] = ()  # tensors of its message that no code may change: the others are read by them
    alternates: ClassVar[bool] = False  # unlike rounds take turns, so they must not overlap

    mixed: ClassVar[bool] = False  # what it sends does not depend on the architecture (outputs, not weights)

    @property
    def makes(self) -> str:
        """The kind of its messages: "delta", "weights", "logits", "mask", ..."""
        return "delta"

    @property
    def per_step(self) -> int:
        """Examples of one local step; 0: all, or unknown."""
        return 0

    def server_half(self) -> Server | None:
        """The server's half of this method, with the same knobs; None: any server of its dialect will do."""
        return None

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

    def own(self, brief: Message, state: State, ctx: Ctx, bound: Bound) -> Tensor:
        """The model that this party would use, over the task's layout: by default the one that it was sent."""
        return brief.x[: bound.layout.size]


class Server(Slot):
    """What the server keeps, sends and does with an aggregate."""

    dialect: ClassVar[str] = "model"  # which briefs it sends, as its clients must expect them
    takes: str = "delta"  # the kind of aggregate that `step` understands
    rests = {"counts": ("step",)}
    # an aggregate of another length is a longer or shorter step, and nothing else
    elastic: ClassVar[bool] = False
    counts: ClassVar[bool] = True  # its step looks at how many contributed
    whole: ClassVar[bool] = True  # its model is what parties use; False: each has its own (`Client.own`)
    # of its conversations: answered at once ("each"), or when all have spoken
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


class House(Protocol):
    """What server-side slots see of a round as `ctx.house` (None at a party). Everything is lazy and cached.

    `rows` and `public` are encoded; the reported test rows are nowhere in it.
    """

    bound: Bound
    parties: Mapping[str, int]  # examples by party
    before: State  # the server's, before this round's step
    messages: Mapping[str, Message]  # decoded, of those that somebody reads

    @property
    def model(self) -> Tensor:
        """The current model (layout.size,)."""

    @property
    def rows(self) -> Any:
        """The server's own rows (`data.server_rows`); raises DataError where there are none."""

    @property
    def public(self) -> Any:
        """Rows that everybody sees (`data.public`); raises DataError where there are none."""

    def learn(self) -> Message:
        """What the federation's own client makes of the server's rows, from this round's brief."""

    def after(self, x: Tensor) -> Tensor:
        """The model, if `x` were this round's aggregate: the federation's own server step."""

    def score(self, model: Tensor) -> float:
        """The primary metric on the server's rows, sign turned so that higher is better, always finite."""

    def risk(self, model: Tensor) -> float:
        """The mean loss on the server's rows, in evaluation mode."""

    def gradient(self, model: Tensor) -> Tensor:
        """The gradient of the mean loss on the server's rows (layout.size,), in evaluation mode."""

    def game(self, subset: frozenset[str]) -> float:
        """The worth of a coalition: `score` of the model that it alone would have made this round."""

    @property
    def ask(self) -> Callable[[str, Sequence[str], Message], dict[str, Message]]:
        """`ask(slot, ids, question)`: that slot's `answer` at the parties; who fails to answer is left out."""
