"""`engine=ray` in real clusters, of one machine and of two: the same bits, whoever dies meanwhile."""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from federations import FEDERATIONS, SECURE, digits
from fedfm.core.errors import FedfmError
from fedfm.core.loop import Run
from fedfm.engines.ray import Ray, RayEngine
from fedfm.files import alive
from fedfm.laws.homes import Played

ray = pytest.importorskip("ray", reason="pip install 'fedfm[ray]'")
pytestmark = pytest.mark.timeout(300)
ALL = {**FEDERATIONS, **SECURE}
SOME = ("fedavg", "scaffold", "feedback, quantised", "secure")


class AgainEngine(RayEngine):
    """Its actors are left running, and opened anew for the next federation."""

    idle: ClassVar[list[Any]] = []

    def _take(self, made: Any) -> Any:
        return self.idle.pop() if self.idle else made.remote()

    def _leave(self, actor: Any) -> None:
        self.idle.append(actor)


@dataclass(frozen=True)
class Again(Ray):
    def make(self) -> RayEngine:
        return AgainEngine(self)


def freed() -> None:
    """No actor is left running: they hold their cores."""
    while AgainEngine.idle:
        ray.kill(AgainEngine.idle.pop())


@pytest.fixture(scope="module")
def one() -> Iterator[None]:
    """A cluster of this machine."""
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    yield
    freed()
    ray.shutdown()


@pytest.fixture(scope="module")
def two() -> Iterator[Any]:
    """A cluster of two nodes with a core each."""
    from ray.cluster_utils import Cluster

    freed()  # of the cluster before
    ray.shutdown()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "resources": {"head": 1}},
    )
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, logging_level="ERROR")
    yield SimpleNamespace(cluster=cluster, node=node)
    freed()
    ray.shutdown()
    cluster.shutdown()


def alike(a: Played, b: Played) -> None:
    assert torch.equal(a.model, b.model) and a.digest == b.digest


def after(words: int, do: Callable[[Any], None], buried: list[int] | None = None) -> Callable[[Run], None]:
    """Do something to the engine when it has handed over so many words; note the process of every actor that is lost."""

    def around(run: Run) -> None:
        engine: Any = run.engine
        ask, left = engine.next, iter(range(words))

        def counted() -> Any:
            if next(left, None) is None and not hasattr(engine, "done"):
                engine.done = True
                do(engine)
            return ask()

        def burying(worker: Any, why: BaseException) -> None:
            (buried if buried is not None else []).append(worker.pid)
            bury(worker, why)

        bury = engine._bury
        engine.next, engine._bury = counted, burying

    return around


def nodes(engine: RayEngine) -> list[str]:
    """Of each actor, its node."""
    from ray._private.state import actors

    return [actors(w.actor._actor_id.hex())["Address"]["NodeID"] for w in engine._actors]


# ---- one machine ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SOME)
def test_one_machine_gives_the_same_bits(name: str, one: None, drive: Any) -> None:
    fed = digits(**ALL[name])
    alike(drive(fed, workers=0), drive(fed, engine=Again(2)))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ALL) - set(SOME)))
def test_every_federation_gives_the_same_bits(name: str, one: None, drive: Any) -> None:
    fed = digits(**ALL[name])
    alike(drive(fed, workers=0), drive(fed, engine=Again(2)))


@pytest.mark.slow
def test_an_actor_that_is_killed_in_a_round(one: None, drive: Any) -> None:
    def kill(engine: Any) -> None:
        os.kill(engine._actors[1].pid, signal.SIGKILL)

    freed()
    lost, fed = list[int](), digits(**ALL["scaffold"])
    alike(drive(fed, workers=0), drive(fed, engine=Ray(2), around=after(8, kill, lost)))
    assert len(lost) == 1


OWN = """
from dataclasses import dataclass
from own_scale import SCALE
from fedfm.efficiency.training.local import Local
from dataclasses import replace

@dataclass(frozen=True)
class Scaled(Local):
    def work(self, brief, data, state, ctx, bound):
        m, state = super().work(brief, data, state, ctx, bound)
        return replace(m, x=m.x * SCALE), state
"""


@pytest.mark.slow
def test_own_code_reaches_the_actors(
    one: None, drive: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that lies where no actor looks, and what it imports."""
    (tmp_path / "own_scaled.py").write_text(OWN)
    (tmp_path / "own_scale.py").write_text("SCALE = 0.5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = importlib.import_module("own_scaled")
    fed = digits(client=own.Scaled(lr=0.1, steps=2, batch=8))
    here = drive(fed, workers=0)
    for name in ("own_scaled.py", "own_scale.py"):
        (tmp_path / name).rename(tmp_path / f"gone-{name}")
    with pytest.raises(FedfmError, match="cannot open the federation: ModuleNotFoundError(?s:.)*own_scaled"):
        drive(fed, engine=Again(2))
    for name in ("own_scaled.py", "own_scale.py"):
        (tmp_path / f"gone-{name}").rename(tmp_path / name)
    alike(here, drive(fed, engine=Again(2)))


# ---- two machines ---------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_two_machines_give_the_same_bits(name: str, two: Any, drive: Any) -> None:
    def look(engine: Any) -> None:
        where.append(len(set(nodes(engine))))

    where, fed = list[int](), digits(**ALL[name])
    alike(drive(fed, workers=0), drive(fed, engine=Again(2), around=after(2, look)))
    assert where == [2]


@pytest.mark.slow
def test_a_machine_that_is_lost_in_a_round(two: Any, drive: Any) -> None:
    """Its jobs go to the other machine."""

    def lose(engine: Any) -> None:
        gone = nodes(engine).index(two.node.node_id)
        pid = engine._actors[gone].pid
        two.cluster.remove_node(two.node, allow_graceful=False)
        for _ in range(1200):  # a machine takes its processes with it; these notice by themselves
            if not alive(pid):
                break
            time.sleep(0.05)

    freed()
    lost, fed = list[int](), digits(**ALL["scaffold"])
    alike(drive(fed, workers=0), drive(fed, engine=Ray(2), around=after(8, lose, lost)))
    assert len(lost) == 1
