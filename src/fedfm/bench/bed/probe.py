"""`python -m fedfm.bench.bed.probe RECIPE OUT [ENGINE]`: what `fedfm run` does, with the moments on the way told on stdout.

A line is `mark NAME SECONDS`, by the clock of `time.monotonic`, which all processes of a machine share.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from fedfm import collector


def tell(name: str) -> None:
    """Say that `name` is reached, in one write, for workers say it on the same pipe."""
    os.write(1, f"mark {name} {time.monotonic():.6f}\n".encode())


def telling(call: Callable[..., Any], name: str, *, before: bool = False) -> Callable[..., Any]:
    """`call`, and a mark before or after it."""

    def told(*args: Any, **kwargs: Any) -> Any:
        if before:
            tell(name)
        out = call(*args, **kwargs)
        if not before:
            tell(name)
        return out

    return told


def _then(call: Callable[..., Any], after: Callable[[], None]) -> Callable[..., Any]:
    """`call`, and `after` when it is done."""

    def both(*args: Any, **kwargs: Any) -> Any:
        out = call(*args, **kwargs)
        after()
        return out

    return both


def main(recipe: str, out: str, engine: str = "") -> None:
    """Run `recipe` into `out`; whoever started this process ends it after the first step."""
    tell("python")
    collector.rarely()  # as the command line does
    from fedfm.core import scoring
    from fedfm.core.loop import Run
    from fedfm.running import drive, execute
    from fedfm.tasks.bound import BoundModule

    def steps() -> None:  # the probes take steps too, which are none of the run's
        BoundModule.gradient = telling(BoundModule.gradient, "step", before=True)  # type: ignore[method-assign]

    tell("loop")  # torch and the loop are imported
    vars(execute)["configure"] = telling(execute.configure, "config")
    vars(drive)["open_site"] = telling(_then(drive.open_site, steps), "model")
    Run.__init__ = telling(Run.__init__, "data")  # type: ignore[method-assign]
    vars(scoring)["of_run"] = telling(scoring.of_run, "score")
    execute.execute(execute.configure(recipe, engine=engine or None), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
