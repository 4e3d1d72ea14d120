"""The head of the page: status and findings first, then the run in one sentence, what identifies it, key figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedfm.report import outline
from fedfm.report.drawing.blocks import Tag, Tile
from fedfm.report.drawing.charts import spark
from fedfm.report.numbers import brief, finite, fixed, plural, share, short, size, span
from fedfm.report.rundir import Run, mapping
from fedfm.report.sections.roles import ROLES, tag
from fedfm.text import clip


@dataclass(frozen=True)
class State:
    """A run's status and the class of its badge."""

    name: str
    look: str


@dataclass(frozen=True)
class Banner:
    """A framed list; `look` is good, warn or bad."""

    head: str
    items: tuple[str, ...] = ()
    look: str = "warn"


@dataclass(frozen=True)
class Head:
    """All that the top of the page says of one run."""

    tag: Tag | None
    state: State
    verdict: tuple[Banner, ...]
    sentence: outline.Pieces
    facts: tuple[tuple[str, str, str], ...]
    notes: tuple[Banner, ...]
    tiles: tuple[Tile, ...]


def head(run: Run, index: int, of: int) -> Head:
    """The head of the index-th of so many runs."""
    name = f"{run.label}: " if of > 1 else ""
    status = outline.status(run)
    look = status.split()[-1]
    pieces = [(text, ROLES.get(role, "")) for text, role in outline.sentence(run)]
    return Head(
        tag(run, index, of),
        State(status, look),
        _verdict(run, name, status),
        pieces,
        _facts(run) if of == 1 else (),
        _notes(run, name),
        tuple(tiles(run)) if of == 1 else (),
    )


def _verdict(run: Run, name: str, status: str) -> tuple[Banner, ...]:
    """Findings and failures stand before everything else."""
    reasons, done = tuple(outline.findings(run)), plural(outline.rounds_done(run), "round")
    told = {
        "finished": "Finished.",
        "finished with findings": "This run finished with findings; its figures hold only with these in mind.",
        "interrupted": f"This run did not finish; the page shows the {done} it has. fedfm resume DIR continues it.",
        "failed": "This run failed; the page shows what it left.",
    }[status]
    if status == "finished" and not reasons:
        return ()
    return (Banner(name + told, reasons, "bad" if status == "failed" else "warn"),)


def _notes(run: Run, name: str) -> tuple[Banner, ...]:
    if not run.notes:
        return ()
    return (Banner(f"{name}What is missing or wrong in this run's files:", run.notes, "plain"),)


def tiles(run: Run) -> list[Tile]:
    """The key figures; what is not known has no tile."""
    found = (_scores(run), _sent(run), _time(run), _turnout(run), _privacy(run), _parameters(run))
    return [tile for group in found for tile in group]


def _scores(run: Run) -> list[Tile]:
    found, digits = outline.scores(run), outline.score_digits([run])
    name, fed = outline.metric_name(run), found["federated"]
    if fed is None:
        return []
    base = found["base"]
    change = "" if base is None else f"{fixed(fed - base, digits, sign=True)} on the base model"
    curve = spark(outline.series(run, "metrics", name)[1], "c1")
    out = [Tile(f"Federated {name.replace('_', ' ')}", fixed(fed, digits), "", change, curve)]
    for key, title, text in (
        ("local", "Gain over training alone", "parties alone reach"),
        ("pooled", "Against pooled data", "all data in one place reaches"),
    ):
        if (other := found[key]) is not None:
            tone = "up" if outline.better(run, fed, other) > 0 else "" if key == "pooled" else "down"
            gap = fixed(fed - other, digits, sign=True)
            out.append(Tile(title, gap, "", f"{text} {fixed(other, digits)}", tone=tone))
    return out


def _sent(run: Run) -> list[Tile]:
    ways = outline.traffic(run)
    sent = outline.total(ways)
    if sent is None:
        return []
    detail = ", ".join(f"{size(v)} {k}" for k, v in ways.items() if v)
    each = [sum(finite(v) or 0.0 for v in mapping(r.get("bytes")).values()) for r in outline.trained(run)]
    text = f"{size(sent / max(outline.rounds_done(run), 1))} a round: {detail}" if detail else ""
    return [Tile("Data sent", *_with_unit(size(sent)), text, _steady(each, "c3"))]


def _time(run: Run) -> list[Tile]:
    time = outline.seconds(run)
    if time is None:
        return []
    rows = outline.trained(run)
    clock = finite(rows[-1].get("clock")) if rows else None
    own = outline.round_seconds(run)
    mean = f"{span(own / len(rows))} a round" if own else "in all"
    mean += f", {span(time - own)} outside the rounds" if own and time - own > 0.01 * time else ""
    taken = [sum(finite(v) or 0.0 for v in mapping(r.get("seconds")).values()) for r in rows]
    words = (
        "with a round open" if re.search(r"(?m)^\s+wall: true$", run.config or "") else "of simulated time"
    )
    simulated = f", {span(clock)} {words}" if clock and abs(clock - time) > 0.01 * time else ""
    return [Tile("Wall-clock time", *_with_unit(span(time)), mean + simulated, _steady(taken, "c8"))]


def _turnout(run: Run) -> list[Tile]:
    done, planned = outline.turnout(run)
    if not planned:
        return []
    rows, broken = outline.trained(run), outline.failed_rounds(run)
    text = f"{short(done / len(rows))} uploads for {short(planned / len(rows))} planned parties a round"
    text += f", {plural(len(broken), 'round')} failed" if broken else ""
    came = zip(outline.arrivals(run), rows, strict=True)
    shares = [n / (finite(r.get("planned")) or 1.0) for n, r in came]
    return [Tile("Turnout", *_with_unit(share(done, planned)), text, _steady(shares, "c1"))]


def _privacy(run: Run) -> list[Tile]:
    spent = outline.privacy(run)
    epsilon, delta = finite(spent.get("epsilon")), finite(spent.get("delta"))
    if epsilon is None:
        return []
    text = f"at δ = {short(delta)}" if delta is not None else ""
    covers = outline.covers(run)
    text += f". {clip(covers, 150)}" if covers else ""
    return [
        Tile("Privacy spent", f"ε {short(epsilon)}", "", text, spark(outline.series(run, "epsilon")[1], "c4"))
    ]


def _parameters(run: Run) -> list[Tile]:
    trainable, whole = (finite(run.summary.get(f"{k}_parameters")) for k in ("trainable", "total"))
    if trainable is None:
        return []
    text = f"{share(trainable, whole)} of {brief(whole)}" if whole else ""
    return [Tile("Trainable parameters", *_with_unit(brief(trainable)), text)]


def _with_unit(text: str) -> tuple[str, str]:
    """`12.3 MB` as number and unit."""
    number, _, unit = text.partition(" ")
    return number, unit


def _steady(values: Sequence[float], colour: str) -> Markup:
    return spark([0.0, *values], colour, floor=True) if any(values) else Markup("")


def _facts(run: Run) -> tuple[tuple[str, str, str], ...]:
    """Seed, engine and digests: what identifies the run, without dates."""
    parties = mapping(run.summary.get("parties"))
    pairs = [
        ("seed", run.summary.get("seed")),
        ("rounds", outline.rounds_done(run) or None),
        ("parties", len(parties) or len(run.facts.parties) or None),
        ("attackers", len(outline.attackers(run)) or None),
        ("engine", run.summary.get("engine")),
        ("workers", run.summary.get("workers")),
        *((name, run.summary.get(f"{name}_digest")) for name in ("config", "model", "ledger")),
    ]
    return tuple((name, clip(v, 14), str(v)) for name, v in pairs if v is not None and v != "")
