"""The parties: who took part in which round, how their data is spread, and a line for each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fedfm.report import outline
from fedfm.report.drawing.bars import Bar, bars, stacked
from fedfm.report.drawing.charts import bins
from fedfm.report.drawing.grids import CELLS, heat, participation
from fedfm.report.drawing.markup import SPANS, both, card, clip, esc, figure, legend, table
from fedfm.report.folds import OUTCOMES, SEVERITY
from fedfm.report.numbers import alike, count, finite, fixed, plural, share, short
from fedfm.report.rundir import Run, mapping

PARTIES, LABELS = 60, 30
THROWN = "sent in failed rounds"
COLUMNS = {12: 120, 6: 56, 4: 30}  # columns of the page's grid -> rounds drawn apart
PART_COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8")


def everyone(run: Run) -> list[str]:
    """All parties of the summary and of the ledger, in natural order (party-2 before party-10)."""
    names = {str(p) for p in mapping(run.summary.get("parties"))} | set(run.facts.parties)
    for row in run.facts.outcome.values():
        names.update(row)
    return sorted(names, key=_natural)


def sample(names: Sequence[str], most: int = PARTIES) -> list[str]:
    """At most that many names, evenly spaced over the list."""
    if len(names) <= most:
        return list(names)
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]


def grid_card(run: Run, tag: str, columns: int) -> str:
    """Parties x rounds, a cell for what became of the party in that round."""
    outcome = run.facts.outcome
    rounds = sorted(r for r in outcome if outcome[r])
    if not rounds:
        return ""
    named = everyone(run)
    active = [n for n in named if (t := run.facts.parties.get(n)) and (t.planned or t.uploads or t.trouble)]
    chosen = sample(active or named, PARTIES if columns == 12 else PARTIES // 2)
    groups = [[rounds[i] for i in group] for group in bins(len(rounds), COLUMNS[columns])]
    codes = ["".join(_usual(outcome, group, name) for group in groups) for name in chosen]
    seen = {code for row in codes for code in row}
    found = Counter(code for row in outcome.values() for code in row.values())
    planned = {r: float(len(outcome[r])) for r in rounds}
    done = {r: float(sum(c == "c" for c in outcome[r].values())) for r in rounds}
    heights = [(sum(done[r] for r in g) / len(g), sum(planned[r] for r in g) / len(g)) for g in groups]
    ends = [f"{_uploads(run, n)}/{max(run.facts.parties[n].planned, _uploads(run, n))}" for n in chosen]
    names = [str(g[0]) if len(g) == 1 else f"{g[0]}–{g[-1]}" for g in groups]
    broken = outline.failed_rounds(run)
    bad = [i for i, g in enumerate(groups) if any(r in broken for r in g)]
    words = _turnout_words(run, found, len(rounds))
    who = plural(len(chosen), "party", "parties")
    label = f"Participation of {who} over {plural(len(rounds), 'round')}. {words}"
    tip = {
        "cols": [f"round {n}" for n in names],
        "rows": [clip(n, 40) for n in chosen],
        "cells": codes,
        "names": OUTCOMES,
    }
    starts = [str(g[0]) for g in groups]

    def draw(width: int) -> str:
        return participation(label, chosen, starts, codes, ends, heights, width, bad)

    image = both(draw, columns) if len(groups) <= 16 else draw(SPANS[columns])
    keys = legend((OUTCOMES[c], CELLS[c][0], count(found[c])) for c in "csldrfp" if c in seen or found[c])
    notes = []
    if len(chosen) < len(active):
        notes.append(f"{len(chosen)} of {len(active):,} parties, evenly spaced")
    if len(groups) < len(rounds):
        notes.append(
            f"{len(rounds):,} rounds in {len(groups)} columns, each showing the most frequent outcome"
        )
    if late := len(run.facts.arrived):
        notes.append(
            f"{plural(late, 'upload')} came in a later round and {'stands' if late == 1 else 'stand'} "
            "where planned"
        )
    if run.sampled:
        notes.append(f"{len(rounds):,} rounds of a long ledger were read")
    note = f'<p class="note">{esc("; ".join(notes))}.</p>' if notes else ""
    body = keys + f'<div class="scroll">{figure(label, image, tip)}</div>{note}'
    return card("Who took part", words, body, columns, _grid_numbers(run, chosen), tag)


def is_large(run: Run) -> bool:
    """Whether the grids of this run want the whole width of the page."""
    return len(run.facts.outcome) > 24 or len(everyone(run)) > 24


def _uploads(run: Run, name: str) -> int:
    return run.facts.parties[name].uploads if name in run.facts.parties else 0


def _grid_numbers(run: Run, chosen: Sequence[str]) -> str:
    rows, broken = [], outline.failed_rounds(run)
    for name in chosen:
        t = run.facts.parties[name]
        lost = (t.trouble[k] for k in outline.LOSS)
        rows.append((name, t.planned, t.uploads, *((t.thrown,) if broken else ()), *lost))
    thrown = (THROWN,) if broken else ()
    return table(("party", "planned", "uploads", *thrown, *outline.LOSS.values()), rows, sort=True)


def _usual(outcome: dict[int, dict[str, str]], group: Sequence[int], name: str) -> str:
    if len(group) == 1:
        return outcome[group[0]].get(name, ".")
    codes = Counter(outcome[r][name] for r in group if name in outcome[r])
    return max(codes, key=lambda c: (codes[c], SEVERITY.index(c))) if codes else "."


def _turnout_words(run: Run, found: Counter[str], rounds: int) -> str:
    done, planned = outline.turnout(run)
    if not planned:
        planned = float(sum(found.values()))
        done = float(found["c"])
    lost = [f"{count(found[c])} {OUTCOMES[c]}" for c in "dlrf" if found[c]]
    broken = outline.failed_rounds(run)
    if done == planned and not lost and not broken:
        return "Every planned party uploaded in every round."
    words = f"{share(done, planned)} of the planned party-rounds uploaded"
    if broken:
        words += " in a round that gave a model"
        failed = plural(len(broken), "round that failed", "rounds that failed")
        lost.insert(0, f"{plural(found['s'], 'upload')} of {failed} (×) counted for nothing")
    where = f" in the {rounds} rounds read" if run.sampled else ""
    return f"{words}; {', '.join(lost)}{where}." if lost else f"{words}."


def data_card(run: Run, tag: str, columns: int) -> str:
    """Rows per party by label: stacked bars for few labels, a heat map for many."""
    parties = mapping(run.summary.get("parties"))
    rows: dict[str, float] = {}
    spread: dict[str, dict[str, float]] = {}
    for name in sorted(map(str, parties), key=_natural):
        told = mapping(parties.get(name))
        parts = {
            str(k): v for k, x in mapping(told.get("distribution")).items() if (v := finite(x)) and v > 0
        }
        amount = finite(told.get("rows"))
        rows[name] = amount if amount is not None else sum(parts.values())
        spread[name] = parts
    rows = {n: v for n, v in rows.items() if v > 0}
    if not rows:
        return ""
    totals: Counter[str] = Counter()
    for name in rows:
        totals.update(spread[name])
    labels = [k for k, _ in totals.most_common()]
    words = _skew(rows, spread, totals)
    chosen = sample(list(rows), PARTIES if columns == 12 else 24)
    note = (
        f'<p class="note">{len(chosen)} of {len(rows):,} parties, evenly spaced.</p>'
        if len(chosen) < len(rows)
        else ""
    )
    gone = {str(k): n for k, v in mapping(run.summary.get("dropped")).items() if (n := finite(v)) and n > 0}
    if gone:
        why = "; ".join(
            f"{clip(k, 60)}: {count(n)}" for k, n in sorted(gone.items(), key=lambda p: -p[1])[:5]
        )
        left = plural(sum(gone.values()), "row was", "rows were")
        note += f'<p class="note">{esc(left)} left out of the data ({esc(why)}).</p>'
    labels = sorted(labels, key=_natural) if len(labels) <= LABELS else labels
    head = ("party", "rows", *(clip(k, 16) for k in labels[:12]))
    numbers = table(
        head, [(n, count(rows[n]), *(count(spread[n].get(k, 0)) for k in labels[:12])) for n in chosen]
    )
    height = 24 if len(chosen) <= 12 else 19 if len(chosen) <= 30 else 15
    if not labels:
        chart = both(lambda w: bars(w, words, [Bar(n, rows[n]) for n in chosen], count, height), columns)
        return card("Data per party", words, figure(words, chart) + note, columns, numbers, tag)
    if len(labels) <= len(PART_COLOURS):
        parts_ = list(zip(labels, PART_COLOURS, strict=False))
        table_rows = [(n, [spread[n].get(k, 0.0) for k in labels]) for n in chosen]
        chart = both(lambda w: stacked(w, words, table_rows, parts_, count, height), columns)
        keys = legend((clip(k, 24), c, share(totals[k], sum(totals.values()))) for k, c in parts_)
        return card("Data per party", words, keys + figure(words, chart) + note, columns, numbers, tag)
    shown = labels[:LABELS]
    shares = [[spread[n].get(k, 0.0) / (sum(spread[n].values()) or 1.0) for k in shown] for n in chosen]
    ends = [count(rows[n]) for n in chosen]
    image = heat(words, chosen, shown, shares, ends, SPANS[columns])
    tip: dict[str, Any] = {
        "cols": [clip(k, 30) for k in shown],
        "rows": [clip(n, 40) for n in chosen],
        "cells": [[share(v) if v else "none" for v in line] for line in shares],
    }
    if len(labels) > len(shown):
        note += f'<p class="note">The {len(shown)} most frequent of {len(labels):,} labels.</p>'
    body = f'<div class="scroll">{figure(words, image, tip)}</div>{note}'
    return card(
        "Data per party",
        words + " Darker is a larger share of the party's rows.",
        body,
        columns,
        numbers,
        tag,
    )


def _skew(rows: dict[str, float], spread: dict[str, dict[str, float]], totals: Counter[str]) -> str:
    most, least = max(rows, key=lambda n: rows[n]), min(rows, key=lambda n: rows[n])
    words = f"{count(sum(rows.values()))} rows with {plural(len(rows), 'party', 'parties')}"
    if rows[most] > 1.05 * rows[least]:
        words += f"; {clip(most)} holds {short(rows[most] / rows[least])} times as many as {clip(least)}"
    whole = sum(totals.values())
    if len(totals) > 1 and len(rows) > 1 and whole:
        off = []
        for name in rows:
            own = sum(spread[name].values())
            if own:
                off.append(sum(abs(spread[name].get(k, 0.0) / own - totals[k] / whole) for k in totals) / 2)
        if off:
            away = share(sum(off) / len(off))
            words += f". On average {away} of a party's rows would have to change label to match the whole"
    return words + "."


def read_only(run: Run) -> str:
    """A sentence for figures summed over a ledger that was read in part; empty when all of it was."""
    return f" Sums are over the {plural(len(run.facts.outcome), 'round')} read." if run.sampled else ""


def party_table(run: Run, tag: str) -> str:
    """A sortable line for every party: data, work, loss, contribution and money."""
    names = everyone(run)
    if not names:
        return ""
    parties, alone = mapping(run.summary.get("parties")), outline.alone(run)
    digits = outline.score_digits([run])
    cells: dict[str, list[str]] = {"party": names}

    def column(title: str, values: list[str]) -> None:
        if any(v not in ("–", "0", "") for v in values):
            cells[title] = values

    tallies = [run.facts.parties.get(n) for n in names]
    column("rows", [count(finite(mapping(parties.get(n)).get("rows"))) for n in names])
    column("planned", [count(t.planned) if t else "–" for t in tallies])
    column("uploads", [count(t.uploads) if t else "–" for t in tallies])
    column(THROWN, [count(t.thrown) if t else "–" for t in tallies])
    column("lost", [count(sum(t.trouble.values())) if t else "–" for t in tallies])
    column("loss before", alike([t.first[0] / t.first[1] if t and t.first[1] else None for t in tallies]))
    column("loss after", alike([t.last[0] / t.last[1] if t and t.last[1] else None for t in tallies]))
    column(
        f"{outline.metric_name(run).replace('_', ' ')} alone", [fixed(alone.get(n), digits) for n in names]
    )
    column("contribution", alike([t.value if t else None for t in tallies]))
    column("asked", alike([t.asked if t else None for t in tallies]))
    column("paid", alike([t.paid if t else None for t in tallies]))
    if len(cells) < 2:
        return ""
    rows = list(zip(*cells.values(), strict=True))
    who = plural(len(names), "party", "parties")
    words = f"{who}; losses are means over a party's jobs. A click on a head sorts." + read_only(run)
    return card("Every party", words, table(list(cells), rows, cap=100, sort=True), 12, "", tag)


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(p), "") if p.isdecimal() and len(p) < 19 else (1, 0, p) for p in re.split(r"(\d+)", name)]
