"""Learning: the main curve with its baselines, tasks as small multiples, and every other metric."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from markupsafe import Markup

from fedfm.report import course, matching, outline
from fedfm.report.drawing.blocks import (
    NARROW,
    Block,
    Card,
    Figure,
    Legend,
    Multiples,
    Note,
    Small,
    both,
    table,
)
from fedfm.report.drawing.charts import Line, Rule, line_tip, lines
from fedfm.report.numbers import decimals, finite, fixed, short, size
from fedfm.report.rundir import Run, mapping
from fedfm.report.sections.roles import ROLES, colour
from fedfm.text import clip

MULTIPLES = 24
TRAIN = "train_loss"


def cards(runs: Sequence[Run]) -> list[Card]:
    """The main curve, the curve over bytes (several runs), the tasks, and the other metrics."""
    several = len(runs) > 1
    out = [_several(runs), _over_bytes(runs)] if several else []
    return [c for c in (*out, _tasks(runs), _others(runs)) if c]


def main_curve(run: Run, columns: int) -> Card | None:
    """The metric of one run over rounds, baselines as horizontal lines."""
    name = outline.metric_name(run)
    xs, ys = outline.series(run, "metrics", name)
    if not outline.known(ys):
        return None
    found, digits = outline.scores(run), outline.score_digits([run])
    rules = [
        Rule(title, ROLES[key], value)
        for key, title in outline.BASELINES
        if key != "federated" and (value := found[key]) is not None
    ]
    line = Line("federated", "c1", xs, ys, area=True)

    def show(value: float) -> str:
        return fixed(value, digits)

    words = course.growth_words(run, course.points(xs, ys), show, digits)
    words += f" {told}" if (told := outline.chosen(run)) else ""
    marks = sorted(outline.failed_rounds(run))
    chart = both(
        lambda w: lines(
            w, 300 if w > 400 else 250, words, [line], rules, show=lambda v: fixed(v, digits), marks=marks
        ),
        columns,
    )
    judged = dict(zip(*outline.series(run, "validation", name), strict=True))
    there = bool(outline.known(list(judged.values())))
    numbers = table(
        ("round", name, *(["on validation rows"] if there else [])),
        [
            (short(x), show(y), *([fixed(judged.get(x), digits)] if there else []))
            for x, y in zip(xs, ys, strict=True)
            if y is not None
        ],
    )
    title = f"{name.replace('_', ' ').capitalize()} over rounds"
    figure = Figure(words, tip=line_tip([line], show), **chart)
    return Card(title, words, (figure,), columns, (numbers,))


def _several(runs: Sequence[Run]) -> Card | None:
    curves = []
    for i, run in enumerate(runs):
        xs, ys = outline.series(run, "metrics", outline.metric_name(run))
        if outline.known(ys):
            curves.append(Line(run.label, colour(i), xs, ys))
    if not curves:
        return None
    digits = outline.score_digits(list(runs))
    rules, why = [], matching.obstacle(runs)
    for key, title in outline.BASELINES:
        values = {outline.scores(r)[key] for r in runs}
        if not why and key != "federated" and len(values) == 1 and (value := values.pop()) is not None:
            rules.append(Rule(title, "c8", value))
    names = {outline.metric_name(r) for r in runs}
    name = names.pop() if len(names) == 1 else "score"
    words = "The metric after each round; baselines that all runs share are dotted."
    if why:
        words = f"The metric after each round. The runs are {why}: the height of one says nothing of another."
    chart = both(
        lambda w: lines(w, 340 if w > 400 else 260, words, curves, rules, show=lambda v: fixed(v, digits)), 12
    )
    rows = [(c.name, short(c.xs[-1]), fixed(outline.known(list(c.ys))[-1], digits)) for c in curves]
    numbers = table(("run", "last round", name), rows)
    longest = max(curves, key=lambda c: len(c.xs))
    tip = line_tip([longest, *(c for c in curves if c is not longest)], lambda v: fixed(v, digits))
    title = f"{name.replace('_', ' ').capitalize()} over rounds"
    return Card(title, words, (Figure(words, tip=tip, **chart),), 12, (numbers,))


def _over_bytes(runs: Sequence[Run]) -> Card | None:
    curves = []
    for i, run in enumerate(runs):
        _, ys = outline.series(run, "metrics", outline.metric_name(run))
        each = [sum(finite(v) or 0.0 for v in mapping(row.get("bytes")).values()) for row in run.rounds]
        if sum(each) and outline.known(ys):
            curves.append(Line(run.label, colour(i), list(accumulate(each)), ys))
    if len(curves) < 2:
        return None
    digits = outline.score_digits(list(runs))
    words = _price(curves, runs, digits)
    chart = both(
        lambda w: lines(
            w, 300 if w > 400 else 250, words, curves, show=lambda v: fixed(v, digits), show_x=size, x_name=""
        ),
        12,
    )
    rows = [(c.name, size(c.xs[-1]), fixed(outline.known(list(c.ys))[-1], digits)) for c in curves]
    numbers = table(("run", "sent", "score"), rows)
    return Card("Score against data sent", words, (Figure(words, **chart),), 12, (numbers,))


def _price(curves: Sequence[Line], runs: Sequence[Run], digits: int) -> str:
    """What the runs sent until each of them had a score that all of them reach, if they can be ranked."""
    words = "What each byte bought."
    if why := matching.obstacle(runs):
        return f"{words} The runs are {why}: what one sent says nothing of another."
    up = 1.0 if outline.higher_is_better(runs[0]) else -1.0
    ends = {c.name: up * outline.known(list(c.ys))[-1] for c in curves}
    common = min(ends.values())
    sent = sorted(
        (next(x for x, y in zip(c.xs, c.ys, strict=True) if y is not None and up * y >= common), c.name)
        for c in curves
    )
    (least, first), (next_, second) = sent[:2]
    best = max(ends, key=lambda name: ends[name])
    if not least < next_:
        return words
    words += f" To reach {fixed(up * common, digits)}, as all of them do,"
    if ends[first] == ends[best]:
        return f"{words} {first} sent least, {size(least)}; {second} sent {size(next_)}."
    spent = next(x for x, name in sent if name == best)
    goal = fixed(up * ends[best], digits)
    return f"{words} {first} sent {size(least)} and {best} {size(spent)}; {best} ends best, at {goal}."


def _tasks(runs: Sequence[Run]) -> Card | None:
    main = outline.metric_name(runs[0])
    prefix = main.split("/")[0] + "/"
    every = _keys(runs)
    keys = [k for k in every if k.startswith(prefix) and k != main] or [
        k for k in every if "/" in k and k != main
    ]
    ends = {k: v for k in keys if (v := outline.known(outline.series(runs[0], "metrics", k)[1]))}
    if not ends:
        return None
    digits = decimals(v[-1] for v in ends.values())
    rank = sorted(ends, key=lambda k: ends[k][-1], reverse=outline.higher_is_better(runs[0]))
    best, worst = rank[0], rank[-1]
    words = "All on one scale."
    if len(rank) > 1:
        of = f" in {runs[0].label}" if len(runs) > 1 else ""
        words = (
            f"{_task(best)} ends best{of} at {fixed(ends[best][-1], digits)}, {_task(worst)} worst at "
            f"{fixed(ends[worst][-1], digits)}; all on one scale."
        )
    found = [v for run in runs for k in keys for v in outline.known(outline.series(run, "metrics", k)[1])]
    return _multiples(runs, keys, "By task", words, (min(found), max(found)), digits)


def _others(runs: Sequence[Run]) -> Card | None:
    keys = [k for k in _keys(runs) if "/" not in k and k != outline.metric_name(runs[0])]
    extra = [course.points(*outline.series(run, "train_loss")) for run in runs]
    words = "Each on its own scale."
    if len(runs) == 1 and len(extra[0]) > 1:
        words = f"{course.loss_words(extra[0])} {words}"
    return _multiples(
        runs, ([TRAIN] if any(extra) else []) + keys, "Losses and other metrics", words, None, None
    )


def _keys(runs: Sequence[Run]) -> list[str]:
    """Metrics of any of the runs, without the parties' own: those have a card of their own."""
    own = {f"{outline.metric_name(run)}/{party}" for run in runs for party in outline.by_party(run)}
    return [k for k in dict.fromkeys(k for r in runs for k in outline.metric_keys(r)) if k not in own]


def _curves(runs: Sequence[Run], key: str) -> list[Line]:
    lines_ = []
    for i, run in enumerate(runs):
        xs, ys = outline.series(run, *((key,) if key == TRAIN else ("metrics", key)))
        start = next((j for j, y in enumerate(ys) if y is not None), None)
        if start is not None:
            name = run.label if len(runs) > 1 else _task(key)
            lines_.append(Line(name, colour(i), xs[start:], ys[start:], area=len(runs) == 1))
    return lines_


def _multiples(
    runs: Sequence[Run],
    keys: list[str],
    title: str,
    words: str,
    reach: tuple[float, float] | None,
    digits: int | None,
) -> Card | None:
    drawn = [(key, found) for key in keys if (found := _curves(runs, key))]
    if not drawn:
        return None
    rows = []
    for key, curves in drawn:
        for curve in curves:
            real = outline.known(list(curve.ys))
            places = decimals((min(real), max(real))) if digits is None else digits
            name = key if len(runs) == 1 else f"{key}, {curve.name}"
            rows.append((name, *(fixed(v, places) for v in (real[0], min(real), max(real), real[-1]))))
    cells = [_multiple(key, curves, reach, digits, len(drawn)) for key, curves in drawn[:MULTIPLES]]
    body: list[Block] = []
    if len(runs) > 1:
        body.append(Legend(tuple((run.label, colour(i), "") for i, run in enumerate(runs))))
    body.append(Multiples(tuple(cells)))
    if len(drawn) > len(cells):
        body.append(Note(f"{len(cells)} of {len(drawn)} metrics drawn."))
    numbers = table(("metric", "first", "lowest", "highest", "last"), rows, cap=120)
    return Card(title, words, tuple(body), 12, (numbers,))


def _multiple(
    key: str, curves: Sequence[Line], reach: tuple[float, float] | None, digits: int | None, of: int
) -> Small:
    values = [v for c in curves for v in outline.known(list(c.ys))]
    places = decimals((min(values), max(values))) if digits is None else digits

    def show(value: float) -> str:
        return fixed(value, places)

    ends = [(c.colour, show(outline.known(list(c.ys))[-1])) for c in curves]
    label = f"{key}: " + ", ".join(
        f"{c.name} ends at {end}" for c, (_, end) in zip(curves, ends, strict=True)
    )
    # Rules that are not drawn stretch the axis, so that all multiples share one.
    rules = [Rule("", "none", v) for v in reach] if reach else []

    def draw(width: int) -> Markup:
        return lines(width, 124, label, curves, rules, show=show, direct=False, most=80)

    wide, narrow = {1: (545, NARROW), 2: (540, NARROW), 3: (352, NARROW)}.get(of, (258, 162))
    figure = Figure(label, draw(wide), draw(narrow), line_tip(curves, show, cap=80))
    return Small(clip(_task(key), 24), key, tuple(ends[:3]), figure)


def _task(key: str) -> str:
    return (key.split("/", 1)[1] if "/" in key else key).replace("_", " ")
