"""One self-contained page out of one or several run directories: no network, no library."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from fedfm.report import outline
from fedfm.report.drawing.markup import clip, esc
from fedfm.report.drawing.script import SCRIPT
from fedfm.report.drawing.style import sheet
from fedfm.report.numbers import plural
from fedfm.report.rundir import Run, read_runs
from fedfm.report.sections import cohort, cost, learning, record, trust
from fedfm.report.sections.outcome import chip, comparison, head_facts, ladder_card, tiles, verdict


def write(dirs: list[Path], out: Path | None = None) -> Path:
    """Writes one HTML page on these run directories and gives its path.

    Default place: `report.html` in the first directory. Missing files degrade the page and are told on it.
    Raises ResumeError for a directory that holds no file of a run.
    """
    runs = read_runs([Path(d) for d in dirs])
    place = Path(dirs[0]) / "report.html" if out is None else Path(out)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(place.name + ".part")
    part.write_bytes(render(runs).encode("utf-8", errors="replace"))
    os.replace(part, place)
    return place


def render(runs: Sequence[Run]) -> str:
    """The page as text."""
    sections = [(key, name, body) for key, name, cards in _sections(runs) if (body := "".join(cards))]
    nav = "".join(f'<a href="#{key}">{esc(name)}</a>' for key, name, _ in sections)
    inner = "".join(
        f'<section id="{key}" aria-label="{esc(name)}"><h2>{esc(name)}</h2>'
        f'<div class="grid">{body}</div></section>'
        for key, name, body in sections
    )
    title = outline.recipe(runs[0]) if len(runs) == 1 else f"{len(runs)} runs side by side"
    # Only this very script may run, whatever text a ledger smuggles in; nothing may be fetched.
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{esc(policy)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>{esc(title)} – fedfm report</title><style>{sheet()}</style></head><body>"
        '<a class="skip" href="#main">Skip to the report</a>'
        f'<div class="bar"><div><span class="brand">fedfm</span><nav aria-label="Sections">{nav}</nav>'
        '<button id="theme" type="button" aria-label="Colour theme">Theme</button></div></div>'
        f'<main class="page" id="main">{_hero(runs, title)}{inner}'
        "<footer>Written by fedfm report from the run directory alone; "
        "the page loads nothing from any network.</footer>"
        f'</main><div id="tip" role="status" aria-live="polite"></div><script>{SCRIPT}</script></body></html>'
    )


def _hero(runs: Sequence[Run], title: str) -> str:
    several = len(runs) > 1
    out = [f'<header class="hero"><div class="top"><h1>{esc(clip(title, 60))}</h1>']
    if not several:
        out.append(_badge(runs[0]))
    out.append("</div>")
    if several:
        told = (
            f'{chip(run, i, len(runs))}{_badge(run)}<p class="verdict">{verdict(run)}</p>'
            for i, run in enumerate(runs)
        )
        out.append(f'<div class="runs">{"".join(told)}</div></header>')
    else:
        out.append(f'<p class="verdict">{verdict(runs[0])}</p>{head_facts(runs[0])}</header>')
    out.extend(_banner(run, several) for run in runs)
    if not several:
        out.append(tiles(runs[0]))
    return "".join(out)


def _badge(run: Run) -> str:
    state = outline.status(run)
    return f'<span class="badge {state}">{state}</span>'


def _banner(run: Run, several: bool) -> str:
    state = outline.status(run)
    if state == "finished" and not run.notes:
        return ""
    name = f"{run.label}: " if several else ""
    told = {
        "finished": "What the page could not take from this run's files:",
        "interrupted": "This run did not finish; the page shows the "
        f"{plural(outline.rounds_done(run), 'round')} it has. fedfm resume DIR continues it.",
        "failed": "This run failed; the page shows what it left.",
    }[state]
    items = "".join(f"<li>{esc(n)}</li>" for n in run.notes)
    found = f"<ul>{items}</ul>" if items else ""
    return f'<div class="banner" role="note"><b>{esc(name + told)}</b>{found}</div>'


Draw = Callable[[Run, str, int], str]


def _sections(runs: Sequence[Run]) -> list[tuple[str, str, list[str]]]:
    most_bytes, most_time = (None, None) if len(runs) == 1 else (cost.bytes_peak(runs), cost.time_peak(runs))

    def sent(run: Run, tag: str, columns: int) -> str:
        return cost.bytes_card(run, tag, columns, most_bytes)

    def spent(run: Run, tag: str, columns: int) -> str:
        return cost.time_card(run, tag, columns, most_time)

    grids = _row(runs, cohort.grid_card, cohort.data_card)
    if len(runs) == 1 and cohort.is_large(runs[0]):
        grids = [cohort.grid_card(runs[0], "", 12), cohort.data_card(runs[0], "", 12)]
    full = [(run, chip(run, i, len(runs))) for i, run in enumerate(runs)]
    return [
        ("result", "Result", _result(runs)),
        ("learning", "Learning", learning.cards(runs)),
        ("parties", "Parties", [*grids, *_row(runs, trust.value_card, trust.pay_card, trust.trouble_card)]),
        ("cost", "Cost", _row(runs, sent, cost.wire_card, spent)),
        ("privacy", "Privacy", _row(runs, trust.privacy_card)),
        (
            "record",
            "Record",
            [
                *_row(runs, record.repeat_card, record.versions_card, record.citations_card),
                *(cohort.party_table(run, tag) for run, tag in full),
                *(record.log_card(run, tag) for run, tag in full),
            ],
        ),
    ]


def _result(runs: Sequence[Run]) -> list[str]:
    if len(runs) > 1:
        reach = [
            v
            for run in runs
            for v in (*outline.scores(run).values(), *outline.alone(run).values())
            if v is not None
        ]
        reach = reach if len({outline.metric_name(run) for run in runs}) == 1 else []
        return [
            comparison(runs),
            *_row(runs, lambda run, tag, columns: ladder_card(run, tag, columns, reach)),
        ]
    pair = [ladder_card(runs[0], "", 5), learning.main_curve(runs[0], 7)]
    return pair if all(pair) else [ladder_card(runs[0], "", 12), learning.main_curve(runs[0], 12)]


def _nothing(row: Sequence[str], tag: str, columns: int) -> str:
    # A placeholder keeps like cards under each other; its title is that of its neighbours (markup already).
    title = next(re.search(r"<h3>(.*?)</h3>", found) for found in row if found)
    name = title.group(1) if title else ""
    return (
        f'<article class="card empty w{columns}"><header><h3>{name}</h3>{tag}</header>'
        '<p class="cap">Nothing of this kind was noted in this run.</p></article>'
    )


def _row(runs: Sequence[Run], *draws: Draw) -> list[str]:
    """Cards that fill rows: one run's cards beside each other, several runs' like cards beside each other."""
    if len(runs) > 1:
        columns = 6 if len(runs) in (2, 4) else 4
        tags = [chip(run, i, len(runs)) for i, run in enumerate(runs)]
        rows = [[draw(run, tag, columns) for run, tag in zip(runs, tags, strict=True)] for draw in draws]
        return [
            found or _nothing(row, tag, columns)
            for row in rows
            if any(row)
            for found, tag in zip(row, tags, strict=True)
        ]
    there = [draw for draw in draws if draw(runs[0], "", 6)]
    columns = {1: 12, 2: 6}.get(len(there), 4)
    return [draw(runs[0], "", columns) for draw in there]
