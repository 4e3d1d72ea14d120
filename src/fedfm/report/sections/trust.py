"""Privacy spent, contributions, payments, and whoever was lost on the way."""

from __future__ import annotations

from collections.abc import Sequence

from fedfm.report import outline
from fedfm.report.drawing.bars import Bar, bars
from fedfm.report.drawing.charts import Line, line_tip, lines
from fedfm.report.drawing.markup import both, card, clip, esc, figure, fold_away, table
from fedfm.report.numbers import alike, count, finite, plural, share, short
from fedfm.report.rundir import Run, mapping
from fedfm.report.sections.cohort import read_only, sample

SHOWN = 24


def privacy_card(run: Run, tag: str, columns: int) -> str:
    """Epsilon over rounds and the mechanism behind it; nothing at all when no privacy was accounted."""
    told = outline.privacy(run)
    if not told:
        return ""
    delta, epsilon = finite(told.get("delta")), finite(told.get("epsilon"))
    xs, ys = outline.series(run, "epsilon")
    spent = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]
    at = f" at δ = {short(delta)}" if delta is not None else ""
    words = f"ε = {short(epsilon)}{at}" if epsilon is not None else "No ε was accounted"
    if len(spent) > 1:
        last = spent[-1][1] - spent[-2][1]
        words += f" after {plural(spent[-1][0], 'round')}; the last round cost {short(max(last, 0.0))}"
    body, numbers = "", ""
    if len(spent) > 1:
        line = Line("ε", "c4", [x for x, _ in spent], [y for _, y in spent], area=True)
        chart = both(
            lambda w: lines(w, 210, words, [line], show=short, zero=True), 8 if columns == 12 else columns
        )
        body = figure(words, chart, line_tip([line], short))
        numbers = table(("round", "ε"), [(short(x), short(y)) for x, y in spent])
    event = next(iter(run.facts.privacy.values()), {})
    pairs: list[tuple[str, str]] = []
    for title, value in (
        ("mechanism", told.get("mechanism")),
        (
            "noise multiplier",
            told.get("noise") if told.get("noise") is not None else event.get("noise_multiplier"),
        ),
        ("clip norm", event.get("clip_norm")),
        ("sampling", _flat(event.get("sampling"))),
        ("what it covers", told.get("sentence")),
        ("in no account, kept private", ", ".join(mapping(told.get("outside")))),
        ("note", told.get("note")),
    ):
        if value not in (None, ""):
            pairs.append((title, short(number) if (number := finite(value)) is not None else str(value)))
    if len(run.facts.privacy) > 1:
        pairs.append(("mechanisms noted", ", ".join(run.facts.privacy)))
    body = (
        f'<div class="split">{body}{_pairs(pairs)}</div>' if body and columns == 12 else body + _pairs(pairs)
    )
    return card("Privacy spent", words + ".", body, columns, numbers, tag)


def value_card(run: Run, tag: str, columns: int) -> str:
    """What each party contributed, summed over rounds."""
    found = {n: t.value for n, t in run.facts.parties.items() if t.value is not None}
    if not found:
        return ""
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
    rows = [Bar(n, found[n], "c1" if found[n] >= 0 else "c2") for n in chosen]
    text = dict(zip(found, alike(list(found.values())), strict=True))
    same = {found[n]: text[n] for n in found}
    chart = both(lambda w: bars(w, words, rows, lambda v: same.get(v, short(v)), 22), columns)
    numbers = table(("party", "value"), [(n, text[n]) for n in ranked], cap=100, sort=True)
    return card("Contribution", words, figure(words, chart) + _cut(chosen, ranked), columns, numbers, tag)


def pay_card(run: Run, tag: str, columns: int) -> str:
    """What each party was paid and, as a tick, what it asked for, both summed over rounds."""
    found = {n: t for n, t in run.facts.parties.items() if t.paid is not None or t.asked is not None}
    if not found:
        return ""
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
            tip=f"{n}|paid {short(found[n].paid)}"
            + (f"|asked {short(found[n].asked)}" if n in asked else ""),
        )
        for n in chosen
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
    return card("Payments", words, figure(words, chart) + _cut(chosen, ranked), columns, numbers, tag)


def trouble_card(run: Run, tag: str, columns: int) -> str:
    """Drop-outs, late parties, refusals, failures and failed rounds, with their reasons."""
    reasons, broken = outline.troubles(run), outline.failed_rounds(run)
    if not reasons and not broken:
        return ""
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
    body = ""
    if ranked:
        items = "".join(
            f"<li><span>{esc(clip(r, 90))}</span><b>{count(n)}</b>"
            f'<i class="b-c2" style="width:{100 * n / ranked[0][1]:.1f}%"></i></li>'
            for r, n in ranked
        )
        body = f'<ul class="rank">{items}</ul>'
    if rows:
        body += fold_away("Each case", table(("round", "party", "what", "why"), rows, cap=120), "numbers")
    return card("Lost on the way", words.strip(), body, columns, "", tag)


def _why(event: dict[str, object]) -> str:
    parts = [event.get(k) for k in ("phase", "by", "reason", "error")]
    return ": ".join(clip(p, 160) for p in parts if p not in (None, "")) or "–"


def _flat(value: object) -> str:
    return ", ".join(
        f"{k} {short(n) if (n := finite(v)) is not None else v}" for k, v in mapping(value).items()
    )


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    inner = "".join(f"<dt>{esc(k)}</dt><dd>{esc(v)}</dd>" for k, v in pairs)
    return f"<dl>{inner}</dl>" if inner else ""


def _cut(chosen: Sequence[str], ranked: Sequence[str]) -> str:
    if len(chosen) == len(ranked):
        return ""
    return f'<p class="note">{len(chosen)} of {len(ranked):,} parties, evenly spaced over the ranking.</p>'
