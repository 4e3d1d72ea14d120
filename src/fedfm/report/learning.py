"""Learning: the main curve with its baselines, tasks as small multiples, and every other metric."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from fedfm.report import outline
from fedfm.report.charts import Line, Rule, line_tip, lines
from fedfm.report.markup import NARROW, both, card, clip, esc, figure, table
from fedfm.report.numbers import decimals, finite, fixed, plural, share, short, size
from fedfm.report.outcome import ROLES, chip, colour
from fedfm.report.rundir import Run, mapping

MULTIPLES = 24


def cards(runs: Sequence[Run]) -> list[str]:
    """The main curve, the curve over bytes (several runs), the tasks, and the other metrics."""
    several = len(runs) > 1
    out = [_several(runs), _over_bytes(runs)] if several else []
    for i, run in enumerate(runs):
        tag = chip(run, i, len(runs))
        out += [_tasks(run, tag), _others(run, tag)]
    return [c for c in out if c]


def main_curve(run: Run, columns: int) -> str:
    """The metric of one run over rounds, baselines as horizontal lines."""
    name = outline.metric_name(run)
    xs, ys = outline.series(run, "metrics", name)
    if not outline.known(ys):
        return ""
    found, digits = outline.scores(run), outline.score_digits([run])
    rules = [
        Rule(title, ROLES[key], value)
        for key, title in outline.BASELINES
        if key != "federated" and (value := found[key]) is not None
    ]
    line = Line("federated", "c1", xs, ys, area=True)

    def show(value: float) -> str:
        return fixed(value, digits)

    words = _growth(run, digits)
    marks = sorted(outline.failed_rounds(run))
    chart = both(
        lambda w: lines(w, 300 if w > 400 else 250, words, [line], rules, show=lambda v: fixed(v, digits), marks=marks), columns
    )
    numbers = table(("round", name), [(short(x), show(y)) for x, y in zip(xs, ys, strict=True) if y is not None])
    title = f"{name.replace('_', ' ').capitalize()} over rounds"
    return card(title, words, figure(words, chart, line_tip([line], show)), columns, numbers)


def _growth(run: Run, digits: int) -> str:
    name = outline.metric_name(run)
    xs, ys = outline.series(run, "metrics", name)
    seen = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]
    (x0, first), (x1, last) = seen[0], seen[-1]
    if len(seen) == 1:
        return f"Measured once, after round {short(x0)}: {fixed(first, digits)}."
    moved = outline.better(run, last, first)
    verb = "improved" if moved > 0 else "did not move from" if moved == 0 else "got worse,"
    words = [f"It {verb} {fixed(first, digits)} to {fixed(last, digits)} in {plural(x1 - x0, 'round')}"]
    if moved == 0:
        words = [f"It stayed at {fixed(first, digits)} over {plural(x1 - x0, 'round')}"]
    elif moved > 0:
        words = [f"It improved from {fixed(first, digits)} to {fixed(last, digits)} in {plural(x1 - x0, 'round')}"]
        most = next((x for x, y in seen if outline.better(run, y, first) >= 0.9 * moved), x1)
        if most < x1:
            words.append(f"nine tenths of it by round {short(most)}")
    else:
        words = [f"It went from {fixed(first, digits)} to {fixed(last, digits)}, which is worse"]
    local = outline.scores(run)["local"]
    passed = next((x for x, y in seen if local is not None and outline.better(run, y, local) > 0), None)
    if passed:
        words.append(f"past the parties alone in round {short(passed)}")
    broken = len(outline.failed_rounds(run))
    tail = f" {plural(broken, 'round')} gave no model (×)." if broken else ""
    return ", ".join(words) + "." + tail


def _several(runs: Sequence[Run]) -> str:
    curves = []
    for i, run in enumerate(runs):
        xs, ys = outline.series(run, "metrics", outline.metric_name(run))
        if outline.known(ys):
            curves.append(Line(run.label, colour(i), xs, ys))
    if not curves:
        return ""
    digits = outline.score_digits(list(runs))
    rules = []
    for key, title in outline.BASELINES:
        values = {outline.scores(r)[key] for r in runs}
        if key != "federated" and len(values) == 1 and (value := values.pop()) is not None:
            rules.append(Rule(title, "c8", value))
    names = {outline.metric_name(r) for r in runs}
    name = names.pop() if len(names) == 1 else "score"
    words = "The metric after each round; baselines that all runs share are dotted."
    chart = both(lambda w: lines(w, 340 if w > 400 else 260, words, curves, rules, show=lambda v: fixed(v, digits)), 12)
    rows = [(c.name, short(c.xs[-1]), fixed(outline.known(list(c.ys))[-1], digits)) for c in curves]
    numbers = table(("run", "last round", name), rows)
    longest = max(curves, key=lambda c: len(c.xs))
    tip = line_tip([longest, *(c for c in curves if c is not longest)], lambda v: fixed(v, digits))
    title = f"{name.replace('_', ' ').capitalize()} over rounds"
    return card(title, words, figure(words, chart, tip), 12, numbers)


def _over_bytes(runs: Sequence[Run]) -> str:
    curves = []
    for i, run in enumerate(runs):
        _, ys = outline.series(run, "metrics", outline.metric_name(run))
        each = [sum(finite(v) or 0.0 for v in mapping(row.get("bytes")).values()) for row in run.rounds]
        if sum(each) and outline.known(ys):
            curves.append(Line(run.label, colour(i), list(accumulate(each)), ys))
    if len(curves) < 2:
        return ""
    digits = outline.score_digits(list(runs))
    cheap = min(curves, key=lambda c: c.xs[-1])
    words = f"What each byte bought: {cheap.name} needs least, {size(cheap.xs[-1])} in all."
    chart = both(
        lambda w: lines(w, 300 if w > 400 else 250, words, curves, show=lambda v: fixed(v, digits), show_x=size, x_name=""), 12
    )
    rows = [(c.name, size(c.xs[-1]), fixed(outline.known(list(c.ys))[-1], digits)) for c in curves]
    return card("Score against data sent", words, figure(words, chart), 12, table(("run", "sent", "score"), rows))


def _tasks(run: Run, tag: str) -> str:
    main = outline.metric_name(run)
    prefix = main.split("/")[0] + "/"
    keys = [k for k in outline.metric_keys(run) if k.startswith(prefix) and k != main]
    if not keys:
        keys = [k for k in outline.metric_keys(run) if "/" in k and k != main]
    if not keys:
        return ""
    ends = {k: v for k in keys if (v := outline.known(outline.series(run, "metrics", k)[1]))}
    if not ends:
        return ""
    digits = decimals(v[-1] for v in ends.values())
    up = outline.higher_is_better(run)
    rank = sorted(ends, key=lambda k: ends[k][-1], reverse=up)
    best, worst = rank[0], rank[-1]
    words = f"{plural(len(ends), 'part')} of {main.replace('_', ' ')}, on one scale"
    if len(rank) > 1:
        words = (
            f"{_task(best)} ends best at {fixed(ends[best][-1], digits)}, {_task(worst)} worst at "
            f"{fixed(ends[worst][-1], digits)}; all on one scale"
        )
    low, high = min(min(v) for v in ends.values()), max(max(v) for v in ends.values())
    return _multiples(run, list(ends), "By task", words + ".", tag, (low, high), digits)


def _others(run: Run, tag: str) -> str:
    main = outline.metric_name(run)
    keys = [k for k in outline.metric_keys(run) if "/" not in k and k != main]
    extra = outline.known(outline.series(run, "train_loss")[1])
    if not keys and not extra:
        return ""
    words = "Each on its own scale."
    if len(extra) > 1:
        change = share(abs(extra[-1] - extra[0]), abs(extra[0]) or 1.0)
        verb = "fell" if extra[-1] < extra[0] else "rose"
        words = f"The training loss {verb} by {change}, from {short(extra[0])} to {short(extra[-1])}. {words}"
    return _multiples(run, (["train_loss"] if extra else []) + keys, "Losses and other metrics", words, tag, None, None)


def _multiples(
    run: Run, keys: list[str], title: str, words: str, tag: str, reach: tuple[float, float] | None, digits: int | None
) -> str:
    cells: list[str] = []
    rows = []
    drawn = [k for k in keys if k == "train_loss" or outline.known(outline.series(run, "metrics", k)[1])]
    for key in drawn:
        path = (key,) if key == "train_loss" else ("metrics", key)
        xs, ys = outline.series(run, *path)
        real = outline.known(ys)
        places = decimals(real) if digits is None else digits
        rows.append((key, fixed(real[0], places), fixed(min(real), places), fixed(max(real), places), fixed(real[-1], places)))
        if len(cells) < MULTIPLES:
            cells.append(_multiple(key, xs, ys, reach, places, len(drawn)))
    if not cells:
        return ""
    note = f'<p class="note">{len(cells)} of {len(rows)} metrics drawn.</p>' if len(rows) > len(cells) else ""
    numbers = table(("metric", "first", "lowest", "highest", "last"), rows, cap=120)
    return card(title, words, f'<div class="multi k{min(len(drawn), 4)}">{"".join(cells)}</div>{note}', 12, numbers, tag)


def _multiple(
    key: str, xs: list[float], ys: list[float | None], reach: tuple[float, float] | None, digits: int, of: int
) -> str:
    real = outline.known(ys)
    line = Line("", "c1", xs, ys, area=True)

    def show(value: float) -> str:
        return fixed(value, digits)

    label = f"{key}: {show(real[0])} to {show(real[-1])}"
    # Invisible rules stretch the axis, so that all multiples share one.
    rules = [Rule("", "none", v) for v in reach] if reach else []

    def draw(width: int) -> str:
        return lines(width, 124, label, [line], rules, show=show, direct=False)

    wide = {1: 545, 2: 540, 3: 352}.get(of, 258)
    image = f'<div class="wide">{draw(wide)}</div><div class="narrow">{draw(NARROW)}</div>' if of < 3 else draw(wide)
    head = f'<h4><span title="{esc(key)}">{esc(clip(_task(key), 24))}</span><b class="k-c1">{show(real[-1])}</b></h4>'
    named = Line(_task(key), "c1", xs, ys)
    return f"<div>{head}{figure(label, image, line_tip([named], show, cap=120))}</div>"


def _task(key: str) -> str:
    return (key.split("/", 1)[1] if "/" in key else key).replace("_", " ")
