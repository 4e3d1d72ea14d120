"""Combinators of wires, `Pipe` and `ByPath`, and what all combinators share. (*wrap* is in `around.py`.)"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.message import DTYPES, Message
from fedfm.core.protocols import Bound, Replies, Say, State, Wire
from fedfm.vectors.layout import Entry, Layout
from fedfm.vectors.patterns import first


def _fact(of: Callable[[Iterable[Any]], Any], name: str) -> Any:
    """A fact of a combination, from its parts' own."""
    return property(lambda self: of(getattr(s, name) for s in self.stages))


def union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*sets)


@method("pipe", slot="wire", section="core")
@dataclass(frozen=True)
class Pipe(Wire):
    """Wire stages in sequence: the client encodes left to right, the server decodes right to left."""

    stages: tuple[Wire, ...] = ()

    def __init__(self, *stages: Wire):
        object.__setattr__(self, "stages", tuple(s for stage in stages for s in stages_of(stage)))

    def __repr__(self) -> str:
        return f"Pipe({', '.join(map(repr, self.stages))})"

    @property
    def phases(self) -> dict[str, Any]:  # type: ignore[override]
        return {p: b for s in self.stages for p, b in s.phases.items()}

    def feasible(self, parties: int, bound: Bound) -> str:
        return next((why for s in self.stages if (why := s.feasible(parties, bound))), "")

    @property
    def hidden(self) -> int | None:
        """The position of the stage that hides single messages."""
        return next((i for i, s in enumerate(self.stages) if s.opaque), None)

    opaque, after_sum, perturbs, remembers = (
        _fact(any, name) for name in ("opaque", "after_sum", "perturbs", "remembers")
    )
    linear, unbiased, lossless = (_fact(all, name) for name in ("linear", "unbiased", "lossless"))
    takes = property(lambda self: self.stages[0].takes if self.stages else "any")
    makes = property(lambda self: "codes" if any(s.makes == "codes" for s in self.stages) else "values")
    needs, info, covers = (_fact(union, name) for name in ("needs", "info", "covers"))
    least = property(lambda self: max([1, *(s.least for s in self.stages)]))

    def gives(self, layout: Layout) -> Layout | None:
        return self.layouts(layout)[-1]

    def layouts(self, layout: Layout | None) -> list[Layout | None]:
        """The layout before each stage, and behind the last."""
        known = [layout]
        for stage in self.stages:
            known.append(None if known[-1] is None else stage.gives(known[-1]))
        return known

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        side, layouts = dict[str, Tensor](), self.layouts(ctx.layout)
        for i, stage in enumerate(self.stages):
            x, mine, sub = stage.encode(x, state.get(str(i), {}), ctx.at(layout=layouts[i]).within(i))
            side |= {f"{i}/{k}": v for k, v in mine.items()}
            state = {k: v for k, v in (state | {str(i): sub}).items() if v}
        return x, side, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        """Down to the stage that hides single messages, if there is one: it and those before it wait for the sum."""
        layouts = self.layouts(ctx.layout)
        for i in reversed(range(0 if self.hidden is None else self.hidden + 1, len(self.stages))):
            there = ctx.at(layout=layouts[i]).within(i)
            x, sub = self.stages[i].decode(x, below(side, i), state.get(str(i), {}), there)
            state = {k: v for k, v in (state | {str(i): sub}).items() if v}
        return x, state

    def join(self, state: State, ctx: Ctx) -> Generator[Say, Message, State]:
        for i, stage in enumerate(self.stages):
            sub = yield from stage.join(state.get(str(i), {}), ctx.within(i))
            state = state | {str(i): sub}
        return state

    def leave(self, state: State, reply: Message, ctx: Ctx) -> Generator[Say, Message, None]:
        for i, stage in enumerate(self.stages):
            yield from stage.leave(state.get(str(i), {}), reply, ctx.within(i))

    def host(self, ctx: Ctx) -> State:
        return {str(i): s.host(ctx.within(i)) for i, s in enumerate(self.stages)}

    def admits(self, host: State, phase: str, sender: str) -> str:
        return next(
            (s.admits(host[str(i)], phase, sender) for i, s in enumerate(self.stages) if phase in s.phases),
            "",
        )

    def serve(
        self, host: State, phase: str, messages: Mapping[str, Message], ctx: Ctx
    ) -> tuple[Replies, State]:
        i, stage = next((i, s) for i, s in enumerate(self.stages) if phase in s.phases)
        replies, sub = stage.serve(host[str(i)], phase, messages, ctx.within(i))
        return replies, host | {str(i): sub}


def stages_of(wire: Wire) -> tuple[Wire, ...]:
    """The stages of a pipe, or the one stage that `wire` is (the identity is none)."""
    if isinstance(wire, Pipe):
        return wire.stages
    return () if wire is None or type(wire) is Wire else (wire,)


def below(side: Mapping[str, Tensor], prefix: int | str) -> dict[str, Tensor]:
    """The side tensors that stage `prefix` put there, under its own names."""
    head = f"{prefix}/"
    return {k.removeprefix(head): v for k, v in side.items() if k.startswith(head)}


_TYPES = list(DTYPES)


@method("by-path", slot="wire", section="core")
@dataclass(frozen=True)
class ByPath(Wire):
    """Other stages for other tensors: `{"dc/*": QSGD(8), "*": TopK(0.01)}`; the first pattern that matches wins."""

    rules: Mapping[str, Wire] = knob(factory=dict, doc="pattern of tensors -> stages", names=("tensors", ""))

    def __post_init__(self) -> None:
        if isinstance(self.rules, Mapping):  # None is the identity here as in a config
            whole = {p: Wire() if wire is None else wire for p, wire in self.rules.items()}
            object.__setattr__(self, "rules", whole)

    stages = property(lambda self: tuple(self.rules.values()))
    opaque, after_sum, perturbs, phases = Pipe.opaque, Pipe.after_sum, Pipe.perturbs, Pipe.phases
    makes, remembers, unbiased, lossless = Pipe.makes, Pipe.remembers, Pipe.unbiased, Pipe.lossless
    info, least, feasible = Pipe.info, Pipe.least, Pipe.feasible
    # `linear` and `covers` stay as they are by default: parts are not the whole
    needs = frozenset({"structure"})

    def _groups(self, layout: Layout) -> list[tuple[str, Wire, list[Entry]]]:
        groups: dict[str, list[Entry]] = {p: [] for p in self.rules}
        for e in layout.entries:
            groups[first(self.rules, e.name, "by-path")].append(e)
        return [(p, self.rules[p], entries) for p, entries in groups.items() if entries]

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        assert ctx.layout is not None
        side: dict[str, Tensor] = {}
        views, parts = ctx.layout.views(x), []
        for i, (pattern, wire, entries) in enumerate(self._groups(ctx.layout)):
            sub = Layout.of({e.name: e.shape for e in entries})
            flat = sub.pack({e.name: views[e.name] for e in entries}, x.dtype)
            y, mine, new = wire.encode(flat, state.get(pattern, {}), ctx.within(pattern).at(layout=sub))
            side |= {f"{i}/{k}": v for k, v in mine.items()}
            state = {k: v for k, v in (state | {pattern: new}).items() if v}
            parts.append(y)
        side["lengths"] = torch.tensor([p.numel() for p in parts])
        if len({p.dtype for p in parts}) > 1:  # payloads of several types travel as their bytes
            side["types"] = torch.tensor([_TYPES.index(p.dtype) for p in parts], dtype=torch.uint8)
            parts = [p.contiguous().view(torch.uint8) for p in parts]
        return torch.cat(parts) if parts else x[:0], side, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        assert ctx.layout is not None
        out, at = torch.zeros(ctx.layout.size), 0
        views = ctx.layout.views(out)
        for i, (pattern, wire, entries) in enumerate(self._groups(ctx.layout)):
            n = int(side["lengths"][i])
            if "types" in side:
                dtype = _TYPES[int(side["types"][i])]
                piece = x[at : at + n * dtype.itemsize].clone().view(dtype)
                at += n * dtype.itemsize
            else:
                piece, at = x[at : at + n], at + n
            sub = Layout.of({e.name: e.shape for e in entries})
            y, new = wire.decode(
                piece, below(side, i), state.get(pattern, {}), ctx.within(pattern).at(layout=sub)
            )
            state = {k: v for k, v in (state | {pattern: new}).items() if v}
            for name, view in sub.views(y).items():
                views[name].copy_(view)
        return out, state
