"""Test rows of what a person brings: their groups, and labels that nobody trains on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from fedfm.core.schema import Account, Lost
from fedfm.data.cleaning.columns import Pairs, Piece
from fedfm.data.cleaning.faults import Faults
from fedfm.data.source import Parties, Row, Shard, group_rows

NOT_TRAINED = "held-out row of a label that nobody trains on"
_MANY = 10  # rows of a class beside which a class of one is odd
NO_LABEL = ("-1", "-100")  # what data sets and losses have in the place of a label


def groups_of_tests(tests: Sequence[tuple[Piece, Pairs]]) -> tuple[Shard, ...]:
    """The groups of the test rows: the values of the group column, else the files, if there are several."""
    if not tests:
        return ()
    merged: dict[str, list[Row]] = {}
    for piece, pairs in tests:
        merged.setdefault(piece.group, []).extend(row for row, _ in pairs)
    shards = tuple(Shard(g if len(merged) > 1 else "", tuple(r)) for g, r in merged.items())
    return by_group(shards)


def by_group(shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
    """The same rows by their group column, when all have one."""
    grouped = group_rows([r for s in shards for r in s.rows])
    return grouped if grouped[0].party else shards


def unseen(rows: Sequence[tuple[Piece, Pairs]], faults: Faults) -> None:
    """Note the labels of test rows and of the server's that no training row has."""
    known = {r["label"] for p, pairs in rows if p.split == "train" for r, _ in pairs if "label" in r}
    if faults.problems:
        return  # of the training rows perhaps, whose labels are then missing here
    for piece, pairs in rows:
        if piece.split == "train":
            continue
        strange = Counter(r["label"] for r, _ in pairs if "label" in r and r["label"] not in known)
        for label, n in sorted(strange.items()):
            faults.add(
                piece.place,
                f"the label '{label}' is in the {piece.split} rows only ({n})",
                f"training has: {', '.join(sorted(known)[:12])}",
                _none_stands(label, piece.split) or "correct the spelling, or add training rows",
            )


def unlabelled(rows: Sequence[tuple[Piece, Pairs]]) -> Iterator[str]:
    """A word on what may be no label, and is trained on as a class: numbers that stand for none, names of a single row."""
    seen = Counter(r["label"] for p, pairs in rows if p.split == "train" for r, _ in pairs if "label" in r)
    for label in NO_LABEL:
        if seen[label] and "0" in seen and all(k.lstrip("-").isdigit() for k in seen):
            yield (
                f"the label '{label}' is a class like the others ({seen[label]} training rows); in many data sets it stands for no "
                "label: leave these rows out if it does here"
            )
    single = [label for label, n in seen.items() if n == 1]
    if single and max(seen.values()) >= _MANY:
        few, are = len(single) == 1, ", ".join(map(repr, single[:3])) + ", ..." * (len(single) > 3)
        yield (
            f"the label{'' if few else 's'} {are} {'is' if few else 'are'} in a single row{'' if few else ' each'}, others in up to "
            f"{max(seen.values())}: a slip of the pen, a line that is no row?"
        )


def _none_stands(label: str, split: str) -> str:
    """What to do about rows whose label is the number that stands for none; empty: it is a label."""
    if label not in NO_LABEL:
        return ""
    if split == "server":
        return f"{label} stands for no label: leave such rows out of the server's"
    return (
        f"{label} stands for no label: such rows cannot be tested on; test on labelled ones, often those called validation "
        "(data.test_path=..., in Python test=...), or leave the test rows out, and data.test_fraction holds some out"
    )


def labels_stay(parties: Parties) -> Parties:
    """Leave out, and count, the randomly held-out rows whose label nobody trains on."""
    trained = {r["label"] for s in parties.shards for r in s.rows if "label" in r}
    if not trained:
        return parties

    def kept(shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
        left = (Shard(s.party, tuple(r for r in s.rows if r.get("label") in trained)) for s in shards)
        return tuple(s for s in left if len(s))

    lost = [
        Lost(s.party if parties.own else "", "test", NOT_TRAINED, n)
        for s in (parties.own or parties.held_out)
        if (n := sum(r.get("label") not in trained for r in s.rows))
    ]
    if not lost:
        return parties
    return replace(
        parties,
        held_out=kept(parties.held_out),
        own=kept(parties.own),
        labels=tuple(sorted(trained)),
        account=parties.account + Account(tuple(lost)),
    )
