"""The report: its structure, what it does without some of the files, escaping, size and speed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fake_run import fake_run
from fedfm.core.errors import ResumeError
from fedfm.report import outline, rundir, write
from fedfm.report.drawing.charts import apart, bins, thin, ticks
from fedfm.report.drawing.markup import clip, data, esc
from fedfm.report.folds import fold
from fedfm.report.numbers import alike, decimals, fixed, share, short, size, span

EVIL = '<script>alert("x")</script>'


class _Outline(HTMLParser):
    """Checks that tags nest, and collects ids, headings, addresses and scripts."""

    VOID = {"meta", "br", "input", "img", "link", "hr"}

    def __init__(self, text: str):
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [v or "" for k, v in attrs if k in ("href", "src", "xlink:href", "action")]
        assert not any(k.startswith("on") for k in found), (tag, attrs)
        if tag == "svg":
            self.images.append(found)
        if tag == "script":
            self.scripts.append(found.get("type") or "code")
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack.pop() == tag, tag


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("report") / "first")


def _page(*dirs: Path, out: Path | None = None) -> str:
    return write(list(dirs), out).read_text(encoding="utf-8")


def test_one_run_has_every_section_and_fetches_nothing(one: Path) -> None:
    assert write([one]) == one / "report.html"
    text = (one / "report.html").read_text(encoding="utf-8")
    found = _Outline(text)
    assert len(set(found.ids)) == len(found.ids)
    assert {"result", "learning", "parties", "cost", "privacy", "record"} <= set(found.ids)
    assert all(link.startswith("#") for link in found.links)
    assert found.scripts.count("code") == 1
    assert not re.search(r"https?://|@import|url\(", text)
    assert len(text.encode()) < 500_000
    for title in (
        "Who gains what", "Accuracy over rounds", "By task", "Losses and other metrics",
        "Who took part", "Data per party", "Lost on the way", "Contribution", "Payments",
        "Data sent per round", "Stages of the wire", "Time per round", "Privacy spent", "Repeat it",
        "Versions and digests", "Methods to cite", "Every party", "Event log"
    ):
        assert f"<h3>{title}</h3>" in text, title
    assert "fedfm run config.yaml" in text and "weather" in text and "gaussian" in text
    drawn = [i for i in found.images if i.get("aria-hidden") != "true"]
    assert len(drawn) > 15 and all(i.get("role") == "img" and i.get("aria-label") for i in drawn)


def test_several_runs_stand_side_by_side(one: Path, tmp_path: Path) -> None:
    second = fake_run(tmp_path / "second", seed=3, gain=0.4, stages=(("raw", 1.0),), private=False)
    third = fake_run(tmp_path / "third", seed=4, gain=0.45, paid=False, baselines=False)
    text = _page(one, second, third, out=tmp_path / "deep" / "all.html")
    _Outline(text)
    for title in ("Side by side", "Score against data sent", "Accuracy over rounds"):
        assert f"<h3>{title}</h3>" in text
    for label in ("first", "second", "third"):
        assert f">{label}</b>" in text
    assert "first is best at" in text
    assert len(text.encode()) < 500_000


def test_labels_tell_runs_with_equal_names_apart(tmp_path: Path) -> None:
    dirs = [fake_run(tmp_path / side / "run", rounds=2) for side in ("a", "b")]
    assert [r.label for r in rundir.read_runs([*dirs, dirs[0]])] == ["a/run", "b/run", "a/run (2)"]


def test_everything_is_escaped(tmp_path: Path) -> None:
    names = [EVIL, "</script><img src=x onerror=alert(1)>", '" onmouseover="alert(1)', "a & b", "x\u202ey\ud800\x00", "p|q"]
    place = fake_run(tmp_path / EVIL.replace("/", "_"), names=names, labels=(EVIL, "b", "]]>"))
    told = json.loads((place / "summary.json").read_text())
    told["recipe"] = told["engine"] = told["config_digest"] = EVIL
    told["metric"]["name"] = EVIL
    told["versions"] = {EVIL: EVIL}
    told["citations"] = [{"name": EVIL, "paper": EVIL, "survey": [EVIL]}]
    told["privacy"]["mechanism"] = told["privacy"]["note"] = EVIL
    told["dropped"] = {EVIL: 3}
    (place / "summary.json").write_text(json.dumps(told))
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["metrics"].update(
            {EVIL: row["metrics"]["accuracy"], f"{EVIL}/{EVIL}": 0.5, f"accuracy/{EVIL}": 0.4}
        )
    (place / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with (place / "events.jsonl").open("a") as file:
        for kind in (EVIL, "dropout", "refused", "failed", "round_failed", "bytes", "privacy"):
            event = {
                "round": 2,
                "kind": kind,
                "client": EVIL,
                "reason": EVIL,
                "by": EVIL,
                "error": EVIL,
                "phase": EVIL,
                "direction": EVIL,
                "stages": {EVIL: 5, "</g>": 3},
                "mechanism": EVIL,
                "sampling": {EVIL: EVIL},
            }
            file.write(json.dumps(event) + "\n")
    (place / "config.yaml").write_text(f"recipe: x\nname: {EVIL}\n")
    for dirs in ([place], [place, place]):
        text = _page(*dirs, out=tmp_path / "page.html")
        found = _Outline(text)
        assert found.scripts.count("code") == 1
        assert all(link.startswith("#") for link in found.links)
        assert "<script>alert" not in text and "<img" not in text
        assert "\u202e" not in text and "\x00" not in text
        assert "&lt;script&gt;" in text


@pytest.mark.parametrize("missing", ["summary.json", "metrics.jsonl", "events.jsonl", "config.yaml"])
def test_each_file_may_be_missing(tmp_path: Path, missing: str) -> None:
    place = fake_run(tmp_path / "run")
    (place / missing).unlink()
    text = _page(place)
    _Outline(text)
    assert 'class="banner"' in text and f"{missing} is missing" in text
    if missing == "summary.json":
        assert '<span class="badge interrupted">' in text and "fedit" in text and "Federated accuracy" in text
    for other in {"summary.json", "metrics.jsonl", "events.jsonl"} - {missing}:
        (place / other).unlink()
        _Outline(_page(place)) if any((place / p).exists() for p in rundir.PARTS) else None


def test_a_torn_last_line_and_odd_types_do_no_harm(tmp_path: Path) -> None:
    place = fake_run(tmp_path / "run")
    with (place / "metrics.jsonl").open("a") as file:
        file.write('{"round": 7, "metrics": {"accur')
    with (place / "events.jsonl").open("a") as file:
        file.write(
            '[1,2]\n{"kind": null}\n{"round": "x", "kind": ["a"], "client": {"b": 1}}\n'
            '{"kind": "plan", "clients": 3}\n'
            '{"round": 1, "kind": "bytes", "stages": {"raw": "many"}}\n'
            '{"round": 1, "kind": "value", "client": 3, "value": NaN}\n'
            '{"round": true, "kind": "upload", "client": 0, "mass": 1e999}\nnot json'
        )
    (place / "summary.json").write_text(
        '{"metric": {"name": 3, "federated": NaN, "local": "high", "local_parties": [1]},'
        ' "bytes": [], "privacy": 3,'
        ' "parties": {"a": null, "b": {"rows": "x", "distribution": {"k": null}}}, "dropped": {"x": null},'
        ' "citations": [null, 3], "versions": [], "seed": {}, "rounds": "six",'
        ' "recipe": 5, "trainable_parameters": true}'
    )
    text = _page(place)
    _Outline(text)
    assert "unreadable line(s) of metrics.jsonl" in text and "unreadable line(s) of events.jsonl" in text
    (place / "summary.json").write_text("{not json")
    assert "summary.json is damaged" in _page(place)


@pytest.mark.parametrize(
    "summary",
    [
        {
            "metric": None,
            "bytes": None,
            "privacy": None,
            "parties": None,
            "dropped": None,
            "citations": None,
            "versions": None,
        },
        {
            "metric": {
                "name": "perplexity",
                "base": 30.0,
                "local": 12.0,
                "federated": 14.0,
                "pooled": 9.0,
                "higher_is_better": False,
                "local_parties": {},
            }
        },
    ],
)
def test_nulls_and_lower_is_better(tmp_path: Path, summary: dict[str, Any]) -> None:
    place = fake_run(tmp_path / "run", summary=summary)
    text = _page(place)
    _Outline(text)
    if summary["metric"]:
        words = outline.sentence(outline.verdict(rundir.read_runs([place])[0]))
        assert words == (
            "Federated perplexity 14.00 falls short of the parties alone (12.00) by 2.00 "
            "and stands 5.00 above pooled training (9.00)."
        )


def test_the_verdict_adds_up_as_printed(one: Path) -> None:
    run = rundir.read_runs([one])[0]
    words = outline.sentence(outline.verdict(run))
    fed, local, by, under, pooled = map(float, re.findall(r"\d\.\d+", words))
    assert round(fed - local, 3) == by and round(pooled - fed, 3) == under
    assert "beats the parties alone" in words and words.endswith(".")


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path, one: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    (tmp_path / "file").touch()
    with pytest.raises(ResumeError) as caught:
        write([one, tmp_path / "photos", tmp_path / "nowhere", tmp_path / "file"])
    words = str(caught.value)
    assert (
        "summary.json" in words
        and "cat.png" in words
        and "no such directory" in words
        and "is a file" in words
    )
    with pytest.raises(ResumeError, match="no run directory was given"):
        write([])


def test_a_thousand_rounds_and_parties_stay_small_and_quick(tmp_path: Path) -> None:
    place = fake_run(
        tmp_path / "big", parties=1000, rounds=1000, cohort=20, labels=tuple(f"label {i}" for i in range(40))
    )
    start = time.process_time()
    text = _page(place)
    spent = time.process_time() - start
    _Outline(text)
    assert len(text.encode()) < 500_000
    assert "60 of 1,000 parties" in text and "1,000 rounds in 120 columns" in text and "500 of" in text
    assert spent < 6, spent  # 3 s on a quiet machine


def test_a_very_long_ledger_is_read_in_whole_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = fake_run(tmp_path / "long", parties=20, rounds=200)
    monkeypatch.setattr(rundir, "EVENT_BYTES", 300_000)
    run = rundir.read_runs([place])[0]
    assert run.sampled and 5 < len(run.facts.outcome) < 100
    assert all(len(row) == 20 for row in run.facts.outcome.values())
    assert max(run.facts.outcome) > 150 and min(run.facts.outcome) == 1
    assert "were read for the figures on parties" in _page(place)


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
        rows = re.findall(r'<tr><th scope="row"[^>]*>(\d+)</th><td>(.*?)</td><td>(.*?)</td>', _card(text, title))
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
        one_ = fake_run(tmp_path / name / "one", config="task: {name: t}\ndata: {name: d, partition: {alpha: 1}}\n")
        two = fake_run(tmp_path / name / "two", seed=3, gain=0.2, stages=(("raw", 0.01),), config=other, **changes)
        return _page(one_, two)

    for name, other, why in (
        ("tasks", "task: {name: u}\ndata: {name: d}\n", "of different tasks"),
        ("data", "task: {name: t}\ndata: {name: e}\n", "judged on different data"),
    ):
        text = pair(name, other)
        assert why in text and "is best" not in text and 'class="n best"' not in text and "sent least" not in text
    text = pair("metrics", "", summary={"metric": {"name": "loss", "federated": 0.1, "higher_is_better": False}})
    assert "judged by different metrics" in text and "is best" not in text and 'class="n best"' not in text
    text = pair("same", "task: {name: t}\ndata: {name: d, partition: {alpha: 9}}\n")
    # Run two sent less in all, and needs more for what it reaches.
    assert "one is best at" in text and "as all of them do, one sent least" in text


def test_numbers_are_written_for_readers() -> None:
    assert [size(v) for v in (0, 999, 1234, 1.5e6, 2.34e9)] == ["0 B", "999 B", "1.23 kB", "1.50 MB", "2.34 GB"]
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
