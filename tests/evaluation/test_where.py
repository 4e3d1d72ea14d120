"""Test rows that stay with their parties: `evaluate.where=parties`."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fedfm
from apart import play as play_apart
from fedfm.checks.exposure import exposure
from fedfm.checks.rules import check
from fedfm.core.errors import DataError
from fedfm.core.federation import Federation
from fedfm.data.digits import Digits
from fedfm.data.files import Files
from fedfm.data.partition.iid import Iid
from fedfm.evaluation.held_out import HeldOut
from fedfm.laws.homes import quadratics
from fedfm.tasks.quadratic import Quadratics
from fedfm.trust.privacy.secure.secagg import SecAgg

DATA = Quadratics(a=(1.0, 2.0, 4.0), b=(0.8, 1.0, 1.2), rows=8, own_test=0.25)


def at_parties(**slots: Any) -> Federation:
    return quadratics(**{"data": DATA, "evaluate": HeldOut(where="parties"), "rounds": 2} | slots)


def test_each_party_measures_the_model_on_rows_of_its_own(drive: Any) -> None:
    played = drive(at_parties())
    first = played.records[0]["metrics"]
    own = {f"party-{i}": 3 * a / 2 * b**2 for i, (a, b) in enumerate(zip(DATA.a, DATA.b, strict=True))}
    assert {i: pytest.approx(first[f"loss/{i}"]) for i in own} == own  # of the start, at zero
    assert first["loss"] == pytest.approx(sum(own.values()) / 3)  # all have as many rows
    assert first["parties/loss"] == pytest.approx(first["loss"])
    assert first["parties/loss/worst"] == pytest.approx(max(own.values()))
    last = played.records[-1]["metrics"]
    assert last["loss"] < first["loss"]


def test_parties_of_unlike_size_count_by_their_rows(drive: Any) -> None:
    data = Digits(train_rows=60, test_rows=20, partition=Iid(parties=3), own_test=0.3)
    from fedfm.tasks.vision.image import ImageClassification

    task = ImageClassification(channels=(4, 8))
    there = drive(at_parties(task=task, data=data, rounds=0)).records[0]["metrics"]
    parties = data.open(0)
    rows = [len(parties.test(i)) for i in parties.ids]
    mean = sum(n * there[f"accuracy/{i}"] for n, i in zip(rows, parties.ids, strict=True)) / sum(rows)
    assert there["accuracy"] == pytest.approx(mean)


def test_the_server_reads_no_test_row_of_a_party(tmp_path: Path, drive: Any) -> None:
    """Parties in processes of their own: the server's would fail if it asked for a row of theirs."""
    fed = at_parties()
    alone, apart = drive(fed), play_apart(fed, tmp_path / "apart")
    assert alone.digest == apart.digest
    assert [r["metrics"] for r in alone.records] == [r["metrics"] for r in apart.records]


@pytest.mark.parametrize("workers", [2])
def test_workers_give_the_same_bits(workers: int, drive: Any) -> None:
    one, many = drive(at_parties()), drive(at_parties(), workers)
    assert one.digest == many.digest
    assert [r["metrics"] for r in one.records] == [r["metrics"] for r in many.records]


def test_what_scoring_sends_is_counted(drive: Any) -> None:
    here = drive(at_parties(evaluate=HeldOut())).records
    there = drive(at_parties()).records
    model = there[0]["bytes"]["down"] / 3
    assert model > 0 and here[0]["bytes"]["down"] == 0
    for a, b in zip(here, there, strict=True):
        assert b["bytes"]["down"] - a["bytes"]["down"] == 3 * model
        assert b["bytes"]["up"] == a["bytes"]["up"] and b["bytes"]["talk"] > a["bytes"]["talk"]


def test_the_rounds_are_those_of_a_federation_that_is_scored_at_the_server(drive: Any) -> None:
    one, two = drive(at_parties(evaluate=HeldOut())), drive(at_parties())
    assert one.model.tolist() == two.model.tolist()


def test_it_is_refused_where_no_party_has_test_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="own_test"):
        fedfm.run(at_parties(data=replace(DATA, own_test=0.0)), out=tmp_path / "run")


def test_no_row_moves_to_the_server_and_the_sums_that_do_are_no_secret_under_masks(tmp_path: Path) -> None:
    for k in range(3):
        rows = [{"text": f"{w} {n}", "label": w} for n in range(8) for w in ("up", "down")]
        (tmp_path / f"p{k}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    fed = fedfm.replace(
        fedfm.recipe_of("quickstart"),
        data=Files(str(tmp_path / "*.jsonl"), test_fraction=0.25, labels=("down", "up")),
    )
    there = fedfm.replace(fed, evaluate=HeldOut(where="parties"))
    assert check(there) == [] and exposure(there)["test"].sort == "public"
    (moved,) = check(
        fedfm.replace(fed, uplink=SecAgg())
    )  # a share of every party's rows would be the server's
    (told,) = check(fedfm.replace(there, uplink=SecAgg()))  # no row, but each party's score in clear
    assert "(test)" in moved.what and "(own scores)" in told.what and "test_path" in told.fix


def test_page_and_table_show_every_party(tmp_path: Path) -> None:
    from fedfm.running.printed import table

    result = fedfm.run(at_parties(), out=tmp_path / "run", baselines="local")
    names = [str(cell) for cell in table(result.summary, "run").columns[0]._cells]
    assert [n.strip() for n in names if "its own rows" in n] == [f"party-{i}, its own rows" for i in range(3)]
    assert "own rows" in (tmp_path / "run" / "report.html").read_text()
    assert all(math.isfinite(v) for v in result.summary["metrics"].values())
