"""Direct preference optimisation: of two answers to one question, the better one becomes the likelier one."""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedfm.cards.registry import knob, load, method
from fedfm.core.errors import DataError
from fedfm.core.protocols import Scores
from fedfm.core.schema import Column, Unfit
from fedfm.data.kinds import Group, Reply, Text, Turns
from fedfm.data.reading.turns import BESIDE, beside, read
from fedfm.data.source import Shard
from fedfm.tasks.bound import BoundModule, evaluating, groups_of, members
from fedfm.tasks.features import Features
from fedfm.tasks.ragged import Ragged
from fedfm.tasks.text.causal import Batch, Dialogues, Instruction
from fedfm.tasks.text.decoder import LanguageTask, network


@dataclass(frozen=True)
class Question(Turns):
    """A question: text, or the turns up to the answer."""

    instead: tuple[str, ...] = ()

    def clean(self, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return Text().clean(value)
        turns = tuple(map(read, value))
        if not turns or turns[-1]["role"] != "user":
            raise Unfit("turns that do not end with the user's")
        return turns


@method(
    "preference",
    slot="task",
    section="II.A",
    paper="Rafailov et al., Direct preference optimization: your language model is secretly a reward model, NeurIPS "
    "2023; in a federation: Ye et al., OpenFedLLM: training large language models on decentralized private data via "
    "federated learning, KDD 2024",
    also=("dpo", "rlhf", "preference-tuning"),
)
@dataclass(frozen=True)
class Preference(LanguageTask):
    """Tune a language model on pairs of answers (DPO): -log sigmoid(beta * (r_chosen - r_rejected)).

    r = log p(answer) - log p_0(answer), nats, summed over the answer's tokens; p_0 is the model that training began
    from (with the adapter of `start`, if there is one), the same at every party and in every round. Rows:
    `instruction`, `chosen`, `rejected` [, `input`, `group`]; all may be turns, of which the answers' may hold the question.
    Scores:
    accuracy (share of pairs whose chosen answer gained more than the rejected one; a tie counts half), loss, margin
    (mean of beta * (r_chosen - r_rejected)), and accuracy/GROUP.
    """

    columns = (
        Column("instruction", Question()),
        Column("input", Text(), required=False),
        Column("system", Text(), required=False),
        Column("chosen", Reply()),
        Column("rejected", Reply()),
        Column("group", Group(), required=False),
    )

    score_by: str = knob("accuracy", "the primary score", choices=("accuracy", "loss"))
    beta: float = knob(0.1, "how dear it is to leave the first model", above=0.0)

    def objective(self, tokenizer: Any, module: nn.Module | None = None) -> Pairwise:
        return Pairwise(self, tokenizer, module)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Both answers to each prompt, tokenised; `reference` keeps log p_0 of both (n, 2), nats, computed once a row."""

    chosen: Dialogues
    rejected: Dialogues
    reference: Features
    dropped: dict[str, int]
    cut: int  # pairs of which an answer is longer than max_tokens

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def tokens(self) -> Ragged:
        return self.chosen.tokens

    @property
    def rows(self) -> tuple[dict[str, Any], ...]:
        return self.chosen.rows


@dataclass(frozen=True, eq=False)
class Two:
    """A batch of each answer, and the first model's log-likelihoods of both (n, 2), nats."""

    chosen: Batch
    rejected: Batch
    reference: Tensor


class Pairwise(Instruction):
    """The logistic loss of the difference in log-likelihood that training has made."""

    def __init__(self, task: Preference, tokenizer: Any, module: nn.Module | None = None):
        super().__init__(task, tokenizer, module)
        self.bound: BoundModule | None = None

    def bind(self, device: str) -> BoundModule:
        self.bound = super().bind(device)
        return self.bound

    # ---- rows -------------------------------------------------------------------------------------------------
    def encode(self, rows: Any) -> Pairs:  # type: ignore[override]
        """Tokenise a shard. Rows whose answers are the same, or are cut to the same, are dropped and counted."""
        dropped: Counter[str] = Counter()
        sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = [], []
        for row in rows.rows:
            try:
                two = _asked(row)
            except Unfit as e:
                dropped[str(e)] += 1
                continue
            if all(two[0].get(k) == two[1].get(k) for k in ("answer", BESIDE)):
                dropped["both answers are the same"] += 1
                continue
            for side, one in zip(sides, two, strict=True):
                side.append(one)
        chosen, rejected = (super(Pairwise, self).encode(Shard(rows.party, tuple(s))) for s in sides)
        dropped.update(chosen.dropped)
        same = [
            i for i in range(len(chosen)) if chosen.tokens[i] == rejected.tokens[i]
        ]  # the prompt is one, so what has no room here has none there
        if same:
            dropped[f"both answers are the same up to {self.room}"] += len(same)
            kept = [i for i in range(len(chosen)) if i not in set(same)]
            chosen, rejected = self._some(chosen, kept), self._some(rejected, kept)
        cut = max(chosen.cut, rejected.cut)
        return Pairs(chosen, rejected, Features(chosen.tokens), dict(dropped), cut)

    def few(self, encoded: Pairs, n: int) -> Pairs:  # type: ignore[override]
        """The first n rows, with what the first model says of them."""
        kept = range(min(n, len(encoded)))
        reference = Features(encoded.tokens)
        if len(kept):
            found = self._first(encoded, torch.tensor(kept), self._device)
            reference = Features.known(found)
        return Pairs(super().few(encoded.chosen, n), super().few(encoded.rejected, n), reference, {}, 0)

    def explain(self, row: dict[str, Any]) -> dict[str, Any]:
        """What the model sees of a row: of the chosen answer, and under `rejected` of the other."""
        try:
            two = _asked(row)
        except Unfit as e:
            raise DataError(f"this row is left out: {e}") from e
        chosen, rejected = (super(Pairwise, self).explain(r) for r in two)
        return {**chosen, "rejected": rejected}

    def batch(self, encoded: Pairs, index: Tensor, device: torch.device) -> Two:  # type: ignore[override]
        chosen, rejected = (
            super(Pairwise, self).batch(s, index, device) for s in (encoded.chosen, encoded.rejected)
        )
        return Two(chosen, rejected, self._first(encoded, index, device).to(device))

    # ---- the first model --------------------------------------------------------------------------------------
    def _first(self, encoded: Pairs, index: Tensor, device: torch.device) -> Tensor:
        """Log-likelihoods (n, 2) of both answers under the model that training begins from, computed once a row."""

        def compute(rows: Tensor) -> Tensor:
            with self._beginning(device) as module:
                return torch.stack(
                    [
                        -self.unlikely(module, super(Pairwise, self).batch(s, rows, device))[0]
                        for s in (encoded.chosen, encoded.rejected)
                    ],
                    dim=1,
                ).cpu()

        return encoded.reference(index, compute)

    @contextlib.contextmanager
    def _beginning(self, device: torch.device) -> Iterator[nn.Module]:
        """The first model, in evaluation mode: the module with its first parameters, or the base that is named."""
        bound = self.bound
        if bound is None:
            yield self._base.to(device)
            return
        now = bound.params.clone()
        bound.load(bound.init)
        try:
            with evaluating(bound.module):
                yield bound.module
        finally:
            bound.load(now)

    @functools.cached_property
    def _base(self) -> nn.Module:
        """Of a model that was read back: the base alone, with the adapter that training went on from."""
        whole = network(self.task, self.task.model)
        if self.task.start:
            whole = load("peft", "tuning")().reload(whole, Path(self.task.start))
        made: nn.Module = whole.eval()
        return made

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu") if self.bound is None else self.bound.device

    def _some(self, encoded: Dialogues, kept: list[int]) -> Dialogues:
        tokens = Ragged.of([encoded.tokens[i] for i in kept])
        prompts, rows = (
            encoded.prompts[torch.tensor(kept, dtype=torch.long)],
            tuple(encoded.rows[i] for i in kept),
        )
        return replace(encoded, tokens=tokens, prompts=prompts, rows=rows)

    # ---- numbers ----------------------------------------------------------------------------------------------
    def margins(self, module: nn.Module, batch: Two) -> Tensor:
        """beta * (r_chosen - r_rejected) of each pair (n,)."""
        chosen, rejected = (self.unlikely(module, b)[0] for b in (batch.chosen, batch.rejected))
        first = batch.reference[:, 0] - batch.reference[:, 1]
        found: Tensor = self.task.beta * ((rejected - chosen) - first)
        return found

    def losses(self, module: nn.Module, batch: Two) -> Tensor:
        """-log sigmoid of the margins (n,)."""
        return -functional.logsigmoid(self.margins(module, batch))

    def chunks(self, encoded: Pairs) -> Iterator[Tensor]:  # type: ignore[override]
        ties = [encoded.rejected.tokens[i] for i in range(len(encoded))]
        return encoded.tokens.chunks(self.task.score_batch, ties)

    def score(self, module: nn.Module, encoded: Pairs, device: torch.device) -> Scores:  # type: ignore[override]
        """`accuracy`, `loss`, `margin`, and `accuracy/GROUP`; the same for the same rows in any order."""
        n, found = len(encoded), torch.zeros(len(encoded), dtype=torch.float64)
        if not n:
            return {}
        for index in self.chunks(encoded):
            found[index] = self.margins(module, self.batch(encoded, index, device)).double().cpu()
        right = ((found > 0).double() + 0.5 * (found == 0).double()).tolist()
        scores: Scores = {
            "accuracy": (math.fsum(right), n),
            "loss": (math.fsum((-functional.logsigmoid(found)).tolist()), n),
            "margin": (math.fsum(found.tolist()), n),
        }
        for name, mine in members(groups_of(encoded)):
            scores[f"accuracy/{name}"] = math.fsum(right[k] for k in mine), len(mine)
        return scores


def _asked(row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row as two: the question with the turns before it, and the chosen or the rejected answer. Raises Unfit."""
    asked: list[dict[str, Any]] = []
    for name in ("chosen", "rejected"):
        said = row.get(name)
        if said is None:
            raise Unfit(f"no {name}")
        turns = ({"role": "assistant", "content": said},) if isinstance(said, str) else tuple(said)
        if turns[-1]["role"] != "assistant":
            raise Unfit(f"`{name}` does not end with an assistant's turn")
        question = row.get("instruction")
        if isinstance(question, tuple) and not Reply.asks(turns):
            turns = (*question, *turns)
        before, asking = turns[:-1], dict[str, Any]()
        if Reply.asks(turns):
            if before[-1]["role"] != "user":
                raise Unfit(
                    f"the turn before the answer in `{name}` is the {before[-1]['role']}'s, not the user's"
                )
            asking, before = before[-1], before[:-1]
            question = asking["content"]
        if not isinstance(question, str):
            raise Unfit("no instruction, and answers that are no turns that hold the question")
        one = {k: v for k, v in row.items() if k not in ("chosen", "rejected")}
        one |= {"instruction": question, "answer": turns[-1]["content"]} | beside(asking, turns[-1])
        asked.append(one | ({"history": before} if before else {}))
    if (asked[0]["instruction"], asked[0].get("history")) != (
        asked[1]["instruction"],
        asked[1].get("history"),
    ):
        raise Unfit("chosen and rejected answer different questions")
    return asked[0], asked[1]
