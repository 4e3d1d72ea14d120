"""Cards: methods are read from them without import, and every field has its words."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from fedfm.cards import registry
from fedfm.cards.describing import describe, record
from fedfm.cards.registry import cards, methods, recipes
from fedfm.cli import app
from fedfm.core.context import Ctx
from fedfm.core.errors import DataError, RoundFailed
from fedfm.data.partition.by_field import ByField
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.data.partition.iid import Iid
from fedfm.data.partition.quantity import Quantity
from fedfm.data.partition.shards import LabelShards
from fedfm.data.source import Partition
from fedfm.data.splits import Source
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean


def test_cards_are_read_without_import() -> None:
    assert len({(c.name, c.kind) for c in cards()}) == len(cards())
    assert set(methods()["by-client"].slots) == {"client"} and recipes()["fedavg"].slot == "recipe"
    rows = {r["name"]: r for r in describe(Local)}
    assert (
        rows["lr"]["default"] == 0.01
        and rows["lr"]["low"] == 0.0
        and rows["send"]["choices"] == ("delta", "weights")
    )
    assert set(record(methods()["topk"])) == {"name", "kind", "slot", "section", "survey", "paper", "summary"}


def test_every_spec_is_registered_with_documented_fields() -> None:
    cards = {c.name: c for c in registry.cards() if c.module.startswith("fedfm.data.")}
    assert {n for n, c in cards.items() if c.slot == "data"} == {
        "arrays",
        "chatterbot",
        "digits",
        "fashion-mnist",
        "files",
        "hub",
        "reasoning-gym",
        "wordnet-topics",
    }
    assert {n for n, c in cards.items() if c.slot == "partition"} == {
        "by-field",
        "dirichlet",
        "iid",
        "quantity",
        "shards",
    }
    for card in cards.values():
        spec = registry.load(card.name)
        assert all(row["doc"] for row in describe(spec)), card.name
        made = spec("x") if card.name in ("arrays", "files", "hub") else spec()
        assert isinstance(made, Source if card.slot == "data" else Partition)
        assert card.section and card.summary


def shown(name: str) -> str:
    """What `fedfm show` says of a method, on one line."""
    return " ".join(CliRunner().invoke(app, ["show", name]).output.split())


@pytest.mark.parametrize(
    ("partition", "rows", "sizes", "clause"),
    [
        (LabelShards(3, 3), 113, [37, 38, 38], "No row is left over"),
        (Iid(3), 113, [37, 38, 38], "sizes differ by at most one row"),
        (Quantity(8, 0.01), 8, [1] * 8, "Every party has at least one row"),
        (Dirichlet(0.01, 8, 2), 16, [2] * 8, "no party has fewer rows than this"),
    ],
    ids=lambda x: getattr(x, "method_name", None),
)
def test_show_tells_where_the_rest_goes(
    partition: Partition, rows: int, sizes: list[int], clause: str
) -> None:
    """A convention in which tools differ is decided in code, and said where a person looks it up."""
    dealt = partition.split([{}] * rows, [f"c{i % 3}" for i in range(rows)], 0)
    assert sorted(map(len, dealt.values())) == sizes
    assert clause in shown(partition.method_name)


def test_show_tells_what_becomes_of_rows_without_a_value_and_of_weights_that_are_all_zero() -> None:
    with pytest.raises(DataError, match="1 of 2 rows have no 'site'"):
        ByField("site").split([{"site": "a"}, {"site": ""}], None, 0)
    assert "A row without one is refused" in shown("by-field")
    for mass in (0.0, torch.zeros(3)):  # of whole models, and of sub-models coordinate by coordinate
        with pytest.raises(RoundFailed, match="weights of all contributions sum to zero"):
            Mean().finish(torch.zeros(3), mass, 2, {}, Ctx(0))
    some = Mean().finish(torch.tensor([4.0, 6.0]), torch.tensor([2.0, 0.0]), 2, {}, Ctx(0))[0]
    assert some.tolist() == [2.0, 0.0]  # where nobody has a coordinate it is 0
    for name in ("mean", "fedex-lora"):
        assert "When all weights are 0 the round fails" in shown(name)
