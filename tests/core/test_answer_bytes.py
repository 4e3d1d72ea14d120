"""What the ledger says of an answer's bytes is what travelled."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedfm.core.job import Said
from fedfm.core.loop import Run
from fedfm.core.message import pack
from fedfm.core.protocols import Wire
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.incentives.selection.power_of_choice import PowerOfChoice
from fedfm.laws.homes import play, quadratics


@pytest.mark.parametrize("asked", [1, 3])
@pytest.mark.parametrize("talk", [Wire(), QSGD(7)], ids=["plain", "coded"])
def test_the_bytes_of_an_answer_are_those_that_were_sent(asked: int, talk: Wire, tmp_path: Path) -> None:
    """They were counted before the answer bore its sender's name."""
    sent: list[int] = []

    def around(run: Run) -> None:
        hear = run.engine.next

        def later() -> Said:
            said = hear()
            if said.phase in ("bid", "answer") and said.message is not None:
                sent.append(len(pack(said.message)))
            return said

        run.engine.next = later  # type: ignore[method-assign]

    fed = quadratics(select=PowerOfChoice(count=1, asked=asked), talk=talk, rounds=2)
    events = play(fed, tmp_path, around=around).events
    told = [e["total"] for e in events if e["kind"] == "bytes" and e["direction"] == "talk"]
    assert len(sent) == 2 * asked and sorted(told) == sorted(sent)
