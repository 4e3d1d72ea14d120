"""WordNet definitions by topic: the text set of the quickstart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedfm.cards.registry import knob, method
from fedfm.core.schema import Column
from fedfm.data.bundled.slices import balanced, json_rows, pick
from fedfm.data.partition.dirichlet import Dirichlet
from fedfm.data.source import Parties, Partition, divide
from fedfm.data.splits import Source


@method(
    "wordnet-topics",
    slot="data",
    section="II.B",
    paper="Fellbaum (ed.), WordNet: an electronic lexical database, MIT Press 1998",
)
@dataclass(frozen=True)
class WordnetTopics(Source):
    """Definitions of English nouns in ten topics (`text`, `label`), bundled with the package.

    5,000 train and 1,000 test rows, balanced; the seed chooses the train rows, the test rows are always the
    same. Card and licence: bundled/wordnet-topics.README.md and .LICENSE.txt.
    """

    train_rows: int = knob(
        4000, "training rows of all parties together, balanced over the topics", low=1, high=5000
    )
    test_rows: int = knob(400, "held-out rows, balanced over the topics", low=1, high=1000)
    partition: Partition = knob(
        doc="how the training rows are divided among parties", factory=lambda: Dirichlet(alpha=0.5, parties=8)
    )

    def read(self, seed: int, columns: Sequence[Column] | None) -> Parties:
        """Read the slice and divide it; raises `DataError` when a size is out of range."""
        rows = json_rows("wordnet-topics.jsonl.gz")
        names = {split: [r["label"] for r in part] for split, part in rows.items()}
        train = pick(rows["train"], balanced(names["train"], self.train_rows, seed, what="train_rows"))
        test = pick(rows["test"], balanced(names["test"], self.test_rows, None, what="test_rows"))
        return divide(train, test, self.partition, seed, labels=names["train"])
