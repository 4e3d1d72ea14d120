"""fedfm: federated learning with foundation models.

`fedfm.run("quickstart")` runs a recipe; `fedfm.replace(recipe, uplink=...)` fills a slot otherwise; every registered
method is an attribute by its class name (`fedfm.TopK(0.01)`). Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fedfm.core.federation import Federation
    from fedfm.running.execute import Result

_CORE = {
    "Federation": "federation",
    "replace": "federation",
    "Terms": "context",
    "Ctx": "context",
    "Message": "message",
    "Layout": "tree",
    "method": "registry",
    "recipe": "registry",
    "knob": "registry",
    "RunFailed": "errors",
}


def run(
    what: Any,
    *,
    out: Any = None,
    model: str | None = None,
    data: Any = None,
    clients: int | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    engine: str | None = None,
    baselines: Any = "none",
    settings: tuple[str, ...] = (),
    callbacks: Any = (),
    trackers: Any = (),
    progress: bool = False,
    strict: bool = False,
    **slots: Any,
) -> Result:
    """Run a recipe (by name), a YAML file or a `Federation`; returns its `Result` (folder and summary).

    `model`: a packaged name, a local folder or a hub id. `data`: a glob of files, one a party, or a data spec.
    `clients`: how many parties a partition makes. `settings`: ("client.lr=0.1", ...). Other keywords fill slots.
    `callbacks`: called with each round's record. `trackers`: names ("tensorboard", ...) or objects with
    `log(round, metrics)` and `close()`. `progress`: print a line a round. Raises `RunFailed`, which carries the
    result, for a run that failed, and with `strict` also for one with findings.
    """
    from fedfm.running.execute import configure, execute
    from fedfm.running.progress import Lines

    more = list(settings)
    if model is not None:
        more.append(f"task.model={model}")
    if isinstance(data, str):
        slots["data"] = {"name": "files", "path": data}
    elif data is not None:
        slots["data"] = data
    if clients is not None:
        more.append(f"data.partition.parties={clients}")
    config = configure(what, more, rounds=rounds, seed=seed, engine=engine, slots=slots)
    return execute(
        config,
        out,
        baselines=baselines,
        progress=Lines() if progress else None,
        trackers=trackers,
        callbacks=callbacks,
        strict=strict,
    )


def resume(
    folder: Any,
    federation: Federation | None = None,
    *,
    rounds: int | None = None,
    accept: tuple[str, ...] = (),
    callbacks: Any = (),
    trackers: Any = None,
    progress: bool = False,
    strict: bool = False,
) -> Result:
    """Continue an interrupted run, or extend one to `rounds` in all; the same bits as a run that never stopped.

    `federation`: the one that was run, where it holds objects that a config cannot say. `accept`: ("imports",) goes
    on although your own modules have changed. The others as in `run`. Raises `ResumeError` that names what differs.
    """
    from fedfm.running.execute import resume as go
    from fedfm.running.progress import Lines

    return go(
        folder,
        federation,
        rounds=rounds,
        accept=accept,
        progress=Lines() if progress else None,
        trackers=trackers,
        callbacks=callbacks,
        strict=strict,
    )


def recipe_of(name: str) -> Federation:
    """The federation that a recipe's name stands for, to `replace` slots of."""
    from fedfm.core.registry import load

    fed: Federation = load(name, "recipe")()
    return fed


def __getattr__(name: str) -> Any:
    if name == "check":
        from fedfm.checks.rules import check

        return check
    if name in _CORE:
        return getattr(importlib.import_module(f"fedfm.core.{_CORE[name]}"), name)
    if name[:1].isupper():
        from fedfm.core.registry import methods

        for card in methods().values():
            if card.qualname == name:
                return getattr(importlib.import_module(card.module), name)
    try:
        return importlib.import_module(f"fedfm.{name}")
    except ModuleNotFoundError as e:
        if e.name != f"fedfm.{name}":
            raise
    raise AttributeError(f"fedfm has no '{name}'; fedfm.core.registry.methods() lists what is registered")
