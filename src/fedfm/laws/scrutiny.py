"""Laws of those who look at single messages: adversaries, detectors, valuers."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fedfm.core.context import Ctx
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Adversary, Client, Detector, Valuer
from fedfm.efficiency.training.local import Local
from fedfm.laws.aggregators import LAYOUT
from fedfm.laws.compare import kept, normal, same
from fedfm.laws.law import hold, law

IDS = tuple(f"party-{k}" for k in range(7))


def _messages() -> dict[str, Message]:
    return {
        i: Message(LAYOUT.pack({"head": normal(5, k)}), mass=1.0 + k, sender=i) for k, i in enumerate(IDS)
    }


def _ctx(round: int = 1) -> Ctx:
    return Ctx(7, round, layout=LAYOUT, events=[])


@law(Adversary)
def members_are_drawn_once(a: Adversary, within: Federation | None) -> None:
    """Some of the parties, the same in any order and every time; nobody of nobody."""
    members = a.members(IDS, Ctx(7))
    hold(members <= set(IDS), f"{members - set(IDS)} are no parties")
    hold(members == a.members(IDS, Ctx(7)) == a.members(IDS[::-1], Ctx(7)), "other members the second time")
    hold(a.members((), Ctx(7)) == frozenset(), "members of an empty federation")


@law(Adversary)
def only_members_messages_change(a: Adversary, within: Federation | None) -> None:
    """`forge` keeps who sent and how much; honest messages pass untouched; the given ones are not changed in place."""
    for members in (frozenset[str](), frozenset(IDS[1:3]), frozenset(IDS)):
        ms = _messages()
        before = kept(ms)
        forged, _ = a.forge(dict(ms), members, a.init(IDS, Ctx(7)), _ctx())
        hold(set(forged) == set(ms), "messages appeared or vanished")
        hold(all(same(forged[i], before[i]) for i in ms if i not in members), "an honest message was changed")
        hold(
            all(forged[i].x.shape == ms[i].x.shape and forged[i].sender == i for i in ms),
            "a forged message has another shape",
        )
        hold(same(ms, before), "it changed the messages in place")
        hold(
            same(a.forge(dict(ms), members, a.init(IDS, Ctx(7)), _ctx())[0], forged),
            "the same forgery differs",
        )
        hold(
            a.reads or not any(forged[i].x is not ms[i].x for i in ms),
            "it forges and does not declare `reads`",
        )


@law(Adversary)
def a_wrapped_client_is_a_client(a: Adversary, within: Federation | None) -> None:
    """The same layout of messages, so that a server cannot tell by length."""
    wrapped = a.wrap(Local())
    hold(isinstance(wrapped, Client), f"wrap() gives {type(wrapped).__name__}")
    hold(wrapped.gives(LAYOUT) == Local().gives(LAYOUT), "a wrapped client gives messages of another layout")


@law(Detector)
def refusals_have_reasons(d: Detector, within: Federation | None) -> None:
    """Only who sent is refused, with a reason in words; messages stay as they are; nobody of nobody."""
    state = d.init(IDS, Ctx(7))
    hold(d.flag({}, state, _ctx())[0] == {}, "it refuses somebody of nobody")
    cases = [
        _messages(),
        dict(list(_messages().items())[:1]),
        {i: Message(m.x * (1e6 if k == 2 else 1), sender=i) for k, (i, m) in enumerate(_messages().items())},
    ]
    for ms in cases:
        before = kept(ms)
        flags = d.flag(ms, state, _ctx())[0]
        hold(set(flags) <= set(ms), f"{set(flags) - set(ms)} sent nothing and were refused")
        hold(all(isinstance(r, str) and r.strip() for r in flags.values()), "a refusal without a reason")
        hold(same(ms, before), "it changed a message in place")
        hold(d.flag(ms, state, _ctx())[0] == flags, "the same messages are judged differently")
        hold(d.reads, "it looks at single messages and does not declare `reads`")


# ---- valuers ------------------------------------------------------------------------------------------------------
def additive(worth: dict[str, float]) -> Callable[[frozenset[str]], float]:
    """v(S) = sum of the members' own worth, above a start of 0.5: every fair value is the own worth."""
    return lambda s: 0.5 + sum(worth[i] for i in sorted(s))


def gloves(s: frozenset[str]) -> float:
    """Pairs of a left (a, b) and a right (c) glove; d holds nothing."""
    return float(min(len(s & {"a", "b"}), len(s & {"c"})))


class _Asked:
    """A game that checks what it is asked."""

    def __init__(self, game: Callable[[frozenset[str]], float], ids: tuple[str, ...]):
        self.game, self.ids = game, frozenset(ids)

    def __call__(self, s: frozenset[str]) -> float:
        hold(isinstance(s, frozenset) and s <= self.ids, f"the game was asked for {s}")
        return self.game(s)


def _value(v: Valuer, ids: tuple[str, ...], game: Callable[[frozenset[str]], float]) -> dict[str, float]:
    state, house = v.init(ids, Ctx(7)), SimpleNamespace(game=_Asked(game, ids))
    values, _ = v.value(ids, state, _ctx().at(house=house))
    hold(set(values) in (set(ids), set()), f"values of {sorted(values)} for {ids}")
    hold(values == v.value(ids, state, _ctx().at(house=house))[0], "the same game is valued differently")
    return values


@law(Valuer, when=lambda v: v.reads)
def an_additive_game_is_worth_its_parts(v: Valuer, within: Federation | None) -> None:
    """Where parties do not interact, each is worth what it brings: symmetry and the null player follow."""
    worth = {"a": 3.0, "b": 1.0, "c": 1.0, "d": 0.0, "e": -2.0}
    values = _value(v, tuple(worth), additive(worth))
    hold(all(abs(values[i] - worth[i]) < 1e-9 for i in worth), f"{values} where {worth} is brought")


@law(Valuer, when=lambda v: v.reads)
def who_adds_nothing_is_worth_nothing(v: Valuer, within: Federation | None) -> None:
    """The null player of the glove game, and an empty federation."""
    hold(abs(_value(v, ("a", "b", "c", "d"), gloves)["d"]) < 1e-12, "the null player has a value")
    hold(_value(v, (), lambda s: 0.0) == {}, "values of nobody")


@law(Valuer, when=lambda v: v.exact)
def shapley_values_sum_to_the_whole(v: Valuer, within: Federation | None) -> None:
    """Efficiency: they share out v(N) - v(nobody), in the additive and in the glove game."""
    worth: dict[str, Any] = {"a": 3.0, "b": -1.0, "c": 0.25}
    for ids, game in (
        (tuple(worth), additive(worth)),
        (("a", "b", "c", "d"), gloves),
        (("a",), lambda s: float(len(s))),
    ):
        total = sum(_value(v, ids, game).values())
        whole = game(frozenset(ids)) - game(frozenset())
        hold(abs(total - whole) < 1e-9, f"the values sum to {total}, the whole is {whole}")
