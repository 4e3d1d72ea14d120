"""Cards: methods are read from them without import, and every field has its words."""

from __future__ import annotations

from fedfm.cards import registry
from fedfm.cards.describing import describe, record
from fedfm.cards.registry import cards, methods, recipes
from fedfm.data.source import Partition
from fedfm.data.splits import Source
from fedfm.efficiency.training.local import Local


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
