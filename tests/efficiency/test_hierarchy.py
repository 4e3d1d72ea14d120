"""A tree of edges gives what the flat federation gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from federations import digits
from fedfm.checks.rules import check
from fedfm.efficiency.training.hierarchy import Edges
from fedfm.laws.homes import quadratics
from fedfm.trust.privacy.secure.secagg import SecAgg
from fedfm.trust.robustness.rule.krum import Krum


@pytest.mark.parametrize("slots", [{"fold": "fixed"}, {"uplink": SecAgg()}], ids=["fixed", "masked"])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_tree_is_flat_to_the_bit(count: int, slots: dict[str, Any], drive: Any) -> None:
    flat, tree = drive(digits(**slots)), drive(digits(select=Edges(count=count), **slots))
    assert torch.equal(flat.model, tree.model) and not tree.failed


def test_an_edge_sends_one_sum_a_round(drive: Any) -> None:
    played = drive(quadratics(select=Edges(count=2), rounds=3))
    edges = [e for e in played.events if e["kind"] == "edge"]
    assert len(edges) == 6 and {e["bytes"] for e in edges} == {4 * played.run.layout.size}
    assert sum(e["parties"] for e in edges) == 3 * 5


def test_who_reads_single_messages_is_refused() -> None:
    assert "edges sums them" in str(check(quadratics(select=Edges(), aggregate=Krum(f=1)))[0])
