"""Parties whose rows live in their own processes: the same bits as all in one, for every federation of the engine tests."""

from __future__ import annotations

import pytest

import apart
import golden
from federations import digits


@pytest.mark.sampled(3)
# scores by party need the rows of parties at the server: a simulation only
@pytest.mark.parametrize("name", [n for n in golden.ALL if n != "scored by party"])
def test_parties_apart_change_nothing(name: str) -> None:
    assert golden.digests(name, apart.play) == golden.digests(name)


def test_a_side_sees_its_own_rows_only() -> None:
    parties = digits().data.open(0)
    server, party = apart.Only(parties, ""), apart.Only(parties, "party-1")
    with pytest.raises(AssertionError, match="asked for the rows of party-0"):
        party.train("party-0")
    with pytest.raises(AssertionError, match="the server"):
        server.train("party-0")
    assert len(party.train("party-1")) and len(server.test())
