"""The parts of the report: folds over a ledger, numbers, geometry, markup."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from page_outline import card, page

from fedfm.report import outline, rundir
from fedfm.report.drawing.charts import apart, bins, labelled, thin, ticks
from fedfm.report.drawing.letters import fit, wide
from fedfm.report.drawing.markup import data, esc
from fedfm.report.folds import fold, log_rows
from fedfm.report.numbers import alike, decimals, fixed, share, short, size, span
from fedfm.text import clip
from recorded import edited, lines, rewrite

Recorded = Callable[[str], Path]


def test_outcomes_of_a_round() -> None:
    facts = fold(
        [
            {"round": 0, "kind": "plan", "clients": ["a", "b", "c", "d", "e", "f", "g"]},
            *({"round": 0, "kind": "upload", "client": c, "mass": 2} for c in "abc"),
            {"round": 0, "kind": "dropout", "client": "b", "phase": "unmask"},
            {"round": 0, "kind": "refused", "client": "c", "by": "krum"},
            {"round": 0, "kind": "dropout", "client": "d", "phase": "work"},
            {"round": 0, "kind": "failed", "client": "d", "error": "the end of the session"},
            {"round": 0, "kind": "late", "client": "e"},
            {"round": 0, "kind": "failed", "client": "f", "error": "boom"},
            {"round": 1, "kind": "plan", "clients": ["a", "b"]},
            {"round": 1, "kind": "round_failed", "reason": "no quorum"},
            {"round": 1, "kind": "upload", "client": "a", "mass": 2},
            {"round": 0, "kind": "upload", "client": "g"},
            {"round": 2, "kind": "plan", "clients": []},
            {"round": 1, "kind": "upload", "client": "b"},
        ]
    )
    # What arrives in a failed round is thrown away, whenever it was begun.
    assert facts.outcome[1] == {"a": "c", "b": "c", "c": "r", "d": "d", "e": "l", "f": "f", "g": "s"}
    assert facts.outcome[2] == {"a": "s", "b": "c"} and facts.failed_rounds == {2: "no quorum"}
    a = facts.parties["a"]
    assert (a.mass, a.uploads, a.thrown) == (4, 1, 1) and facts.parties["d"].trouble == {"dropout": 1}


def test_one_reason_with_other_figures_is_one_reason() -> None:
    events = [
        {"round": t, "kind": "refused", "client": "party-7", "reason": f"norm {t}.5 is 1e-{t} of party-7's"}
        for t in range(1, 4)
    ]
    assert fold(events).reasons == {("refused", "norm … is … of party-7's"): 3}


def test_rare_kinds_come_first_in_a_long_log() -> None:
    busy = [{"round": t, "kind": "seconds", "client": "a", "work": 1.0} for t in range(2000)]
    gone = [{"round": t, "kind": "dropout", "client": "b"} for t in range(0, 2000, 70)]
    rows = log_rows(fold(sorted(busy + gone, key=lambda e: e["round"])))
    assert len(rows) == 500 and sum(e["kind"] == "dropout" for e in rows) == len(gone)
    assert [e["round"] for e in rows] == sorted(e["round"] for e in rows)
    hostile = [{"round": 0, "kind": f"kind {i}"} for i in range(5000)]
    assert len(log_rows(fold(hostile))) == 500


def test_the_page_counts_rounds_from_one_everywhere(recorded: Recorded, tmp_path: Path) -> None:
    place = edited(recorded("deadline"), tmp_path / "run")
    failed = [r["round"] for r in lines(place / "metrics.jsonl") if r.get("failed")]
    late = {(e["round"] + 1, e["client"]) for e in lines(place / "events.jsonl") if e["kind"] == "late"}
    run, text = rundir.read_runs([place])[0], page(place)
    assert sorted(run.facts.outcome) == [1, 2, 3, 4, 5, 6] and list(outline.failed_rounds(run)) == failed
    grid = card(text, "Who took part")
    assert '"cols":["round 1","round 2","round 3","round 4","round 5","round 6"]' in grid
    assert re.findall(r'<text class="t m"[^>]*>(\d+)</text>', grid)[:6] == list("123456")
    for title in ("Lost on the way", "Event log"):
        rows = re.findall(
            r'<tr><th scope="row"[^>]*>(\d+)</th><td>(.*?)</td><td>(.*?)</td>', card(text, title)
        )
        found = {(int(n), next(iter({a, b} - {"late"}))) for n, a, b in rows if "late" in (a, b)}
        assert found == late, title
    ends = [n for n, _, what in rows_of(card(text, "Lost on the way")) if what == "round failed"]
    assert list(map(int, ends)) == failed


def rows_of(text: str) -> list[tuple[str, str, str]]:
    return re.findall(r'<th scope="row"[^>]*>(\d+)</th><td>(.*?)</td><td>(.*?)</td>', text)


def test_uploads_of_failed_rounds_are_no_contributions(recorded: Recorded, tmp_path: Path) -> None:
    place = edited(recorded("deadline"), tmp_path / "run")
    rows = lines(place / "metrics.jsonl")
    rewrite(place / "metrics.jsonl", [r | ({"failed": "no quorum"} if r["round"] else {}) for r in rows])
    run, text = rundir.read_runs([place])[0], page(place)
    done, planned = outline.turnout(run)
    assert done == 0 and planned == 30 and not any(t.uploads for t in run.facts.parties.values())
    sent = sum(t.thrown for t in run.facts.parties.values())
    grid = card(text, "Who took part")
    assert sent > 10 and f"{sent} uploads of 6 rounds that failed (×) counted for nothing" in grid
    assert "0 % of the planned party-rounds uploaded in a round that gave a model" in grid
    assert '<path class="f-c1" d=""/>' in grid and "contributed" not in grid
    (place / "events.jsonl").unlink()  # the metrics know of failed rounds by themselves
    assert list(outline.failed_rounds(rundir.read_runs([place])[0])) == [1, 2, 3, 4, 5, 6]


def test_runs_of_different_tests_are_not_ranked(recorded: Recorded, tmp_path: Path) -> None:
    source = recorded("codes")
    score = json.loads((source / "summary.json").read_text())["metric"]

    def pair(folder: str, change: tuple[str, str], **metric: Any) -> str:
        one = edited(source, tmp_path / folder / "one")
        two = edited(
            source, tmp_path / folder / "two", summary={"metric": score | {"federated": 0.2} | metric}
        )
        config = (source / "config.yaml").read_text()
        assert change[0] in config
        (two / "config.yaml").write_text(config.replace(*change))
        return page(one, two, out=tmp_path / "page.html")

    data = ("name: digits", "name: fashion-mnist")
    for name, text, why in (
        ("tasks", pair("tasks", ("name: image-classification", "name: quadratic")), "of different tasks"),
        ("data", pair("data", data), "judged on different data"),
        (
            "metrics",
            pair("metrics", data, name="loss", higher_is_better=False),
            "judged by different metrics",
        ),
    ):
        assert why in text and "is best" not in text and 'class="n best"' not in text, name
        assert "sent least" not in text
    text = pair("same", ("alpha: 2.0", "alpha: 9.0"))
    assert "one is best at" in text and 'class="n best"' in text


def test_numbers_are_written_for_readers() -> None:
    assert [size(v) for v in (0, 999, 1234, 1.5e6, 2.34e9)] == [
        "0 B",
        "999 B",
        "1.23 kB",
        "1.50 MB",
        "2.34 GB",
    ]
    told = ["0 s", "12.3 ms", "12.3 s", "3 min 10 s", "2 h 05 min"]
    assert [span(v) for v in (0, 0.0123, 12.34, 190, 7500)] == told
    told = ["–", "0", "0.5", "1e−5", "−3.14", "1,234"]
    assert [short(v) for v in (None, 0, 0.5, 1e-5, -3.14159, 1234)] == told
    assert [short(v) for v in (math.nan, math.inf, -math.inf, 1e308)] == ["–", "∞", "−∞", "1e308"]
    assert fixed(-0.001, 2) == "0.00" and fixed(0.22, 2, sign=True) == "+0.22" and share(1, 3) == "33 %"
    assert alike([0.2, 0.245, None]) == ["0.200", "0.245", "–"]
    assert decimals([0.83, 0.61]) == 3 and decimals([14.2, 9.0]) == 2 and decimals([None]) == 3


def test_chart_geometry() -> None:
    assert ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1.0] and ticks(2, 2) == [2]
    assert [len(b) for b in bins(1000, 120)].count(9) + [len(b) for b in bins(1000, 120)].count(8) == 120
    spiky = [0.0] * 5000
    spiky[1234] = 9.0
    kept = thin(range(5000), spiky)
    assert len(kept) < 260 and (1234, 9.0) in kept
    spots = apart([10, 11, 12, 90], 15, 0, 100)
    assert (
        all(b - a >= 15 - 1e-9 for a, b in zip(sorted(spots), sorted(spots)[1:], strict=False))
        and max(spots) <= 100
    )


def test_ticks_carry_no_idle_zeros() -> None:
    def texts(*places: float) -> list[str]:
        return [text for _, text in labelled(places, lambda v: fixed(v, 3))]

    assert texts(0.2, 0.4) == ["0.2", "0.4"] and texts(0, 1) == ["0", "1"]
    assert texts(0.25, 0.5) == ["0.25", "0.50"]


def test_names_are_cut_to_the_room_they_have() -> None:
    for name in ("W" * 40, "北京大学第一医院" * 4, "iiii", "", "a" * 5000):
        assert wide(fit(name, 100.0)) <= 100.0
    assert fit("party-1", 100.0) == "party-1"


def test_markup_pieces() -> None:
    assert esc("<a href='x'>&") == "&lt;a href=&#x27;x&#x27;&gt;&amp;" and clip("a" * 50, 9) == "aaaaaa…aa"
    assert "</" not in data({"a": "</script><!--&"}).removesuffix("</script>")


def test_the_report_needs_no_torch() -> None:
    code = "import sys, fedfm.report; sys.exit('torch' in sys.modules or 'tensorboard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
