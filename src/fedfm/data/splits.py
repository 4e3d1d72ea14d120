"""Which rows are held out, which of them are the server's or public, and what the splits have in common."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedfm.cards.registry import knob
from fedfm.core.errors import DataError
from fedfm.core.schema import Column
from fedfm.data.cleaning.spellings import look_alike
from fedfm.data.partition.deal import apportion
from fedfm.data.source import LENT, Parties, Row, Shard, group_rows, lost, stream, topic, written

_NAMES = 6  # shown of many
UNUSED = "validation row beside test rows; data.server_rows takes them"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Base of the data specs: what the server and the public get is split from the held-out rows, the same way for all."""

    server_rows: int = knob(
        0,
        "rows of the server's own, for valuing and guiding: of a validation file beside a test file, else of the held-out "
        "rows (about so many where a chat gives several)",
        low=0,
    )
    public_rows: int = knob(0, "rows that everybody sees, taken from the held-out rows", low=0)
    public: Source | None = knob(None, "a data set of its own that everybody sees, all of its rows")
    own_test: float = knob(
        0.0,
        "share of each party's rows that are held out as its own test rows, drawn by group and label, for scores by "
        "party; they join the common test rows, unless these were given as such",
        low=0.0,
        high=0.9,
    )
    own_validation: float = knob(
        0.0,
        "share of each party's rows that it keeps to find the best round by, where parties have models of their own",
        low=0.0,
        high=0.9,
    )
    seed: int | None = knob(None, "of holding out and dividing; null: the run's seed")

    @property
    def agreed(self) -> frozenset[str]:
        """What is known before any party's rows are read: "schema" (class names), "test" (rows to score on)."""
        return frozenset({"schema", "test"})

    def open(self, seed: int, columns: Sequence[Column] | None = None) -> Parties:
        """Read, divide and hold out; the same seed gives the same rows in the same order.

        `columns`: what the task reads; None: whatever layout the rows have. Raises `DataError` with all problems.
        """
        seed = seed if self.seed is None else self.seed
        parties = self.read(seed, columns)
        _has(parties, columns, type(self).__name__)
        if self.own_test:
            if parties.own:
                raise DataError(
                    "data.own_test: the parties of this data set have test rows of their own already; leave it out"
                )
            shards, own = _apart(parties, self.own_test, "own_test", "source/own", seed)
            parties = replace(parties, shards=shards, own=own)
            if "test" not in self.agreed:  # what every party holds out is scored in common too
                parties = replace(
                    parties, held_out=group_rows([r for s in (*parties.held_out, *own) for r in s.rows])
                )
        if self.own_validation:
            shards, valid = _apart(parties, self.own_validation, "own_validation", "source/validation", seed)
            parties = replace(parties, shards=shards, valid=valid)
        common = None
        if self.public is not None:
            if self.public_rows:
                raise DataError("data.public and data.public_rows are both set; leave one of them out")
            common = self.public.open(seed, columns)
        return settle(parties, self.server_rows, self.public_rows, common, seed)

    def read(self, seed: int, columns: Sequence[Column] | None) -> Parties:
        """The parties' rows and the held-out rows, which `open` goes on with."""
        raise NotImplementedError


def opened(data: Any, seed: int, task: Any) -> Parties:
    """The data of a federation as its task reads them; a spec that is no `Source` is opened by its seed alone."""
    if isinstance(data, Source):
        return data.open(seed, task.columns or None)
    parties: Parties = data.open(seed)
    return parties


def settle(parties: Parties, server: int, public: int, common: Parties | None, seed: int) -> Parties:
    """Give the server and the public their rows, drawn by group and label: the server's from `parties.house` where the
    data set has rows for it, else, as the public's, from the held-out rows."""
    parties, house = (_taken if parties.house is None else _spared)(parties, server, "server_rows", seed)
    parties, shown = _taken(parties, public, "public_rows", seed)
    if common is not None:
        rows = (*common.pooled().rows, *common.test().rows)
        known, used = {fingerprint(r) for r in rows}, _fingerprints(parties)
        if both := sum(len(known & prints) > 0 for prints in used.values()):
            note = f"public rows are also rows of {both} of the parties' and test sets"
            parties = replace(parties, notes=(*parties.notes, note))
        shown = Shard("public", rows)
    return replace(
        parties,
        house=None if house is None else Shard("server", house),
        shown=shown if isinstance(shown, Shard) or shown is None else Shard("public", shown),
    )


def _taken(parties: Parties, count: int, what: str, seed: int) -> tuple[Parties, Any]:
    if not count:
        return parties, None
    rows = [(g, r) for g, s in enumerate(parties.held_out) for r in s.rows]
    if count >= len(rows):
        raise DataError(
            f"data.{what}={count} would leave no test row: {len(rows)} rows are held out; "
            f"hold out more (data.test_fraction), or lower data.{what}"
        )
    kinds = [f"{g}/{topic(r)}" for g, r in rows]
    chosen = set(sample_whole(kinds, [r for _, r in rows], count, stream(seed, f"source/{what}")))
    mine = {id(r) for i, (_, r) in enumerate(rows) if i in chosen}
    taken = tuple(r for i, (_, r) in enumerate(rows) if i in chosen)

    def without(shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
        return tuple(Shard(s.party, tuple(r for r in s.rows if id(r) not in mine)) for s in shards)

    return replace(parties, held_out=without(parties.held_out), own=without(parties.own)), taken


def _spared(parties: Parties, count: int, what: str, seed: int) -> tuple[Parties, Any]:
    """The server's rows out of those that the data set has for it; the others are lost, and counted."""
    assert parties.house is not None
    rows = parties.house.rows
    if count > len(rows):
        raise DataError(
            f"data.{what}={count}, and there are {len(rows)} validation rows\n    fix: data.{what}={len(rows)}"
        )
    chosen = (
        sample_whole([_kind(r) for r in rows], rows, count, stream(seed, f"source/{what}")) if count else []
    )
    left = lost({UNUSED: len(rows) - len(chosen)}, "server")
    return replace(parties, house=None, account=parties.account + left), tuple(
        rows[i] for i in chosen
    ) or None


def _kind(row: Row) -> str:
    """What a row is drawn by: its group and its label."""
    group = row.get("group")
    return f"{group}/{topic(row)}" if group is not None and "label" in row else topic(row) or ""


def sample_whole(
    kinds: Sequence[str], rows: Sequence[Row], count: int, rng: np.random.Generator
) -> list[int]:
    """`sample`, with the rows of one chat (of those that begin with one question) together: about `count` of them."""
    if not any("history" in r for r in rows):
        return sample(kinds, count, rng)
    of: dict[str, list[int]] = defaultdict(list)
    for i, r in enumerate(rows):
        asked = (t["content"] for t in r.get("history", ()) if t["role"] == "user")
        of[str(next(asked, r.get("instruction")))].append(i)
    chats = list(of.values())
    n = min(max(round(count * len(chats) / len(rows)), 1), len(chats))
    return sorted(i for k in sample([kinds[c[0]] for c in chats], n, rng) for i in chats[k])


def _apart(
    parties: Parties, fraction: float, what: str, purpose: str, seed: int
) -> tuple[tuple[Shard, ...], tuple[Shard, ...]]:
    """Training rows without a share of every party's, drawn by group and label, and that share; none is left without."""
    shards, own = [], []
    for s in parties.shards:
        count, rng = max(1, round(fraction * len(s))), stream(seed, f"{purpose}/{s.party}")
        held = set(sample_whole([_kind(r) for r in s.rows], s.rows, count, rng)) if count < len(s) else set()
        if not 0 < len(held) < len(s):
            raise DataError(f"data.{what}={fraction:g} would leave {s.party} no training row of its {len(s)}")
        shards.append(Shard(s.party, tuple(r for i, r in enumerate(s.rows) if i not in held)))
        own.append(Shard(s.party, tuple(r for i, r in enumerate(s.rows) if i in held)))
    return tuple(shards), tuple(own)


def sample(kinds: Sequence[str], count: int, rng: np.random.Generator) -> list[int]:
    """`count` row numbers, ascending: of each kind (group and label) its share, rounded by largest remainder."""
    by_kind: dict[str, list[int]] = defaultdict(list)
    for i, kind in enumerate(kinds):
        by_kind[kind].append(i)
    names = sorted(by_kind)
    sizes = np.array([len(by_kind[n]) for n in names])
    quota = apportion(sizes / sizes.sum(), count)
    return sorted(
        i for n, k in zip(names, quota, strict=True) for i in rng.permutation(by_kind[n])[:k].tolist()
    )


Pairs = list[tuple[Row, Mapping[str, Any]]]


def hold_out(rows: Pairs, fraction: float, rng: np.random.Generator) -> tuple[Pairs, Pairs]:
    """Train and test rows in their order; at least one row stays in training, and a chat's rows stay together."""
    place: dict[int, int] = {}
    whole = [place.setdefault(id(own), len(place)) for _, own in rows]
    count = min(max(round(len(place) * fraction), 1 if fraction > 0 else 0), len(place) - 1)
    held = set(rng.permutation(len(place))[: max(count, 0)].tolist())
    parts = [k in held for k in whole]
    return (
        [r for r, out in zip(rows, parts, strict=True) if not out],
        [r for r, out in zip(rows, parts, strict=True) if out],
    )


def _has(parties: Parties, columns: Sequence[Column] | None, what: str) -> None:
    """A data set of another kind than the task reads is refused here, for all tasks alike."""
    from fedfm.data.cleaning.columns import lacking

    if not columns or not any(len(s) for s in parties.shards):
        return
    if missing := lacking(tuple(columns), {}, parties.columns):
        raise DataError(
            f"the task reads {', '.join(c.name for c in columns if c.required)}; {what} gives "
            f"{', '.join(parties.columns)}, and no {' or '.join(missing)}: take another task, or other data"
        )


# ---- comparing ------------------------------------------------------------------------------------------------
def fingerprint(row: Mapping[str, Any]) -> bytes:
    """A hash of what a row says, without whose it is."""
    if tuple(row) == LENT:
        return bytes.fromhex(row["holds"])
    return hashlib.sha256(written({k: v for k, v in row.items() if k != "group"})).digest()


def _fingerprints(parties: Parties) -> dict[str, set[bytes]]:
    found = {s.party: {fingerprint(r) for r in s.rows} for s in parties.shards}
    return {**found, "the test set": {fingerprint(r) for s in parties.held_out for r in s.rows}}


def compared(parties: Parties) -> tuple[str, ...]:
    """What a person should know about rows of two splits or parties: doubles, and labels that look alike."""
    prints = {s.party: Counter(fingerprint(r) for r in s.rows) for s in parties.shards}
    notes = []
    tests = [fingerprint(r) for s in parties.held_out for r in s.rows]
    if leaked := Counter(t for t in tests if any(t in own for own in prints.values())):
        who = [name for name, own in prints.items() if any(t in own for t in leaked)]
        n = sum(leaked.values())
        notes.append(f"{n} of {len(tests)} test rows are also in the training rows (of {_some(who)})")
    same: dict[frozenset[tuple[bytes, int]], list[str]] = defaultdict(list)
    for name, own in prints.items():
        same[frozenset(own.items())].append(name)
    for names in same.values():
        if len(names) > 1:
            notes.append(f"the parties {_some(names)} hold the same rows")
    double = {name: n for name, own in prints.items() if (n := sum(own.values()) - len(own))}
    if double:
        notes.append(
            f"{sum(double.values())} training rows are duplicates of others of their party ({_some(double)})"
        )
    return (*notes, *_contradicting(parties), *_one_class(parties), *_labels(parties))


def _one_class(parties: Parties) -> Iterable[str]:
    """Of one class alone whatever is said is right."""
    found = set[object]()
    for row in (r for s in parties.shards for r in s.rows):
        y = row.get("label", row.get("y"))
        if y is None or getattr(y, "shape", ()) != ():
            return
        found.add(y.item() if hasattr(y, "item") else y)
        if len(found) > 1:
            return
    if found:
        yield f"every training row has the same target ({found.pop()}): there is nothing to tell apart"


def _labels(parties: Parties) -> Iterable[str]:
    yield from look_alike("parties", parties.ids, {})
    if not parties.labels:
        return
    of = {s.party: {r["label"] for r in s.rows if "label" in r} for s in parties.shards}
    yield from look_alike("labels", parties.labels, of)
    alone = [name for name, own in of.items() if not any(own & o for n, o in of.items() if n != name)]
    if len(of) < 2 or not alone or max(map(len, of.values())) < 2:
        return
    told = "; ".join(f"{name}: {_some(sorted(of[name]))}" for name in alone[:3])
    if len(alone) == len(of):
        yield f"no two parties share a label ({told})"
        return
    theirs = set().union(*(own for name, own in of.items() if name not in alone))
    each = "shares" if len(alone) == 1 else "share"
    yield (
        f"{_some(alone)} {each} no label with another party ({told}; the others: {_some(sorted(theirs))}): if the classes are the "
        "same, give them one name"
    )


def _contradicting(parties: Parties) -> Iterable[str]:
    """Texts and pictures that stand under several labels: whichever is learnt, the others are wrong."""
    known: dict[bytes, Counter[str]] = defaultdict(Counter)
    for row in (r for s in parties.shards for r in s.rows if "label" in r and "x" not in r):
        known[_input(row)][row["label"]] += 1
    several = [labels for labels in known.values() if len(labels) > 1]
    if several:
        pair = sorted(several[0])[:2]
        yield (
            f"{len(several)} training inputs stand under several labels ({sum(map(Counter.total, several))} rows; one is "
            f"{' and '.join(map(repr, pair))})"
        )
    tests = [r for s in parties.held_out for r in s.rows if "label" in r and "x" not in r] if known else []
    none = Counter[str]()
    if other := sum(bool(own := known.get(_input(r), none)) and r["label"] not in own for r in tests):
        yield f"{other} of {len(tests)} test rows are training rows under another label"


def _input(row: Mapping[str, Any]) -> bytes:
    return fingerprint({k: v for k, v in row.items() if k != "label"})


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMES]) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")
