"""A site that has lost its states says so: what may begin anew does, what has a second half does not, and nothing is said twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import golden
from federations import digits
from fedfm.core.job import Job
from fedfm.deploy.course.arrivals import read
from fedfm.deploy.course.replay import replay
from fedfm.deploy.server import Service, again, serve
from fedfm.deploy.site.journal import Journal
from fedfm.deploy.transport import Frame
from fedfm.efficiency.training.local import Local
from fedfm.incentives.selection.uniform import Uniform
from fedfm.ledger.file import read as events
from fedfm.running.verdict import Result
from loopback import Killed, Loopback

EF21_ALL = golden.ALL["ef21 both ways"] | {"select": Uniform(count=6)}
KEPT = {"client": Local(lr=0.01, steps=2, optimizer="adamw", keep_optimizer=True)}


class Losing(Loopback):
    """After so many letters party-1 is killed, what `gone` names in its folder is gone, and it dials again."""

    def __init__(self, folder: Path, after: int, gone: str = "states/*", damaged: bool = False):
        super().__init__(folder)
        self.after, self.gone, self.damaged = after, gone, damaged
        self.fate.random.choice = lambda options: options[0]  # type: ignore[method-assign]  # back at once

    def receive(self, timeout_s: float | None = None) -> Frame | None:
        if self.heard >= self.after and "party-1" in self._links:
            self.after = 1 << 30
            self._strike("party-1", "kill")
            for path in (self.homes / "party-1").glob(self.gone):
                if self.damaged:
                    path.write_bytes(path.read_bytes()[:-9])
                else:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        return super().receive(timeout_s)


def ran(folder: Path, carrier: Loopback, **slots: Any) -> tuple[Result, list[str]]:
    told = list[str]()
    service = Service(listen=carrier.listen, clock=carrier.clock, wait_s=50.0, grace_s=50.0, tell=told.append)
    return serve(digits(**slots), folder, service), told


def same(result: Result, folder: Path) -> None:
    alone = replay(result.folder, folder)
    for what in ("status", "reasons", "model_digest", "ledger_digest", "metrics"):
        assert alone.summary[what] == result.summary[what], what


def failed(folder: Path) -> list[tuple[int, str, str]]:
    return [
        (e["round"], e["client"], e["error"])
        for e in events(folder / "events.jsonl")
        if e["kind"] == "failed"
    ]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("after", [13, 16, 18])
@pytest.mark.parametrize("slots", [golden.ALL["feedback, quantised"], KEPT])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_memory_of_the_partys_own_begins_anew(
    slots: dict[str, Any], after: int, damaged: bool, tmp_path: Path
) -> None:
    gone = "states/*/party-1/*" if damaged else "states/*"
    carrier = Losing(tmp_path / "run", after, gone, damaged)
    result, told = ran(tmp_path / "run", carrier, **slots)
    assert not [e for e in failed(tmp_path / "run") if "missing" in e[2]]
    assert result.status == "finished with findings"
    assert any("party-1 had lost its states before round" in r for r in result.reasons)
    assert any("party-1 has lost its states (version" in t for t in told)
    assert {name for _, name, _, _ in read(tmp_path / "run").blank} == {"party-1"}
    same(result, tmp_path / "again")
    whole, _ = ran(tmp_path / "whole", Loopback(tmp_path / "whole"), **slots)
    assert whole.summary["model_digest"] != result.summary["model_digest"]  # it is a loss, and a small one


def test_who_has_nothing_to_remember_loses_nothing(tmp_path: Path) -> None:
    result, _ = ran(tmp_path / "run", Losing(tmp_path / "run", 15))
    assert result.status == "finished" and not read(tmp_path / "run").blank
    whole, _ = ran(tmp_path / "whole", Loopback(tmp_path / "whole"))
    assert whole.summary["model_digest"] == result.summary["model_digest"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("scaffold", "scaffold remembered"),
        ("ef21", "the uplink's codec remembered of what it has sent"),
        ("ef21 both ways, all", "codec remembered"),
    ],
)
def test_half_of_a_memory_does_not_begin_anew(name: str, why: str, tmp_path: Path) -> None:
    carrier = Losing(tmp_path / "run", 15)
    result, told = ran(tmp_path / "run", carrier, **(golden.ALL | {"ef21 both ways, all": EF21_ALL})[name])
    assert why in carrier.left["party-1"] and "the party has none" in carrier.left["party-1"]
    assert "the server names version" in carrier.left["party-1"]
    assert result.status.startswith("finished") and not read(tmp_path / "run").blank
    same(result, tmp_path / "again")


def test_a_disk_that_was_lost_while_the_server_was_down(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    carrier = Loopback(folder)
    service = Service(listen=carrier.listen, clock=carrier.clock, wait_s=50.0)
    carrier.dies_at = 21
    with pytest.raises(Killed):
        serve(digits(**golden.ALL["feedback, quantised"]), folder, service)
    carrier._parties.pop("party-3")
    shutil.rmtree(carrier.homes / "party-3" / "states")
    carrier._links.pop("party-3")
    result = again(folder, service)
    assert "party-3 had lost its states before round 3" in result.reasons[0]
    same(result, tmp_path / "again")


def uploads(carrier: Loopback, name: str) -> dict[int, set[int]]:
    """The sessions in which a party has told of an upload, by round."""
    found: dict[int, set[int]] = {}
    for who, head in carrier.said:
        for e in head.get("events", ()) if who == name else ():
            if e["kind"] == "upload":
                found.setdefault(e["round"], set()).add(head["epoch"])
    return found


@pytest.mark.sampled(3)
@pytest.mark.parametrize("gone", ["states/*", "[sr]*"])  # receipts too
@pytest.mark.parametrize("after", [9, 14, 20, 30])
def test_under_protection_a_party_without_a_journal_stays_out_of_what_it_may_have_said(
    gone: str, after: int, tmp_path: Path
) -> None:
    carrier = Losing(tmp_path / "run", after, gone)
    result, _ = ran(tmp_path / "run", carrier, **golden.ALL["secure"] | {"rounds": 4})
    assert all(len(epochs) == 1 for epochs in uploads(carrier, "party-1").values())
    barred = [r for r, who, why in failed(tmp_path / "run") if "may have been answered already" in why]
    assert len(barred) <= 1  # it is in the next round again
    assert result.status.startswith("finished") and 3 in uploads(carrier, "party-1")
    same(result, tmp_path / "again")


def test_a_party_that_has_said_nothing_and_lost_nothing_is_in_its_round(tmp_path: Path) -> None:
    """Its journal is there from the beginning, so that it is not taken for lost."""
    carrier = Losing(tmp_path / "run", 7, "nothing")
    result, _ = ran(tmp_path / "run", carrier, **golden.ALL["secure"])
    assert result.status == "finished" and set(uploads(carrier, "party-1")) == {0, 1, 2}


def test_receipts_say_what_was_said_where_a_server_does_not(tmp_path: Path) -> None:
    from fedfm.deploy.site.memory import opened

    spoken = [{"run": "r", "kind": "train", "round": k} for k in (0, 1)] + [
        {"run": "other", "kind": "train", "round": 7}
    ]
    lies = {"known": False, "round": 0, "state": 0}
    journal = Journal(tmp_path / "r" / "journal.json")
    assert "up to 2" in opened(journal, "r", lies, spoken)
    again = Journal(tmp_path / "r" / "journal.json")
    assert again.lost == 1 and again.spoken
    assert again.bars(Job("train", "a", 9, round=1)) and again.bars(Job("train", "a", 9, round=0), begun=True)
    assert not again.bars(Job("train", "a", 9, round=2))
    assert not opened(again, "r", lies, spoken)  # once
    fresh = Journal(tmp_path / "s" / "journal.json")
    assert not opened(fresh, "s", lies, spoken) and fresh.path.exists() and not fresh.spoken
