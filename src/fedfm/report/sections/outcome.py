"""The head of the page: verdict, tiles, the ladder of scores and the comparison table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedfm.report import matching, outline
from fedfm.report.drawing.bars import Rung, ladder
from fedfm.report.drawing.charts import spark
from fedfm.report.drawing.markup import both, card, clip, esc, figure, table
from fedfm.report.numbers import brief, count, decimals, finite, fixed, plural, share, short, size, span
from fedfm.report.rundir import Run, mapping

ROLES = {"base": "c8", "local": "c2", "federated": "c1", "pooled": "c3"}
BOLD = "Bold marks the best score and the least cost."
RUN_COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8")


def colour(index: int) -> str:
    """The colour class of the index-th run."""
    return RUN_COLOURS[index % len(RUN_COLOURS)]


def chip(run: Run, index: int, of: int) -> str:
    """The run's name tag, when there are several."""
    return (
        f'<span class="chip k-{colour(index)}" title="{esc(run.label)}">{esc(clip(run.label, 30))}</span>'
        if of > 1
        else ""
    )


def verdict(run: Run) -> str:
    """The one-sentence verdict, its figures in the colours of the charts."""
    return "".join(
        f'<b class="k-{ROLES[role]}">{esc(text)}</b>' if role else esc(text)
        for text, role in outline.verdict(run)
    )


def tiles(run: Run) -> str:
    """The key figures; what is not known has no tile."""
    found, digits = outline.scores(run), outline.score_digits([run])
    name = outline.metric_name(run)
    out = []
    fed = found["federated"]
    if fed is not None:
        base = found["base"]
        change = "" if base is None else f"{_signed(run, fed, base, digits)} on the base model"
        curve = spark(outline.series(run, "metrics", name)[1], "c1")
        out.append(_tile(f"Federated {name.replace('_', ' ')}", fixed(fed, digits), change, curve))
        for key, title, text in (
            ("local", "Gain over training alone", "parties alone reach"),
            ("pooled", "Against pooled data", "all data in one place reaches"),
        ):
            other = found[key]
            if other is not None:
                gap = fixed(round(fed, digits) - round(other, digits), digits, sign=True)
                tone = "up" if outline.better(run, fed, other) > 0 else "" if key == "pooled" else "down"
                out.append(_tile(title, gap, f"{text} {fixed(other, digits)}", tone=tone))
    ways = outline.traffic(run)
    sent = outline.total(ways)
    if sent is not None:
        rounds = max(outline.rounds_done(run), 1)
        detail = ", ".join(f"{size(v)} {k}" for k, v in ways.items() if v)
        each = [sum(finite(v) or 0.0 for v in mapping(r.get("bytes")).values()) for r in outline.trained(run)]
        text = f"{size(sent / rounds)} a round: {detail}" if detail else ""
        out.append(_tile("Data sent", size(sent), text, _steady(each, "c3")))
    time = outline.seconds(run)
    if time is not None:
        rows = outline.trained(run)
        clock = finite(rows[-1].get("clock")) if rows else None
        own = outline.round_seconds(run)
        mean = f"{span(own / len(rows))} a round" if own else "in all"
        mean += f", {span(time - own)} outside the rounds" if own and time - own > 0.01 * time else ""
        taken = [sum(finite(v) or 0.0 for v in mapping(r.get("seconds")).values()) for r in rows]
        simulated = f", {span(clock)} of simulated time" if clock and abs(clock - time) > 0.01 * time else ""
        out.append(_tile("Wall-clock time", span(time), mean + simulated, _steady(taken, "c8")))
    done, planned = outline.turnout(run)
    if planned:
        rows = outline.trained(run)
        text = f"{short(done / len(rows))} uploads for {short(planned / len(rows))} planned parties a round"
        broken = outline.failed_rounds(run)
        text += f", {plural(len(broken), 'round')} failed" if broken else ""
        came = zip(outline.arrivals(run), rows, strict=True)
        shares = [n / (finite(r.get("planned")) or 1.0) for n, r in came]
        out.append(_tile("Turnout", share(done, planned), text, _steady(shares, "c1")))
    spent = outline.privacy(run)
    epsilon = finite(spent.get("epsilon"))
    if epsilon is not None:
        delta = finite(spent.get("delta"))
        text = f"at δ = {short(delta)}" if delta is not None else ""
        curve = spark(outline.series(run, "epsilon")[1], "c4")
        out.append(_tile("Privacy spent", f"ε {short(epsilon)}", text, curve))
    trainable, whole = (
        finite(run.summary.get("trainable_parameters")),
        finite(run.summary.get("total_parameters")),
    )
    if trainable is not None:
        text = f"{share(trainable, whole)} of {brief(whole)}" if whole else ""
        out.append(_tile("Trainable parameters", brief(trainable), text))
    four = " four" if len(out) in (4, 7, 8) else ""
    return f'<div class="tiles{four}">{"".join(out)}</div>' if out else ""


def ladder_card(run: Run, tag: str, columns: int, reach: Sequence[float] = ()) -> str:
    """Base, alone, federated and pooled on one axis, with a dot per party; `reach` lies on the axis too."""
    found, parties = outline.scores(run), outline.alone(run)
    name = outline.metric_name(run).replace("_", " ")
    digits = outline.score_digits([run])
    rungs = [
        Rung(title, value, ROLES[key], key == "federated", tuple(parties.items()) if key == "local" else ())
        for key, title in outline.BASELINES
        if (value := found[key]) is not None
    ]
    if not rungs:
        return ""

    def show(value: float) -> str:
        return fixed(value, digits)

    label = "; ".join(f"{r.name} {show(r.value)}" for r in rungs)
    fed = found["federated"]
    words = f"{name.capitalize()}, {'higher' if outline.higher_is_better(run) else 'lower'} is better."
    if parties and fed is not None:
        won = sum(outline.better(run, fed, v) > 0 for v in parties.values())
        words = (
            f"The federated model beats {won} of {plural(len(parties), 'party', 'parties')} training alone "
            f"(each a dot). {words}"
        )
    rows = [
        (r.name, show(r.value), "–" if fed is None or r.strong else _signed(run, fed, r.value, digits))
        for r in rungs
    ]
    numbers = table((name, "score", "federated minus this"), rows)
    if parties:
        numbers += table(("party alone", name), [(k, show(v)) for k, v in sorted(parties.items())], sort=True)
    chart = both(lambda w: ladder(w, label, rungs, show, 56 if len(rungs) > 2 else 84, reach), columns)
    return card("Who gains what", words, figure(label, chart), columns, numbers, tag)


def comparison(runs: Sequence[Run]) -> str:
    """One column a run; the best value of a row stands in bold, where the runs had the same test."""
    ranked = not matching.obstacle(runs)
    digits = outline.score_digits(list(runs))
    metrics = [outline.metric_name(r).replace("_", " ") for r in runs]
    name = metrics[0] if len(set(metrics)) == 1 else "score"
    found = [outline.scores(r) for r in runs]
    up = [1.0 if outline.higher_is_better(r) else -1.0 for r in runs]

    def score(value: float | None) -> str:
        return fixed(value, digits)

    def signed(value: float | None) -> str:
        return fixed(value, digits, sign=True)

    def gap(key: str) -> list[float | None]:
        pairs = [(s["federated"], s[key]) for s in found]
        return [
            None if a is None or b is None else round(round(a, digits) - round(b, digits), digits)
            for a, b in pairs
        ]

    trouble = [float(sum(outline.troubles(r).values())) if r.facts.kinds or r.summary else None for r in runs]
    rows: list[tuple[str, list[float | None], Callable[[float | None], str], float | list[float]]] = [
        (f"{name}: base model", [s["base"] for s in found], score, 0.0),
        (f"{name}: parties alone, mean", [s["local"] for s in found], score, 0.0),
        (f"{name}: federated", [s["federated"] for s in found], score, up),
        (f"{name}: pooled data", [s["pooled"] for s in found], score, 0.0),
        ("federated minus alone", gap("local"), signed, up),
        ("federated minus pooled", gap("pooled"), signed, up),
        ("rounds", [float(outline.rounds_done(r)) for r in runs], count, 0.0),
        ("sent up", [outline.traffic(r)["up"] for r in runs], size, -1.0),
        ("sent down", [outline.traffic(r)["down"] for r in runs], size, -1.0),
        ("sent in conversations", [outline.traffic(r)["talk"] for r in runs], size, -1.0),
        ("time of the rounds", [outline.round_seconds(r) for r in runs], span, -1.0),
        ("whole time, with baselines", [outline.seconds(r) for r in runs], span, 0.0),
        ("privacy spent, ε", [finite(outline.privacy(r).get("epsilon")) for r in runs], short, -1.0),
        ("at δ", [finite(outline.privacy(r).get("delta")) for r in runs], short, 0.0),
        ("trainable parameters", [finite(r.summary.get("trainable_parameters")) for r in runs], count, 0.0),
        ("party-rounds lost", trouble, count, -1.0),
    ]
    head = "".join(
        f'<th scope="col" class="n"><span class="k-{colour(i)}" title="{esc(r.label)}">'
        f"<b>{esc(clip(r.label, 26))}</b></span></th>"
        for i, r in enumerate(runs)
    )
    body = [
        _text_row("recipe", [outline.recipe(r) for r in runs]),
        _text_row("status", [outline.status(r) for r in runs]),
    ]
    if not ranked:
        told = [(slot, [matching.named(r, slot) or "–" for r in runs]) for slot in ("task", "data")]
        body += [
            _text_row(title, cells) for title, cells in (*told, ("metric", metrics)) if len(set(cells)) > 1
        ]
    for title, values, show, sign in rows:
        if all(v is None or v == 0 and show is size for v in values):
            continue
        signs = sign if isinstance(sign, list) else [sign] * len(runs)
        keyed = [v * s for v, s in zip(values, signs, strict=True) if v is not None]
        best = (
            max(keyed)
            if ranked and len(set(keyed)) > 1 and all(signs) and (show is not short or None not in values)
            else None
        )
        cells = "".join(
            f'<td class="n{" best" if v is not None and best is not None and v * s == best else ""}">'
            f"{esc(show(v))}</td>"
            for v, s in zip(values, signs, strict=True)
        )
        body.append(f'<tr><th scope="row">{esc(title)}</th>{cells}</tr>')
    inner = (
        f'<div class="scroll"><table class="compare"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
    return card("Side by side", _winner(runs), inner, 12)


def _winner(runs: Sequence[Run]) -> str:
    scored = [(outline.scores(r)["federated"], r) for r in runs]
    ranked = [(v, r) for v, r in scored if v is not None]
    if why := matching.obstacle(runs):
        return f"These runs are {why}, so they cannot be ranked."
    if len(ranked) < 2:
        return BOLD
    ranked.sort(key=lambda p: p[0], reverse=outline.higher_is_better(runs[0]))
    digits = max(outline.score_digits(list(runs)), decimals(v for v, _ in ranked))
    (top, first), (next_, second) = ranked[:2]
    if round(top, digits) == round(next_, digits):
        both_ = f"{first.label} and {second.label}"
        return f"{both_} tie at {fixed(top, digits)}. {BOLD}"
    gap = fixed(abs(round(top, digits) - round(next_, digits)), digits)
    return f"{first.label} is best at {fixed(top, digits)}, {gap} ahead of {second.label}. {BOLD}"


def _text_row(title: str, cells: Sequence[str]) -> str:
    inner = "".join(f'<td class="n">{esc(clip(c, 26))}</td>' for c in cells)
    return f'<tr><th scope="row">{esc(title)}</th>{inner}</tr>'


def _tile(name: str, value: str, detail: str, curve: str = "", tone: str = "") -> str:
    number, _, unit = value.partition(" ")
    if number.isalpha() or number == "ε":
        shown = esc(value)
    else:
        shown = f"{esc(number)} <small>{esc(unit)}</small>" if unit else esc(number)
    return (
        f'<div class="tile"><div class="k">{esc(name)}</div><div class="v {tone}">{shown}</div>'
        f'<div class="d">{esc(detail)}</div>{curve}</div>'
    )


def _steady(values: Sequence[float], colour_: str) -> str:
    return spark([0.0, *values], colour_, floor=True) if any(values) else ""


def _signed(run: Run, fed: float, other: float, digits: int) -> str:
    return fixed(round(fed, digits) - round(other, digits), digits, sign=True)


def head_facts(run: Run) -> str:
    """Seed, engine and digests: what identifies the run, without dates."""
    parties = mapping(run.summary.get("parties"))
    pairs = [
        ("seed", run.summary.get("seed")),
        ("rounds", outline.rounds_done(run) or None),
        ("parties", len(parties) or len(run.facts.parties) or None),
        ("engine", run.summary.get("engine")),
        ("workers", run.summary.get("workers")),
        *((name, run.summary.get(f"{name}_digest")) for name in ("config", "model", "ledger")),
    ]
    spans = [
        f'<span title="{esc(value)}">{name} <b class="mono">{esc(clip(value, 14))}</b></span>'
        for name, value in pairs
        if value is not None and value != ""
    ]
    return f'<div class="facts">{"".join(spans)}</div>' if spans else ""
