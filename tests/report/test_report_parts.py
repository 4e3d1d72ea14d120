"""The report: its structure, what it does without some of the files, escaping, size and speed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fake_run import fake_run
from fedfm.report import outline, rundir, write
from fedfm.report.drawing.charts import apart, bins, thin, ticks
from fedfm.report.drawing.markup import clip, data, esc
from fedfm.report.folds import fold
from fedfm.report.numbers import alike, decimals, fixed, share, short, size, span


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("report") / "first")


def _page(*dirs: Path, out: Path | None = None) -> str:
    return write(list(dirs), out).read_text(encoding="utf-8")


def test_outcomes_of_a_round() -> None:
    facts = fold(
        [
            {"round": 0, "kind": "plan", "clients": ["a", "b", "c", "d", "e", "f", "g"]},
            *({"round": 0, "kind": "upload", "client": c, "mass": 2} for c in "abcd"),
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


def _card(text: str, title: str) -> str:
    return next(c for c in re.findall(r"<article.*?</article>", text, re.DOTALL) if f"<h3>{title}</h3>" in c)


def test_the_page_counts_rounds_from_one_everywhere(tmp_path: Path) -> None:
    place = fake_run(tmp_path / "run", rounds=4, broken=(2,))
    with (place / "events.jsonl").open("a") as file:
        file.write('{"round": 3, "kind": "late", "client": "hospital-1"}\n')
    run, text = rundir.read_runs([place])[0], _page(place)
    assert sorted(run.facts.outcome) == [1, 2, 3, 4] and list(outline.failed_rounds(run)) == [2]
    grid = _card(text, "Who took part")
    assert '"cols":["round 1","round 2","round 3","round 4"]' in grid
    assert re.findall(r'<text class="t m"[^>]*>(\d+)</text>', grid)[:4] == ["1", "2", "3", "4"]
    for title in ("Lost on the way", "Event log"):
        rows = re.findall(
            r'<tr><th scope="row"[^>]*>(\d+)</th><td>(.*?)</td><td>(.*?)</td>', _card(text, title)
        )
        assert {"1", "2", "3", "4"} >= {n for n, _, _ in rows}, title
        assert any(n == "4" and {a, b} == {"late", "hospital-1"} for n, a, b in rows), title
    assert ("2", "all", "round failed") in re.findall(
        r'<th scope="row"[^>]*>(\d+)</th><td>(.*?)</td><td>(.*?)</td>', _card(text, "Lost on the way")
    )


def test_uploads_of_failed_rounds_are_no_contributions(tmp_path: Path) -> None:
    place = fake_run(tmp_path / "run", rounds=3, broken=(1, 2, 3))
    run, text = rundir.read_runs([place])[0], _page(place)
    done, planned = outline.turnout(run)
    assert done == 0 and planned == 24 and not any(t.uploads for t in run.facts.parties.values())
    sent = sum(t.thrown for t in run.facts.parties.values())
    grid = _card(text, "Who took part")
    assert sent > 10 and f"{sent} uploads of 3 rounds that failed (×) counted for nothing" in grid
    assert "0 % of the planned party-rounds uploaded in a round that gave a model" in grid
    assert '<path class="f-c1" d=""/>' in grid and "contributed" not in grid
    (place / "events.jsonl").unlink()  # the metrics know of failed rounds by themselves
    assert list(outline.failed_rounds(rundir.read_runs([place])[0])) == [1, 2, 3]


def test_runs_of_different_tests_are_not_ranked(tmp_path: Path) -> None:
    def pair(name: str, other: str, **changes: Any) -> str:
        one_ = fake_run(
            tmp_path / name / "one", config="task: {name: t}\ndata: {name: d, partition: {alpha: 1}}\n"
        )
        two = fake_run(
            tmp_path / name / "two", seed=3, gain=0.2, stages=(("raw", 0.01),), config=other, **changes
        )
        return _page(one_, two)

    for name, other, why in (
        ("tasks", "task: {name: u}\ndata: {name: d}\n", "of different tasks"),
        ("data", "task: {name: t}\ndata: {name: e}\n", "judged on different data"),
    ):
        text = pair(name, other)
        assert (
            why in text
            and "is best" not in text
            and 'class="n best"' not in text
            and "sent least" not in text
        )
    text = pair(
        "metrics", "", summary={"metric": {"name": "loss", "federated": 0.1, "higher_is_better": False}}
    )
    assert "judged by different metrics" in text and "is best" not in text and 'class="n best"' not in text
    text = pair("same", "task: {name: t}\ndata: {name: d, partition: {alpha: 9}}\n")
    # Run two sent less in all, and needs more for what it reaches.
    assert "one is best at" in text and "as all of them do, one sent least" in text


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
    assert fixed(-0.001, 2) == "0.00" and fixed(0.22, 2, sign=True) == "+0.22" and share(1, 3) == "33 %"
    assert alike([0.2, 0.245, None]) == ["0.200", "0.245", "–"]
    assert decimals([0.83, 0.61]) == 2 and decimals([0.831, 0.834]) == 3 and decimals([None]) == 2


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


def test_markup_pieces() -> None:
    assert esc("<a href='x'>&") == "&lt;a href=&#x27;x&#x27;&gt;&amp;" and clip("a" * 50, 9) == "aaaaaa…aa"
    assert "</" not in data({"a": "</script><!--&"}).removesuffix("</script>")


def test_the_report_needs_no_torch() -> None:
    code = "import sys, fedfm.report; sys.exit('torch' in sys.modules or 'tensorboard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
