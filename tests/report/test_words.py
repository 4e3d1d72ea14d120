"""What the page says in words: one rule of rounding, differences of exact numbers, and curves told as they went."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_outline import card, page

from fedfm.report import course, outline, rundir
from fedfm.report.drawing.bars import Bar, bars
from fedfm.report.drawing.letters import wide
from fedfm.report.numbers import fixed, score, short
from fedfm.report.seeds import reach, spread
from fedfm.running.printed import table
from recorded import edited, lines, rewrite

Recorded = Callable[[str], Path]


def scored(source: Path, place: Path, curve: list[float], **metric: Any) -> Path:
    """A copy of a run with other scores: `curve` over rounds, and fields of the summary's metric."""
    told = json.loads((source / "summary.json").read_text())["metric"]
    run = edited(
        source, place, summary={"metric": told | {"federated": curve[-1], "base": curve[0]} | metric}
    )
    name = told["name"]
    rows = [{"round": i, "metrics": {name: v}} for i, v in enumerate(curve)]
    rewrite(run / "metrics.jsonl", rows)
    return run


def said(place: Path) -> str:
    return outline.plain(outline.sentence(rundir.read_runs([place])[0]))


def test_halves_are_rounded_one_way() -> None:
    assert [fixed(v, 2) for v in (0.725, 0.675, 0.125, -0.725, 2.675)] == [
        "0.73",
        "0.68",
        "0.13",
        "−0.73",
        "2.68",
    ]
    assert fixed(0.0005, 3) == "0.001" and fixed(-0.0004, 3) == "0.000" and fixed(1234.5, 0) == "1,235"


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 4))
def test_every_float_has_a_text_that_is_near_it(value: float, digits: int) -> None:
    text = fixed(value, digits).replace(",", "").replace("−", "-")
    assert abs(float(text) - value) <= 0.5 * 10.0**-digits * (1 + 1e-9) + abs(value) * 1e-15
    short(value)


def test_differences_are_taken_before_rounding(recorded: Recorded, tmp_path: Path) -> None:
    place = scored(recorded("codes"), tmp_path / "run", [0.1, 0.72145], local=0.5077, pooled=0.7236)
    words = said(place)
    assert "0.721 beats the parties alone (0.508) by 0.214" in words  # 0.21375, not 0.721 - 0.508 = 0.213
    assert "falls short of pooled training (0.724) by 0.002" in words  # 0.00215, not 0.003
    text = page(place)
    assert "+0.214" in text and "−0.002" in text and "+0.213" not in text and "−0.003" not in text


def test_lower_may_be_better(recorded: Recorded, tmp_path: Path) -> None:
    told = {"name": "perplexity", "higher_is_better": False, "local_parties": {}}
    place = scored(recorded("codes"), tmp_path / "run", [30.0, 14.0], local=12.0, pooled=9.0, **told)
    assert said(place) == (
        "Federated perplexity 14.00 falls short of the parties alone (12.00) by 2.00 "
        "and falls short of pooled training (9.00) by 5.00."
    )


def test_what_prints_alike_is_called_equal(recorded: Recorded, tmp_path: Path) -> None:
    place = scored(recorded("codes"), tmp_path / "run", [0.1, 0.7004], local=0.7001, pooled=None)
    assert "equals the parties alone (0.700)" in said(place)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([2.0, 1.5, 1.2], "The training loss fell by 40 %, from 2 to 1.2."),
        ([2.0, 3.0, 1.2], "The training loss went from 2 to 1.2, on the way as high as 3 (round 1)."),
        ([2.0, 1.3, 1.6, 1.2], "The training loss went from 2 to 1.2, with ups and downs."),
        ([2.0, 0.9, 1.2], "The training loss went from 2 to 1.2, on the way as low as 0.9 (round 1)."),
        ([1.0, 1.5], "The training loss rose by 50 %, from 1 to 1.5."),
        ([1.0, 1.0, 1.0], "The training loss stayed at 1."),
    ],
)
def test_a_loss_is_told_as_it_went(losses: list[float], words: str) -> None:
    assert course.loss_words(list(enumerate(losses))) == words


def test_a_metric_is_told_as_it_went(recorded: Recorded, tmp_path: Path) -> None:
    def words(name: str, *curve: float) -> str:
        place = scored(recorded("codes"), tmp_path / name, list(curve), local=0.5, pooled=None)
        found = re.search(r'class="cap">(.*?)</p>', card(page(place), "Accuracy over rounds"))
        return found[1] if found else ""

    assert words("up", 0.1, 0.4, 0.69, 0.7) == (
        "It improved from 0.100 to 0.700 in 3 rounds, nine tenths of it from round 2 on, "
        "past the parties alone from round 2 on."
    )
    # Past them in round 1, and again below: only what holds to the end is told.
    assert "past the parties alone from round 3 on" in words("dip", 0.1, 0.6, 0.3, 0.7)
    assert "on the way as high as 0.900 (round 1)" in words("peak", 0.1, 0.9, 0.7)
    assert "which is worse" in words("down", 0.6, 0.3)
    assert words("flat", 0.1, 0.1, 0.1) == "It ended where it began, at 0.100, after 2 rounds."


def test_terminal_page_and_results_round_alike(recorded: Recorded, tmp_path: Path) -> None:
    from rich.console import Console

    place = scored(recorded("codes"), tmp_path / "run", [0.1, 0.5625], local=0.0625, pooled=None)
    console = Console(width=200)
    with console.capture() as shown:
        console.print(table(json.loads((place / "summary.json").read_text()), "x"))
    assert "accuracy 0.563" in shown.get() and "0.063" in shown.get()
    assert "0.563" in said(place) and score(0.5625) == "0.563"
    assert (
        spread([0.5625, 0.5625], 3).startswith("0.563")
        and reach([0.0625, 0.5625], score) == "0.0625 to 0.563"
    )


def test_no_name_reaches_its_bar() -> None:
    names = ["W" * 30, "北京大学第一医院北京大学第一医院", "hospital of the north-west, second ward", "i"]
    for width in (344, 545):
        text = bars(width, "x", [Bar(n, 1.0 + i, marked=i == 1) for i, n in enumerate(names)], str)
        drawn = re.findall(
            r'<text class="l q[^"]*" x="0"[^>]*>(.*?)</text><rect class="f-c1" x="([\d.]+)"', text
        )
        assert len(drawn) == 4
        assert all(wide(name) <= float(x) - 8 for name, x in drawn), drawn


def test_the_head_of_a_phone_hides_no_section() -> None:
    style = (Path(rundir.__file__).parent / "templates" / "style.css").read_text()
    phone = style[style.index("max-width:680px") :]
    assert re.search(r"\.bar nav\{[^}]*flex-wrap:wrap;overflow:visible", phone)


def test_recorded_rounds_are_whole(recorded: Recorded) -> None:
    """The fixture is what a run writes: a line a round, from 0."""
    assert [r["round"] for r in lines(recorded("codes") / "metrics.jsonl")] == list(range(9))
