"""`python -m fedfm.bench.bed.race RECIPE OUT SEED [SETTING ...]`: a run that tells each scored round on stdout.

A line is `mark SECONDS ROUND METRIC DIRECTION VALUE`, by the clock of `time.monotonic`; direction 1: more is better.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any


def main(recipe: str, out: str, seed: str, settings: Sequence[str]) -> None:
    """Run to the end; whoever started this process ends it when the score is there."""
    from fedfm.running import drive
    from fedfm.running.execute import configure, execute

    opened, found = drive.open_site, list[Any]()

    def opening(*args: Any) -> Any:
        site = opened(*args)
        found.append(site.bound.objective)
        return site

    def tell(record: dict[str, Any]) -> None:
        name, up = found[0].primary, 1 if found[0].higher_is_better else -1
        if (value := record.get("metrics", {}).get(name)) is not None:
            os.write(1, f"mark {time.monotonic():.6f} {record['round']} {name} {up} {value!r}\n".encode())

    vars(drive)["open_site"] = opening
    execute(configure(recipe, settings, seed=int(seed)), out, baselines="none", callbacks=tell)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
