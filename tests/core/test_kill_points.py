"""The disk before every single change to it: whatever checkpoint is there, all states that it names are there too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedfm.core.books import checkpoint, checkpoints
from fedfm.core.combine import Pipe
from fedfm.core.federation import Federation
from fedfm.core.memory import RunState
from fedfm.core.state import Store
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.communication.memory.ef21 import EF21
from fedfm.efficiency.training.arrivals.fedbuff import FedBuff
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.scaffold import Scaffold
from fedfm.evaluation.held_out import HeldOut
from fedfm.incentives.selection.uniform import Uniform
from fedfm.laws.homes import play, quadratics
from fedfm.ledger.file import Ledger
from fedfm.pace import Buffered, Speed
from fedfm.tasks.quadratic import Quadratics

DATA = Quadratics(a=(1.0, 2.0, 4.0), b=(0.8, 1.0, 1.2), rows=4)
SGD = Local(lr=0.05, steps=2, batch=2)
FEDERATIONS: dict[str, Callable[[], Federation]] = {
    "states of clients": lambda: quadratics(data=DATA, client=Scaffold(SGD), rounds=4),
    "of both ends of both wires": lambda: quadratics(
        data=DATA, uplink=EF21(TopK(count=1)), downlink=EF21(TopK(count=1), whole_first=True), rounds=4
    ),
    "late work": lambda: quadratics(
        data=DATA,
        aggregate=FedBuff(),
        pace=Buffered(2, 3, speed=Speed(1.0, 0.5, 0.2)),
        select=Uniform(count=3),
        uplink=Pipe(ErrorFeedback(TopK(count=2)), QSGD(7)),
        rounds=5,
    ),
    "the best round's model": lambda: quadratics(
        data=Quadratics(a=DATA.a, b=DATA.b, rows=4, server_rows=1),
        evaluate=HeldOut(keep_best=True, parts=1),
        rounds=4,
    ),
}


@pytest.mark.parametrize("name", FEDERATIONS)
def test_a_kill_between_any_two_changes_loses_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed, home, seen = FEDERATIONS[name](), tmp_path / "run", list[Path]()

    def before(call: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            if home.exists():
                seen.append(tmp_path / f"{len(seen)}")
                shutil.copytree(home, seen[-1])
            return call(*args, **kwargs)

        return changed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", before(os.replace))
        patch.setattr(Path, "unlink", before(Path.unlink))
        patch.setattr(Ledger, "commit", before(Ledger.commit))
        whole = play(fed, home)
    assert len(seen) > 15
    for disk in seen:
        for k in checkpoints(disk):
            assert not lacking(disk, k), f"before change {disk.name}, round {k}"
        if checkpoints(disk) and int(disk.name) % 4 == 0:
            again = play(fed, disk, resume=True)
            assert again.digest == whole.digest and again.model.tolist() == whole.model.tolist()
            assert again.run.final().tolist() == whole.run.final().tolist()
        shutil.rmtree(disk)


def lacking(folder: Path, round: int) -> list[str]:
    """The states that a checkpoint names and that are not there."""
    st = RunState.load(checkpoint(folder, round))
    named = [("clients", i, v) for i, v in st.accepted.items()]
    named += [("clients", i, job.base) for i, job in st.busy.items()]
    named += [("checkpoints/senders", i, v) for i, v in st.decode.items()]
    named += [("checkpoints/receivers", i, v) for i, v in st.down.items()]
    return [
        f"{where}/{i}/{v}" for where, i, v in named if v and not Store(folder / where).path(i, v).exists()
    ]
