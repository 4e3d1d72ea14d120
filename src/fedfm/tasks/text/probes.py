"""What the text tasks ask of an opened model on a few real rows: each property is tried, none is believed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from fedfm.core.errors import Problem
from fedfm.tasks.probing import MUCH
from fedfm.tasks.text import limits

LARGE = 500_000_000  # parameters
PADDING = 8  # tokens behind a text, to see whether its feature feels them
NEAR, NEAR_HALF = 1e-3, 2e-2  # of the feature's length, in float32 and bfloat16


def dialogues(bound: Any, rows: Any) -> list[Problem]:
    """Of instruction tuning: causal, an answer that can be reached and judged, room for it, a save that comes back."""
    objective, encoded = bound.objective, bound.encode(rows)
    found = [*_spelled(objective, encoded.rows)]
    if len(encoded):
        found += [*_causal(bound, encoded), *_judged(objective, encoded), *_unknown(objective, encoded)]
        found += _comes_back(bound, encoded)
    return found


def texts(bound: Any, rows: Any) -> list[Problem]:
    """Of classification: one feature a token and of the right width, known words, a save that comes back."""
    objective, encoded = bound.objective, bound.encode(rows)
    return [*_unknown(objective, encoded), *_featured(bound, encoded), *_comes_back(bound, encoded)]


def _spelled(objective: Any, rows: Any) -> Iterator[Problem]:
    """Control tokens inside the text are encoded as characters; data that are full of them were rendered already."""
    said = [objective.dialogue.spelled(r) for r in rows]
    if said and (full := sum(map(bool, said))) / len(said) > MUCH:
        token = next(t for s in said for t in s)
        yield Problem(
            "data",
            f"{full} of {len(said)} rows spell control tokens such as {token} in their text",
            "they were rendered with a chat template already; here text stays text, so the model would learn to spell them",
            "give instruction and answer as they are, one turn a row, without the template's tokens",
        )


def _causal(bound: Any, encoded: Any) -> Iterator[Problem]:
    """No logit may move when a later token changes."""
    module, tokenizer = bound.module, bound.objective.tokenizer
    ids = torch.tensor([encoded.tokens[0][:16]])
    if ids.shape[1] < 2:
        return
    other = ids.clone()
    other[0, -1] = (int(ids[0, -1]) + 1) % min(len(tokenizer), limits.rows(bound.objective.network(module)))
    module.eval()
    with torch.no_grad():
        both = torch.cat([ids, other]).to(bound.device)
        logits = module(input_ids=both, attention_mask=torch.ones_like(both), use_cache=False).logits.float()
    early = logits[:, : logits.shape[1] - 1]
    moved = float((early[0] - early[1]).abs().max())
    if moved > 1e-3 * (1.0 + float(early.abs().max())):
        yield Problem(
            "task.model",
            f"{bound.objective.task.model} sees the answer that it is scored on",
            f"its logits move by {moved:.3g} when only a later token changes: it is no causal language model",
            "take a decoder; an encoder belongs to the task sequence-classification (recipe quickstart)",
        )


def _judged(objective: Any, encoded: Any) -> Iterator[Problem]:
    """A model that says each row's own target, as far as it may, must be judged right."""
    from fedfm.tasks.text.causal import judge

    task = objective.task
    if task.score_by != "exact":
        return
    if objective.tokenizer.eos_token_id is None:
        yield Problem(
            "task.model",
            f"{task.model}: its tokenizer has no end token, so no answer is taught to end",
            "score_by=exact compares whole answers",
            "give the tokenizer an eos_token, or task.score_by=loss",
        )
        return
    n, short, wrong = len(encoded), 0, list[tuple[str, str]]()
    for i, row in enumerate(encoded.rows):
        whole, said = objective.by_heart(encoded, i), objective.by_heart(encoded, i, task.max_new_tokens)
        if whole is None or (said != whole and not judge(row, said, whole)):
            short += 1
        elif not judge(row, said, whole):
            wrong.append((str(row["answer"]), said))
    if short == n:
        yield Problem(
            "task.max_new_tokens",
            f"{short} of {n} answers are longer than task.max_new_tokens ({task.max_new_tokens})",
            "exact is 0 for them whatever the model learns",
            "raise task.max_new_tokens, or task.score_by=loss",
        )
    if wrong and len(wrong) / n > MUCH:
        yield Problem(
            "task.score_by",
            "a perfect model would score 0 here",
            f"the answer {wrong[0][0]!r} comes back from its own tokens as {wrong[0][1]!r}",
            "task.score_by=loss, or a model whose tokenizer keeps text as it is",
        )


def _unknown(objective: Any, encoded: Any) -> Iterator[Problem]:
    """Tokens of the rows must be words, not the sign for what the tokenizer does not know."""
    tokenizer, flat = objective.tokenizer, encoded.tokens.tokens
    special = torch.tensor([i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id] or [-1])
    words = flat[~torch.isin(flat, special)]
    if tokenizer.unk_token_id is None and words.numel():
        return
    unknown = int((words == tokenizer.unk_token_id).sum()) if words.numel() else 0
    if words.numel() == 0 or unknown / words.numel() > MUCH:
        yield Problem(
            "task.model",
            f"{objective.task.model}: its tokenizer knows {'none' if words.numel() == 0 else 'few'} of the words of the data",
            f"{unknown} of {words.numel()} tokens are {tokenizer.unk_token!r}"
            if words.numel()
            else "no row has a token beyond the special ones",
            "take the tokenizer that belongs to the model, or a model for this language",
        )


def _featured(bound: Any, encoded: Any) -> Iterator[Problem]:
    """One vector a token, as wide as the head; padding must not reach the feature of a text."""
    objective = bound.objective
    if not len(encoded):
        return
    short = int(encoded.tokens.lengths.argmin())
    ids, mask = encoded.tokens.padded(torch.tensor([short]), objective.tokenizer.pad_token_id)
    n = ids.shape[1]
    more = max(0, min(PADDING, objective.limit - n))
    long = functional.pad(ids, (0, more), value=objective.tokenizer.pad_token_id)
    bound.module.eval()
    with torch.no_grad():
        alone = bound.module.features(ids.to(bound.device), mask.to(bound.device))
        whole = bound.module.features(long.to(bound.device), functional.pad(mask, (0, more)).to(bound.device))
    near = NEAR_HALF if objective.task.dtype == "bfloat16" else NEAR
    if whole.shape != (1, bound.module.head.in_features):
        yield Problem(
            "task.model",
            f"{bound.objective.task.model} gives features of shape {tuple(whole.shape)}",
            f"a head of width {bound.module.head.in_features} needs one vector a text",
            "take another encoder",
        )
    elif float((whole[0] - alone[0]).abs().max()) > near * bound.objective.task.scale:
        yield Problem(
            "task.model",
            f"{bound.objective.task.model}: a text's feature depends on the padding beside it",
            "the network does not honour the attention mask",
            "take another encoder, or task.pooling=cls",
        )


def _comes_back(bound: Any, encoded: Any) -> Iterator[Problem]:
    """What is saved and read again gives the same loss, after the trained tensors were moved."""
    if bound.total > LARGE:
        return  # a second copy of a large base costs more than it tells
    objective = bound.objective
    start, g = bound.read(), torch.Generator().manual_seed(0)
    moved = start.clone()
    for name, view in bound.layout.views(moved).items():
        if any(e.name == name and e.trainable for e in bound.layout.entries):
            view += 0.1 * torch.randn(view.shape, generator=g) * (1.0 + view.std(unbiased=False))
    bound.load(moved)
    few = objective.few(encoded, 4)
    was = bound.risk(few)[0]
    bound.module.eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        objective.save(bound.module, folder)
        task = replace(objective.task, start=None)
        module, again = task.restore(Path(folder), objective.labels)
        module = module.eval().to(bound.device)
        again.whole = module
        now = again.risk(module, few, bound.device)[0]
    bound.load(start)
    if not abs(now - was) <= 1e-4 * (1.0 + abs(was)):
        yield Problem(
            "task",
            f"what {objective.task.model} writes with the tuning '{objective.task.tuning.name}' is not what was trained",
            f"the loss of {len(few)} rows is {was:g} before saving and {now:g} after reading it again",
            "use another tuning, or leave the tied or unusual layers out of its targets",
        )
