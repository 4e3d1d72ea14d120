"""The report: its structure, what it does without some of the files, escaping, size and speed."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fake_run import fake_run
from fedfm.core.errors import ResumeError
from fedfm.report import outline, rundir, write

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
        "Who gains what",
        "Accuracy over rounds",
        "By task",
        "Losses and other metrics",
        "Who took part",
        "Data per party",
        "Lost on the way",
        "Contribution",
        "Payments",
        "Data sent per round",
        "Stages of the wire",
        "Time per round",
        "Privacy spent",
        "Repeat it",
        "Versions and digests",
        "Methods to cite",
        "Every party",
        "Event log",
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
    names = [
        EVIL,
        "</script><img src=x onerror=alert(1)>",
        '" onmouseover="alert(1)',
        "a & b",
        "x\u202ey\ud800\x00",
        "p|q",
    ]
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
