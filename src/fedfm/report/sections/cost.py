"""What the run cost: bytes per round and per stage of the wire, and where the time went."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from fedfm.report import outline
from fedfm.report.drawing.bars import Bar, bars
from fedfm.report.drawing.blocks import Block, Card, Figure, Legend, Note, Table, Tag, both, table
from fedfm.report.drawing.charts import bins, columns
from fedfm.report.drawing.letters import fit, widest
from fedfm.report.numbers import finite, fixed, plural, share, size, span
from fedfm.report.rundir import Run, mapping

WAYS = (
    ("up", "c1", "up (party to server)"),
    ("down", "c3", "down (server to party)"),
    ("talk", "c4", "conversations"),
)
WORK = (("train", "c1"), ("encode", "c6"), ("aggregate", "c3"), ("evaluate", "c5"), ("other", "c8"))


def bytes_card(run: Run, tag: Tag | None, width: int, most: float | None = None) -> Card | None:
    """Bytes per round, stacked by direction."""
    stacks, totals, top = _stacks(run, "bytes", [(key, colour) for key, colour, _ in WAYS])
    sent, rounds = sum(totals.values()), len(stacks[0][2])
    if not sent:
        return None
    words = f"{size(sent / rounds)} travel per round, {share(totals[top], sent)} of it {_way(top)}"
    broken = outline.failed_rounds(run)
    lost = sum(
        v
        for _, _, vs in stacks
        for r, v in zip(outline.trained(run), vs, strict=True)
        if r["round"] in broken
    )
    failed = plural(len(broken), "round that failed", "rounds that failed")
    words += f"; {size(lost)} in all went into {failed} (×)." if lost else "."
    titles = {key: title for key, _, title in WAYS}
    keys = Legend(tuple((titles[k], c, size(totals[k])) for k, c, _ in stacks if totals[k]))
    shown = [(titles[k], c, v) for k, c, v in stacks]
    chart, numbers = _over_rounds(run, words, shown, size, width, most)
    return Card("Data sent per round", words, (keys, chart), width, (numbers,), tag)


def bytes_peak(runs: Sequence[Run]) -> float:
    """The tallest column among several runs, so that they can share one scale."""
    return max((_peak(r, "bytes") for r in runs), default=0.0)


def time_peak(runs: Sequence[Run]) -> float:
    """The longest round among several runs."""
    return max((_peak(r, "seconds") for r in runs), default=0.0)


def wire_card(run: Run, tag: Tag | None, width: int) -> Card | None:
    """What is left of a message after each stage of the wire, as bytes per round."""
    pipes = sorted(run.facts.pipes.items(), key=lambda p: -p[1][0])[:4]
    if not pipes:
        return None
    blocks: list[Block] = []
    rows, words = [], ""
    room = widest([fit(stage, 110.0) for (_, stages), _ in pipes for stage in stages])
    most = max(sums[0] / max(len(run.facts.pipe_rounds.get(way, ())), 1) for (way, _), sums in pipes)
    for (way, stages), sums in pipes:
        messages = run.facts.pipe_messages[(way, stages)]
        rounds = max(len(run.facts.pipe_rounds.get(way, ())), 1)
        each = [s / rounds for s in sums]
        colour = next((c for k, c, _ in WAYS if k == way), "c8")
        lengths = []
        for i, (stage, n) in enumerate(zip(stages, each, strict=True)):
            note = f"÷ {_factor(each[i - 1] / n)}" if i and n and each[i - 1] != n else ""
            lengths.append(Bar(stage, n, colour if i == len(stages) - 1 else "mute", note))
            rows.append(
                (_way(way), stage, size(n), size(sums[i] / messages), _factor(each[0] / n) if n else "–")
            )
        factor = each[0] / each[-1] if each[-1] else 1.0
        if not words and len(stages) > 1 and factor > 1.005:
            words = (
                f"The wire makes what goes {_way(way)} {_factor(factor)} times smaller, "
                f"{size(each[0])} to {size(each[-1])} a round."
            )
        label = f"{_way(way)}: " + ", ".join(f"{b.name} {size(b.value)}" for b in lengths)
        title = f"{_way(way).capitalize()}, mean of a round with {_per_round(messages, rounds)}"
        chart = both(_funnel(label, lengths, room, most), width)
        blocks += [Note(title), Figure(label, **chart)]
    words = words or "Nothing was compressed: what is sent is as large as the update itself."
    numbers = table(("direction", "after stage", "a round", "a message", "times smaller"), rows)
    return Card("Stages of the wire", words, tuple(blocks), width, (numbers,), tag)


def time_card(run: Run, tag: Tag | None, width: int, most: float | None = None) -> Card | None:
    """Seconds per round, stacked by kind of work."""
    stacks, totals, top = _stacks(run, "seconds", list(WORK))
    spent, rounds = sum(totals.values()), len(stacks[0][2])
    if not spent:
        return None
    name = "everything else" if top == "other" else top
    words = f"{span(spent / rounds)} a round without baselines and loading; {name} takes {share(totals[top], spent)}"
    side = totals["encode"] + totals["aggregate"]
    words += (
        f", encoding and aggregating {share(side, spent)}."
        if side and top not in ("encode", "aggregate")
        else "."
    )
    keys = Legend(tuple((k, c, share(totals[k], spent)) for k, c, _ in stacks if totals[k]))
    chart, numbers = _over_rounds(run, words, stacks, span, width, most)
    return Card("Time per round", words, (keys, chart), width, (numbers,), tag)


def _funnel(label: str, rows: Sequence[Bar], room: float, most: float) -> Callable[[int], Markup]:
    return lambda w: bars(w, label, rows, size, 24, room, most)


def _stacks(
    run: Run, field: str, parts: Sequence[tuple[str, str]]
) -> tuple[list[tuple[str, str, list[float]]], dict[str, float], str]:
    """(name, colour, values over rounds) of each part, their totals, and which total is the largest."""
    rows = [mapping(row.get(field)) for row in outline.trained(run)]
    stacks = [(key, colour, [max(finite(row.get(key)) or 0.0, 0.0) for row in rows]) for key, colour in parts]
    totals = {key: sum(values) for key, _, values in stacks}
    return stacks, totals, max(totals, key=lambda key: totals[key])


def _peak(run: Run, field: str) -> float:
    rows = [mapping(row.get(field)) for row in outline.trained(run)]
    each = [sum(max(finite(v) or 0.0, 0.0) for v in row.values()) for row in rows]
    return max((sum(each[i] for i in g) / len(g) for g in bins(len(each))), default=0.0)


def _over_rounds(
    run: Run,
    words: str,
    stacks: Sequence[tuple[str, str, Sequence[float]]],
    show: Callable[[float], str],
    width: int,
    most: float | None,
) -> tuple[Figure, Table]:
    rounds = [int(row["round"]) for row in outline.trained(run)]
    broken = outline.failed_rounds(run)
    groups = bins(len(rounds))
    means = [(n, c, [sum(v[i] for i in g) / len(g) for g in groups]) for n, c, v in stacks if any(v)]
    heads = [
        f"round {rounds[g[0]]}" if len(g) == 1 else f"mean of rounds {rounds[g[0]]}–{rounds[g[-1]]}"
        for g in groups
    ]
    bad = [i for i, g in enumerate(groups) if any(rounds[j] in broken for j in g)]
    starts = [str(rounds[g[0]]) for g in groups]
    image = both(lambda w: columns(w, 220, words, means, starts, show, bad, most), width)
    lines = [{"n": n, "c": c, "v": [show(x) for x in v]} for n, c, v in reversed(means)]
    tip = {"x": list(range(len(groups))), "h": heads, "s": lines}
    rows = [(str(r), *(show(v[i]) for _, _, v in stacks)) for i, r in enumerate(rounds)]
    return Figure(words, tip=tip, **image), table(("round", *(n for n, _, _ in stacks)), rows)


def _factor(value: float) -> str:
    return fixed(value, 0 if value >= 20 else 1 if value >= 3 else 2)


def _per_round(messages: int, rounds: int) -> str:
    each = messages / rounds
    return plural(round(each), "message") if each >= 0.95 else f"{fixed(each, 2)} messages"


def _way(way: str) -> str:
    return {"up": "up", "down": "down", "talk": "in conversations"}.get(way, way)
