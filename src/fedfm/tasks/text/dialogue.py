"""An instruction and its answer as tokens: where the prompt ends, the loss begins.

A chat template that writes the answer right behind the generation prompt is used as it is. Otherwise the answer
follows the prompt. Every answer ends with the end-of-sequence token, and the prompt's tokens are in every case those
that generation starts from. Text of rows stays text: a special token spelled out in it is encoded as characters.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from fedfm.core.errors import DataError, FedfmError, ModelError
from fedfm.data.reading.turns import BESIDE, also_of, texts
from fedfm.tasks.network import quiet
from fedfm.tasks.text.limited import limited

PLAIN = "Instruction:\n{request}\n\nAnswer:\n"
# the date of every template that asks for one, so that tokens are the same on every day
TODAY = {
    "%d": "01",
    "%e": "1",
    "%b": "Jan",
    "%B": "January",
    "%m": "01",
    "%Y": "2025",
    "%y": "25",
    "%A": "Wednesday",
    "%a": "Wed",
    "%H": "00",
    "%M": "00",
    "%S": "00",
}
_DATED = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f" | replace('{sign}', '{text}')" for sign, text in TODAY.items())
    + " }}{%- endmacro %}"
)
SECONDS = 10.0  # for a template's first rendering
_MARK = re.compile(r"<\|[^<>|\s]{1,40}\|>|<(?:start|end)_of_[a-z]+>")
THINKS = re.compile(r"</?think")
_OPENED = re.compile(r"[<\[][^<>\[\]\s/]{1,40}[>\]]")
_OPENS = re.compile(_OPENED.pattern + r"\s*$")
_ASK, _TOLD = "qqfirstzz", "qqthenzz"  # words that no template brings


class Dialogue:
    """Formats rows for one tokenizer; `template` "chat" falls back to "plain" where the tokenizer has none."""

    def __init__(self, tokenizer: Any, template: str, model: str = "the model"):
        """Renders one short dialogue. Raises ModelError for a template that fails, or loses what it is given."""
        self.tokenizer, self.model, self.parts = tokenizer, model, False
        self.chat = template == "chat" and tokenizer.chat_template is not None
        first = tokenizer("a")["input_ids"][:1]
        self.lead = (
            [] if self.chat or tokenizer.bos_token_id is None or first != [tokenizer.bos_token_id] else first
        )
        special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
        self.controls = tuple(sorted(special | {*tokenizer.all_special_tokens}, key=lambda t: (-len(t), t)))
        self.template: str | None = None  # the tokenizer's own
        if self.chat:
            own = tokenizer.chat_template
            if isinstance(own, str) and "strftime_now" in own:
                self.template = _DATED + own
            self._try()

    @property
    def form(self) -> str:
        """Which text form is used, in words."""
        if self.chat:
            return "the tokenizer's chat template" + (" (content in parts)" if self.parts else "")
        return "Instruction:/Answer: (plain" + (
            ")" if self.tokenizer.chat_template is not None else "; the tokenizer has no chat template)"
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
        texts = [self.prompt(r) for r in rows]
        ids = self._ids(texts, lead=True)
        return [self._prompt(r, t, i) for r, t, i in zip(rows, texts, ids, strict=True)]

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[list[int], list[int]]]:
        """Per row the prompt's tokens and the answer's, which end with the end-of-sequence token.

        Raises DataError for rows without the columns, and where the template leaves out a part of a row.
        """
        prompts = [self.prompt(r) for r in rows]
        tails = [self._tail(r, p) for r, p in zip(rows, prompts, strict=True)]
        self._kept(rows, prompts, tails)
        heads = self._ids(prompts, lead=True)
        joint = self._ids([p + t for p, t in zip(prompts, tails, strict=True)], lead=True)
        eos, pairs = self.tokenizer.eos_token_id, []
        for row, prompt, tail, head, whole in zip(rows, prompts, tails, heads, joint, strict=True):
            if self.spelled(row):
                head, answer = (
                    self._prompt(row, prompt, head),
                    self._apart(tail, *_spoken([_answer(row)], tail)),
                )
            else:
                # a token that spans the border is split, because generation starts behind the prompt's own tokens
                answer = (
                    whole[len(head) :] if whole[: len(head)] == head else self._ids([tail], lead=False)[0]
                )
            if eos is not None:
                answer = answer[: answer.index(eos)] if eos in answer else answer
                answer = [*answer, eos]
            pairs.append((head, answer))
        return pairs

    def spelled(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The control tokens that are spelled out in the row's text."""
        text = "\n".join(
            [*_said(row), str(row.get("answer")), *texts([*map(also_of, _asked(row)), row.get(BESIDE)])]
        )
        return tuple(t for t in self.controls if t in text)

    def unread(self, row: Mapping[str, Any]) -> list[str]:
        """What the turns of a row say besides their content, and the text of the row does not tell."""
        asked, said = _asked(row), _answer(row)
        prompt = self.prompt(row)
        text = prompt + self._tail(row, prompt)
        found = []
        for key in dict.fromkeys(k for t in (*asked, said) for k in also_of(t)):
            less = {c: {k: v for k, v in t.items() if k != key} for c, t in row.get(BESIDE, {}).items()}
            past = tuple({k: v for k, v in t.items() if k != key} for t in row.get("history", ()))
            bare = {**row, BESIDE: less, **({"history": past} if past else {})}
            prompt = self.prompt(bare)
            if prompt + self._tail(bare, prompt) == text:
                found.append(key)
        return found

    def twice(self, row: Mapping[str, Any]) -> str:
        """The mark, such as <think>, that the generation prompt opens and the answer begins with again; empty: none."""
        if not self.chat:
            return ""
        prompt, before = self.prompt(row), self._render(_asked(row), False)
        opened = prompt[len(os.path.commonprefix([prompt, before])) :]
        tail = self._tail(row, prompt).lstrip()
        return next((m for m in _OPENED.findall(opened) if tail.startswith(m)), "")

    # ---- texts ------------------------------------------------------------------------------------------------
    def _tail(self, row: Mapping[str, Any], prompt: str) -> str:
        if row.get("answer") is None:
            raise DataError(f"a row has no `answer`; it has {', '.join(map(str, row))}")
        turn = _answer(row)
        answer: str = turn["content"]
        if not self.chat:
            return answer
        whole = self._render([*_asked(row), turn], False)
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        shared = len(os.path.commonprefix([whole, prompt]))
        return whole[shared:] if also_of(turn) and shared >= len(self._render(_asked(row), False)) else answer

    def _kept(self, rows: Sequence[Mapping[str, Any]], prompts: Sequence[str], tails: Sequence[str]) -> None:
        """Raise DataError unless the rendered text holds every character of instruction and answer."""
        lost: dict[str, list[tuple[str, str]]] = {}
        for row, prompt, tail in zip(rows, prompts, tails, strict=True):
            for name, said, text in (
                *(("instruction", said, prompt) for said in _said(row)),
                ("answer", str(row["answer"]), _opened(prompt) + tail),
            ):
                if said.strip() not in text:
                    lost.setdefault(name, []).append((said, text))
        for name, cases in lost.items():
            said, text = cases[0]
            raise DataError(
                f"the chat template of {self.model} leaves out a part of `{name}` in {len(cases)} of {len(rows)} rows\n"
                f"    why: {said[:120]!r} became {text[-160:]!r}\n    fix: task.template=plain"
                + "; thinking as `reasoning_content` of its turn is kept where the template keeps it"
                * bool(THINKS.search(said))
            )

    def _render(self, messages: list[dict[str, Any]], ask: bool) -> str:
        talk: list[Any] = list(messages)
        if self.parts:
            talk = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        try:
            with quiet():
                text: str = self.tokenizer.apply_chat_template(
                    talk, tokenize=False, add_generation_prompt=ask, chat_template=self.template
                )
        except FedfmError:
            raise
        except Exception as e:  # noqa: BLE001 - a template is a stranger's program
            raise self._unfit(f"{type(e).__name__}: {' '.join(str(e).split())[:200]}") from e
        return text

    def _try(self) -> None:
        """One short dialogue, under a time limit: with its content as text, else as a list of parts."""
        faults = []
        for self.parts in (False, True):
            try:
                asked, told = limited(self._short, SECONDS)
            except TimeoutError:
                raise self._unfit(f"it was still busy with two words after {SECONDS:g} s") from None
            except ModelError as e:
                faults.append(str(e).partition("why: ")[2].partition("\n")[0])
                continue
            if _ASK in asked and _TOLD in told:
                self._marks(asked + told)
                return
            lost = "the question" if _ASK not in asked else "the answer"
            faults.append(f"it leaves out {lost}: {(asked if _ASK not in asked else told)[-160:]!r}")
        self.parts = False
        raise self._unfit(faults[0])

    def _marks(self, text: str) -> None:
        """Warn of marks that the template writes and the tokenizer cuts up: its own tokens are lacking, as a rule."""
        cut = {m: len(self._ids([m], lead=False)[0]) for m in dict.fromkeys(_MARK.findall(text))}
        if some := [f"{m} ({n} tokens)" for m, n in cut.items() if n > 1]:
            warnings.warn(
                f"fedfm: the chat template of {self.model} writes {', '.join(some[:3])}, which the tokenizer has no token for: "
                "right only if the model was trained so; else take the tokenizer that belongs to the template, or "
                "task.template=plain",
                UserWarning,
                stacklevel=2,
            )

    def _short(self) -> tuple[str, str]:
        ask = {"role": "user", "content": _ASK}
        return self._render([ask], True), self._render([ask, {"role": "assistant", "content": _TOLD}], False)

    def _unfit(self, why: str) -> ModelError:
        return ModelError(
            f"{self.model}: its chat template cannot be used\n    why: {why}\n"
            "    fix: task.template=plain, or mend the template"
        )

    # ---- tokens -----------------------------------------------------------------------------------------------
    def _prompt(self, row: Mapping[str, Any], prompt: str, ids: list[int]) -> list[int]:
        """The prompt's tokens, `ids`, unless its text spells a control token."""
        said = [*_said(row), *texts([*map(also_of, _asked(row))])]
        return (
            [*self.lead, *self._apart(prompt, *_spoken(_asked(row), prompt))]
            if any(t in s for t in self.controls for s in said)
            else ids
        )

    def _apart(self, text: str, *said: str) -> list[int]:
        """Tokens of a rendered text in which `said` is encoded as characters, the template around it as it is."""
        found: list[int] = []
        for words in said:
            words = words if words in text else words.strip()
            before, _, text = text.partition(words)
            found += self._ids([before], lead=False)[0]
            found += self._ids([words], lead=False, split_special_tokens=True)[0]
        return [*found, *self._ids([text], lead=False)[0]]

    def _ids(self, texts: list[str], *, lead: bool, **how: Any) -> list[list[int]]:
        if not texts:
            return []
        ids = self.tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False, **how
        )["input_ids"]
        return [[*self.lead, *i] for i in ids] if lead else ids


def _asked(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The turns before the answer: the system's, those of the chat, the user's last."""
    return [*_past(row), _user(row)]


def _past(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What stands before the question; a `system` column is the first turn, unless the chat begins with the very one."""
    past, system = [*row.get("history", ())], str(row.get("system") or "")
    told = {"role": "system", "content": system}
    return past if not system.strip() or told in past[:1] else [told, *past]


def _before(row: Mapping[str, Any]) -> str:
    """Earlier turns of a chat in the plain form."""
    titles = {"user": "Instruction:\n", "assistant": "Answer:\n"}
    return "".join(f"{titles.get(t['role'], '')}{t['content']}\n\n" for t in _past(row))


def _said(row: Mapping[str, Any]) -> list[str]:
    """What the prompt must hold, in order."""
    return [t["content"] for t in _asked(row)]


def _answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """The answer's turn."""
    return {"role": "assistant", "content": str(row["answer"]), **row.get(BESIDE, {}).get("answer", {})}


def _opened(prompt: str) -> str:
    """The mark that a prompt ends with, for the answer to go on behind it; empty: none."""
    return found[0] if (found := _OPENS.search(prompt)) else ""


def _spoken(turns: Sequence[Mapping[str, Any]], text: str) -> list[str]:
    """What these turns say in a rendered text, in order."""
    found, at = list[str](), 0
    for turn in turns:
        said = [t if t in text else t.strip() for t in (turn["content"], *texts(also_of(turn)))]
        places = sorted((i, -len(t), t) for t in said if t and (i := text.find(t, at)) >= 0)
        found += [t for _, _, t in places]
        at = max((i - n for i, n, _ in places), default=at)
    return found


def _user(row: Mapping[str, Any]) -> dict[str, Any]:
    request = f"{row['instruction']}\n\n{row['input']}" if row.get("input") else row["instruction"]
    return {"role": "user", "content": request, **row.get(BESIDE, {}).get("instruction", {})}
