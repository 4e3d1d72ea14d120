"""Runs that were tested on other rows are not ranked, whatever their configs call the data; a lead is told in rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fedfm
from fedfm.report.rundir import read_runs
from fedfm.report.sections.result import comparison
from fedfm.running.summary import test_rows as of_test
from recorded import edited

Recorded = Callable[[str], Path]


def words(*folders: Path) -> str:
    return comparison(read_runs(list(folders))).words


def test_a_run_records_how_many_rows_it_was_tested_on_and_which(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    rows = [{"text": f"word {i} {'good' if i % 2 else 'bad'}", "label": str(i % 2)} for i in range(40)]
    path = tmp_path / "rows.jsonl"

    def tested(at: int, parties: int, order: Any = None, **changes: Any) -> dict[str, Any]:
        some = rows if order is None else [rows[i] for i in order]
        path.write_text("\n".join(json.dumps(r) for r in some))
        data = fedfm.Files(str(path), partition=fedfm.Iid(parties=parties), **changes)
        fed = SimpleNamespace(evaluate=SimpleNamespace(where="server"), serving=SimpleNamespace(whole=True))
        found = of_test(SimpleNamespace(parties=data.open(at), fed=fed))  # type: ignore[arg-type]
        assert found is not None
        return found

    first = tested(0, 2)
    assert first["rows"] == 8 and first == tested(
        0, 4
    )  # how training rows are divided is no part of the test
    assert first != tested(1, 2) and first == tested(1, 2, seed=0)
    assert first != tested(0, 2, server_rows=2)
    assert first != tested(0, 2, g.permutation(40))  # other rows lie under the same path


@pytest.mark.parametrize("other,said", [("b", "judged on different test rows"), ("a", "is best at")])
def test_runs_are_ranked_where_their_test_rows_are_the_same(
    other: str, said: str, recorded: Recorded, tmp_path: Path
) -> None:
    score = json.loads((recorded("codes") / "summary.json").read_text())["metric"]
    one = edited(
        recorded("codes"),
        tmp_path / "one",
        summary={"metric": score | {"federated": 0.5}, "test_rows": {"rows": 12, "digest": "a"}},
    )
    two = edited(
        recorded("codes"),
        tmp_path / "two",
        summary={"metric": score | {"federated": 7 / 12}, "test_rows": {"rows": 12, "digest": other}},
    )
    assert said in (found := words(one, two))
    assert ("ahead of one: 1 of 12 test rows" in found) == (other == "a")


def test_runs_of_older_releases_are_ranked_by_seed_and_by_the_digest_of_their_rows(
    recorded: Recorded, tmp_path: Path
) -> None:
    score = json.loads((recorded("codes") / "summary.json").read_text())["metric"]
    one, two = (
        edited(
            recorded("codes"),
            tmp_path / n,
            summary={"test_rows": None, "metric": score | {"federated": v}},
        )
        for n, v in (("one", 0.5), ("two", 0.6))
    )
    assert "two is best" in words(one, two)
    record = json.loads((recorded("codes") / "run.json").read_text())
    record["identity"]["data"]["all"] = "other rows"
    (two / "run.json").write_text(json.dumps(record))
    (one / "run.json").write_text((recorded("codes") / "run.json").read_text())
    assert "judged on different data" in words(one, two)
    config = (two / "config.yaml").read_text()
    (two / "config.yaml").write_text(config.replace("\nseed: 0", "\nseed: 5"))
    assert "of different seeds" in words(one, two)
