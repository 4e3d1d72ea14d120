"""The report: its structure, what it does without some of the files, size, and where it may be written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_outline import PageOutline, card, page, titles

from fedfm.core.errors import ConfigError, ResumeError
from fedfm.report import ledgers, outline, rundir, write
from recorded import edited, stretched

Recorded = Callable[[str], Path]


@pytest.fixture(scope="module")
def one(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return edited(recorded("codes"), tmp_path_factory.mktemp("report") / "first")


def test_one_run_has_every_section_and_fetches_nothing(one: Path) -> None:
    assert write([one]) == one / "report.html"
    text = (one / "report.html").read_text(encoding="utf-8")
    found = PageOutline(text)
    assert len(set(found.ids)) == len(found.ids)
    assert {"result", "learning", "parties", "cost", "record"} <= set(found.ids)
    assert all(link.startswith("#") for link in found.links)
    assert found.scripts.count("code") == 1
    assert not re.search(r"https?://|@import|url\(", text)
    assert len(text.encode()) < 500_000
    assert titles(text) >= {
        "Who gains what",
        "Accuracy over rounds",
        "Losses and other metrics",
        "Who took part",
        "Data per party",
        "Data sent per round",
        "Stages of the wire",
        "Time per round",
        "Repeat it",
        "Versions and digests",
        "Methods to cite",
        "Every party",
        "Event log",
    }
    assert "fedfm run config.yaml" in text and "error-feedback" in card(text, "Stages of the wire")
    drawn = [i for i in found.images if i.get("aria-hidden") != "true"]
    assert len(drawn) > 12 and all(i.get("role") == "img" and i.get("aria-label") for i in drawn)


@pytest.mark.parametrize(
    ("run", "title", "says"),
    [
        (
            "drop-outs",
            "Lost on the way",
            r"12 party-rounds lost; the main reason is “dropped out \(simulated\)”",
        ),
        ("drop-outs", "Event log", "dropout 12"),
        ("masks", "Who took part", "2 dropped out"),
        ("attack", "Lost on the way", r"norm … is … robust deviations .*” \(3\)"),
        ("attack", "Every party", "attacker"),
        ("noise", "Privacy spent", r"ε = \d.*for a whole party"),
        ("auction", "Contribution", "contributed most"),
        ("auction", "Payments", "asked for over the run"),
        ("deadline", "Who took part", r"of 2 rounds that failed \(×\) counted for nothing"),
        ("buffered", "Event log", "stale"),
    ],
)
def test_what_a_run_noted_is_shown(
    recorded: Recorded, tmp_path: Path, run: str, title: str, says: str
) -> None:
    text = page(recorded(run), out=tmp_path / "page.html")
    assert re.search(says, card(text, title), re.DOTALL), card(text, title)


def test_attackers_are_marked_wherever_parties_stand(recorded: Recorded, tmp_path: Path) -> None:
    place = recorded("attack")
    (bad,) = outline.attackers(rundir.read_runs([place])[0])
    text = page(place, out=tmp_path / "page.html")
    for title in ("Who took part", "Data per party", "Every party"):
        assert f"{bad} †" in card(text, title), title
    assert 'class="l q out"' in card(text, "Who took part")
    assert "plays the adversary" in text
    assert "†" not in page(recorded("drop-outs"), out=tmp_path / "page.html")


def test_the_verdict_stands_first(one: Path, tmp_path: Path) -> None:
    told = {"status": "finished with findings", "reasons": ["party-5 never contributed", "<b>"]}
    text = page(edited(one, tmp_path / "run", summary=told))
    head = text.index("party-5 never contributed")
    assert head < text.index('class="verdict"') < text.index('class="tiles') and "&lt;b&gt;" in text
    assert '<span class="badge findings">finished with findings</span>' in text
    failed = page(edited(one, tmp_path / "bad", summary={"status": "failed"}))
    assert "This run failed" in failed and '<span class="badge failed">' in failed


def test_epsilon_never_stands_without_whom_it_protects(recorded: Recorded, tmp_path: Path) -> None:
    words = "Protects one party against whoever gets the models; the server is trusted."
    source = recorded("noise")
    told = json.loads((source / "summary.json").read_text())["privacy"] | {"sentence": words}
    place = edited(source, tmp_path / "run", summary={"privacy": told})
    text = page(place)
    assert (
        words in card(text, "Privacy spent") and text.count(words) >= 2
    )  # beside the figure, and in its tile
    assert words in card(page(place, source, out=tmp_path / "two.html"), "Side by side")


def test_scores_of_parties_on_their_own_rows(one: Path, tmp_path: Path) -> None:
    def own(row: dict[str, Any]) -> dict[str, float]:
        return {f"accuracy/party-{i}": 0.1 * i + 0.01 * row["round"] for i in range(6)}

    text = page(edited(one, tmp_path / "run", metrics=own))
    found = card(text, "What each party gets")
    assert "party-5 has 0.580 and party-0, the worst, 0.080" in found and "6 of 6 parties gained" in found
    assert "accuracy on own rows" in card(text, "Every party") and "By task" not in titles(text)
    many = stretched(one, tmp_path / "many", 2, 40, 6)
    rows = [json.loads(line) for line in (many / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["metrics"] |= {f"accuracy/party-{i}": i / 100 for i in range(40)}
    (many / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert "the worst tenth has 0.015 on average" in card(page(many), "What each party gets")


def test_groups_of_a_metric_are_tasks(one: Path, tmp_path: Path) -> None:
    groups = ("chain_sum", "word_sorting")
    place = edited(one, tmp_path / "run", metrics=lambda row: {f"accuracy/{g}": 0.5 for g in groups})
    assert "word sorting" in card(page(place), "By task")


def test_several_runs_stand_side_by_side(one: Path, recorded: Recorded, tmp_path: Path) -> None:
    second = edited(recorded("codes, seed 1"), tmp_path / "second")
    text = page(one, second, recorded("attack"), out=tmp_path / "all.html")
    assert titles(text) >= {"Side by side", "Score against data sent", "Accuracy over rounds"}
    for label in ("first", "second", "attack"):
        assert f">{label}</b>" in text
    assert len(text.encode()) < 500_000


def test_seeds_of_one_config_are_one_result(recorded: Recorded, tmp_path: Path) -> None:
    dirs = [recorded("codes"), recorded("codes, seed 1"), recorded("attack")]
    found = card(page(*dirs, out=tmp_path / "all.html"), "Over seeds")
    scores = [outline.scores(r)["federated"] or 0.0 for r in rundir.read_runs(dirs[:2])]
    assert f">{sum(scores) / 2:.3f} ± " in found and ">0, 1<" in found and 'class="band' in found
    assert "Over seeds" not in titles(page(dirs[0], dirs[2], out=tmp_path / "two.html"))


def test_a_sweep_is_read_from_its_folder(recorded: Recorded, tmp_path: Path) -> None:
    for i in range(12):
        source = recorded("codes" if i % 2 else "codes, seed 1")
        edited(source, tmp_path / "sweep" / f"lr={i // 2},seed={i % 2}")
    with pytest.raises(ResumeError, match="holds 12: name those you mean"):
        write([tmp_path / "sweep"])
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    text = page(tmp_path / "sweep")
    assert (tmp_path / "sweep" / "report.html").is_file()
    assert "12 runs side by side" in text and "4 more runs" in text and "Over seeds" in titles(text)
    assert len(text.encode()) < 500_000


def test_labels_tell_runs_with_equal_names_apart(one: Path, tmp_path: Path) -> None:
    dirs = [edited(one, tmp_path / side / "run") for side in ("a", "b")]
    assert [r.label for r in rundir.read_runs([*dirs, dirs[0]])] == ["a/run", "b/run", "a/run (2)"]


@pytest.mark.parametrize("missing", ["summary.json", "metrics.jsonl", "events.jsonl", "config.yaml"])
def test_each_file_may_be_missing(one: Path, tmp_path: Path, missing: str) -> None:
    place = edited(one, tmp_path / "run")
    (place / missing).unlink()
    text = page(place)
    assert 'class="banner plain"' in text and f"{missing} is missing" in text
    if missing == "summary.json":
        assert '<span class="badge interrupted">' in text and "Federated accuracy" in text
    for other in {"summary.json", "metrics.jsonl", "events.jsonl"} - {missing}:
        (place / other).unlink()
        if any((place / p).exists() for p in rundir.PARTS):
            page(place)


def test_a_torn_last_line_and_odd_types_do_no_harm(one: Path, tmp_path: Path) -> None:
    place = edited(one, tmp_path / "run")
    with (place / "metrics.jsonl").open("a") as file:
        file.write('{"round": 9, "metrics": {"accur')
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
        ' "bytes": [], "privacy": 3, "reasons": 3, "adversaries": "x",'
        ' "parties": {"a": null, "b": {"rows": "x", "distribution": {"k": null}}}, "dropped": {"x": null},'
        ' "citations": [null, 3], "versions": [], "seed": {}, "rounds": "six",'
        ' "recipe": 5, "trainable_parameters": true}'
    )
    text = page(place)
    assert "unreadable line(s) of metrics.jsonl" in text and "unreadable line(s) of events.jsonl" in text
    (place / "summary.json").write_text("{not json")
    assert "summary.json is damaged" in page(place)
    nulls = dict.fromkeys(("metric", "bytes", "privacy", "parties", "dropped", "citations", "versions"))
    page(edited(one, tmp_path / "nulls", summary=nulls))


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path, one: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    (tmp_path / "file").touch()
    with pytest.raises(ResumeError) as caught:
        write([one, tmp_path / "photos", tmp_path / "nowhere", tmp_path / "file"])
    words = str(caught.value)
    for part in ("summary.json", "cat.png", "no such directory", "is a file"):
        assert part in words
    with pytest.raises(ResumeError, match="no run directory was given"):
        write([])


def test_a_page_is_written_where_it_was_asked_for_and_makes_no_folder(one: Path, tmp_path: Path) -> None:
    assert write([one], tmp_path / "mine.html") == tmp_path / "mine.html"
    assert write([one], tmp_path) == tmp_path / "report.html"
    for odd, says in ((tmp_path / "a" / "b.html", "no folder"), (tmp_path / "pages", "no name of a page")):
        with pytest.raises(ConfigError, match=says):
            write([one], odd)
    (tmp_path / "d.html").mkdir()
    write([one], tmp_path / "d.html")
    assert {p.name for p in tmp_path.iterdir()} == {"mine.html", "report.html", "d.html"}


def test_a_thousand_rounds_and_parties_stay_small(recorded: Recorded, tmp_path: Path) -> None:
    place = stretched(recorded("codes"), tmp_path / "big", rounds=1000, parties=1000, cohort=20)
    text = page(place)
    assert len(text.encode()) < 500_000
    assert "60 of 1,000 parties" in text and "1,000 rounds in 120 columns" in text and "500 of" in text


def test_a_very_long_ledger_is_read_in_whole_rounds(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = stretched(recorded("codes"), tmp_path / "long", rounds=200, parties=18, cohort=18)
    monkeypatch.setattr(ledgers, "EVENT_BYTES", 300_000)
    run = rundir.read_runs([place])[0]
    assert run.sampled and 5 < len(run.facts.outcome) < 100
    assert all(len(row) == 18 for row in run.facts.outcome.values())
    assert max(run.facts.outcome) > 150 and min(run.facts.outcome) == 1
    assert "were read for the figures on parties" in page(place)
