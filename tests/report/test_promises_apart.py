"""Epsilons of different promises, and scores on different test rows, are shown beside each other and never ranked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_outline import card

from fedfm.report import write
from fedfm.report.rundir import read_runs
from fedfm.report.sections.result import comparison
from recorded import edited

Recorded = Callable[[str], Path]


def with_privacy(recorded: Recorded, place: Path, **changes: Any) -> Path:
    source = recorded("noise")
    told = json.loads((source / "summary.json").read_text())["privacy"]
    return edited(source, place, summary={"privacy": told | changes})


def rows(*folders: Path) -> dict[str, list[Any]]:
    found = comparison(read_runs(list(folders)))
    return {str(title): cells for title, *cells in found.body[0].rows}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"relation": "add-or-remove (one party more or less)"}, "add-or-remove"),
        ({"unit": "row"}, "row"),
        ({"observer": "the server"}, "the server"),
        ({"delta": 1e-7}, "δ = "),
    ],
)
def test_epsilons_of_different_promises_have_rows_of_their_own(
    changes: dict[str, Any], said: str, recorded: Recorded, tmp_path: Path
) -> None:
    one = with_privacy(recorded, tmp_path / "one")
    two = with_privacy(recorded, tmp_path / "two", **changes, epsilon=0.1)
    found = rows(one, two)
    mine = {title: cells for title, cells in found.items() if title.startswith("privacy spent")}
    assert len(mine) == 2 and any(said in title for title in mine)
    for cells in mine.values():
        assert [c.text for c in cells].count("–") == 1 and not any(c.best for c in cells)
    words = card(write([one, two], tmp_path / "page.html").read_text(encoding="utf-8"), "Side by side")
    assert "different promises" in words and said in words


def test_epsilons_of_one_promise_are_compared(recorded: Recorded, tmp_path: Path) -> None:
    one, two = with_privacy(recorded, tmp_path / "one"), with_privacy(recorded, tmp_path / "two", epsilon=0.1)
    found = rows(one, two)
    assert [c.best for c in found["privacy spent, ε"]] == [False, True]
    assert "different promises" not in comparison(read_runs([one, two])).words


def test_scores_on_parties_own_rows_are_not_ranked_beside_common_ones(
    recorded: Recorded, tmp_path: Path
) -> None:
    one, two = edited(recorded("noise"), tmp_path / "one"), edited(recorded("noise"), tmp_path / "two")
    config = (two / "config.yaml").read_text()
    assert "where: server" in config
    (two / "config.yaml").write_text(config.replace("where: server", "where: parties"))
    assert "judged on different data" in comparison(read_runs([one, two])).words
