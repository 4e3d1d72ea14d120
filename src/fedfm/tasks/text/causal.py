"""Instruction tuning of a causal language model: the loss is on the answer alone."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedfm.cards.registry import method
from fedfm.core.errors import DataError
from fedfm.core.protocols import Scores
from fedfm.core.schema import Column
from fedfm.data.kinds import Anything, Chat, Group, Text
from fedfm.data.reading.turns import BESIDE, also_of
from fedfm.tasks.bound import groups_of, members
from fedfm.tasks.ragged import Ragged
from fedfm.tasks.text import limits
from fedfm.tasks.text.decoder import LanguageTask, build
from fedfm.tasks.text.dialogue import Dialogue
from fedfm.tasks.text.tokens import TextObjective

IGNORED = -100
LOOKED = 32  # rows that are asked whether the template reads a key of their turns


@method(
    "causal-lm",
    slot="task",
    section="II.A",
    survey=(67,),
    also=("text-generation", "sft", "instruction-tuning", "chat"),
)
@dataclass(frozen=True)
class CausalLM(LanguageTask):
    """Tune a language model on instructions and answers; the loss is on the answer's tokens.

    Rows: `instruction`, `answer` [, `input`, `group`; `task` and `entry` for an exact scorer]. Scores: loss (mean over
    examples of the mean answer-token negative log-likelihood, nats) and, with score_by "exact", exact (share of greedy
    answers that are right) and exact/GROUP.
    """

    columns = (
        Column("messages", Chat(), required=False),
        Column("instruction", Text()),
        Column("input", Text(), required=False),
        Column("system", Text(), required=False),
        Column("answer", Text(numbers=True)),
        *(Column(c, Group(), required=False) for c in ("group", "task")),
        Column("entry", Anything(), required=False),
    )

    def objective(self, tokenizer: Any, module: nn.Module | None = None) -> Instruction:
        return Instruction(self, tokenizer, module)


@dataclass(frozen=True, eq=False)
class Dialogues:
    """Tokenised rows: prompt and answer behind each other, the prompts' lengths (n,), the rows; and who was dropped."""

    tokens: Ragged
    prompts: Tensor
    rows: tuple[dict[str, Any], ...]
    dropped: dict[str, int] = field(default_factory=dict)
    cut: int = 0  # pairs longer than max_tokens

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded token ids and mask (n, tokens), targets (n, tokens) shifted by one, -100 where there is no loss."""

    ids: Tensor
    mask: Tensor
    targets: Tensor


class Instruction(TextObjective):
    """Mean over examples of the mean negative log-likelihood of the answer's tokens."""

    def __init__(self, task: LanguageTask, tokenizer: Any, module: nn.Module | None = None):
        super().__init__(task, tokenizer, build)
        self.whole, self.dialogue = module, Dialogue(tokenizer, task.template, task.model)
        self.primary, self.higher_is_better = task.score_by, task.score_by != "loss"

    # ---- rows -------------------------------------------------------------------------------------------------
    def encode(self, rows: Any) -> Dialogues:
        """Tokenise a shard; rows cut to no answer are dropped. Raises DataError for rows without the columns."""
        kept, cuts, dropped, longer = [], [], Counter[str](), 0
        try:
            pairs = self.dialogue.encode(rows.rows)
        except DataError as e:
            fix = "" if "fix: " in str(e) else "\n    fix: name the columns `instruction` and `answer`"
            raise DataError(f"{rows.party}: {e}{fix}") from e
        for row, (prompt, answer) in zip(rows.rows, pairs, strict=True):
            if len(prompt) < self.limit and answer:
                kept.append(row)
                cuts.append(([*prompt, *answer][: self.limit], len(prompt)))
                longer += len(prompt) + len(answer) > self.limit
            else:
                full = f"the prompt fills {self.room}"
                dropped["the answer has no token" if not answer else full] += 1
        prompts = torch.tensor([n for _, n in cuts], dtype=torch.long)
        return Dialogues(
            self.within(Ragged.of([c for c, _ in cuts])), prompts, tuple(kept), dict(dropped), longer
        )

    def few(self, encoded: Dialogues, n: int) -> Dialogues:
        """The first n rows."""
        kept = range(min(n, len(encoded)))
        tokens = Ragged.of([encoded.tokens[i] for i in kept])
        return Dialogues(tokens, encoded.prompts[: len(kept)], encoded.rows[: len(kept)])

    def explain(self, row: dict[str, Any]) -> dict[str, Any]:
        """What the model sees of a row: `text`, `tokens` and `loss_mask` (true where the loss is)."""
        prompt, answer = self.dialogue.encode([row])[0]
        ids = [*prompt, *answer][: self.limit]
        return {
            "text": self.tokenizer.decode(ids),
            "tokens": [self.tokenizer.decode([i]) for i in ids],
            "loss_mask": [i >= len(prompt) for i in range(len(ids))],
            "form": self.dialogue.form,
        }

    def batch(self, encoded: Dialogues, index: Tensor, device: torch.device) -> Batch:
        ids, mask = encoded.tokens.padded(index, self.tokenizer.pad_token_id)
        place = torch.arange(ids.shape[1])[None]
        answer = (place >= encoded.prompts[index][:, None]) & mask.bool()
        targets = functional.pad(ids.masked_fill(~answer, IGNORED)[:, 1:], (0, 1), value=IGNORED)
        return Batch(ids.to(device), mask.to(device), targets.to(device))

    # ---- numbers ----------------------------------------------------------------------------------------------
    def losses(self, module: nn.Module, batch: Any) -> Tensor:
        """The mean negative log-likelihood of each example's answer tokens (n,), nats."""
        total, tokens = self.unlikely(module, batch)
        return total / tokens

    def unlikely(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The negative log-likelihood of each example's answer (n,), nats, and its number of tokens (n,)."""
        where = (batch.targets != IGNORED).any(0).nonzero()[:, 0]  # the vocabulary's logits at no other place
        first = self.task.tuning.prepends()  # virtual tokens have logits too
        keep = {"logits_to_keep": where + first} if self._keeps else {}
        out = module(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, **keep)
        logits, targets = out.logits.float(), batch.targets[:, where]
        if not keep:
            logits = logits[:, where + first]
        nll = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return nll.view_as(targets).sum(1), (targets != IGNORED).sum(1)

    @functools.cached_property
    def _keeps(self) -> bool:
        """Can the network leave logits out?"""
        whole: Any = self.whole
        network = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
        return "logits_to_keep" in inspect.signature(type(network).forward).parameters

    def chunks(self, encoded: Dialogues) -> Iterator[Tensor]:
        return encoded.tokens.chunks(self.task.score_batch)

    def score(self, module: nn.Module, encoded: Dialogues, device: torch.device) -> Scores:
        """`loss` and `loss/GROUP`; with score_by "exact" also `exact` and `exact/GROUP`. The same in any order of the rows."""
        n, found = len(encoded), torch.zeros(len(encoded), dtype=torch.float64)
        if not n:
            return {}
        for index in self.chunks(encoded):
            found[index] = self.losses(module, self.batch(encoded, index, device)).double().cpu()
        scores: Scores = {"loss": (math.fsum(found.tolist()), n)}
        groups = list(members(groups_of(encoded)))
        if self.task.score_by == "loss":
            return scores | {f"loss/{g}": (math.fsum(found[mine].tolist()), len(mine)) for g, mine in groups}
        prompts = Ragged.of([encoded.tokens[i][: int(encoded.prompts[i])] for i in range(n)])
        answers = self.generate(module, prompts, device)
        right = [
            judge(row, text, self.by_heart(encoded, i))
            for i, (row, text) in enumerate(zip(encoded.rows, answers, strict=True))
        ]
        scores["exact"] = math.fsum(right), n
        for name, mine in groups:
            scores[f"exact/{name}"] = math.fsum(right[k] for k in mine), len(mine)
        return scores

    def generate(self, module: Any, prompts: Ragged, device: torch.device) -> list[str]:
        """Greedy answers of at most `max_new_tokens` tokens, and no more than the positions can number."""
        texts = [""] * len(prompts)
        for index, new in self._turns(prompts):
            ids, mask = prompts.padded(index, self.tokenizer.pad_token_id, left=True)
            out = module.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=self._greedy(module, new),
            )
            for i, answer in zip(index.tolist(), out[:, ids.shape[1] :], strict=True):
                texts[i] = self.text(answer.tolist())
        return texts

    def _turns(self, prompts: Ragged) -> Iterator[tuple[Tensor, int]]:
        """Prompts that are generated from together, and the most tokens that each gets.

        Prompts near the last position are short of room, and virtual tokens stand before the padding: such prompts
        meet only their like, so that no answer depends on its neighbours.
        """
        virtual = self.task.tuning.prepends()
        most = limits.positions(self.network(self.whole)) - virtual
        alike: dict[int, list[int]] = {}
        for i, n in enumerate(prompts.lengths.tolist()):
            alike.setdefault(n if virtual or n + self.task.max_new_tokens > most else 0, []).append(i)
        for n, those in alike.items():
            some = Ragged.of([prompts[i] for i in those])
            new = self.task.max_new_tokens if not n else min(self.task.max_new_tokens, most - n)
            for index in some.chunks(self.task.score_batch) if new > 0 else ():
                yield torch.tensor(those)[index], new

    def text(self, tokens: list[int]) -> str:
        """What a generated answer says: up to the first end token."""
        ends = [tokens.index(e) for e in self.ends if e in tokens]
        said: str = self.tokenizer.decode(tokens[: min(ends, default=len(tokens))], skip_special_tokens=True)
        return said.rstrip()

    def by_heart(self, encoded: Dialogues, i: int, most: int | None = None) -> str | None:
        """The answer of row i as a model that has learnt it would say it, in `most` tokens; None if it was cut."""
        target = encoded.tokens[i][int(encoded.prompts[i]) :]
        return self.text(target[:most]) if target[-1] in self.ends else None

    def predict(self, module: nn.Module, texts: Sequence[str], device: torch.device) -> list[str]:
        """The greedy answer to each instruction."""
        return self.generate(
            module, Ragged.of(self.dialogue.prompts([{"instruction": t} for t in texts])), device
        )

    @functools.cached_property
    def ends(self) -> list[int]:
        """The tokens that end an answer: the tokenizer's and the model's own."""
        own = getattr(getattr(self.whole, "generation_config", None), "eos_token_id", None)
        return sorted({self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})

    def reached(self, encoded: Dialogues, i: int) -> bool:
        """Would a model that says the answer of row i as it is encoded, as far as it may, be judged right?"""
        target, most = encoded.tokens[i][int(encoded.prompts[i]) :], self.task.max_new_tokens
        if len(target) <= most:
            return True
        whole, said = self.by_heart(encoded, i), self.by_heart(encoded, i, most)
        return (
            whole is not None
            and said is not None
            and (said == whole or bool(judge(encoded.rows[i], said, whole)))
        )

    def remarks(self, encoded: Dialogues, split: str) -> dict[str, int]:
        """What a person should know of these rows, and of how many of them."""
        if split == "train":
            return self._unsaid(encoded.rows)
        if self.task.score_by != "exact":
            return {}
        most = self.task.max_new_tokens
        why = (
            f"have an answer that is longer than task.max_new_tokens ({most}): exact is 0 for them whatever the model "
            "learns; a larger task.max_new_tokens, or task.score_by=loss"
        )
        return {why: sum(not self.reached(encoded, i) for i in range(len(encoded)))}

    def _unsaid(self, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
        """What turns say and no token tells, judged on some rows of each key; and marks that stand twice."""
        form = f"the chat template of {self.task.model}" if self.dialogue.chat else "the plain form"
        holding: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            for key in {
                k: 0 for t in (*row.get("history", ()), *row.get(BESIDE, {}).values()) for k in also_of(t)
            }:
                holding.setdefault(key, []).append(row)
        found = {}
        for key, mine in holding.items():
            some = mine[:: len(mine) // LOOKED + 1]
            if all(key in self.dialogue.unread(r) for r in some):
                why = f"have turns with `{key}`, which {form} does not read: nothing is learnt of it"
                found[f"{why}; write it into the content if it is to be"] = len(mine)
        marks = Counter(self.dialogue.twice(r) for r in rows if str(r["answer"]).lstrip()[:1] in ("<", "["))
        for mark, n in marks.items():
            why = f"have an answer that begins with {mark}, which the generation prompt of {form} opens already: it stands there twice"
            found[f"{why}; leave it out of the answers"] = n if mark else 0
        return found

    def _greedy(self, module: Any, new: int) -> Any:
        from transformers import GenerationConfig

        # the model's own settings may sample, penalise or prompt; only its end tokens are wanted
        return GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            num_beams=1,
            max_new_tokens=new,
            use_cache=True,
            eos_token_id=self.ends or None,
            pad_token_id=self.tokenizer.pad_token_id,
        )


def judge(row: dict[str, Any], text: str, target: str | None = None) -> float:
    """1 for a right answer: by the task's own verifier where the row has `task` and `entry`, else the same words.

    `target` is what the row's own answer decodes to, with what a template writes around it: saying that is right too.
    """
    answer = str(row["answer"])
    if row.get("task") is not None and row.get("entry") is not None:
        from fedfm.data.reasoning_gym import score

        return score(row, answer if target is not None and text and _plain(text) == _plain(target) else text)
    same = {_plain(answer)} if target is None else {_plain(answer), _plain(target)}
    return float(_plain(text) in same)


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().strip(".").casefold()
