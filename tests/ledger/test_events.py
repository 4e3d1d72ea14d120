"""Events: a sort for each, by default none that leaves the house; only the server notes what is the server's."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fedfm.core.context import Ctx
from fedfm.ledger import events


@dataclass(frozen=True)
class Secret(events.Event):
    """Declares nothing."""

    rows: int


def test_what_declares_nothing_is_shown_to_nobody() -> None:
    ctx = Ctx(0, 3, client="a", events=[])
    ctx.note(Secret(7))
    assert ctx.events and events.shown(ctx.events[0]) is None
    assert events.shown({"kind": "heard of nowhere", "round": 1}) is None


def test_what_is_shown_has_no_party_and_only_the_declared_fields() -> None:
    ctx = Ctx(0, 3, events=[])
    ctx.note(events.Planned(["a", "b"], {"kind": "poisson", "rate": 0.5}))
    assert ctx.events
    assert events.shown(ctx.events[0]) == {
        "sampling": {"kind": "poisson", "rate": 0.5},
        "round": 3,
        "kind": "plan",
    }


def test_two_types_of_one_kind_are_an_error_where_the_second_is_written() -> None:
    with pytest.raises(TypeError, match="notes 'secret' already"):
        type("Secret", (events.Event,), {"__module__": "elsewhere"})
