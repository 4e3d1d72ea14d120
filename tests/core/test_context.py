"""The context: streams of chance, secrets, and notes for the ledger."""

from __future__ import annotations

import pytest
import torch

from fedfm.core.context import Ctx, Terms
from fedfm.incentives.auction.proportional_share import Bid
from fedfm.ledger.events import Late


def draw(g: torch.Generator) -> list[float]:
    return torch.rand(4, generator=g).tolist()


def test_streams_are_stable_and_independent() -> None:
    base = Ctx(1, 2, client="a")
    kinds = {
        "rng": base.rng("p"),
        "pair": base.pair("p"),
        "shared": base.shared("p"),
    }
    others = {
        "purpose": base.rng("q"),
        "seed": Ctx(2, 2, client="a").rng("p"),
        "round": base.at(round=3).rng("p"),
        "client": base.at(client="b").rng("p"),
        "path": base.within(0).rng("p"),
        "deeper": base.within(0).within(1).rng("p"),
    }
    drawn = [tuple(draw(g)) for g in {**kinds, **others}.values()]
    assert len(set(drawn)) == len(drawn)
    assert (
        draw(base.rng("p"))
        == draw(Ctx(1, 2, client="a").rng("p"))
        == draw(base.at(attempt=5, terms=Terms(width=0.5)).rng("p"))
    )
    assert draw(base.shared("p")) == draw(base.at(client="b").shared("p"))  # the cohort's
    assert draw(base.pair("p")) != draw(base.at(client="b").pair("p"))


def test_a_stream_is_the_same_on_every_machine() -> None:
    """The seed is the first 8 bytes of SHA-256 of what names the stream, halved to fit 63 bits."""
    import hashlib

    key = hashlib.sha256(b"1|own|2|a|/0|p").digest()[:8]
    expected = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
    assert draw(Ctx(1, 2, client="a").within(0).rng("p")) == draw(expected)


def test_secrets_are_fresh_and_noise_only_in_earnest() -> None:
    ctx = Ctx(1, 2, client="a")
    assert ctx.secret(16) != ctx.secret(16) and len(ctx.secret(5)) == 5
    same, other = (ctx.noise("p").normal(4).tolist() for _ in range(2))
    assert same == other != torch.randn(4, generator=ctx.rng("p"), dtype=torch.float64).tolist()
    for earnest in (lambda: ctx.at(simulated=False).noise("p"), lambda: ctx.noise("p", real=True)):
        assert earnest().normal(4).tolist() != earnest().normal(4).tolist()


def test_ambient_seeds_the_global_generator_and_gives_it_back() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with Ctx(1, client="a").ambient():
        one = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with Ctx(1, client="a").ambient():
        assert torch.equal(torch.rand(3), one)


def test_what_is_no_event_is_refused_where_it_is_noted() -> None:
    with pytest.raises(TypeError, match="takes an Event"):
        Ctx(1, events=[]).note("bid")  # type: ignore[arg-type]


def test_notes_have_round_kind_and_client() -> None:
    ctx = Ctx(1, 2, client="a", events=[])
    ctx.note(Bid(3.0))
    ctx.within(1).note(Late())
    ctx.muted().note(Late())
    assert ctx.events == [
        {"round": 2, "kind": "bid", "client": "a", "ask": 3.0},
        {"round": 2, "kind": "late", "client": "a"},
    ]
