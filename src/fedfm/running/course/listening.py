"""Who listens to a run: trackers, then callbacks, each with a copy of every round's record."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedfm.core.errors import ConfigError, Problem, words_of

Callback = Callable[[dict[str, Any]], None]  # called with a copy of each round's record


@contextlib.contextmanager
def listening(
    folder: Path,
    config: Mapping[str, Any],
    trackers: Iterable[Any],
    names: Iterable[str],
    listeners: Iterable[Callback],
) -> Iterator[Callback]:
    """One call a round for all callbacks and trackers; trackers are closed whatever happens."""
    from fedfm.report.trackers import open_tracker

    loggers = [*trackers, *(open_tracker(name, folder, config) for name in names)]

    def heard(line: dict[str, Any]) -> None:
        found = line.get("metrics", {}) | {
            f"validation/{k}": v for k, v in line.get("validation", {}).items()
        }
        for logger in list(loggers):
            with _spared(logger, loggers):
                logger.log(line["round"], found)
        for listener in listeners:  # last: one may stop the run
            listener(dict(line))

    try:
        yield heard
    finally:
        for logger in list(loggers):
            with _spared(logger, loggers):
                logger.close()


@contextlib.contextmanager
def _spared(logger: Any, loggers: list[Any]) -> Iterator[None]:
    """A tracker that fails is told and left out: the run does not need it, and its files have everything."""
    try:
        yield
    except Exception as e:  # noqa: BLE001 - nobody can list what trackers of strangers raise
        loggers.remove(logger)
        warnings.warn(
            f"fedfm: the tracker {type(logger).__name__} failed, and is told nothing more: {words_of(e)[:300]}",
            UserWarning,
            stacklevel=2,
        )


def trackers_of(given: Iterable[Any]) -> tuple[list[str], list[Any]]:
    """Names, and objects that can `log` and `close`. Raises ConfigError for anything else."""
    several = [given] if isinstance(given, str) or callable(getattr(given, "log", None)) else list(given)
    objects = [t for t in several if not isinstance(t, str)]
    for t in objects:
        _made("trackers", t)
        if not (callable(getattr(t, "log", None)) and callable(getattr(t, "close", None))):
            why = "a tracker has log(round, metrics) and close()"
            fix = "give such an object, or a name: tensorboard, mlflow, wandb"
            raise ConfigError([Problem("trackers", f"{type(t).__name__} is no tracker", why, fix)])
    return [t for t in several if isinstance(t, str)], objects


def listeners_of(given: Callback | Iterable[Callback]) -> list[Callback]:
    """Those who are called with each round's record. Raises ConfigError for what cannot be called so."""
    several = [given] if callable(given) else list(given)
    why, fix = "a callback takes each round's record, a dict", "callbacks=lambda record: print(record)"
    for c in several:
        _made("callbacks", c)
        if not callable(c):
            raise ConfigError([Problem("callbacks", f"{type(c).__name__} cannot be called", why, fix)])
        with contextlib.suppress(ValueError):  # a built-in function tells no signature
            form = inspect.signature(c)
            try:
                form.bind({})
            except TypeError as e:
                name = getattr(c, "__name__", type(c).__name__)
                what = f"{name}{form} cannot be called with one record ({e})"
                raise ConfigError([Problem("callbacks", what, why, fix)]) from e
    return several


def _made(where: str, given: Any) -> None:
    """A class would be called anew each round, and keep nothing. Raises ConfigError for one."""
    if isinstance(given, type):
        what, why = f"{given.__name__} is a class", "an object of it is told each round"
        raise ConfigError([Problem(where, what, why, f"make one: {given.__name__}(...)")])
