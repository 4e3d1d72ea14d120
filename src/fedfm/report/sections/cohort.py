"""The parties: who took part in which round, how their data is spread, and a line for each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from fedfm.report import outline
from fedfm.report.drawing.bars import Bar, bars, stacked
from fedfm.report.drawing.blocks import SPANS, Block, Card, Figure, Legend, Note, Table, Tag, both, table
from fedfm.report.drawing.charts import Line, bins, line_tip, lines
from fedfm.report.drawing.grids import CELLS, heat, participation
from fedfm.report.drawing.letters import dagger
from fedfm.report.folds import OUTCOMES, SEVERITY
from fedfm.report.numbers import alike, count, decimals, finite, fixed, plural, share, short
from fedfm.report.rundir import Run, mapping
from fedfm.text import clip, natural

PARTIES, LABELS, OWN = 60, 30, 24
THROWN = "sent in failed rounds"
COLUMNS = {12: 120, 6: 56, 4: 30}  # columns of the page's grid -> rounds drawn apart
PART_COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8")


def sample(names: Sequence[str], most: int = PARTIES) -> list[str]:
    """At most that many names, evenly spaced over the list."""
    if len(names) <= most:
        return list(names)
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]


def grid_card(run: Run, tag: Tag | None, columns: int) -> Card | None:
    """Parties x rounds, a cell for what became of the party in that round."""
    outcome = run.facts.outcome
    rounds = sorted(r for r in outcome if outcome[r])
    if not rounds:
        return None
    named = outline.everyone(run)
    active = [n for n in named if (t := run.facts.parties.get(n)) and (t.planned or t.uploads or t.trouble)]
    chosen = sample(active or named, PARTIES if columns == 12 else PARTIES // 2)
    groups = [[rounds[i] for i in group] for group in bins(len(rounds), COLUMNS[columns])]
    codes = ["".join(_usual(outcome, group, name) for group in groups) for name in chosen]
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
    marks = marked(run, chosen)
    tip = {
        "cols": [f"round {n}" for n in names],
        "rows": [dagger(clip(n, 40), m) for n, m in zip(chosen, marks, strict=True)],
        "cells": codes,
        "names": OUTCOMES,
    }
    starts = [str(g[0]) for g in groups]

    def draw(width: int) -> Markup:
        return participation(label, chosen, starts, codes, ends, heights, width, bad, marks)

    images = both(draw, columns) if len(groups) <= 16 else {"image": draw(SPANS[columns])}
    keys = Legend(tuple((OUTCOMES[c], CELLS[c][0], count(found[c])) for c in "csldrfp" if found[c]))
    body: list[Block] = [keys, Figure(label, tip=tip, scroll=True, **images)]
    notes = [
        *_grid_notes(run, (len(chosen), len(active)), (len(groups), len(rounds))),
        *attack_note(run, chosen),
    ]
    if notes:
        body.append(Note("; ".join(notes) + "."))
    return Card("Who took part", words, tuple(body), columns, (_grid_numbers(run, chosen),), tag)


def marked(run: Run, names: Sequence[str]) -> list[bool]:
    """Which of these are attackers."""
    bad = outline.attackers(run)
    return [n in bad for n in names]


def attack_note(run: Run, names: Sequence[str]) -> list[str]:
    """What the dagger means, where one is shown."""
    return ["† plays the adversary in this simulation"] if any(marked(run, names)) else []


def _grid_notes(run: Run, parties: tuple[int, int], rounds: tuple[int, int]) -> list[str]:
    """What the grid leaves out or moves: (shown, of) parties, (columns, of) rounds."""
    notes = []
    if parties[0] < parties[1]:
        notes.append(f"{parties[0]} of {parties[1]:,} parties, evenly spaced")
    if rounds[0] < rounds[1]:
        notes.append(f"{rounds[1]:,} rounds in {rounds[0]} columns, each showing the most frequent outcome")
    if late := len(run.facts.arrived):
        stand = "stands" if late == 1 else "stand"
        notes.append(f"{plural(late, 'upload')} came in a later round and {stand} where planned")
    if run.sampled:
        notes.append(f"{rounds[1]:,} rounds of a long ledger were read")
    return notes


def is_large(run: Run) -> bool:
    """Whether the grids of this run want the whole width of the page."""
    return len(run.facts.outcome) > 24 or len(outline.everyone(run)) > 24


def _uploads(run: Run, name: str) -> int:
    return run.facts.parties[name].uploads if name in run.facts.parties else 0


def _grid_numbers(run: Run, chosen: Sequence[str]) -> Table:
    rows, broken = [], outline.failed_rounds(run)
    for name, bad in zip(chosen, marked(run, chosen), strict=True):
        t = run.facts.parties[name]
        lost = (t.trouble[k] for k in outline.LOSS)
        rows.append((dagger(name, bad), t.planned, t.uploads, *((t.thrown,) if broken else ()), *lost))
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


def data_card(run: Run, tag: Tag | None, columns: int) -> Card | None:
    """Rows per party by label: stacked bars for few labels, a heat map for many."""
    rows, spread = _rows(run)
    if not rows:
        return None
    totals: Counter[str] = Counter()
    for name in rows:
        totals.update(spread[name])
    labels = [k for k, _ in totals.most_common()]
    labels = sorted(labels, key=natural) if 1 < len(labels) <= LABELS else labels if len(labels) > 1 else []
    chosen = sample(list(rows), PARTIES if columns == 12 else 24)
    notes: list[Block] = []
    if len(chosen) < len(rows):
        notes.append(Note(f"{len(chosen)} of {len(rows):,} parties, evenly spaced."))
    notes += [Note(text) for text in _left_out(run)]
    notes += [Note(f"{text}.") for text in attack_note(run, chosen)]
    words, marks = _skew(rows, spread, totals), marked(run, chosen)
    if not labels or len(labels) > len(PART_COLOURS):
        drawn = (
            _heat(run, words, chosen, rows, spread, labels, columns)
            if labels
            else _plain(run, words, chosen, rows, columns)
        )
        words += " Darker is a larger share of the party's rows." if labels else ""
    else:
        parts = list(zip(labels, PART_COLOURS, strict=False))
        table_rows = [(n, [spread[n].get(k, 0.0) for k in labels]) for n in chosen]
        height = _height(len(chosen))
        chart = both(lambda w: stacked(w, words, table_rows, parts, count, height, marks), columns)
        shares = ((clip(k, 24), c, share(totals[k], sum(totals.values()))) for k, c in parts)
        drawn = [Legend(tuple(shares)), Figure(words, **chart)]
    head = ("party", "rows", *(clip(k, 16) for k in labels[:12]))
    lines = [
        (dagger(n, m), count(rows[n]), *(count(spread[n].get(k, 0)) for k in labels[:12]))
        for n, m in zip(chosen, marks, strict=True)
    ]
    return Card("Data per party", words, (*drawn, *notes), columns, (table(head, lines),), tag)


def _rows(run: Run) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Rows of every party that has any, and by label."""
    parties = mapping(run.summary.get("parties"))
    rows: dict[str, float] = {}
    spread: dict[str, dict[str, float]] = {}
    for name in sorted(map(str, parties), key=natural):
        told = mapping(parties.get(name))
        parts = {
            str(k): v for k, x in mapping(told.get("distribution")).items() if (v := finite(x)) and v > 0
        }
        amount = finite(told.get("rows"))
        rows[name] = amount if amount is not None else sum(parts.values())
        spread[name] = parts
    return {n: v for n, v in rows.items() if v > 0}, spread


def _left_out(run: Run) -> list[str]:
    """Rows that were left out of the data, by reason."""
    gone = {str(k): n for k, v in mapping(run.summary.get("dropped")).items() if (n := finite(v)) and n > 0}
    if not gone:
        return []
    ranked = sorted(gone.items(), key=lambda p: -p[1])[:5]
    why = "; ".join(f"{clip(k, 60)}: {count(n)}" for k, n in ranked)
    return [f"{plural(sum(gone.values()), 'row was', 'rows were')} left out of the data ({why})."]


def _height(rows: int) -> int:
    return 24 if rows <= 12 else 19 if rows <= 30 else 15


def _plain(run: Run, words: str, chosen: Sequence[str], rows: dict[str, float], columns: int) -> list[Block]:
    """Rows of each party where nothing is known of labels."""
    drawn = [Bar(n, rows[n], marked=m) for n, m in zip(chosen, marked(run, chosen), strict=True)]
    chart = both(lambda w: bars(w, words, drawn, count, _height(len(chosen))), columns)
    return [Figure(words, **chart)]


def _heat(
    run: Run,
    words: str,
    chosen: Sequence[str],
    rows: dict[str, float],
    spread: dict[str, dict[str, float]],
    labels: Sequence[str],
    columns: int,
) -> list[Block]:
    """Shares of many labels."""
    shown = labels[:LABELS]
    shares = [[spread[n].get(k, 0.0) / (sum(spread[n].values()) or 1.0) for k in shown] for n in chosen]
    ends = [count(rows[n]) for n in chosen]
    image = heat(words, chosen, shown, shares, ends, SPANS[columns], marked(run, chosen))
    tip: dict[str, Any] = {
        "cols": [clip(k, 30) for k in shown],
        "rows": [clip(n, 40) for n in chosen],
        "cells": [[share(v) if v else "none" for v in line] for line in shares],
    }
    out: list[Block] = [Figure(words, image, tip=tip, scroll=True)]
    if len(labels) > len(shown):
        out.append(Note(f"The {len(shown)} most frequent of {len(labels):,} labels."))
    return out


def _skew(rows: dict[str, float], spread: dict[str, dict[str, float]], totals: Counter[str]) -> str:
    most, least = max(rows, key=lambda n: rows[n]), min(rows, key=lambda n: rows[n])
    words = f"{count(sum(rows.values()))} rows with {plural(len(rows), 'party', 'parties')}"
    if rows[most] > 1.05 * rows[least]:
        words += f"; {clip(most)} holds {short(rows[most] / rows[least])} times as many as {clip(least)}"
    off = _unlike(rows, spread, totals)
    if off is not None:
        words += f". On average {share(off)} of a party's rows would have to change label to match the whole"
    return words + "."


def _unlike(
    rows: dict[str, float], spread: dict[str, dict[str, float]], totals: Counter[str]
) -> float | None:
    """Mean share of a party's rows that would have to change label (total variation); None without labels."""
    whole = sum(totals.values())
    if len(totals) < 2 or len(rows) < 2 or not whole:
        return None
    known = [(spread[n], own) for n in rows if (own := sum(spread[n].values()))]
    off = [sum(abs(of.get(k, 0.0) / own - totals[k] / whole) for k in totals) / 2 for of, own in known]
    return sum(off) / len(off) if off else None


def read_only(run: Run) -> str:
    """A sentence for figures summed over a ledger that was read in part; empty when all of it was."""
    return f" Sums are over the {plural(len(run.facts.outcome), 'round')} read." if run.sampled else ""


def party_table(run: Run, tag: Tag | None) -> Card | None:
    """A sortable line for every party: data, work, loss, scores, contribution and money."""
    names = outline.everyone(run)
    parties, alone, own = mapping(run.summary.get("parties")), outline.alone(run), outline.by_party(run)
    digits, bad = outline.score_digits([run]), marked(run, names)
    tallies = [run.facts.parties.get(n) for n in names]
    metric = outline.metric_name(run).replace("_", " ")
    found = {
        "party": [dagger(n, m) for n, m in zip(names, bad, strict=True)],
        "role": ["attacker" if m else "" for m in bad],
        "rows": [count(finite(mapping(parties.get(n)).get("rows"))) for n in names],
        "planned": [count(t.planned) if t else "–" for t in tallies],
        "uploads": [count(t.uploads) if t else "–" for t in tallies],
        THROWN: [count(t.thrown) if t else "–" for t in tallies],
        "lost": [count(sum(t.trouble.values())) if t else "–" for t in tallies],
        "loss before": alike([t.first[0] / t.first[1] if t and t.first[1] else None for t in tallies]),
        "loss after": alike([t.last[0] / t.last[1] if t and t.last[1] else None for t in tallies]),
        f"{metric} alone": [fixed(alone.get(n), digits) for n in names],
        f"{metric} on own rows": [
            fixed(outline.known(own[n][1])[-1], digits) if n in own else "–" for n in names
        ],
        "contribution": alike([t.value if t else None for t in tallies]),
        "asked": alike([t.asked if t else None for t in tallies]),
        "paid": alike([t.paid if t else None for t in tallies]),
    }
    cells = {k: v for k, v in found.items() if k == "party" or any(x not in ("–", "0", "") for x in v)}
    if not names or len(cells) < 2:
        return None
    who = plural(len(names), "party", "parties")
    words = f"{who}; losses are means over a party's jobs. A click on a head sorts." + read_only(run)
    lines = zip(*cells.values(), strict=True)
    return Card("Every party", words, (table(list(cells), lines, cap=100, sort=True),), 12, (), tag)


def own_card(run: Run, tag: Tag | None, columns: int) -> Card | None:
    """Each party's score on its own rows: the mean, the worst tenth and the worst party over rounds, and each one."""
    found = outline.by_party(run)
    if not found:
        return None
    last = {p: outline.known(ys)[-1] for p, (_, ys) in found.items()}
    first = {p: outline.known(ys)[0] for p, (_, ys) in found.items()}
    digits, up = decimals([*last.values(), *first.values()]), outline.higher_is_better(run)
    ranked = sorted(last, key=lambda p: last[p], reverse=up)
    tenth = max(1, math.ceil(len(ranked) / 10))

    def show(value: float) -> str:
        return fixed(value, digits)

    mean_low = sum(last[p] for p in ranked[-tenth:]) / tenth
    low = f"; the worst tenth has {show(mean_low)} on average" if tenth > 1 else ""
    gained = sum(outline.better(run, last[p], first[p]) > 0 for p in last)
    words = (
        f"On its own rows {clip(ranked[0])} has {show(last[ranked[0]])} and {clip(ranked[-1])}, the worst, "
        f"{show(last[ranked[-1]])}{low}. {gained} of "
        f"{plural(len(last), 'party', 'parties')} gained over the rounds."
    )
    curves = _own_curves(run, found, tenth)
    label = "Mean over parties and the worst of them, each on own rows"
    chart = both(lambda w: lines(w, 220, label, curves, show=show), columns)
    body: list[Block] = [Figure(label, tip=line_tip(curves, show), **chart)]
    chosen = sample(ranked, OWN)
    rows = [
        Bar(p, last[p], "c1", tick=first[p], marked=m, tip=f"{p}|{show(last[p])}|at first {show(first[p])}")
        for p, m in zip(chosen, marked(run, chosen), strict=True)
    ]
    body.append(Figure(words, **both(lambda w: bars(w, words, rows, show, 22), columns)))
    cut = (
        f"{len(chosen)} of {len(ranked):,} parties, evenly spaced over the ranking. "
        if len(chosen) < len(ranked)
        else ""
    )
    body.append(Note(f"{cut}The tick is the party's first score."))
    numbers = table(
        ("party", "first", "last"), [(p, show(first[p]), show(last[p])) for p in ranked], 100, True
    )
    return Card("What each party gets", words, tuple(body), columns, (numbers,), tag)


def _own_curves(run: Run, found: dict[str, tuple[list[float], list[float | None]]], tenth: int) -> list[Line]:
    up = outline.higher_is_better(run)
    xs: list[float] = []
    kept: list[list[float]] = []
    for i, x in enumerate(next(iter(found.values()))[0]):
        here = sorted((y for _, ys in found.values() if (y := ys[i]) is not None), reverse=up)
        if here:
            xs.append(x)
            kept.append(here)
    worst = [Line("worst party", "c2", xs, [v[-1] for v in kept])]
    if tenth > 1:
        worst.append(Line("worst tenth", "c5", xs, [sum(v[-tenth:]) / len(v[-tenth:]) for v in kept]))
    return [Line("mean", "c1", xs, [sum(v) / len(v) for v in kept], area=True), *worst]
