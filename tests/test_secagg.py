"""Secure aggregation: exact sums under every drop-out, uniform uploads, and what the server never gets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedfm.core import ledger
from fedfm.core.check import check
from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, RoundFailed
from fedfm.core.federation import Federation
from fedfm.core.loop import Run
from fedfm.core.message import Message, nothing, pack, unpack
from fedfm.core.protocols import Pace, Say
from fedfm.core.session import Site
from fedfm.core.state import Store, freeze, lasting
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.trust.privacy import masks, shamir
from fedfm.trust.privacy.gaussian import ClipNoise
from fedfm.trust.privacy.secagg import SecAgg

PHASES = ("keys", "shares", "upload", "unmask")
Tamper = Callable[[str, str, Message], Message]


@dataclass
class Round:
    """What a driven round left behind."""

    total: Tensor | None = None
    host: dict[str, Any] = field(default_factory=dict)
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: dict[str, Tensor] = field(default_factory=dict)
    heard: dict[str, dict[str, Message]] = field(default_factory=dict)  # phase -> party -> message
    failed: dict[str, str] = field(default_factory=dict)


def drive(wire: SecAgg, vectors: Mapping[str, Tensor], drops: Mapping[str, str] | None = None, ctx: Ctx | None = None,
          replies: Tamper = lambda phase, to, m: m, sent: Tamper = lambda phase, by, m: m) -> Round:
    """Play the conversations with a barrier at each phase; a party leaves just before its phase in `drops`."""
    ctx, drops = ctx or Ctx(0, round=3), drops or {}
    out, host = Round(), wire.host(ctx)

    def session(i: str) -> Generator[Say, Message, None]:
        mine = ctx.at(client=i)
        state = yield from wire.join({"kept": torch.ones(1)}, mine)
        y, side, state = wire.encode(vectors[i], state, mine)
        out.states[i] = state
        out.uploads[i] = y
        reply = yield Say("upload", Message(y, side=side))
        yield from wire.leave(state, reply, mine)

    talks = {i: session(i) for i in vectors}
    answers: dict[str, Message | None] = dict.fromkeys(vectors)
    for phase in PHASES:
        said = {}
        for i in list(answers):
            if drops.get(i) == phase:
                continue
            try:
                word = talks[i].send(answers[i])
                assert word.phase == phase
                said[i] = sent(phase, i, unpack(pack(replace(word.message, sender=i))))
            except ClientFailed as e:
                out.failed[i] = str(e)
        out.heard[phase] = said
        if not said:
            break
        given_back, host = wire.serve(host, phase, said, ctx)
        answers = {i: replies(phase, i, unpack(pack(given_back.get(i, nothing())))) for i in said}
    out.host = host
    arrived = out.heard.get("upload", {})
    if arrived:
        x = torch.stack([m.x for m in arrived.values()]).sum(0)
        before = x.clone()
        out.total = wire.decode_sum(x, host, ctx)
        assert torch.equal(x, before)
    return out


def vectors_of(n: int, d: int, seed: int = 0, scale: float = 1.0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {f"party-{i}": torch.randn(d, generator=g) * scale for i in range(n)}


def oracle(wire: SecAgg, vectors: Mapping[str, Tensor], ids: Any) -> Tensor:
    """The fixed-point sum in Python integers. An fp32 value times 2^bits is exact in fp64; `round` is half-even too."""
    columns = zip(*(vectors[i].tolist() for i in ids), strict=True)
    return torch.tensor([sum(round(v * 2**wire.bits) for v in column) / 2**wire.bits for column in columns],
                        dtype=torch.float64).float()


# ---- the sum -----------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_sum_is_exact_for_every_drop_out_pattern_or_the_round_fails(data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 6))
    wire = SecAgg(threshold=data.draw(st.sampled_from([0.5, 0.67, 1.0])))
    drops = {f"party-{i}": p for i in range(n) if (p := data.draw(st.sampled_from([None, None, *PHASES])))}
    vectors = vectors_of(n, 5, seed=n, scale=100.0)
    left, alive, t = {}, dict(vectors), 0
    for phase in PHASES:
        alive = {i: v for i, v in alive.items() if drops.get(i) != phase}
        left[phase] = alive
        if phase == "keys":
            t = max(len(alive) // 2 + 1, math.ceil(wire.threshold * len(alive) - 1e-9))
    if len(left["keys"]) >= 3 and all(len(left[p]) >= t for p in PHASES):
        assert torch.equal(drive(wire, vectors, drops).total, oracle(wire, vectors, left["upload"]))
    else:
        try:
            assert drive(wire, vectors, drops).total is None  # nobody was left to upload
        except RoundFailed as e:
            assert "secagg" in str(e)


def test_every_subset_of_survivors_of_five() -> None:
    wire, vectors = SecAgg(threshold=0.5), vectors_of(5, 7)
    for gone in itertools.chain.from_iterable(itertools.combinations(vectors, k) for k in range(3)):
        done = drive(wire, vectors, dict.fromkeys(gone, "upload"))
        assert torch.equal(done.total, oracle(wire, vectors, [i for i in vectors if i not in gone]))


@pytest.mark.parametrize("n,t", [(3, 3), (4, 3), (5, 4), (10, 7), (30, 21)])
def test_threshold_by_default_exceeds_two_thirds(n: int, t: int) -> None:
    assert SecAgg().needed(n) == t and 3 * t > 2 * n
    assert SecAgg(threshold=0.5).needed(n) == n // 2 + 1


def test_too_few_parties_and_too_few_survivors_fail_with_numbers() -> None:
    with pytest.raises(RoundFailed, match="2 parties gave keys"):
        drive(SecAgg(), vectors_of(2, 4))
    for phase, did in zip(PHASES[1:], ("shared their keys", "uploaded", "revealed their shares"), strict=True):
        with pytest.raises(RoundFailed, match=f"3 of 5 parties {did}, 4 are needed"):
            drive(SecAgg(), vectors_of(5, 4), {"party-0": phase, "party-4": phase})
    with pytest.raises(RoundFailed, match="stays masked"):
        drive(SecAgg(), vectors_of(5, 4), dict.fromkeys(vectors_of(5, 4), "unmask"))


def test_long_vectors_cross_chunks() -> None:
    vectors = vectors_of(4, (1 << 16) + 3)
    wire = SecAgg()
    done = drive(wire, vectors, {"party-2": "upload"})
    want = sum((vectors[i].double() * 2.0**32).round().long() for i in vectors if i != "party-2")
    assert torch.equal(done.total, (want.double() / 2.0**32).float())


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
    vectors = vectors_of(7, 4)
    done = drive(SecAgg(threshold=0.5), vectors, {"party-1": "upload", "party-4": "upload", "party-2": "unmask"})
    roster, kinds = list(vectors), {j: set() for j in range(7)}
    for i, m in done.heard["unmask"].items():
        held = done.states[i]["_session"].held
        for j, row in zip(sorted(held), m.side["shares"], strict=True):
            key, seed = held[j][:shamir.WIDTH], held[j][shamir.WIDTH:]
            kinds[j].add({key: "key", seed: "seed"}[bytes(row.tolist())])
    assert kinds == {j: {"key" if roster[j] in ("party-1", "party-4") else "seed"} for j in range(7)}
    assert not set(done.host["seeds"]) & set(done.host["private"])


def test_second_contradictory_request_is_refused() -> None:
    done = drive(SecAgg(threshold=0.5), vectors_of(5, 4), {"party-4": "upload"})
    wire, state, ctx = SecAgg(threshold=0.5), done.states["party-0"], Ctx(0, round=3, client="party-0")

    def ask(*survivors: str) -> Message:
        return next(wire.leave(state, nothing(survivors=list(survivors)), ctx)).message

    ask("party-0", "party-1", "party-2", "party-3")
    for other in (("party-0", "party-1", "party-2", "party-3", "party-4"), ("party-0", "party-1", "party-2")):
        with pytest.raises(ClientFailed, match="both secrets"):
            ask(*other)


@pytest.mark.parametrize("survivors", [["party-0", "party-1"], ["party-1", "party-2", "party-3", "party-4"],
                                       ["party-0", "party-1", "party-2", "party-5"], [],
                                       ["party-0", "party-0", "party-1", "party-2"]])
def test_unsafe_survivor_lists_are_refused(survivors: list[str]) -> None:
    wire, vectors = SecAgg(threshold=0.5), vectors_of(6, 4)

    def lie(phase: str, to: str, m: Message) -> Message:
        return replace(m, info={"survivors": survivors}) if (phase, to) == ("upload", "party-0") else m

    done = drive(wire, vectors, {"party-5": "shares"}, replies=lie)
    assert set(done.failed) == {"party-0"}
    assert torch.equal(done.total, oracle(wire, vectors, [i for i in vectors if i != "party-5"]))


# ---- damage and lies ---------------------------------------------------------------------------------------
def test_tampered_ciphertext_fails_that_party_alone() -> None:
    wire, vectors = SecAgg(threshold=0.5), vectors_of(5, 4)

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
    wire, vectors = SecAgg(threshold=0.5), vectors_of(6, 4)
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
        return replace(m, side={"shares": m.side["shares"] ^ 1}) if (phase, by) == ("unmask", "party-0") else m

    for drops in ({}, {"party-3": "upload"}):
        with pytest.raises(RoundFailed):
            drive(SecAgg(threshold=0.5), vectors_of(5, 4), drops, sent=lie)


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


@pytest.mark.parametrize("change", [{"roster": ["party-0"]}, {"roster": ["party-0", "party-1", "party-1", "party-3"]},
                                    {"roster": ["party-9", "party-1", "party-2", "party-3"]}])
def test_unusable_rosters_are_refused(change: dict[str, Any]) -> None:
    def lie(phase: str, to: str, m: Message) -> Message:
        if (phase, to) != ("keys", "party-0"):
            return m
        return replace(m, info=change, side={"keys": m.side["keys"][:len(change["roster"])]})

    done = drive(SecAgg(threshold=0.5), vectors_of(4, 4), replies=lie)
    assert set(done.failed) == {"party-0"}


def test_phase_is_served_once_and_strangers_are_refused() -> None:
    done = drive(SecAgg(), vectors_of(4, 4))
    with pytest.raises(RoundFailed, match="after it was closed"):
        SecAgg().serve(done.host, "keys", done.heard["keys"], Ctx(0, round=3))
    host = {k: v for k, v in done.host.items() if k != "unmask"}
    with pytest.raises(RoundFailed, match="not in the one before"):
        SecAgg().serve(host, "unmask", {"mallory": nothing()}, Ctx(0, round=3))


# ---- ranges ------------------------------------------------------------------------------------------------
def test_value_out_of_range_fails_its_party_with_the_way_out() -> None:
    wire, vectors = SecAgg(range_bound=4.0, threshold=0.5), vectors_of(5, 6)
    vectors["party-1"][3], vectors["party-2"][0] = 4.5, float("nan")
    vectors["party-0"][1] = -4.0  # at the bound
    done = drive(wire, vectors)
    assert set(done.failed) == {"party-1", "party-2"} and "raise its range_bound" in done.failed["party-1"]
    assert torch.equal(done.total, oracle(wire, vectors, ["party-0", "party-3", "party-4"]))


def test_cohort_that_could_overflow_is_refused_at_the_keys() -> None:
    assert SecAgg(bits=32, range_bound=2.0**20).capacity == 2047
    assert SecAgg(bits=40, range_bound=2.0**20).capacity == 7
    wire = SecAgg(bits=60, range_bound=2.0)
    assert wire.capacity == 3
    extreme = {f"party-{i}": torch.tensor([2.0, -2.0]) for i in range(3)}
    assert drive(wire, extreme).total.tolist() == [6.0, -6.0]  # the edge itself does not wrap
    with pytest.raises(RoundFailed, match=r"lower bits or range_bound, or take at most 3 parties"):
        drive(wire, extreme | {"party-3": torch.zeros(2)})


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


def test_shares_meant_for_another_attempt_do_not_open() -> None:
    a, b = b"\3" * 32, b"\4" * 32
    about, other = masks.topic("t", 0, 1), masks.topic("t", 1, 0)
    key = masks.agree(a, masks.public(b), about)
    assert masks.agree(b, masks.public(a), about) == key != masks.agree(a, masks.public(b), other)
    sealed = masks.seal(key, b"share", about)
    assert masks.unseal(key, sealed, about) == b"share"
    with pytest.raises(ValueError, match="altered"):
        masks.unseal(key, sealed, other)


def test_mask_stream_is_aes_256_counter_mode() -> None:
    """The oracle is the block cipher itself on the counters 0, 1, 2."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes(range(32))
    blocks = b"".join(k.to_bytes(16, "big") for k in range(3))
    want = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(blocks)
    x = torch.zeros(5, dtype=torch.int64)
    masks.add(x, key, 1)
    assert bytes(x.view(torch.uint8).tolist()) == want[:40]
    masks.add(x, key, -1)
    assert not x.any()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_shamir_any_t_shares_give_the_secret(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 8))
    t = data.draw(st.integers(1, n))
    secret = data.draw(st.binary(min_size=32, max_size=32))
    shares = dict(enumerate(shamir.split(secret, t, n, Ctx.secret), 1))
    some = data.draw(st.permutations(sorted(shares)))[:t]
    assert shamir.join({x: shares[x] for x in some}, 32) == secret


def test_fewer_than_t_shares_fit_every_secret() -> None:
    """t - 1 shares and any claimed secret interpolate to a polynomial of degree t - 1: they rule nothing out."""
    shares = shamir.split(b"\7" * 32, 3, 5, Ctx.secret)
    for claim in (0, 1, 2**255):
        # Through (0, claim), (1, s1), (2, s2): the value at 3 of that polynomial completes a valid sharing.
        s1, s2 = (int.from_bytes(s, "big") for s in shares[:2])
        third = (claim - 3 * s1 + 3 * s2) % shamir.PRIME  # third differences of a quadratic vanish
        forged = {1: shares[0], 2: shares[1], 3: third.to_bytes(shamir.WIDTH, "big")}
        assert shamir.join(forged, 32) == claim.to_bytes(32, "big")
    with pytest.raises(ValueError, match="not of one secret"):
        shamir.join({1: shares[0], 2: shares[1], 3: bytes(shamir.WIDTH)}, 32)


# ---- in the loop --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Leave(Pace):
    """Drop-outs by (round, party, phase)."""

    at: tuple[tuple[int, str, str], ...] = ()

    def lost(self, phase: str, ctx: Ctx) -> bool:
        return (ctx.round, ctx.client, phase) in self.at


def trained(folder: Any, **slots: Any) -> tuple[list[dict[str, Any]], Tensor, list[Any]]:
    """Records, model and privacy events of six parties on a quadratic, three rounds."""
    data = Quadratics(a=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0), b=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0))
    fed = Federation(Quadratic(dim=40), data, client=Local(lr=0.01, steps=2, batch=0), rounds=3,
                     aggregate=Mean(weights="equal"), **slots)
    assert check(fed) == []
    parties, engine = fed.data.open(0), fed.engine.make()
    site = Site(fed, fed.task.open(parties), parties, Store(folder / "clients"))
    engine.open(site)
    run = Run(fed, folder, site, engine)
    records = list(run.rounds())
    engine.close()
    events = [e for e in ledger.read(folder / "events.jsonl") if e["kind"] == "privacy"]
    return records, fed.server.model(run.state.server), events


def test_loop_with_drop_outs_gives_the_plain_model(tmp_path: Any) -> None:
    gone = ((0, "party-1", "keys"), (0, "party-2", "shares"), (1, "party-3", "upload"), (1, "party-4", "unmask"))
    plain = tuple((t, i, "upload") for t, i, phase in gone if phase != "unmask")
    _, want, _ = trained(tmp_path / "plain", pace=Leave(plain))
    records, got, _ = trained(tmp_path / "masked", pace=Leave(gone), uplink=SecAgg(threshold=0.5))
    assert [r["clients"] for r in records[1:]] == [4, 5, 6] and not any(r.get("failed") for r in records)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    assert not list(tmp_path.glob("masked/clients/**/*.safetensors"))  # no secret was stored


def test_loop_adds_central_noise_to_the_unmasked_sum_once(tmp_path: Any) -> None:
    noise = ClipNoise(clip_norm=1.0, noise_multiplier=2.0)
    _, want, a = trained(tmp_path / "plain", uplink=noise)
    _, got, b = trained(tmp_path / "masked", uplink=Pipe(noise, SecAgg()))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert a == b and [e["round"] for e in a] == [0, 1, 2]


def test_loop_below_threshold_moves_nothing(tmp_path: Any) -> None:
    records, got, _ = trained(tmp_path, pace=Leave(((0, "party-0", "upload"), (1, "party-0", "keys"))),
                              uplink=SecAgg(threshold=1.0))
    assert "5 of 6 parties uploaded, 6 are needed" in records[1]["failed"]
    assert [r["clients"] for r in records[1:]] == [0, 5, 6]
