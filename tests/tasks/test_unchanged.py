"""A party's work leaves the module as it was opened, also what of it lies outside the parameter vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import fedfm
from fedfm.core.errors import ConfigError, MethodFault
from fedfm.core.protocols import Client
from fedfm.efficiency.training.local import Local

LOCAL = Local(lr=0.1, steps=2, batch=4)


def _freeze(net: nn.Module) -> None:
    net[0].weight.requires_grad_(False)  # type: ignore[index, union-attr]


def _hook(net: nn.Module) -> None:
    net.register_forward_hook(lambda module, given, out: out * 0)


def _setting(net: nn.Module) -> None:
    net[1].p = 0.9  # type: ignore[index, union-attr]


def _layer(net: nn.Module) -> None:
    net[1] = nn.Identity()  # type: ignore[index, operator]


CHANGES: dict[str, tuple[Callable[[nn.Module], None], str]] = {
    "freeze": (_freeze, "froze '0.weight'"),
    "hook": (_hook, "put a hook on the module"),
    "setting": (_setting, "set p=0.9 of layer '1', which was 0.1"),
    "layer": (_layer, "put another layer into the module"),
}


@dataclass(frozen=True)
class Changing(Client):
    how: str = "freeze"
    since: int = 2

    makes: ClassVar[str] = "delta"  # type: ignore[misc]

    def work(self, brief: Any, data: Any, state: Any, ctx: Any, bound: Any) -> Any:
        m, kept = LOCAL.work(brief, data, {}, ctx, bound)
        if ctx.client == "b" and ctx.round >= self.since:
            CHANGES[self.how][0](bound.module)
        return m, kept


def _fed(client: Client, **more: Any) -> fedfm.Federation:
    rows = {p: [{"x": [float(k), 1.0, -1.0], "y": k % 2} for k in range(8)] for p in "abc"}

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1), nn.Linear(4, 2))

    return fedfm.Federation(task=fedfm.Torch(net), data=rows, client=client, rounds=3, **more)


@pytest.mark.parametrize("engine", ["inprocess", "processes"])
@pytest.mark.parametrize("how", CHANGES)
def test_the_party_whose_work_changes_it_is_named(how: str, engine: str, tmp_path: Path) -> None:
    with pytest.raises(MethodFault, match="train of b") as found:
        fedfm.run(_fed(Changing(how)), out=tmp_path / "run", engine=engine, baselines="none")
    assert CHANGES[how][1] in str(found.value)


@pytest.mark.parametrize("how", CHANGES)
def test_in_its_first_call_it_is_found_before_the_first_round(how: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as found:
        fedfm.run(_fed(Changing(how, since=1)), out=tmp_path / "run", engine="inprocess", baselines="none")
    assert CHANGES[how][1] in str(found.value)


def test_what_is_undone_again_is_nobodys_business(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Frozen(Client):
        def work(self, brief: Any, data: Any, state: Any, ctx: Any, bound: Any) -> Any:
            bound.module[0].weight.requires_grad_(False)
            handle = bound.module.register_forward_hook(lambda module, given, out: None)
            try:
                return LOCAL.work(brief, data, {}, ctx, bound)
            finally:
                handle.remove()
                bound.module[0].weight.requires_grad_(True)

    told = fedfm.run(_fed(Frozen()), out=tmp_path / "run", engine="inprocess", baselines="none")
    assert told.summary["rounds"] == 3
