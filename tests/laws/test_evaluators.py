"""The law that an evaluator says whose rows it reads, and who breaks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from fedfm import laws
from fedfm.core.protocols import Evaluator
from fedfm.core.schema import Parties
from fedfm.evaluation.by_party import ByParty
from fedfm.evaluation.held_out import HeldOut

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
