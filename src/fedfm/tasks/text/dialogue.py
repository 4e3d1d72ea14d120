"""An instruction and its answer as tokens: where the prompt ends, the loss begins.

A chat template that writes the answer right behind the generation prompt is used as it is. Otherwise the answer
follows the prompt. Every answer ends with the end-of-sequence token, and the prompt's tokens are in every case those
that generation starts from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedfm.core.errors import DataError

PLAIN = "Instruction:\n{request}\n\nAnswer:\n"


class Dialogue:
    """Formats rows for one tokenizer; `template` "chat" falls back to "plain" where the tokenizer has none."""

    def __init__(self, tokenizer: Any, template: str):
        self.tokenizer = tokenizer
        self.chat = template == "chat" and tokenizer.chat_template is not None
        first = tokenizer("a")["input_ids"][:1]
        self.lead = (
            [] if self.chat or tokenizer.bos_token_id is None or first != [tokenizer.bos_token_id] else first
        )

    def prompt(self, row: Mapping[str, Any]) -> str:
        """The text up to the answer. Raises DataError for a row without an instruction."""
        if not isinstance(row.get("instruction"), str):
            raise DataError(f"a row has no `instruction`; it has {', '.join(map(str, row)) or 'no column'}")
        if self.chat:
            return self._render(_asked(row), True)
        return _before(row) + PLAIN.format(request=_user(row)["content"])

    def prompts(self, rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """The tokens that generation starts from."""
        return self._ids([self.prompt(r) for r in rows], lead=True)

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[list[int], list[int]]]:
        """Per row the prompt's tokens and the answer's, which end with the end-of-sequence token."""
        prompts = [self.prompt(r) for r in rows]
        heads = self._ids(prompts, lead=True)
        tails = [self._tail(r, p) for r, p in zip(rows, prompts, strict=True)]
        joint = self._ids([p + t for p, t in zip(prompts, tails, strict=True)], lead=True)
        eos, pairs = self.tokenizer.eos_token_id, []
        for head, whole, tail in zip(heads, joint, tails, strict=True):
            # a token that spans the border is split, because generation starts behind the prompt's own tokens
            answer = whole[len(head) :] if whole[: len(head)] == head else self._ids([tail], lead=False)[0]
            if eos is not None:
                answer = answer[: answer.index(eos)] if eos in answer else answer
                answer = [*answer, eos]
            pairs.append((head, answer))
        return pairs

    def _tail(self, row: Mapping[str, Any], prompt: str) -> str:
        if row.get("answer") is None:
            raise DataError(f"a row has no `answer`; it has {', '.join(map(str, row))}")
        answer = str(row["answer"])
        if not self.chat:
            return answer
        whole = self._render([*_asked(row), {"role": "assistant", "content": answer}], False)
        return whole[len(prompt) :] if whole.startswith(prompt) else answer

    def _render(self, messages: list[dict[str, str]], ask: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
        return text

    def _ids(self, texts: list[str], *, lead: bool) -> list[list[int]]:
        if not texts:
            return []
        ids = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)[
            "input_ids"
        ]
        return [[*self.lead, *i] for i in ids] if lead else ids


def _asked(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The turns before the answer: those of the chat, the user's last."""
    return [*row.get("history", ()), _user(row)]


def _before(row: Mapping[str, Any]) -> str:
    """Earlier turns of a chat in the plain form."""
    titles = {"user": "Instruction:\n", "assistant": "Answer:\n"}
    return "".join(f"{titles.get(t['role'], '')}{t['content']}\n\n" for t in row.get("history", ()))


def _user(row: Mapping[str, Any]) -> dict[str, str]:
    request = f"{row['instruction']}\n\n{row['input']}" if row.get("input") else row["instruction"]
    return {"role": "user", "content": request}
