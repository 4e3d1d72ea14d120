"""One example as a client's task sees it."""

from __future__ import annotations

from typing import Any

from fedfm.config import plain as configs
from fedfm.core.errors import DataError, nearest
from fedfm.data.splits import opened


def example(config: configs.Config, client: str | None, row: int) -> dict[str, Any]:
    """The row, and for text its tokens and which of them carry loss (with a `label`, that does). No training data is encoded for it."""
    fed = configs.from_config(config)
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
    objective = fed.task.open(parties).objective
    if (explain := getattr(objective, "explain", None)) is not None:
        told = explain(raw)
        found |= {k: told[k] for k in ("text", "tokens", "loss_mask", "label") if k in told}
    return found
