"""Question and answer pairs by topic, from the corpus of ChatterBot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from fedfm.cards.registry import knob, method
from fedfm.core.errors import DataError, MissingExtra
from fedfm.core.schema import Column
from fedfm.data.source import Parties, Row, Shard, lost, stream
from fedfm.data.splits import Source
from fedfm.text import nearest


@method(
    "chatterbot", slot="data", section="IV.D", survey=(67,), paper="ChatterBot corpus, version 1.3 (BSD-3)"
)
@dataclass(frozen=True)
class Chatterbot(Source):
    """Short conversations; a party is a topic (`instruction`, `answer`, `group`). Extra: data.

    The first two turns of a conversation make a row: later turns are sometimes replies and sometimes other
    answers to the first, and nothing in the files tells which. A held-out instruction never occurs in
    training (compared without regard to case). Small and noisy: for demonstrations, not for claims.
    """

    language: str = knob("english", "the language, as the package names its folders")
    min_rows: int = knob(20, "topics with fewer rows are left out, and counted", low=2)
    test_fraction: float = knob(
        0.2, "share of the questions of every topic that is held out", low=0.0, high=0.9
    )
    test_rows: int = knob(12, "held-out rows of a topic, at most: one question may have fifty answers", low=1)

    def read(self, seed: int, columns: Sequence[Column] | None) -> Parties:
        """Read and hold out; `DataError` for an unknown language, `MissingExtra` without the package."""
        dropped, unscored = Counter[str](), Counter[str]()
        shards, held_out = [], []
        for topic, rows in sorted(self._topics(dropped).items()):
            if len(rows) < self.min_rows:
                dropped[f"topic with fewer than {self.min_rows} rows"] += len(rows)
                continue
            # By question, not by row: the corpus repeats many questions with other answers.
            asked = sorted({r["instruction"].casefold() for r in rows})
            order = stream(seed, f"chatterbot/{topic}").permutation(len(asked))
            held = {asked[i] for i in order[: round(len(asked) * self.test_fraction)]}
            shards.append(Shard(topic, tuple(r for r in rows if r["instruction"].casefold() not in held)))
            held_out.append(Shard(topic, tuple(r for r in rows if r["instruction"].casefold() in held)))
        if not shards:
            raise DataError(f"chatterbot: no {self.language} topic has {self.min_rows} rows; lower min_rows")
        trained = {r["instruction"].casefold() for s in shards for r in s.rows}
        fresh = [
            Shard(s.party, tuple(r for r in s.rows if r["instruction"].casefold() not in trained))
            for s in held_out
        ]
        if seen := sum(map(len, held_out)) - sum(map(len, fresh)):
            unscored["held-out question that occurs in training"] += seen
        scored = [Shard(s.party, s.rows[: self.test_rows]) for s in fresh if s.rows]
        if more := sum(map(len, fresh)) - sum(map(len, scored)):
            unscored["held-out row beyond test_rows of its topic"] += more
        account = lost(dropped) + lost(unscored, "test")
        return Parties(tuple(shards), tuple(scored), None, account, own=tuple(scored))

    def _topics(self, dropped: Counter[str]) -> dict[str, list[Row]]:
        import yaml

        try:
            root = resources.files("chatterbot_corpus") / "data"
        except ModuleNotFoundError:
            raise MissingExtra("chatterbot-corpus", "data", "the data set 'chatterbot'") from None
        folder = root / self.language
        if not self.language or not folder.is_dir():
            known = [f.name for f in root.iterdir() if f.is_dir()]
            raise DataError(
                f"chatterbot: there is no language '{self.language}': {nearest(self.language, known)}"
            )
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        topics: dict[str, list[Row]] = {}
        for file in sorted((f for f in folder.iterdir() if f.name.endswith(".yml")), key=lambda f: f.name):
            topic = file.name.removesuffix(".yml")
            talks: list[Any] = (yaml.load(file.read_text(encoding="utf-8"), Loader=loader) or {}).get(
                "conversations"
            ) or []
            for talk in talks:
                if (
                    not isinstance(talk, list)
                    or len(talk) < 2
                    or not all(isinstance(t, str) and t.strip() for t in talk[:2])
                ):
                    dropped["conversation without two turns of text"] += 1
                    continue
                if len(talk) > 2:
                    dropped["later turn of a conversation"] += len(talk) - 2
                topics.setdefault(topic, []).append(
                    {"instruction": talk[0].strip(), "answer": talk[1].strip(), "group": topic}
                )
        return topics
