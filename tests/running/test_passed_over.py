"""Whoever delivers and is never counted by an aggregator that chooses is named, and trained nothing."""

from __future__ import annotations

from typing import Any

import pytest

import fedfm.efficiency.training.arrivals.fedbuff
import fedfm.efficiency.training.soup
import fedfm.trust.robustness.rule.fltrust
import fedfm.trust.robustness.rule.krum  # noqa: F401
from fedfm.running.verdict import FINDINGS, FINISHED, judge, tally

CHOICES: list[dict[str, Any]] = [
    {"kind": "krum", "selected": ["b", "c"], "scores": [1.0, 1.0, 1.0]},
    {"kind": "soup", "chosen": ["b", "c"], "score": 0.5},
    {"kind": "fltrust", "trust": [0.0, 0.5, 0.1], "clients": ["a", "b", "c"]},
    {"kind": "stale", "client": "a", "staleness": 9, "weight": 0.0},
]


def ledger(choice: dict[str, Any], rounds: int = 4) -> list[dict[str, Any]]:
    found = []
    for t in range(rounds):
        found.append({"round": t, "kind": "plan", "clients": ["a", "b", "c"], "sampling": {}})
        found += [{"round": t, "kind": "upload", "client": i, "mass": 1} for i in "abc"]
        found.append({"round": t} | choice)
    return found


def verdict(events: list[dict[str, Any]], malicious: tuple[str, ...] = ()) -> Any:
    records = [{"round": t, "metrics": {"accuracy": 0.5 + t / 10, "loss": 1.0}} for t in range(5)]
    return judge(
        records=records,
        events=events,
        rows={"a": 20, "b": 40, "c": 40},
        malicious=malicious,
        primary="accuracy",
        higher=True,
    )


@pytest.mark.parametrize("choice", CHOICES, ids=[c["kind"] for c in CHOICES])
def test_an_honest_party_that_is_never_counted_is_named_with_its_rows(choice: dict[str, Any]) -> None:
    found = verdict(ledger(choice))
    assert found.status == FINDINGS
    assert "a delivered in 4 of 4 rounds" in found.reasons[0] and "(20 of 100 rows)" in found.reasons[0]
    assert choice["kind"] in found.reasons[0]
    assert verdict(ledger(choice), malicious=("a",)).status == FINISHED  # that is what it is for
    assert verdict(ledger(choice, rounds=2)).status == FINISHED  # too few rounds to say
    assert {i for i, t in tally(ledger(choice), ()).items() if t.passed} == {"a"}


@pytest.mark.parametrize("choice", CHOICES, ids=[c["kind"] for c in CHOICES])
def test_one_round_in_which_it_counts_is_enough(choice: dict[str, Any]) -> None:
    other = choice | {"selected": ["a"], "chosen": ["a"], "trust": [0.1, 0.5, 0.1], "weight": 0.5}
    told = {k: v for k, v in other.items() if k in choice}
    events = [*ledger(choice)[:-1], {"round": 3} | told]
    assert verdict(events).status == FINISHED


def test_a_rule_that_chooses_one_of_many_passes_most_over_by_chance() -> None:
    one = CHOICES[0] | {"selected": ["b"]}
    assert verdict(ledger(one)).status == FINISHED  # 4 rounds: (2/3)^4 = 0.2
    assert {i for i, t in tally(ledger(one), ()).items() if t.passed} == {
        "a",
        "c",
    }  # and trained nothing all the same
