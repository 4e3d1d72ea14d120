"""One example as a client's task sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from fedfm.config.setup import Setup
from fedfm.core.context import Terms
from fedfm.core.errors import DataError
from fedfm.data.splits import opened
from fedfm.text import clean, nearest


def lines(found: dict[str, Any], row: int) -> Iterator[Text]:
    """An example as a terminal shows it: what is data is text, whatever brackets and control characters it holds."""
    yield Text.assemble((clean(found["party"]), "bold"), f", example {row} of {found['rows']}")
    for key, value in found["row"].items():
        yield Text.assemble((clean(key), "bold"), f": {clean(value)}")
    if "tokens" not in found:
        return
    if "form" in found:
        yield Text(f"written with {found['form']}", style="dim")
    yield from _tokens(found)
    if "rejected" in found:
        yield Text("and, rejected:", style="dim")
        yield from _tokens(found["rejected"])


def _tokens(found: dict[str, Any]) -> Iterator[Text]:
    """What the model sees, token by token, and where the loss is."""
    text = Text()
    for token, lossy in zip(found["tokens"], found["loss_mask"], strict=True):
        text.append(clean(token), style="black on green" if lossy else "dim")
        text.append(" ")
    yield text
    lossy = sum(found["loss_mask"])
    said = "the label carries the loss" if "label" in found else f"{lossy} of them carry loss (green)"
    yield Text(f"{len(found['tokens'])} tokens; {said}", style="dim")


def example(setup: Setup, client: str | None, row: int) -> dict[str, Any]:
    """The row, and for text its tokens and which of them carry loss (with a `label`, that does). No training data is encoded for it."""
    fed = setup.fed
    parties = opened(fed.data, fed.seed, fed.task)
    client = client or parties.ids[0]
    if client not in parties.ids:
        raise DataError(f"there is no party '{client}'; {nearest(client, parties.ids)}")
    shard = parties.train(client)
    if not 0 <= row < len(shard):
        raise DataError(f"{client} has examples 0 .. {len(shard) - 1}, not {row}")
    raw = shard.rows[row]
    shown = {k: (tuple(v.shape) if hasattr(v, "shape") else v) for k, v in raw.items() if k != "entry"}
    found: dict[str, Any] = {"party": client, "rows": len(shard), "row": shown}
    objective = fed.task.open(parties).at(client, Terms()).objective
    if (explain := getattr(objective, "explain", None)) is not None:
        told = explain(raw)
        keys = ("text", "tokens", "loss_mask", "label", "form", "rejected")
        found |= {k: told[k] for k in keys if k in told}
    return found
