"""`engine=ray` in real clusters, of one machine and of two: the same bits, whoever dies meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from federations import FEDERATIONS, SECURE, digits
from fedfm.core.loop import Run
from fedfm.engines.ray import Ray, RayEngine
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


@pytest.fixture(scope="module")
def one() -> Iterator[None]:
    """A cluster of this machine."""
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    yield
    AgainEngine.idle.clear()
    ray.shutdown()


@pytest.fixture
def two(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A cluster of two nodes with a core each."""
    from ray.cluster_utils import Cluster

    AgainEngine.idle.clear()
    ray.shutdown()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "resources": {"head": 1}},
    )
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def alike(a: Played, b: Played) -> None:
    assert torch.equal(a.model, b.model) and a.digest == b.digest


def after(words: int, do: Callable[[RayEngine], None]) -> Callable[[Run], None]:
    """Do something to the engine when it has handed over so many words."""

    def around(run: Run) -> None:
        engine: Any = run.engine
        ask, left = engine.next, iter(range(words))

        def counted() -> Any:
            if next(left, None) is None and not hasattr(engine, "done"):
                engine.done = True
                do(engine)
            return ask()

        engine.next = counted

    return around


def nodes(engine: RayEngine) -> list[str]:
    """Of each actor, its node."""
    of = {a["actor_id"]: a["node_id"] for a in map(vars, _states())}
    return [of[w.actor._actor_id.hex()] for w in engine._actors]


def _states() -> list[Any]:
    from ray.util.state import list_actors

    found: list[Any] = list_actors()
    return found


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
    def kill(engine: RayEngine) -> None:
        os.kill(engine._actors[1].pid, signal.SIGKILL)

    fed = digits(**ALL["scaffold"])
    alike(drive(fed, workers=0), drive(fed, engine=Ray(2), around=after(8, kill)))
