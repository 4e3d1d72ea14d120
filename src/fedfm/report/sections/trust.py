"""Privacy spent, contributions, payments, and whoever was lost on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedfm.report import outline
from fedfm.report.drawing.bars import Bar, bars
from fedfm.report.drawing.blocks import (
    Block,
    Card,
    Figure,
    Fold,
    Note,
    Pairs,
    Ranking,
    Split,
    Tag,
    both,
    table,
)
from fedfm.report.drawing.charts import Line, line_tip, lines
from fedfm.report.numbers import alike, count, finite, plural, share, short
from fedfm.report.rundir import Run, mapping
from fedfm.report.sections.cohort import attack_note, marked, read_only, sample
from fedfm.text import clip

SHOWN = 24


def privacy_card(run: Run, tag: Tag | None, columns: int) -> Card | None:
    """Epsilon over rounds and the mechanism behind it; nothing at all when no privacy was accounted."""
    told = outline.privacy(run)
    if not told:
        return None
    delta, epsilon = finite(told.get("delta")), finite(told.get("epsilon"))
    xs, ys = outline.series(run, "epsilon")
    spent = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]
    at = f" at δ = {short(delta)}" if delta is not None else ""
    words = f"ε = {short(epsilon)}{at}" if epsilon is not None else "No ε was accounted"
    if len(spent) > 1:
        last = spent[-1][1] - spent[-2][1]
        words += f" after {plural(spent[-1][0], 'round')}; the last round cost {short(max(last, 0.0))}"
    covers = outline.covers(run)
    label, words = words, f"{words}. {covers}" if covers else f"{words}."
    facts = Pairs(_facts(run, told))
    if len(spent) < 2:
        return Card("Privacy spent", words, (facts,), columns, (), tag)
    line = Line("ε", "c4", [x for x, _ in spent], [y for _, y in spent], area=True)
    inner = 8 if columns == 12 else columns
    chart = both(lambda w: lines(w, 210, label, [line], show=short, zero=True), inner)
    curve = Figure(label, tip=line_tip([line], short), **chart)
    numbers = table(("round", "ε"), [(short(x), short(y)) for x, y in spent])
    body: tuple[Block, ...] = (Split(curve, facts),) if columns == 12 else (curve, facts)
    return Card("Privacy spent", words, body, columns, (numbers,), tag)


def _facts(run: Run, told: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Mechanism, noise, sampling and what else was said of the accounting."""
    event = next(iter(run.facts.privacy.values()), {})
    noise = told.get("noise") if told.get("noise") is not None else event.get("noise_multiplier")
    several = ", ".join(run.facts.privacy) if len(run.facts.privacy) > 1 else ""
    found = {
        "mechanism": told.get("mechanism"),
        "unit": told.get("unit"),
        "protects against": told.get("observer"),
        "neighbours": told.get("relation"),
        "accountant": told.get("accountant"),
        "noise multiplier": noise,
        "noise": "seeded: whoever knows the seed can subtract it" if told.get("seeded") else "",
        "clip norm": event.get("clip_norm"),
        "clipped": _clipped(run),
        "sampling": _flat(event.get("sampling")),
        "in no account, keep in the house": ", ".join(mapping(told.get("outside"))),
        "what it covers": told.get("sentence"),
        "note": told.get("note"),
        "mechanisms noted": several,
    }
    known = {k: v for k, v in found.items() if v not in (None, "")}
    return tuple((k, short(n) if (n := finite(v)) is not None else str(v)) for k, v in known.items())


def _clipped(run: Run) -> str:
    """How many uploads the clip shortened, and how long they were; empty where a run does not know."""
    told = mapping(run.summary.get("clipped"))
    cut, typical = finite(told.get("share")), finite(told.get("median_norm"))
    if cut is None or typical is None:
        return ""
    return f"{share(cut, 1.0)} of uploads; median norm {short(typical)} before clipping"


def value_card(run: Run, tag: Tag | None, columns: int) -> Card | None:
    """What each party contributed, summed over rounds."""
    found = {n: t.value for n, t in run.facts.parties.items() if t.value is not None}
    if not found:
        return None
    ranked = sorted(found, key=lambda n: -(found[n] or 0.0))
    total = sum(v for v in found.values() if v > 0)
    words = f"{clip(ranked[0])} contributed most ({short(found[ranked[0]])})"
    top = max(1, round(len(ranked) / 4))
    if total > 0 and len(ranked) >= 4:
        first = sum(max(found[n], 0.0) for n in ranked[:top])
        words += f"; the top quarter of the parties holds {share(first, total)} of all positive value"
    below = sum(v < 0 for v in found.values())
    words += f"; {plural(below, 'party', 'parties')} below zero." if below else "."
    words += read_only(run)
    chosen = sample(ranked, SHOWN)
    rows = [
        Bar(n, found[n], "c1" if found[n] >= 0 else "c2", marked=m)
        for n, m in zip(chosen, marked(run, chosen), strict=True)
    ]
    text = dict(zip(found, alike(list(found.values())), strict=True))
    same = {found[n]: text[n] for n in found}
    chart = both(lambda w: bars(w, words, rows, lambda v: same.get(v, short(v)), 22), columns)
    numbers = table(("party", "value"), [(n, text[n]) for n in ranked], cap=100, sort=True)
    body = (Figure(words, **chart), *_cut(run, chosen, ranked), *_judged_by(run))
    return Card("Contribution", words, body, columns, (numbers,), tag)


def pay_card(run: Run, tag: Tag | None, columns: int) -> Card | None:
    """What each party was paid and, as a tick, what it asked for, both summed over rounds."""
    found = {n: t for n, t in run.facts.parties.items() if t.paid is not None or t.asked is not None}
    if not found:
        return None
    ranked = sorted(found, key=lambda n: -(found[n].paid or 0.0))
    total = sum(t.paid or 0.0 for t in found.values())
    paid = sum((t.paid or 0.0) > 0 for t in found.values())
    words = f"{short(total)} paid to {plural(paid, 'party', 'parties')}"
    asked = [n for n in ranked if found[n].asked is not None]
    if asked:
        wanted = short(sum(found[n].asked or 0.0 for n in asked))
        words += f"; the tick marks what a party asked for over the run ({wanted} in all)"
    chosen = sample(ranked, SHOWN)
    rows = [
        Bar(
            n,
            found[n].paid or 0.0,
            "c3",
            tick=found[n].asked,
            marked=m,
            tip=f"{n}|paid {short(found[n].paid)}"
            + (f"|asked {short(found[n].asked)}" if n in asked else ""),
        )
        for n, m in zip(chosen, marked(run, chosen), strict=True)
    ]
    paid_text = alike([t.paid for t in found.values()])
    same = dict(zip((t.paid or 0.0 for t in found.values()), paid_text, strict=True))
    chart = both(lambda w: bars(w, words, rows, lambda v: same.get(v, short(v)), 22), columns)
    numbers = table(
        ("party", "paid", "asked"),
        [(n, short(found[n].paid), short(found[n].asked)) for n in ranked],
        100,
        True,
    )
    words += "." + read_only(run)
    body = (Figure(words, **chart), *_cut(run, chosen, ranked))
    return Card("Payments", words, body, columns, (numbers,), tag)


def trouble_card(run: Run, tag: Tag | None, columns: int) -> Card | None:
    """Drop-outs, late parties, refusals, failures and failed rounds, with their reasons."""
    reasons, broken = outline.troubles(run), outline.failed_rounds(run)
    if not reasons and not broken:
        return None
    total = sum(reasons.values())
    words = ""
    if total:
        reason, n = reasons.most_common(1)[0]
        words = f"{plural(total, 'party-round')} lost; the main reason is “{clip(reason, 60)}” ({count(n)})."
    if broken:
        words += f" {plural(len(broken), 'round')} gave no model."
    rows = [
        (e.get("round", "–"), "–" if e.get("client") is None else e["client"], e.get("kind"), _why(e))
        for e in run.facts.trouble
    ]
    rows += [(n, "all", "round failed", why) for n, why in broken.items()]
    rows.sort(key=lambda r: r[0] if isinstance(r[0], int) else 0)
    ranked = reasons.most_common(10)
    body: list[Block] = []
    if ranked:
        body.append(Ranking(tuple((clip(r, 90), count(n), n / ranked[0][1]) for r, n in ranked)))
    if rows:
        cases = table(("round", "party", "what", "why"), rows, cap=120)
        body.append(Fold("Each case", (cases,), "numbers"))
    return Card("Lost on the way", words.strip(), tuple(body), columns, (), tag)


def _why(event: dict[str, object]) -> str:
    parts = [event.get(k) for k in ("phase", "by", "reason", "error")]
    return ": ".join(clip(p, 160) for p in parts if p not in (None, "")) or "–"


def _flat(value: object) -> str:
    return ", ".join(
        f"{k} {short(n) if (n := finite(v)) is not None else v}" for k, v in mapping(value).items()
    )


def _judged_by(run: Run) -> list[Note]:
    """The rows that the values rest on."""
    told = mapping(run.summary.get("server_rows"))
    of = {clip(str(k), 30): n for k, v in mapping(told.get("of")).items() if (n := finite(v))}
    if not (rows := finite(told.get("rows"))):
        return []
    some = ", ".join(f"{k} {count(n)}" for k, n in [*of.items()][:SHOWN] if k != "rows")
    more = f" ({some}{', ...' * (len(of) > SHOWN)})" * bool(some)
    return [Note(f"Valued on {plural(rows, 'row', 'rows')} of the server's own, not on the test rows{more}.")]


def _cut(run: Run, chosen: Sequence[str], ranked: Sequence[str]) -> list[Note]:
    """What the bars leave out, and what a dagger means."""
    few = f"{len(chosen)} of {len(ranked):,} parties, evenly spaced over the ranking"
    said = ([few] if len(chosen) < len(ranked) else []) + attack_note(run, chosen)
    return [Note("; ".join(said) + ".")] if said else []
