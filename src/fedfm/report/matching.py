"""Which runs were judged by the same test, so that their scores may be ranked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import yaml

from fedfm.direction import rises
from fedfm.report import outline
from fedfm.report.numbers import finite
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
    if why := _other_rows(runs):
        return why
    # A loss per token depends on what the model takes for a token.
    if not rises(outline.metric_name(runs[0])) and len({model for _, _, model in tests}) > 1:
        return "losses of different models"
    return ""


def rows(run: Run) -> int:
    """The number of test rows behind its score; 0 where the run, of an older release, does not say."""
    return int(finite(mapping(run.summary.get("test_rows")).get("rows")) or 0)


def _other_rows(runs: Sequence[Run]) -> str:
    """Were the runs tested on other rows though their configs name the same data? By what each recorded of its test rows;
    where one of them recorded nothing, by the seed that draws them, and by the digest of all rows of one data config."""
    digests = {mapping(r.summary.get("test_rows")).get("digest") for r in runs}
    if None not in digests:
        return "judged on different test rows" if len(digests) > 1 else ""
    known = [(r, config) for r in runs if (config := parsed(r.config))]
    if len({_seed(config) for _, config in known}) > 1:
        return "of different seeds, with no record of their test rows (a run of this release has one)"
    whole: dict[str, set[str]] = {}
    for r, config in known:
        if of := _digest(r):
            whole.setdefault(repr(config.get("data")), set()).add(of)
    return "judged on different data" if any(len(found) > 1 for found in whole.values()) else ""


def _seed(config: dict[str, Any]) -> Any:
    own = mapping(config.get("data")).get("seed")
    return config.get("seed") if own is None else own


def _digest(run: Run) -> str:
    """Of all rows, as the run recorded it before its first round; empty where it did not."""
    try:
        record = mapping(json.loads((run.path / "run.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return ""
    return str(mapping(mapping(record.get("identity")).get("data")).get("all") or "")


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
