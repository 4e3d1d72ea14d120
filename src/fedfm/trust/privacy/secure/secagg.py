"""Secure aggregation by double masking: the server learns the sum of the updates and nothing else of them."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, RoundFailed
from fedfm.core.message import Message, nothing
from fedfm.core.protocols import Barrier, Replies, Say, State, Wire
from fedfm.trust.privacy.secure import masks, shamir
from fedfm.trust.privacy.secure.words import message, rows, unrow, usable
from fedfm.vectors.layout import Layout

CHUNK = 1 << 16  # elements: the fp64 temporaries stay in cache
SEALED = 2 * shamir.WIDTH + masks.TAG  # bytes: a share of the mask key, a share of the seed, the tag
SESSION = "_session"  # the leading underscore keeps it off the disk


@dataclass
class Member:
    """One party's secrets and what it has revealed, for one attempt at one round."""

    me: int  # position in the roster
    roster: tuple[str, ...]
    threshold: int
    own: bytes = field(repr=False)  # key of its self-mask
    pairs: dict[int, bytes] = field(repr=False)  # party -> key of the mask shared with it; emptied by use
    held: dict[int, bytes] = field(repr=False)  # party -> share of its mask key, then of its seed
    masked: bool = False
    revealed: dict[int, str] = field(default_factory=dict)  # party -> "seed" | "key", never both


@method(
    "secagg",
    slot="wire",
    section="V.B",
    survey=(211, 225),
    paper="Bonawitz et al.: Practical secure aggregation for privacy-preserving machine learning, "
    "ACM CCS 2017",
    departs="ring Z_2^64 whatever the cohort; keys unsigned and no consistency round (semi-honest server)",
    atlas=("secagg",),
    also=("secure-aggregation", "masks"),
)
@dataclass(frozen=True)
class SecAgg(Wire):
    """Bonawitz double masking over Z_2^64: drop-outs at any point, the exact fixed-point sum or no sum at all.

    Each party adds to its encoded update a self-mask and, with every other party, a pair mask that cancels in the
    sum. Seeds and mask keys are Shamir-shared: of a party that uploaded the seed is rebuilt, of one that dropped out
    the mask key, never both. Of the n >= 3 parties that gave keys t = max(ceil(threshold * n), the least t with
    t (t - 1) > n (n - t)) must remain to the end, else RoundFailed. A value x travels as round(x * 2^bits), so a sum of
    k is off by at most k * 2^-(bits+1); n * range_bound * 2^bits < 2^63. Upload: 8 bytes a value, 0.3 kB a pair.

    Threat model: a semi-honest server (it follows the protocol and looks at all it gets) that colludes with at most
    t - 1 parties learns the sum of the others' updates, and who took part. A server that names different survivors to
    different parties gets both shares of one party only with 2t - n or more colluders. Not covered: a server that
    makes up parties or exchanges their keys (they are unsigned); a sum of few parties, or of rounds that differ in one
    party, which says much about it (add noise); a party that lies about its values or spoils the sum; a party that
    sends damaged shares fails whoever receives them.
    """

    threshold: float = knob(0.67, "share of the parties that must remain to the end", low=0.62, high=1.0)
    bits: int = knob(32, "fractional bits of the fixed-point values", low=0, high=60)
    range_bound: float = knob(
        2.0**20, "largest |value| of a weighted update, and of a weight", low=2.0**-40, high=2.0**52
    )

    linear: ClassVar[bool] = True
    after_sum: ClassVar[bool] = True
    opaque: ClassVar[bool] = True
    covers: ClassVar[frozenset[str]] = frozenset({"x", "mass"})
    against: ClassVar[str] = "server"
    least: ClassVar[int] = 3  # parties: of two, each learns the other's update from the sum
    phases: ClassVar[Mapping[str, Barrier]] = dict.fromkeys(("keys", "shares", "upload", "unmask"), "all")

    def __post_init__(self) -> None:
        if not 0.62 <= self.threshold <= 1.0:
            raise ValueError(
                f"a threshold of {self.threshold:g} is refused: below 0.62 a server that names other survivors to other "
                "parties gets both secrets of one party without any helper, and reads its update"
            )

    def needed(self, n: int) -> int:
        """The threshold t for n parties, the smallest with t (t - 1) > n (n - t) at least.

        t parties can each be told of n - t drop-outs; n (n - t) shares are enough for t - 1 others' mask keys otherwise.
        """
        t = max(n // 2 + 1, math.ceil(self.threshold * n - 1e-9))
        while t * (t - 1) <= n * (n - t):
            t += 1
        return t

    @property
    def step(self) -> float:  # type: ignore[override]
        return 2.0**-self.bits

    def survivors(self, parties: int) -> int:
        return self.needed(parties)

    def fits(self, magnitude: float, parties: int) -> str:
        bound = max(self.range_bound, 2.0 ** math.ceil(math.log2(max(magnitude, 1.0))))
        bits = min(self.bits, int(62 - math.log2(bound * max(parties, 1))))
        fits = magnitude <= self.range_bound and parties <= self.capacity
        most = f" of {self.capacity} parties" if parties > self.capacity else ""
        declared = f"secagg was declared values up to {self.range_bound:g}{most}"
        return "" if fits else f"{declared}: range_bound={math.ceil(bound)}, bits={bits}"

    @property
    def capacity(self) -> int:
        """The most parties whose sum cannot overflow: n * range_bound * 2^bits < 2^63."""
        return (2**63 - 1) // self._peak

    @property
    def _peak(self) -> int:
        """The largest magnitude of one encoded value."""
        return math.ceil(self.range_bound * 2.0**self.bits)

    # ---- the client ----------------------------------------------------------------------------------------
    def join(self, state: State, ctx: Ctx) -> Generator[Say, Message, State]:
        """Exchange keys, then sealed shares. Raises ClientFailed on anything that the protocol does not allow."""
        channel, private, seed = ctx.secret(masks.KEY), ctx.secret(masks.KEY), ctx.secret(masks.KEY)
        mine = masks.public(channel) + masks.public(private)
        answer = yield Say("keys", message({"model": ctx.brief}, keys=rows([mine])))
        roster, given = _roster(answer, ctx, mine)
        n, me = len(roster), roster.index(ctx.client)
        if n > self.capacity:
            raise ClientFailed(self._too_many(n))
        # parties with other views, or that were given another model, derive other keys
        topic = masks.topic(ctx.round, ctx.attempt, roster, given, ctx.brief)
        t = self.needed(n)
        secrets = (shamir.split(s, t, n, ctx.secret) for s in (private, seed))
        shares = [key + own for key, own in zip(*secrets, strict=True)]
        mask = masks.derive(seed, masks.topic(topic, "self", me))
        member = Member(me, roster, t, mask, {}, {me: shares[me]})

        def sealing(a: int, b: int) -> tuple[bytes, bytes]:
            about = masks.topic(topic, "shares", a, b)
            return masks.agree(channel, given[b if a == me else a][: masks.KEY], about), about

        try:
            sealed = []
            for j in range(n):
                if j != me:
                    key, about = sealing(me, j)
                    sealed.append(masks.seal(key, shares[j], about))
            answer = yield Say("shares", message(sealed=rows(sealed)))
            others = [j for j in _positions(member, answer, "shared") if j != me]
            for j, row in zip(others, unrow(answer.side.get("sealed"), len(others), SEALED), strict=True):
                key, about = sealing(j, me)
                member.held[j] = masks.unseal(key, row, about)
                member.pairs[j] = _pair(topic, private, given[j][masks.KEY :], me, j)
        except ValueError as e:
            raise ClientFailed(f"{ctx.client} leaves the secure aggregation: {e}") from e
        return state | {SESSION: member}

    def gives(self, layout: Layout) -> Layout:
        return layout  # an integer for each value; masses stand behind them

    def holds(self, x: Tensor, n: int) -> bool:
        return x.shape == (n,) and x.dtype == torch.int64

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        """Fixed point, then masks; x: floats, int64 comes back. Raises ClientFailed."""
        member = _member(state, ctx)
        if member.masked:
            raise ClientFailed(
                f"{ctx.client} was asked to mask twice with one set of keys; the difference would show"
            )
        out = self._fixed(x, ctx)
        member.masked = True
        masks.add(out, member.own, 1)
        for j, key in member.pairs.items():
            masks.add(out, key, 1 if j > member.me else -1)
        member.pairs.clear()
        return out, {}, state

    def leave(self, state: State, reply: Message, ctx: Ctx) -> Generator[Say, Message, None]:
        """Reveal shares: of survivors the seed's, of drop-outs the mask key's. Raises ClientFailed if unsafe."""
        member = _member(state, ctx)
        survivors = set(_positions(member, reply, "survivors"))
        if not survivors <= set(member.held):
            raise ClientFailed(
                f"{ctx.client} was told of survivors that never shared their keys, and reveals nothing"
            )
        asked = {j: "seed" if j in survivors else "key" for j in sorted(member.held)}
        if any(member.revealed.get(j, kind) != kind for j, kind in asked.items()):
            raise ClientFailed(
                f"{ctx.client} was asked for both secrets of one party, and reveals nothing more"
            )
        member.revealed |= asked
        half = shamir.WIDTH
        yield Say(
            "unmask",
            message(
                shares=rows(
                    [
                        member.held[j][half:] if kind == "seed" else member.held[j][:half]
                        for j, kind in asked.items()
                    ]
                )
            ),
        )

    # ---- the server ----------------------------------------------------------------------------------------
    def admits(self, host: State, phase: str, sender: str) -> str:
        """Out of order is whoever comes to a phase that was closed, or was not in the one before."""
        if phase in host:
            return f"secagg: {sender} came to phase '{phase}' after it was closed"
        before = {"shares": "roster", "upload": "sharers", "unmask": "survivors"}.get(phase)
        if before is None:
            return ""
        roster, seen = host.get("roster", ()), host.get(before, ())
        if sender in (seen if before == "roster" else {roster[j] for j in seen}):
            return ""
        return f"secagg: {sender} came to phase '{phase}' and was not in the one before"

    def serve(
        self, host: State, phase: str, messages: Mapping[str, Message], ctx: Ctx
    ) -> tuple[Replies, State]:
        """Answer a barrier; raises RoundFailed below the threshold. Who speaks out of order gets no answer."""
        messages = {i: m for i, m in messages.items() if not self.admits(host, phase, i)}
        if not messages:
            return {}, host
        replies, new = {
            "keys": self._keys,
            "shares": self._shares,
            "upload": self._upload,
            "unmask": self._unmask,
        }[phase](host, messages, ctx)
        return replies, host | {phase: True} | new

    def _keys(self, host: State, messages: Mapping[str, Message], ctx: Ctx) -> tuple[Replies, State]:
        probe = ctx.secret(masks.KEY)
        given = {}
        for i, (keys,) in usable(messages, "keys", 1, 2 * masks.KEY).items():
            try:
                masks.agree(probe, keys[: masks.KEY], b""), masks.agree(probe, keys[masks.KEY :], b"")
                given[i] = keys
            except ValueError:  # a key of low order: its sender is left out
                continue
        roster, n = tuple(given), len(given)
        model = next((str(messages[i].info.get("model", "")) for i in roster), "")
        if n < self.least:
            raise RoundFailed(
                f"secagg: {n} parties gave keys; below 3, one learns another's update from the sum"
            )
        if n > self.capacity:
            raise RoundFailed(self._too_many(n))
        reply = message(_info={"roster": list(roster)}, keys=rows(list(given.values())))
        return dict.fromkeys(roster, reply), {
            "roster": roster,
            "publics": [k[masks.KEY :] for k in given.values()],
            "topic": masks.topic(ctx.round, ctx.attempt, roster, list(given.values()), model),
        }

    def _shares(self, host: State, messages: Mapping[str, Message], ctx: Ctx) -> tuple[Replies, State]:
        roster = host["roster"]
        sent: dict[int, dict[int, bytes]] = {}  # from -> to -> sealed shares
        for i, row in usable(messages, "sealed", len(roster) - 1, SEALED).items():
            a = roster.index(i)
            sent[a] = dict(zip([b for b in range(len(roster)) if b != a], row, strict=True))
        self._enough(host, len(sent), "shared their keys")
        shared = sorted(sent)
        names = [roster[a] for a in shared]
        return {
            roster[b]: message(_info={"shared": names}, sealed=rows([sent[a][b] for a in shared if a != b]))
            for b in shared
        }, {"sharers": shared}

    def _upload(self, host: State, messages: Mapping[str, Message], ctx: Ctx) -> tuple[Replies, State]:
        self._enough(host, len(messages), "uploaded")
        reply = message(_info={"survivors": list(messages)})
        return dict.fromkeys(messages, reply), {"survivors": sorted(map(host["roster"].index, messages))}

    def _unmask(self, host: State, messages: Mapping[str, Message], ctx: Ctx) -> tuple[Replies, State]:
        roster = host["roster"]
        told = usable(messages, "shares", len(host["sharers"]), shamir.WIDTH)
        self._enough(host, len(told), "revealed their shares")
        few = {roster.index(i) + 1: shares for i, shares in list(told.items())[: self.needed(len(roster))]}
        seeds: dict[int, bytes] = {}
        keys: dict[int, bytes] = {}
        for k, j in enumerate(host["sharers"]):
            try:
                secret = shamir.join({x: shares[k] for x, shares in few.items()}, masks.KEY)
            except ValueError as e:
                raise RoundFailed(f"secagg: the secret of {host['roster'][j]} cannot be rebuilt: {e}") from e
            (seeds if j in host["survivors"] else keys)[j] = secret
        for j, secret in keys.items():
            if masks.public(secret) != host["publics"][j]:
                raise RoundFailed(
                    f"secagg: the shares rebuild another mask key than {host['roster'][j]} announced"
                )
        return dict.fromkeys(messages, nothing()), {"seeds": seeds, "private": keys}

    def decode_sum(self, x: Tensor, host: State, ctx: Ctx) -> Tensor:
        """The sum of the survivors' updates as fp32, weights behind; x: int64, left as it is.

        Raises RoundFailed when it cannot be unmasked, or when it holds other uploads than the survivors'.
        """
        if x.dtype != torch.int64:
            raise RoundFailed(
                f"secagg: the sum is of {x.dtype}, masks are of int64; an upload was not masked"
            )
        if "seeds" not in host:
            n = len(host.get("roster", ()))
            raise RoundFailed(
                f"secagg: the sum stays masked; none of {n} parties revealed shares, "
                f"{self.needed(n)} are needed"
            )
        total, topic, publics = x.clone(), host["topic"], host["publics"]
        for j, seed in host["seeds"].items():
            masks.add(total, masks.derive(seed, masks.topic(topic, "self", j)), -1)
        for j, private in host["private"].items():
            for i in host["seeds"]:
                masks.add(total, _pair(topic, private, publics[i], i, j), -1 if j > i else 1)
        limit = len(host["seeds"]) * self._peak
        if total.numel() and (int(total.max()) > limit or int(total.min()) < -limit):
            raise RoundFailed(
                f"secagg: the unmasked sum lies outside the range of {len(host['seeds'])} "
                "updates; it is not of exactly the survivors' uploads, or a revealed share was wrong"
            )
        return (total.double() / 2.0**self.bits).float()

    # ---- parts ---------------------------------------------------------------------------------------------
    def _fixed(self, x: Tensor, ctx: Ctx) -> Tensor:
        out = torch.empty(x.numel(), dtype=torch.int64)
        for at in range(0, x.numel(), CHUNK):
            y = x[at : at + CHUNK].double()
            peak = float(y.abs().max())
            if not peak <= self.range_bound:  # NaN too
                raise ClientFailed(  # no value in it: the server reads this
                    f"{ctx.client} has a value beyond the {self.range_bound:g} that secagg was declared; raise its "
                    "range_bound, clip the update before it, or lower weights or learning rate"
                )
            out[at : at + CHUNK] = y.mul_(2.0**self.bits).round_().long()
        return out

    def _too_many(self, n: int) -> str:
        return (
            f"secagg: the sum of {n} parties could overflow: {n} * {self.range_bound:g} * 2^{self.bits} "
            f"is not below 2^63; lower bits or range_bound, or take at most {self.capacity} parties"
        )

    def _enough(self, host: State, count: int, did: str) -> None:
        n = len(host["roster"])
        if count < self.needed(n):
            raise RoundFailed(f"secagg: {count} of {n} parties {did}, {self.needed(n)} are needed")


def _member(state: State, ctx: Ctx) -> Member:
    member = state.get(SESSION)
    if not isinstance(member, Member):
        raise ClientFailed(
            f"{ctx.client} has no keys for secagg in this attempt; they come from its "
            "conversation before the work"
        )
    return member


def _roster(answer: Message, ctx: Ctx, mine: bytes) -> tuple[tuple[str, ...], list[bytes]]:
    """Names and keys of the cohort; refuses one that is too small, repeats itself, or shows other keys as mine."""
    roster = tuple(str(i) for i in answer.info.get("roster", ()))
    try:
        keys = unrow(answer.side.get("keys"), len(roster), 2 * masks.KEY)
    except ValueError as e:
        raise ClientFailed(f"{ctx.client} got a roster that cannot be used: {e}") from e
    halves = {k[: masks.KEY] for k in keys} | {k[masks.KEY :] for k in keys}
    if len(roster) < 3 or len(set(roster)) < len(roster) or len(halves) < 2 * len(roster):
        raise ClientFailed(
            f"{ctx.client} got a roster of {len(roster)} parties with repeated names or keys, or fewer than 3"
        )
    if dict(zip(roster, keys, strict=True)).get(ctx.client) != mine:
        raise ClientFailed(f"{ctx.client} got a roster that does not hold its own keys")
    return roster, keys


def _positions(member: Member, answer: Message, what: str) -> list[int]:
    """The parties that an answer names, in the order of the roster; they must be t or more, and hold this party."""
    named = [str(i) for i in answer.info.get(what, ())]
    places = sorted(member.roster.index(i) for i in set(named) & set(member.roster))
    if len(places) != len(named) or member.me not in places or len(places) < member.threshold:
        raise ClientFailed(
            f"{member.roster[member.me]} was told of {len(named)} parties that {what}; it "
            f"wants {member.threshold} or more of the {len(member.roster)} in its roster, itself "
            "among them, and reveals nothing"
        )
    return places


def _pair(topic: bytes, private: bytes, other: bytes, i: int, j: int) -> bytes:
    """The key of the mask that parties i and j share."""
    return masks.agree(private, other, masks.topic(topic, "pair", min(i, j), max(i, j)))
