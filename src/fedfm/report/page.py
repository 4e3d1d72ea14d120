"""One self-contained page out of one or several run directories: no network, no library."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfm.core.errors import ConfigError, MachineFault, Problem
from fedfm.files import path as meant
from fedfm.report import outline, seeds
from fedfm.report.drawing import paper
from fedfm.report.drawing.blocks import Card, Tag
from fedfm.report.rundir import Run, read_runs
from fedfm.report.sections import audit, cohort, cost, learning, record, result, stages, trust
from fedfm.report.sections.head import head
from fedfm.report.sections.roles import tag

MOST = 8  # runs that have cards and colours of their own; more are told by their configs
Draw = Callable[[Run, Tag | None, int], Card | None]


@dataclass(frozen=True)
class Section:
    """A part of the page with its cards."""

    key: str
    name: str
    cards: tuple[Card, ...]


def write(dirs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Writes one HTML page on these run directories and gives its path.

    Default place: `report.html` in the first directory. `out` is a page, or a folder that is there; no folder is
    made. Missing files degrade the page and are told on it. Raises ResumeError for a directory that holds no file
    of a run, ConfigError for a place that cannot be.
    """
    runs = read_runs([meant(d) for d in dirs])
    place = meant(dirs[0]) / "report.html" if out is None else _place(meant(out))
    part = place.with_name(place.name + ".part")
    try:
        part.write_bytes(render(runs).encode("utf-8", errors="replace"))
        os.replace(part, place)
    except OSError as e:
        part.unlink(missing_ok=True)
        if out is None:
            raise MachineFault(
                f"{place}: {e.strerror or e}\n    fix: make room on the disk, or mend the rights"
            ) from e
        raise ConfigError(
            [
                Problem(
                    "--to",
                    f"{place} cannot be written",
                    str(e.strerror or e),
                    "choose another place with --to",
                )
            ]
        ) from e
    return place


def _place(out: Path) -> Path:
    """The page that `--to` means."""
    if out.is_dir():
        return out / "report.html"
    what = ""
    if out.suffix.lower() not in (".html", ".htm"):
        what, why = f"{out} is no folder and no name of a page", "a page ends in .html"
    elif not out.parent.is_dir():
        what, why = f"there is no folder {out.parent}", "a report makes no folders"
    if what:
        fix = "give a path like report.html in a folder that is there, or such a folder"
        raise ConfigError([Problem("--to", what, why, fix)])
    return out


def render(runs: Sequence[Run]) -> str:
    """The page as text."""
    sections = [s for s in _sections(runs) if s.cards]
    title = outline.recipe(runs[0]) if len(runs) == 1 else f"{len(runs)} runs side by side"
    heads = [head(run, i, len(runs)) for i, run in enumerate(runs)]
    return paper.render("page.html", title=title, runs=heads, sections=sections, most=MOST)


def _sections(runs: Sequence[Run]) -> list[Section]:
    found = _by_config(runs) if len(runs) > MOST else _by_run(runs)
    return [Section(key, name, tuple(c for c in cards if c is not None)) for key, name, cards in found]


def _by_config(runs: Sequence[Run]) -> list[tuple[str, str, list[Card | None]]]:
    """A sweep: what each config gave over its seeds, and the runs themselves as columns of one table."""
    groups = seeds.grouped(runs)
    return [
        ("result", "Result", [result.seeds_card(groups) or result.configs_card(groups)]),
        ("runs", "Runs", [result.comparison(runs)]),
    ]


def _by_run(runs: Sequence[Run]) -> list[tuple[str, str, list[Card | None]]]:
    peaks = (None, None) if len(runs) == 1 else (cost.bytes_peak(runs), cost.time_peak(runs))

    def sent(run: Run, chip: Tag | None, columns: int) -> Card | None:
        return cost.bytes_card(run, chip, columns, peaks[0])

    def spent(run: Run, chip: Tag | None, columns: int) -> Card | None:
        return cost.time_card(run, chip, columns, peaks[1])

    grids = _row(runs, cohort.grid_card, cohort.data_card)
    if len(runs) == 1 and cohort.is_large(runs[0]):
        grids = [cohort.grid_card(runs[0], None, 12), cohort.data_card(runs[0], None, 12)]
    full = [(run, tag(run, i, len(runs))) for i, run in enumerate(runs)]
    money = _row(runs, cohort.own_card, trust.value_card, trust.pay_card, trust.trouble_card)
    return [
        ("result", "Result", _result(runs)),
        ("learning", "Learning", [*learning.cards(runs), *_row(runs, stages.stages_card)]),
        ("parties", "Parties", [*grids, *money]),
        ("cost", "Cost", _row(runs, sent, cost.wire_card, spent)),
        ("privacy", "Privacy", _row(runs, trust.privacy_card, audit.audit_card)),
        (
            "record",
            "Record",
            [
                *_row(runs, record.repeat_card, record.versions_card, record.citations_card),
                *(cohort.party_table(run, chip) for run, chip in full),
                *(record.log_card(run, chip) for run, chip in full),
            ],
        ),
    ]


def _result(runs: Sequence[Run]) -> list[Card | None]:
    if len(runs) > 1:
        reach = [
            v
            for run in runs
            for v in (*outline.scores(run).values(), *outline.alone(run).values())
            if v is not None
        ]
        reach = reach if len({outline.metric_name(run) for run in runs}) == 1 else []
        return [
            result.seeds_card(seeds.grouped(runs)),
            result.comparison(runs),
            *_row(runs, lambda run, chip, columns: result.ladder_card(run, chip, columns, reach)),
        ]
    pair = [result.ladder_card(runs[0], None, 5), learning.main_curve(runs[0], 7)]
    if all(pair):
        return pair
    return [result.ladder_card(runs[0], None, 12), learning.main_curve(runs[0], 12)]


def _nothing(row: Sequence[Card | None], chip: Tag | None, columns: int) -> Card:
    """A placeholder that keeps like cards under each other; its title is that of its neighbours."""
    title = next(found.title for found in row if found is not None)
    words = "Nothing of this kind was noted in this run."
    return Card(title, words, (), columns, (), chip, empty=True)


def _row(runs: Sequence[Run], *draws: Draw) -> list[Card | None]:
    """Cards that fill rows: one run's cards beside each other, several runs' like cards beside each other."""
    if len(runs) > 1:
        columns = 6 if len(runs) in (2, 4) else 4
        tags = [tag(run, i, len(runs)) for i, run in enumerate(runs)]
        rows = [[draw(run, chip, columns) for run, chip in zip(runs, tags, strict=True)] for draw in draws]
        return [
            found or _nothing(row, chip, columns)
            for row in rows
            if any(row)
            for found, chip in zip(row, tags, strict=True)
        ]
    there = [draw for draw in draws if draw(runs[0], None, 6)]
    columns = 6 if len(there) in (2, 4) else {1: 12}.get(len(there), 4)
    return [draw(runs[0], None, columns) for draw in there]
