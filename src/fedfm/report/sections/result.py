"""The result: the ladder of scores, runs side by side, and seeds of one config as one result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from fedfm.report import matching, outline
from fedfm.report.drawing.bars import Rung, ladder
from fedfm.report.drawing.blocks import Card, Cell, Figure, Table, Tag, both, table
from fedfm.report.drawing.charts import Line, lines
from fedfm.report.numbers import count, decimals, finite, fixed, plural, rounded, short, size, span
from fedfm.report.rundir import Run, mapping
from fedfm.report.sections.roles import ROLES, colour
from fedfm.report.seeds import Group, reach, spread
from fedfm.report.together import composed
from fedfm.text import clip

BOLD = "Bold marks the best score and the least cost."
WHOLE = 1e-6  # so near is a share of rows to a number of rows
Show = Callable[[float | None], str]


def ladder_card(run: Run, tag: Tag | None, columns: int, also: Sequence[float] = ()) -> Card | None:
    """Base, alone, federated and pooled on one axis, with a dot per party; `also` lies on the axis too."""
    found, parties = outline.scores(run), outline.alone(run)
    name = outline.metric_name(run).replace("_", " ")
    digits = outline.score_digits([run])
    rungs = [
        Rung(title, value, ROLES[key], key == "federated", tuple(parties.items()) if key == "local" else ())
        for key, title in outline.BASELINES
        if (value := found[key]) is not None
    ]
    if not rungs:
        return None

    def show(value: float) -> str:
        return fixed(value, digits)

    label = "; ".join(f"{r.name} {show(r.value)}" for r in rungs)
    fed = found["federated"]
    words = f"{name.capitalize()}, {'higher' if outline.higher_is_better(run) else 'lower'} is better."
    if outline.personal(run):
        words += " Parties have models of their own: the federated score is the mean of theirs, each on its own test rows."
    if parties and fed is not None:
        won = sum(outline.better(run, fed, v) > 0 for v in parties.values())
        words = (
            f"The federated model beats {won} of {plural(len(parties), 'party', 'parties')} training alone "
            f"(each a dot). {words}"
        )
    gaps = [None if fed is None or r.strong else fed - r.value for r in rungs]
    rows = [(r.name, show(r.value), fixed(g, digits, True)) for r, g in zip(rungs, gaps, strict=True)]
    numbers = [table((name, "score", "federated minus this"), rows)]
    if parties:
        numbers.append(
            table(("party alone", name), [(k, show(v)) for k, v in sorted(parties.items())], sort=True)
        )
    chart = both(lambda w: ladder(w, label, rungs, show, 56 if len(rungs) > 2 else 84, also), columns)
    return Card("Who gains what", words, (Figure(label, **chart),), columns, tuple(numbers), tag)


@dataclass(frozen=True)
class _Row:
    """A row of the comparison: a value a run, how it is printed, and which way is better (0: neither)."""

    title: str
    values: Sequence[float | None]
    show: Show
    better: Sequence[float] = ()

    @property
    def idle(self) -> bool:
        """Nothing in it is worth a row."""
        return all(v is None or v == 0 and self.show is size for v in self.values)

    def cells(self, ranked: bool) -> tuple[str | Cell, ...]:
        """Title and texts; whatever prints as the best does is bold, where runs may be ranked."""
        known = [v for v in self.values if v is not None]
        whole = self.show is not short or len(known) == len(self.values)
        best = ""
        if ranked and self.better and all(self.better) and whole and known:
            top = max(range(len(known)), key=lambda i: known[i] * self.better[0])
            best = self.show(known[top]) if len({self.show(v) for v in known}) > 1 else ""
        return (
            self.title,
            *(Cell(self.show(v), v is not None and self.show(v) == best) for v in self.values),
        )


def comparison(runs: Sequence[Run]) -> Card:
    """One column a run; the best value of a row stands in bold, where the runs had the same test."""
    ranked = not matching.obstacle(runs)
    head = ("", *(Cell(clip(r.label, 26), colour=colour(i), title=r.label) for i, r in enumerate(runs)))
    rows = [row for row in _numbers(runs) if not row.idle]
    body = [*_texts(runs, ranked), *(row.cells(ranked) for row in rows)]
    found = Table(head, tuple(body), cap=len(body), look="compare")
    return Card("Side by side", _winner(runs), (found,), 12)


def _numbers(runs: Sequence[Run]) -> list[_Row]:
    digits = outline.score_digits(list(runs))
    metrics = {outline.metric_name(r).replace("_", " ") for r in runs}
    name = metrics.pop() if len(metrics) == 1 else "score"
    found = [outline.scores(r) for r in runs]
    up = [1.0 if outline.higher_is_better(r) else -1.0 for r in runs]
    less = [-1.0] * len(runs)

    def score(value: float | None) -> str:
        return fixed(value, digits)

    def signed(value: float | None) -> str:
        return fixed(value, digits, sign=True)

    def gap(key: str) -> list[float | None]:
        pairs = [(s["federated"], s[key]) for s in found]
        return [None if a is None or b is None else a - b for a, b in pairs]

    def told(key: str, of: Callable[[Run], object]) -> list[float | None]:
        return [finite(mapping(of(r)).get(key)) for r in runs]

    lost = [float(sum(outline.troubles(r).values())) if r.facts.kinds or r.summary else None for r in runs]
    return [
        _Row(f"{name}: base model", [s["base"] for s in found], score),
        _Row(f"{name}: parties alone, mean", [s["local"] for s in found], score),
        _Row(f"{name}: federated", [s["federated"] for s in found], score, up),
        _Row(f"{name}: pooled data", [s["pooled"] for s in found], score),
        _Row("federated minus alone", gap("local"), signed, up),
        _Row("federated minus pooled", gap("pooled"), signed, up),
        _Row("rounds", [float(outline.rounds_done(r)) for r in runs], count),
        _Row("sent up", told("up", outline.traffic), size, less),
        _Row("sent down", told("down", outline.traffic), size, less),
        _Row("sent in conversations", told("talk", outline.traffic), size, less),
        _Row("time of the rounds", [outline.round_seconds(r) for r in runs], span, less),
        _Row("whole time, with baselines", [outline.seconds(r) for r in runs], span),
        *_epsilons(runs, told("epsilon", outline.privacy), less),
        _Row("at δ", told("delta", outline.privacy), short),
        _Row("trainable parameters", told("trainable_parameters", lambda r: r.summary), count),
        _Row("party-rounds lost", lost, count, less),
    ]


def _promises(runs: Sequence[Run]) -> list[str]:
    """What each run's epsilon is of, in the words that tell it from the others'; empty for a run without one."""
    found = [outline.promise(r) for r in runs]
    apart = [k for k in ("unit", "neighbours", "observer", "δ") if len({p[k] for p in found if p}) > 1]
    return [", ".join(p[k] for k in apart) or "the same" if p else "" for p in found]


def _epsilons(runs: Sequence[Run], values: Sequence[float | None], less: Sequence[float]) -> list[_Row]:
    """A row a promise: numbers of different promises say nothing of each other, and none is the best of them."""
    promises = _promises(runs)
    kinds = list(dict.fromkeys(p for p in promises if p))
    if len(kinds) < 2:
        return [_Row("privacy spent, ε", values, short, less)]
    return [
        _Row(
            f"privacy spent, ε ({kind})",
            [v if p == kind else None for v, p in zip(values, promises, strict=True)],
            short,
        )
        for kind in kinds
    ]


def _texts(runs: Sequence[Run], ranked: bool) -> list[tuple[str, ...]]:
    rows = [
        ("recipe", [outline.named(r) or "–" for r in runs]),
        ("status", [outline.status(r) for r in runs]),
    ]
    if any(covers := [outline.covers(r) or "–" for r in runs]) and set(covers) != {"–"}:
        rows.append(("what ε covers", covers))
    if len({outline.personal(r) for r in runs}) > 1:
        own = ["parties' own models, their mean" if outline.personal(r) else "one model" for r in runs]
        rows.append(("scored", own))
    if not ranked:
        told = [(slot, [matching.named(r, slot) or "–" for r in runs]) for slot in ("task", "data")]
        told.append(("metric", [outline.metric_name(r).replace("_", " ") for r in runs]))
        rows += [(title, cells) for title, cells in told if len(set(cells)) > 1]
    return [
        (title, *(clip(c, 26) if title != "what ε covers" else clip(c, 160) for c in cells))
        for title, cells in rows
        if set(cells) != {"–"}
    ]


def seeds_card(groups: Sequence[Group]) -> Card | None:
    """Mean and spread of every config, and its curves; None when no config ran on several seeds."""
    return None if all(len(g.runs) < 2 for g in groups) else configs_card(groups)


def configs_card(groups: Sequence[Group]) -> Card:
    """A row a config, whatever the number of its seeds."""
    runs = [r for g in groups for r in g.runs]
    digits, metrics = outline.score_digits(runs), sorted({outline.metric_name(r) for r in runs})
    name = metrics[0].replace("_", " ") if len(metrics) == 1 else "score"
    keys = (*(key for key, _ in outline.BASELINES),)
    head = (
        "config",
        "seeds",
        *(title for _, title in outline.BASELINES),
        "its range",
        "federated minus alone",
    )
    rows = []
    for g in groups:
        seeds = ", ".join(str(r.summary.get("seed", "–")) for r in g.runs)
        scores = [spread(g.values(partial(_score, key)), digits) for key in keys]
        ends = reach(g.values(partial(_score, "federated")), lambda v: fixed(v, digits))
        rows.append((g.label, seeds, *scores, ends, spread(g.values(_gain), digits, sign=True)))
    words = f"{name.capitalize()}: mean ± standard deviation over seeds. Configs that differ in the seed alone are one row."
    curves = [
        Line(g.label, colour(i), xs, mean, band=band)
        for i, g in enumerate(groups)
        if (found := g.curve())[0]
        for xs, mean, band in [found]
    ]
    known = [i for i in range(len(head)) if i < 2 or any(row[i] not in ("–", "") for row in rows)]
    head, rows = tuple(head[i] for i in known), [tuple(row[i] for i in known) for row in rows]
    body: list[Figure | Table] = [Table(head, tuple(rows), cap=100, look="compare")]
    if curves and len(metrics) == 1 and len(curves) <= 8:
        label = f"Mean {name} over rounds; the band is the range over seeds."
        chart = both(
            lambda w: lines(w, 300 if w > 400 else 250, label, curves, show=lambda v: fixed(v, digits)), 12
        )
        body.append(Figure(label, **chart))
        words += " Lines are means, bands the range."
    return Card("Over seeds" if any(len(g.runs) > 1 for g in groups) else "By config", words, tuple(body), 12)


def _score(key: str, run: Run) -> float | None:
    return outline.scores(run)[key]


def _gain(run: Run) -> float | None:
    found = outline.scores(run)
    fed, local = found["federated"], found["local"]
    return None if fed is None or local is None else fed - local


def _winner(runs: Sequence[Run]) -> str:
    parts = _ranking(runs), _unlike_promises(runs), composed([run.path for run in runs])
    return " ".join(part for part in parts if part)


def _unlike_promises(runs: Sequence[Run]) -> str:
    kinds = list(dict.fromkeys(p for p in _promises(runs) if p))
    if len(kinds) < 2:
        return ""
    return (
        f"Their epsilons are of different promises ({'; '.join(kinds)}): no number is smaller than one of another "
        "promise, and each has a row of its own."
    )


def _ranking(runs: Sequence[Run]) -> str:
    scored = [(outline.scores(r)["federated"], r) for r in runs]
    ranked = [(v, r) for v, r in scored if v is not None]
    if why := matching.obstacle(runs):
        return f"These runs are {why}, so they cannot be ranked."
    if len(ranked) < 2:
        return BOLD
    ranked.sort(key=lambda p: p[0], reverse=outline.higher_is_better(runs[0]))
    digits = max(outline.score_digits(list(runs)), decimals(v for v, _ in ranked))
    (top, first), (next_, second) = ranked[:2]
    if fixed(top, digits) == fixed(next_, digits):
        both_ = f"{first.label} and {second.label}"
        return f"{both_} tie at {fixed(top, digits)}. {BOLD}"
    ahead = f"{fixed(abs(top - next_), digits)} ahead of" if rounded(top - next_, digits) else "just ahead of"
    return f"{first.label} is best at {fixed(top, digits)}, {ahead} {second.label}{_on(first, top - next_)}. {BOLD}"


def _on(run: Run, lead: float) -> str:
    """On how many test rows, and of how many of them a lead is where the score is a share of the rows."""
    if not (n := matching.rows(run)):
        return ""
    ahead = abs(lead) * n
    whole = round(ahead) if abs(ahead - round(ahead)) < WHOLE else 0
    return f": {count(whole)} of {plural(n, 'test row')}" if whole else f", on {plural(n, 'test row')}"
