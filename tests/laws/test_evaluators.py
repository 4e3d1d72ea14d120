"""The law that an evaluator says whose rows it reads, and who breaks it; the run that laws show to an audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from fedfm import laws
from fedfm.cards.registry import knob
from fedfm.core.context import Ctx
from fedfm.core.protocols import Audit, Evaluator
from fedfm.core.schema import Parties
from fedfm.evaluation.by_party import ByParty
from fedfm.evaluation.held_out import HeldOut
from fedfm.laws.evaluation import _run
from fedfm.running.audits import Opened

LAW = "whoever reads rows of parties says so"


class Quiet(Evaluator):
    """Scores every party on its own test rows, and does not say that it reads them."""

    def cases(self, parties: Parties) -> Sequence[str]:
        return ("", *parties.ids)

    def rows(self, case: str, parties: Parties) -> Any:
        return parties.test(case or None)


class Said(Quiet):
    collects = True


class OnTraining(Said):
    def rows(self, case: str, parties: Parties) -> Any:
        return parties.train(case) if case else parties.test()


@pytest.mark.parametrize(
    ("evaluator", "says"),
    [
        (Quiet(), "declare `collects = True`"),
        (Said(), ""),
        (OnTraining(), "scores on training rows"),
        (HeldOut(), ""),
        (ByParty(), ""),
        (ByParty(personal=True), ""),
    ],
    ids=["quiet", "said", "training", "held-out", "by-party", "personal"],
)
def test_an_evaluator_says_whose_rows_it_reads(evaluator: Evaluator, says: str) -> None:
    (law,) = [found for found in laws.laws_of(evaluator) if found.name == LAW]
    why = law.broken(evaluator)
    assert says in why and bool(says) == bool(why)


@dataclass(frozen=True)
class Norms(Audit):
    """The largest norm of each party's updates, over the rounds `after + k` with k kept and before the last."""

    after: int = knob(1, "rounds behind a kept one")

    needs_rounds = True

    def run(self, opened: Any, ctx: Ctx) -> dict[str, Any]:
        largest: dict[str, dict[str, float]] = {}
        for k in opened.kept:
            if k < opened.round:
                for party, m in opened.messages(k + self.after).items():
                    norm = max(float(m.x.norm()), largest.get(party, {}).get("norm", 0.0))
                    largest[party] = {"norm": norm}
        return {"meaning": f"{len(largest)} parties sent something.", "cases": largest}


def test_an_audit_may_ask_all_that_a_finished_run_has(tmp_path: Path) -> None:
    run = _run(None, tmp_path)
    shown = {n for n in dir(Opened) if n[0] != "_"} | {f.name for f in fields(Opened)}
    assert {n for n in shown if not hasattr(run, n)} == set()
    assert set(Norms().run(run, Ctx(7))["cases"]) == set(run.parties.ids)
    laws.check(Norms())


def test_an_audit_asks_no_round_whose_messages_are_gone() -> None:
    with pytest.raises(AssertionError, match="it asks for the messages of round 0: there are those of"):
        laws.check(Norms(after=0))
