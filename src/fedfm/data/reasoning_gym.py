"""Procedural reasoning tasks with exact scoring."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedfm.cards.registry import knob, method
from fedfm.core.errors import DataError, MissingExtra
from fedfm.core.schema import Column
from fedfm.data.source import Parties, Row, Shard, lost
from fedfm.data.splits import Source
from fedfm.text import nearest

# Item i of a generator depends on (generator seed + i) alone: test items come from [0, _TEST) and training
# items from above, so the two never share a seed.
_TEST = 10_000_000
_TRIES = 20

EASY: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
    "gcd": {"min_value": 2, "max_value": 50},
    "lcm": {"min_value": 2, "max_value": 20},
    "letter_counting": {"min_words": 3, "max_words": 5},
    "count_bits": {"min_n": 1, "max_n": 255},
    "spell_backward": {"min_word_len": 3, "max_word_len": 5},
    "leg_counting": {"min_animals": 2, "max_animals": 3, "min_instances": 1, "max_instances": 3},
    "products": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
}


@method(
    "reasoning-gym",
    slot="data",
    section="IV.D",
    survey=(67,),
    paper="Stojanovski et al., Reasoning Gym: reasoning environments for reinforcement learning with "
    "verifiable rewards, 2025",
)
@dataclass(frozen=True)
class ReasoningGym(Source):
    """Generated questions with verifiable answers; a party is a task family. Extra: data.

    Rows: `instruction`, `answer`, `group` = `task`, and `entry`, which `score` needs. The test rows are the
    same for every seed and have no question twice; a training row that asks a test question is replaced by
    the next one and counted in the account. Test groups are the tasks.
    """

    tasks: tuple[str, ...] = knob(
        (
            "chain_sum",
            "gcd",
            "lcm",
            "letter_counting",
            "count_bits",
            "spell_backward",
            "leg_counting",
            "products",
        ),
        "task families, one party each, by their names in reasoning-gym",
    )
    config: dict[str, dict[str, Any]] = knob(
        doc="task -> options of its generator, over the easy defaults", factory=dict
    )
    rows_per_party: int = knob(200, "training rows of each party", low=1)
    test_rows: int = knob(25, "held-out rows of each task", low=1, high=_TEST // _TRIES)

    def read(self, seed: int, columns: Sequence[Column] | None) -> Parties:
        """Generate; raises `DataError` for unknown tasks or options, `MissingExtra` without the package."""
        self._check()
        dropped = Counter[str]()
        shards, held_out = [], []
        for task in self.tasks:
            first: dict[str, Row] = {}
            for row in self._items(task, 0, self.test_rows * _TRIES):
                if row["instruction"] in first:
                    dropped[f"{task}: repeated test question"] += 1
                else:
                    first[row["instruction"]] = row
                if len(first) == self.test_rows:
                    break
            fresh: list[Row] = []
            for row in self._items(task, _train_seed(seed, task), self.rows_per_party * _TRIES):
                if row["instruction"] in first:
                    dropped[f"{task}: training question that is in the test"] += 1
                else:
                    fresh.append(row)
                if len(fresh) == self.rows_per_party:
                    break
            if len(fresh) < self.rows_per_party:
                raise DataError(
                    f"reasoning-gym: {task} has too few different questions for {self.test_rows} test rows "
                    f"and training beside them; widen its options in config, or lower test_rows"
                )
            shards.append(Shard(task, tuple(fresh)))
            held_out.append(Shard(task, tuple(first.values())))
        return Parties(tuple(shards), tuple(held_out), None, lost(dropped), own=tuple(held_out))

    def _check(self) -> None:
        known = _package().factory.DATASETS
        problems = [f"there is no task '{t}': {nearest(t, known)}" for t in self.tasks if t not in known]
        problems += [f"the task '{t}' is named twice" for t, n in Counter(self.tasks).items() if n > 1]
        problems += [
            f"config names '{t}', which is not among the tasks: {nearest(t, self.tasks)}"
            for t in self.config
            if t not in self.tasks
        ]
        if not self.tasks:
            problems.append("no task is named")
        if problems:
            raise DataError("reasoning-gym: " + "; ".join(problems))

    def _items(self, task: str, start: int, most: int) -> Iterator[Row]:
        gym = _package()
        options = {**EASY.get(task, {}), **self.config.get(task, {})}
        try:
            items = gym.create_dataset(task, **options, seed=start, size=most)
        except (TypeError, AssertionError, ValueError) as e:
            allowed = sorted(set(gym.factory.DATASETS[task][1].__dataclass_fields__) - {"seed", "size"})
            raise DataError(
                f"reasoning-gym: the options of {task} do not fit: {e}; it takes {', '.join(allowed)}"
            ) from None
        for i in range(most):
            # Through JSON, so that a row is the same before and after it was stored or sent.
            entry = json.loads(json.dumps(items[i]))
            yield {
                "instruction": entry["question"].strip(),
                "answer": str(entry["answer"]),
                "group": task,
                "task": task,
                "entry": entry,
            }


def score(row: Mapping[str, Any], text: str) -> float:
    """1.0 when the task's own verifier gives the whole score to `text`, else 0.0 (no part marks)."""
    if row["task"] not in _SCORERS:
        _SCORERS[row["task"]] = _package().get_score_answer_fn(row["task"])
    return float(_SCORERS[row["task"]](text.strip(), row["entry"]) >= 1.0)


_SCORERS: dict[str, Any] = {}


def _package() -> Any:
    try:
        import reasoning_gym
        import reasoning_gym.factory
    except ImportError:
        raise MissingExtra("reasoning-gym", "data", "the data set 'reasoning-gym'") from None
    return reasoning_gym


def _train_seed(seed: int, task: str) -> int:
    drawn = int.from_bytes(hashlib.sha256(f"{seed}/{task}".encode()).digest()[:4])
    return _TEST + drawn % (2**31 - 2 * _TEST)
