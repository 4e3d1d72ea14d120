"""Five methods in one expression: FedProx, top-k with error feedback, Krum, an auction and Shapley values.

python examples/combine.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fedfm
from fedfm.ledger.file import read


def combined() -> Any:
    auction = fedfm.ProportionalShare(budget=60.0)
    return fedfm.replace(
        fedfm.recipe_of("fedavg-vision"),  # any recipe will do; this one needs no model
        client=fedfm.FedProx(mu=0.01, local=fedfm.Local(lr=0.1, steps=20, batch=32)),
        uplink=fedfm.ErrorFeedback(fedfm.TopK(0.05)),
        adversary=fedfm.SignFlip(),
        aggregate=fedfm.Krum(f=1, m=3),
        data=fedfm.FashionMnist(server_rows=100),  # what contributions are judged on: never the test rows
        select=auction,
        value=fedfm.ShapleyPermutation(permutations=4),
    )


def main(rounds: int = 5, out: Path | None = None, **slots: Any) -> Any:
    result = fedfm.run(fedfm.replace(combined(), **slots), rounds=rounds, out=out)
    print(result.folder, result.metric)
    for event in read(result.folder / "events.jsonl"):
        if event["kind"] in ("value", "pay"):
            print(event["round"], event["client"], event["kind"], event.get("value", event.get("amount")))
    return result


if __name__ == "__main__":
    main()
