"""What a person brings: one path for files, saved data sets and rows in memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from fedfm.cards.registry import knob
from fedfm.core.errors import DataError
from fedfm.core.schema import Account, Column, Lost, Unfit
from fedfm.data import kinds
from fedfm.data.cleaning.alike import alike, numeric, otherwise, several
from fedfm.data.cleaning.columns import Map, Pairs, Piece, clean, lacking, shadowed
from fedfm.data.cleaning.deeper import headed, inside, nested, owners
from fedfm.data.cleaning.escaped import escaped
from fedfm.data.cleaning.faults import Faults
from fedfm.data.cleaning.held import by_group, groups_of_tests, labels_stay, unlabelled, unseen
from fedfm.data.cleaning.layouts import TARGETS, Wanted, layout_of, unread, wanted, whose
from fedfm.data.cleaning.numbering import numbered, tabled
from fedfm.data.cleaning.proposals import headless, proposal, turned
from fedfm.data.cleaning.targets import as_text, named, no_classes, spelled
from fedfm.data.cleaning.uneven import uneven, unlike
from fedfm.data.reading.pairs import depicted
from fedfm.data.source import Parties, Partition, Shard, divide, stream
from fedfm.data.splits import UNUSED, Source, compared, hold_out
from fedfm.text import natural

_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


_LOOKS = (
    spelled,
    several,
    nested,
    uneven,
    shadowed,
)  # each notes what is wrong, and gives the places that are not read


@dataclass(frozen=True, kw_only=True)
class Own(Source):
    """Base of the specs that read a person's own rows: choose columns, clean, account, divide, hold out, compare."""

    empty: ClassVar[tuple[str, str]] = ("the file gives no rows", "fill it, or leave it out of the pattern")

    columns: dict[str, Any] = knob(
        doc="canonical name -> your column (or several: the first that is not empty), e.g. {text: body}; a party's own "
        "map: {hospital-a: {text: note}}",
        factory=dict,
    )
    party_column: str = knob("", "the column that names the party")
    partition: Partition | None = knob(None, "divide all rows this way instead of by file or column")
    test_fraction: float | None = knob(
        0.2,
        "share of every party's rows held out when there are no test rows",
        low=0.0,
        high=0.9,
        alternative="test",
    )
    test_group: str = knob("", "the column that names the test groups")
    image_size: int = knob(0, "pictures are resized to a square of so many pixels; 0: as they are", low=0)
    image_mode: str = knob("", "channels of pictures: grey, colour, or as they are", choices=("", "L", "RGB"))

    labels: tuple[str | int | bool, ...] | None = knob(
        (),
        "class names, agreed beforehand (needed under a guarantee; null: there are none); []: those of the training rows. "
        "Classes that are numbers (y) are called by them in the order given here",
        fitted=True,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", as_text(self.labels))

    @property
    def agreed(self) -> frozenset[str]:
        return frozenset({"schema"} if self.labels is None or self.labels else ())

    def pieces(self, seed: int, faults: Faults) -> list[Piece]:
        """The rows as they are, in order: of each party, or nobody's; those to train on, to test on, the server's."""
        raise NotImplementedError

    def read(self, seed: int, columns: Sequence[Column] | None) -> Parties:
        """Clean everything, check everything, divide; raises `DataError` with all problems at once."""
        no_classes(self.labels, [c.name for c in columns or ()])
        faults = Faults(f"'{getattr(type(self), 'method_name', type(self).__name__)}'")
        if self.party_column and self.partition is not None:
            why, fix = "a row can have one owner only", "leave one of them out"
            faults.add("partition", "both party_column and partition are set", why, fix)
        pieces = self._owned(depicted(self.pieces(seed, faults), columns, self.columns), faults)
        mapping, maps = self._maps({p.party for p in pieces if p.party}, faults)
        found = dict.fromkeys(k for p in pieces for k in p.has)
        mapped = dict.fromkeys([*mapping, *(c for m in maps.values() for c in m)])
        used = {s for m in (mapping, *maps.values()) for names in m.values() for s in names}
        if back := turned(pieces, columns, mapping):
            why = "a map reads canonical name: your column"
            faults.add("columns", "the map is the wrong way round", why, back)
            faults.settle()
        whose_ = {self.party_column, self.test_group} - {""}
        theirs = [f for f in found if f not in whose_]
        if not columns:
            other, layout = {"label", "group", *whose_}, layout_of(theirs)
            pieces = tabled(pieces, layout, other, used, faults, free=TARGETS.issuperset(mapped))
            found = dict.fromkeys(k for p in pieces for k in p.has)
            theirs = [f for f in found if f not in whose_]
        numbers = () if columns or layout_of(theirs) else numeric(pieces)
        asked = wanted(columns, mapped, theirs, faults, numbers, used)
        asked, mapping, maps = named(pieces, asked, mapping, maps, faults, declared=bool(columns))
        columns_ = self._pictured(asked)
        tests = any(p.split == "test" for p in pieces)
        account, rows = Account(), list[tuple[Piece, Pairs]]()
        unlike(pieces, _free(columns_, numbers if TARGETS.issuperset(mapped) else ()), faults)
        blamed = self._lacking(pieces, columns_, mapping, maps, faults)
        blamed |= {p for look in _LOOKS for p in look(pieces, columns_, mapping, maps, faults)}
        for piece in pieces:
            lost = Counter(piece.lost)
            own = maps.get(piece.party, mapping)
            needs = columns_
            if self.test_group and (piece.split != "train" or not tests):
                own, needs = {**own, "group": (self.test_group,)}, _grouped(columns_)
                if piece.lines and self.test_group not in piece.has:
                    fix = "name one of them: data.test_group=COLUMN"
                    faults.absent(piece.place, self.test_group, "test_group", piece.has, fix)
            pairs = [] if piece.place in blamed else clean(piece, needs, own, faults, lost)
            account += piece.account(lost)
            rows.append((piece, pairs))
        self._no_rows(rows, account, faults)
        alike(rows, faults)
        if tests:
            unseen(rows, faults)
        faults.settle()
        parties = self._divided(rows, account, seed)
        parties = parties if tests else labels_stay(parties)
        if (tests or self._fraction) and not len(parties.test()):
            where = "of those given" if tests else "after holding out"
            raise DataError(_no_test(parties, where, self.other_tests()))
        used |= {self.party_column, self.test_group}
        notes = [
            *faults.notes,
            *unread(columns_, used, found),
            *self.idle(columns_, pieces),
            *escaped(rows, columns_),
            *unlabelled(rows),
        ]
        if not tests and self._fraction:
            notes += whose([row for p in pieces for _, row in p.lines], used - {self.test_group}, columns_)
        return self._said(replace(parties, notes=(*parties.notes, *notes)), rows)

    def _said(self, parties: Parties, rows: list[tuple[Piece, Pairs]]) -> Parties:
        """With the labels that were agreed, the rows that are the server's, and what a person should know."""
        read = set().union(*(r.keys() for _, pairs in rows for r, _ in pairs))
        no_classes(self.labels, read)
        if self.labels:  # also those that nobody holds: what is absent would tell
            names = tuple(map(kinds.name, self.labels))
            called = numbered(names, rows)
            parties = replace(parties, labels=called or tuple(sorted(names)))
            if "label" not in read and not called:
                why = "y is no number of a class" if "y" in read else "no column of labels is read"
                parties = replace(parties, notes=(*parties.notes, f"data.labels is not used: {why}"))
        if server := [r for p, pairs in rows if p.split == "server" for r, _ in pairs]:
            parties = replace(parties, house=Shard("server", tuple(server)))
        notes = [*parties.notes, *compared(parties)]
        if self.test_fraction not in (None, type(self).test_fraction) and any(
            p.split == "test" for p, _ in rows
        ):
            notes.append(f"data.test_fraction={self.test_fraction:g} is not used: there are test rows")
        return replace(parties, notes=tuple(notes))

    def idle(self, columns: Wanted, pieces: Sequence[Piece]) -> Iterator[str]:
        """The settings that change nothing on these rows, one sentence each."""
        if not any(isinstance(c.kind, kinds.Image) for c in columns):
            for name in ("image_size", "image_mode"):
                if value := getattr(self, name):
                    yield f"data.{name}={value} is not used: there are no pictures"

    def beside(self, piece: Piece, tests: bool) -> Piece:
        """Validation rows: the server's where they lie beside test rows, else to test on."""
        if not tests:
            return replace(piece, split="test")
        if self.server_rows:
            return replace(piece, split="server")
        return replace(piece, split="server", lines=(), lost={**piece.lost, UNUSED: len(piece.lines)})

    @property
    def _fraction(self) -> float:
        return self.test_fraction or 0.0

    def other_tests(self) -> str:
        """Where else test rows could come from, for the error that there are none."""
        return "give other test rows, more rows of each label"

    # ---- columns ----------------------------------------------------------------------------------------------
    def _maps(self, parties: set[str], faults: Faults) -> tuple[Map, Mapping[str, Map]]:
        """The map for everybody, and the parties' own over it."""
        common: dict[str, tuple[str, ...]] = {}
        own: dict[str, Any] = {}
        for key, value in self.columns.items():
            if isinstance(value, Mapping):
                own[str(kinds.name(key))] = value
            else:
                common |= _sources(key, value, "columns", faults)
        maps: dict[str, Map] = {}
        for party, value in own.items():
            if party not in parties:
                fix = f"the parties are {', '.join(sorted(parties, key=natural)[:8]) or 'not known by name'}"
                faults.add("columns", f"a map for '{party}', which is no party", "nobody is called so", fix)
            mine: dict[str, tuple[str, ...]] = {}
            for key, theirs in value.items():
                mine |= _sources(key, theirs, f"columns.{party}", faults)
            maps[party] = {**common, **mine}
        return common, maps

    def _pictured(self, columns: Wanted) -> Wanted:
        kind = kinds.Image(self.image_size, self.image_mode)
        columns = tuple(replace(c, kind=kind) if isinstance(c.kind, kinds.Image) else c for c in columns)
        named = kinds.Named(tuple(map(kinds.name, self.labels or ())))
        return tuple(replace(c, kind=named) if c.name == "label" and self.labels else c for c in columns)

    def _lacking(
        self, pieces: list[Piece], columns: Wanted, mapping: Map, maps: Mapping[str, Map], faults: Faults
    ) -> set[str]:
        """Note the columns that pieces lack, with one fix for all that was tried; the places of those pieces."""
        full = [p for p in pieces if p.lines]
        for piece in (p for p in full if mapping and p.place.lower().endswith(_TABLES) and headless(p)):
            why = (
                f"its first line reads {', '.join(piece.has)[:80]}, and a value of its own column among that"
            )
            fix = "put the columns' names on the first line"
            faults.add(piece.place, "it looks as if there is no header", why, fix, 1)
        missing = {p.place: lacking(columns, maps.get(p.party, mapping), p.has, p.lines) for p in full}
        optional = {c.name for c in columns if not c.required}
        for p in full:  # a mapped column must be somewhere, also where it is not required
            own = maps.get(p.party, mapping)
            missing[p.place] += [
                c for c in own if c in optional and not any(s in q.has for q in full for s in own[c])
            ]
        told = any(missing.values()) and (
            inside(full, missing, columns, mapping, faults) or headed(full, missing, faults)
        )
        if told or not any(missing.values()):
            return {place for place, names in missing.items() if names}
        fix = proposal(full, columns, mapping, maps)
        more = "" if mapping else otherwise(full, columns)
        for p in full:
            for column in missing[p.place]:
                theirs = maps.get(p.party, mapping).get(column, (column,))
                role = f"for '{column}'" if theirs != (column,) else ""
                faults.absent(p.place, "' or '".join(theirs), role, p.has, fix, more)
        return {place for place, names in missing.items() if names}

    # ---- owners -----------------------------------------------------------------------------------------------
    def _owned(self, pieces: list[Piece], faults: Faults) -> list[Piece]:
        """The pieces cut by the column that names the party, where there is one."""
        if not self.party_column:
            return pieces
        cut = []
        odd = owners([p for p in pieces if p.split == "train"], self.party_column, faults)
        for piece in pieces:
            if piece.split != "train" or piece.place in odd:
                cut.append(piece)
                continue
            if piece.lines and self.party_column not in piece.has:
                fix = "name the column that says whose row it is: data.party_column=COLUMN"
                faults.absent(piece.place, self.party_column, "party_column", piece.has, fix)
                cut.append(piece)
                continue
            by_owner: dict[str, list[Any]] = defaultdict(list)
            nobody = 0
            for line, row in piece.lines:
                try:
                    by_owner[kinds.name(row.get(self.party_column))].append((line, row))
                except kinds.Wrong as e:
                    what = f"'{self.party_column}' is {e}"
                    faults.add(piece.place, what, "it must name the party", "map a column of names", line)
                except Unfit:
                    nobody += 1
            cut += [replace(piece, party=o, lines=lines, lost={}) for o, lines in by_owner.items()]
            lost = {**piece.lost, **({"no party": nobody} if nobody else {})}
            cut += [replace(piece, lines=(), lost=lost)] if lost else []
        if not any(p.lines for p in cut if p.split == "train") and not faults.problems:
            what, fix = (
                f"no row has a value in '{self.party_column}'",
                "name the column that says whose row it is",
            )
            faults.add("party_column", what, "so there are no parties", fix)
        return cut

    def _no_rows(self, rows: list[tuple[Piece, Pairs]], account: Account, faults: Faults) -> None:
        """Note files and parties that give no row at all, with what became of their rows."""
        if self.party_column:
            for party in dict.fromkeys(p.party for p, _ in rows if p.party and p.split == "train"):
                mine = [(p, pairs) for p, pairs in rows if p.party == party and p.split == "train"]
                if not any(pairs for _, pairs in mine) and not any(faults.spoilt(p.place) for p, _ in mine):
                    self._none(f"party '{party}'", sum(len(p.lines) for p, _ in mine), account, party, faults)
            return
        for piece, pairs in rows:
            if not pairs and not piece.lost.get(UNUSED) and not faults.spoilt(piece.place):
                fix = self.other_tests() if piece.split == "test" and piece.lines else ""
                self._none(piece.place, len(piece.lines), account, piece.party, faults, fix)

    def _none(self, place: str, n: int, account: Account, party: str, faults: Faults, fix: str = "") -> None:
        reasons = ", ".join(f"{k} {why}" for why, k in account.reasons(party=party).items())
        why = f"all {n} rows are left out: {reasons}" if n else "it is empty"
        if kinds.UNNAMED in reasons:
            fix = "the names in the rows themselves; or the numbers as names, in quotation marks: data.labels='[\"0\", ...]'"
        what, leave = self.empty
        faults.add(place, what, why, fix or leave)

    # ---- splits -----------------------------------------------------------------------------------------------
    def _divided(self, rows: list[tuple[Piece, Pairs]], account: Account, seed: int) -> Parties:
        train = [(p, pairs) for p, pairs in rows if p.split == "train"]
        tests = [(p, pairs) for p, pairs in rows if p.split == "test"]
        known = {row["label"] for _, pairs in train for row, _ in pairs if "label" in row} or None
        given = groups_of_tests(tests)
        if self.partition is not None:
            pool = [pair for _, pairs in train for pair in pairs]
            kept, held = (pool, []) if tests else hold_out(pool, self._fraction, stream_of(seed, "all"))
            parties = divide(
                [r for r, _ in kept],
                [r for r, _ in held],
                self.partition,
                seed,
                labels=known,
                account=account,
                fields=[{**s, **r} for r, s in kept],
            )
            return _whole(replace(parties, held_out=given or parties.held_out), self.partition, len(kept))
        owners: dict[str, Pairs] = defaultdict(list)
        for piece, pairs in train:
            if piece.party:
                owners[piece.party] += pairs
        names = sorted((o for o, mine in owners.items() if mine), key=natural)
        labels = tuple(sorted(known)) if known else None
        if tests:
            shards = tuple(Shard(name, tuple(r for r, _ in owners[name])) for name in names)
            theirs = {name: [r for p, pairs in tests if p.party == name for r, _ in pairs] for name in names}
            own = tuple(Shard(name, tuple(mine)) for name, mine in theirs.items() if mine)
            return Parties(shards, given, labels, account, own=own)
        cuts = {name: hold_out(owners[name], self._fraction, stream_of(seed, name)) for name in names}
        shards = tuple(Shard(name, tuple(r for r, _ in kept)) for name, (kept, _) in cuts.items())
        by_party = tuple(Shard(name, tuple(r for r, _ in held)) for name, (_, held) in cuts.items() if held)
        return Parties(shards, by_group(by_party), labels, account, own=by_party)


def stream_of(seed: int, name: str) -> Any:
    """The random stream that holds out rows of the party `name`."""
    return stream(seed, f"files/{name}")


def _sources(key: Any, value: Any, where: str, faults: Faults) -> dict[str, tuple[str, ...]]:
    """One entry of a map: a canonical name and the columns that may stand for it."""
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not isinstance(key, str) or not names or not all(isinstance(n, str) and n for n in names):
        what, why = f"{key!r}: {value!r} maps no column", "a map reads canonical name: your column"
        faults.add(where, what, why, "put names in quotation marks, e.g. {text: '1'}; or a list of them")
        return {}
    return {key: names}


def _grouped(columns: Wanted) -> Wanted:
    return (*(c for c in columns if c.name != "group"), Column("group", kinds.Group()))


def _free(columns: Wanted, numbers: Sequence[str]) -> Wanted:
    """The columns, where they are those that rows of no layout happen to have; else none."""
    named = {*numbers, *TARGETS}
    return columns if numbers and all(c.name in named for c in columns) else ()


def _whole(parties: Parties, partition: Partition, rows: int) -> Parties:
    """The rows that a partition deals to nobody are lost, and counted."""
    left = rows - sum(len(s) for s in parties.shards)
    if not left:
        return parties
    what = getattr(type(partition), "method_name", type(partition).__name__)
    if partition.whole:
        raise DataError(f"the partition {what} says that it deals every row, and left {left} of {rows} out")
    lost = Account((Lost("", "train", f"dealt to nobody by {what}", left),))
    return replace(parties, account=parties.account + lost)


def _no_test(parties: Parties, what: str, instead: str) -> str:
    lost = ", ".join(f"{n} {why}" for why, n in parties.account.reasons(split="test").items())
    return (
        f"no test row is left {what}"
        + (f": {lost}" if lost else "")
        + f"; {instead}, or data.test_fraction=0 and no test rows for a run without a score"
    )
