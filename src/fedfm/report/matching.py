"""Which runs were judged by the same test, so that their scores may be ranked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import yaml

from fedfm.direction import rises
from fedfm.report import outline
from fedfm.report.rundir import Run, mapping

TRAINING = {"partition", "train_rows", "rows_per_party", "train_split", "party_column"}  # no part of the test


def obstacle(runs: Sequence[Run]) -> str:
    """Why the scores of these runs cannot be ranked, as a phrase; empty when they can."""
    if len({outline.metric_name(r) for r in runs}) > 1:
        return "judged by different metrics"
    if len({outline.higher_is_better(r) for r in runs}) > 1:
        return "judged by a metric of which more is better in one and less in another"
    tests = [found for r in runs if (found := _test(r)) is not None]
    if len({task for task, _, _ in tests}) > 1:
        return "of different tasks"
    if any(data != tests[0][1] for _, data, _ in tests[1:]):
        return "judged on different data"
    # A loss per token depends on what the model takes for a token.
    if not rises(outline.metric_name(runs[0])) and len({model for _, _, model in tests}) > 1:
        return "losses of different models"
    return ""


def named(run: Run, slot: str) -> str:
    """The name of what fills that slot of the config, `task` or `data`, as far as the config tells it."""
    return _name(parsed(run.config).get(slot))


def _test(run: Run) -> tuple[str, dict[str, Any], str] | None:
    config = parsed(run.config)
    if not config:
        return None
    data = config.get("data")
    told = {"name": _name(data)} | {k: v for k, v in mapping(data).items() if k not in TRAINING}
    told["where"] = (
        mapping(config.get("evaluate")).get("where") or "server"
    )  # the common test rows, or parties' own
    return _name(config.get("task")), told, str(mapping(config.get("task")).get("model"))


@lru_cache(maxsize=32)
def parsed(config: str | None) -> dict[str, Any]:
    try:
        return mapping(yaml.safe_load(config or ""))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}


def _name(slot: Any) -> str:
    found = slot if isinstance(slot, str) else mapping(slot).get("name")
    return found if isinstance(found, str) else ""
