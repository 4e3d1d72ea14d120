"""Secure aggregation: uniform uploads, what the server never gets, and lies that are noticed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, RoundFailed
from fedfm.core.message import Message, nothing
from fedfm.core.state import freeze, lasting
from fedfm.trust.privacy.secure import masks, shamir
from fedfm.trust.privacy.secure.secagg import SecAgg
from secagg_round import drive, oracle, vectors_of


# ---- what the server sees ----------------------------------------------------------------------------------
def chi_square_p(x: Tensor) -> float:
    """Probability of bytes as uneven as these, were they uniform (255 degrees of freedom, Wilson-Hilferty)."""
    counts = torch.bincount(x.view(torch.uint8).long(), minlength=256).double()
    mean = counts.sum() / 256
    k, value = 255, float(((counts - mean) ** 2 / mean).sum())
    z = ((value / k) ** (1 / 3) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k))
    return 0.5 * math.erfc(z / math.sqrt(2))


def test_masked_uploads_and_partial_sums_are_uniform() -> None:
    n = 5
    done = drive(SecAgg(), {i: torch.zeros(8192) for i in vectors_of(n, 1)})
    ys = list(done.uploads.values())
    for k in (1, 2, n - 2):
        assert chi_square_p(torch.stack(ys[:k]).sum(0)) > 1e-4
    # all n: the pair masks are gone, the self-masks hold until the seeds are revealed
    assert chi_square_p(torch.stack(ys).sum(0)) > 1e-4
    assert chi_square_p(torch.zeros(8192, dtype=torch.int64)) < 1e-4  # the test can tell


def test_server_never_gets_both_shares_of_a_party() -> None:
    vectors = vectors_of(10, 4)
    done = drive(
        SecAgg(threshold=0.62), vectors, {"party-1": "upload", "party-4": "upload", "party-2": "unmask"}
    )
    roster, kinds = list(vectors), {j: set() for j in range(10)}
    for i, m in done.heard["unmask"].items():
        held = done.states[i]["_session"].held
        for j, row in zip(sorted(held), m.side["shares"], strict=True):
            key, seed = held[j][: shamir.WIDTH], held[j][shamir.WIDTH :]
            kinds[j].add({key: "key", seed: "seed"}[bytes(row.tolist())])
    assert kinds == {j: {"key" if roster[j] in ("party-1", "party-4") else "seed"} for j in range(10)}
    assert not set(done.host["seeds"]) & set(done.host["private"])


def test_second_contradictory_request_is_refused() -> None:
    done = drive(SecAgg(threshold=0.62), vectors_of(5, 4), {"party-4": "upload"})
    wire, state, ctx = SecAgg(threshold=0.62), done.states["party-0"], Ctx(0, round=3, client="party-0")

    def ask(*survivors: str) -> Message:
        return next(wire.leave(state, nothing(survivors=list(survivors)), ctx)).message

    ask("party-0", "party-1", "party-2", "party-3")
    for other in (
        ("party-0", "party-1", "party-2", "party-3", "party-4"),
        ("party-0", "party-1", "party-2", "party-4"),
    ):
        with pytest.raises(ClientFailed, match="both secrets"):
            ask(*other)


@pytest.mark.parametrize(
    "survivors",
    [
        ["party-0", "party-1"],
        [f"party-{i}" for i in range(5)],
        [f"party-{i}" for i in range(1, 8)],
        [f"party-{i}" for i in (0, 1, 2, 3, 4, 8)],
        [],
        ["party-0", *(f"party-{i}" for i in range(5))],
    ],
)
def test_unsafe_survivor_lists_are_refused(survivors: list[str]) -> None:
    wire, vectors = SecAgg(threshold=0.62), vectors_of(9, 4)

    def lie(phase: str, to: str, m: Message) -> Message:
        return replace(m, info={"survivors": survivors}) if (phase, to) == ("upload", "party-0") else m

    done = drive(wire, vectors, {"party-8": "shares"}, replies=lie)
    assert set(done.failed) == {"party-0"}
    assert torch.equal(done.total, oracle(wire, vectors, [i for i in vectors if i != "party-8"]))


# ---- damage and lies ---------------------------------------------------------------------------------------
def test_tampered_ciphertext_fails_that_party_alone() -> None:
    wire, vectors = SecAgg(threshold=0.62), vectors_of(5, 4)

    def flip(phase: str, to: str, m: Message) -> Message:
        if (phase, to) != ("shares", "party-3"):
            return m
        bad = m.side["sealed"].clone()
        bad[1, 20] ^= 1
        return replace(m, side={"sealed": bad})

    done = drive(wire, vectors, replies=flip)
    assert "altered" in done.failed["party-3"] and len(done.failed) == 1
    assert torch.equal(done.total, oracle(wire, vectors, [i for i in vectors if i != "party-3"]))


def test_malformed_messages_leave_their_sender_out() -> None:
    wire, vectors = SecAgg(threshold=0.62), vectors_of(8, 4)
    low = torch.zeros(1, 64, dtype=torch.uint8)  # the point of order 1: every exchange with it would be zero

    def spoil(phase: str, by: str, m: Message) -> Message:
        if (phase, by) == ("keys", "party-0"):
            return replace(m, side={"keys": low})
        if (phase, by) == ("shares", "party-1"):
            return replace(m, side={"sealed": m.side["sealed"][:1]})
        return replace(m, side={}) if (phase, by) == ("unmask", "party-2") else m

    done = drive(wire, vectors, sent=spoil)
    assert set(done.failed) == {"party-0", "party-1"}
    assert torch.equal(done.total, oracle(wire, vectors, list(vectors)[2:]))


def test_wrong_shares_fail_the_round_instead_of_spoiling_the_sum() -> None:
    def lie(phase: str, by: str, m: Message) -> Message:
        return (
            replace(m, side={"shares": m.side["shares"] ^ 1}) if (phase, by) == ("unmask", "party-0") else m
        )

    for drops in ({}, {"party-3": "upload"}):
        with pytest.raises(RoundFailed):
            drive(SecAgg(threshold=0.62), vectors_of(5, 4), drops, sent=lie)


def test_sum_of_other_uploads_than_the_survivors_is_noticed() -> None:
    done = drive(SecAgg(), vectors_of(4, 64))
    ys = list(done.uploads.values())
    with pytest.raises(RoundFailed, match="outside the range"):
        SecAgg().decode_sum(torch.stack(ys[:3]).sum(0), done.host, Ctx(0, round=3))


def test_split_views_of_the_roster_are_noticed() -> None:
    """The roster is part of every derived key: who was shown other keys can exchange no shares with the rest."""
    fake = masks.public(b"\1" * 32) + masks.public(b"\2" * 32)

    def equivocate(phase: str, to: str, m: Message) -> Message:
        if (phase, to) != ("keys", "party-0"):
            return m
        keys = m.side["keys"].clone()
        keys[2] = torch.tensor(list(fake), dtype=torch.uint8)
        return replace(m, side={"keys": keys})

    done = drive(SecAgg(), vectors_of(4, 4), replies=equivocate)
    failed = {i for i, why in done.failed.items() if "altered" in why}
    assert failed == set(vectors_of(4, 4)) and not done.uploads


@pytest.mark.parametrize(
    "change",
    [
        {"roster": ["party-0"]},
        {"roster": ["party-0", "party-1", "party-1", "party-3"]},
        {"roster": ["party-9", "party-1", "party-2", "party-3"]},
    ],
)
def test_unusable_rosters_are_refused(change: dict[str, Any]) -> None:
    def lie(phase: str, to: str, m: Message) -> Message:
        if (phase, to) != ("keys", "party-0"):
            return m
        return replace(m, info=change, side={"keys": m.side["keys"][: len(change["roster"])]})

    done = drive(SecAgg(threshold=0.62), vectors_of(4, 4), replies=lie)
    assert set(done.failed) == {"party-0"}


def test_who_speaks_out_of_order_gets_no_answer_and_costs_the_others_nothing() -> None:
    """Twice in a phase, in a phase that one skipped, and from nowhere: nobody else's round ends (defect 11)."""
    wire, ctx = SecAgg(), Ctx(0, round=3)
    done = drive(wire, vectors_of(5, 4), {"party-4": "shares"})
    for phase in ("keys", "shares", "upload", "unmask"):
        said = done.heard[phase]
        replies, host = wire.serve(done.host, phase, {"party-0": said["party-0"]}, ctx)
        assert not replies and host == done.host and "closed" in wire.admits(done.host, phase, "party-0")
    before = {k: v for k, v in done.host.items() if k not in ("unmask", "seeds", "private")}
    for stranger in ("mallory", "party-4"):
        assert "not in the one before" in wire.admits(before, "unmask", stranger)
    said = done.heard["unmask"] | {"mallory": nothing(), "party-4": done.heard["unmask"]["party-0"]}
    replies, host = wire.serve(before, "unmask", said, ctx)
    assert set(replies) == set(done.heard["unmask"]) and host["seeds"] == done.host["seeds"]
    fresh = wire.host(ctx)
    assert wire.admits(fresh, "keys", "party-0") == "" and "before" in wire.admits(fresh, "upload", "party-0")


def test_parties_that_were_given_other_models_fail_instead_of_adding_up() -> None:
    """A server that sends one party a model of its own would read its update from the difference of two sums."""
    wire, vectors, given = SecAgg(), vectors_of(5, 4), {"party-2": "another"}

    class Given(SecAgg):
        def join(self, state: Any, ctx: Ctx) -> Any:
            return super().join(state, ctx.at(brief=given.get(ctx.client, "the model")))

    done = drive(Given(), {i: v for i, v in vectors.items() if i not in given})
    assert torch.equal(done.total, oracle(wire, vectors, [i for i in vectors if i not in given]))
    done = drive(Given(), vectors)
    assert set(done.failed) == set(vectors) and not done.uploads  # their keys differ: no share can be opened


# ---- secrets -----------------------------------------------------------------------------------------------
def test_keys_and_masks_are_fresh_each_attempt_and_never_stored() -> None:
    vectors = vectors_of(3, 4)
    first, second = (drive(SecAgg(), vectors, ctx=Ctx(0, round=3, attempt=k)) for k in (0, 1))
    for i in vectors:
        assert not torch.equal(first.uploads[i], second.uploads[i])
        a, b = (done.states[i]["_session"] for done in (first, second))
        assert a.own != b.own and a.masked and not a.pairs
        assert set(lasting(first.states[i])) == {"kept"}
        freeze(lasting(first.states[i]))
        assert a.own.hex() not in repr(a) and str(a.own) not in repr(a)
    assert torch.equal(first.total, second.total)


def test_masking_twice_with_one_set_of_keys_is_refused() -> None:
    done = drive(SecAgg(), vectors_of(3, 4))
    ctx = Ctx(0, round=3, client="party-0")
    with pytest.raises(ClientFailed, match="twice"):
        SecAgg().encode(torch.zeros(4), done.states["party-0"], ctx)
    with pytest.raises(ClientFailed, match="no keys"):
        SecAgg().encode(torch.zeros(4), {}, ctx)
