"""Kinds of columns: how a value of each is cleaned, by one rule whatever the format that it came in.

A kind is an open class: a task may bring its own. `clean` gives the canonical value, raises `Unfit` for a value that
costs its row (missing, empty), and `Wrong` for one that somebody has to mend: that ends in a problem with its line.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedfm.core.schema import Kind, Unfit

ASSISTANT = "no answer to a user: an assistant's turn"
MISSING = ("nan", "<na>", "nat")  # how tables write a missing value where they have text only
UNNAMED = "a number, and data.labels has words: nobody says which name belongs to which number"
_NUMERAL = re.compile(r"[+-]?\d+(\.\d+)?|true|false")
_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_SAID = re.compile(r"(?:\A|\n\n)(Human|Assistant):")  # as hh-rlhf writes its turns
MOST_TEXT = 1 << 20  # characters of one text; several novels. Read whole, 300 million took 24 GB
_DEPTH = 64  # nesting of a value that is kept as it is


class Wrong(Unfit):
    """A value of the wrong type or content: no row to leave out, but a fault to mend (`fix`)."""

    def __init__(self, what: str, fix: str = "convert the column, or map another one"):
        super().__init__(what)
        self.fix = fix


class Written(float):
    """A number of a text file that remembers how it was written: an answer "2.50" stays "2.50"."""

    def __new__(cls, text: str) -> Written:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str


def plain(value: Any) -> Any:
    """A scalar of numpy, torch or pandas as Python's own; a missing one as None; anything else as it is."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def empty(value: Any) -> bool:
    """Is there no value: none, not a number, or blanks only?"""
    value = plain(value)
    return value is None or (isinstance(value, str) and not value.strip())


def whole(text: str) -> str:
    """The text, unless a tokenizer cannot take it: over MOST_TEXT (it would take all memory), or half a character."""
    if len(text) > MOST_TEXT:
        raise Unfit(f"longer than {MOST_TEXT:,} characters")
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise Wrong(
            f"text with half a character (a lone surrogate, {ascii(text[e.start])}) at position {e.start}",
            "write the text again from its source: something cut it inside a character (an emoji)",
        ) from None
    return text


def name(value: Any) -> str:
    """One spelling of a name: stripped, composed (NFC), 1.0 as 1, True as true. The rule of labels and groups."""
    value = plain(value)
    if value is None:
        raise Unfit("no value")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if math.isinf(value):
            raise Wrong(f"{value}, which is no name")
        return str(int(value)) if value.is_integer() else repr(float(value))
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise Wrong(f"of type {type(value).__name__}")
    text = unicodedata.normalize("NFC", whole(value)).strip()
    if not text or text.casefold() in MISSING:
        raise Unfit("no value")
    if text.casefold() in ("true", "false"):
        return text.casefold()
    number = _WHOLE.fullmatch(text)
    return str(int(number[1])) if number else text


@dataclass(frozen=True)
class Text(Kind):
    """Prose, kept to the letter. `numbers`: a number counts as its text (an answer)."""

    numbers: bool = False

    def clean(self, value: Any) -> str:
        value = plain(value)
        if self.numbers and isinstance(value, bool | int | float):
            if isinstance(value, float) and not isinstance(value, Written) and value.is_integer():
                return str(int(value))  # a table's whole number
            return value.text if isinstance(value, Written) else str(value)
        if isinstance(value, list | tuple) and any(isinstance(v, Mapping) and "role" in v for v in value):
            raise Wrong("not text but turns", "one column `messages` with all turns; every answer is learnt")
        if not isinstance(value, str):
            raise Wrong(f"not text but {type(value).__name__}")
        return whole(value)


@dataclass(frozen=True)
class Label(Kind):
    """A class name: text, whole number or boolean, in one spelling."""

    def clean(self, value: Any) -> str:
        return name(value)


@dataclass(frozen=True)
class Named(Label):
    """A class name out of those that were agreed beforehand; a row with another is left out."""

    names: tuple[str, ...] = ()

    def clean(self, value: Any) -> str:
        if (found := name(value)) not in (names := {name(n) for n in self.names}):
            words = not any(map(_NUMERAL.fullmatch, names))
            raise Unfit(
                UNNAMED if words and _NUMERAL.fullmatch(found) else "a label that data.labels does not name"
            )
        return found


@dataclass(frozen=True)
class Group(Label):
    """A name that rows are told apart by: a test group, a family of tasks."""


@dataclass(frozen=True)
class Labels(Kind):
    """Several class names: a list, or a list as JSON text; sorted, each once."""

    def clean(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, int | float) or (isinstance(value, str) and not value.lstrip().startswith("[")):
            fix = "data.columns={label: YOUR_COLUMN}, for a row has one of them"
            raise Wrong(f"not a list of labels but {type(value).__name__}", fix)
        return tuple(sorted({name(v) for v in _listed(value, "a list of labels")}))


@dataclass(frozen=True)
class Number(Kind):
    """A finite number (regression)."""

    def clean(self, value: Any) -> float:
        value = plain(value)
        if isinstance(value, str):
            text = value.strip()
            if text.casefold() in MISSING:
                raise Unfit("no value")
            try:
                value = float(text)
            except ValueError:
                comma = re.fullmatch(r"[+-]?\d+,\d+", text)
                raise Wrong(
                    f"not a number: {text[:40]!r}",
                    "write a point where the decimal comma is" if comma else "map a column of numbers",
                ) from None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Wrong(f"not a number but {type(value).__name__}", "map a column of numbers")
        if not math.isfinite(value):
            raise Wrong(f"{value}, which is not finite", "leave the row out, or give it a number")
        return float(value)


@dataclass(frozen=True)
class Image(Kind):
    """A picture as a uint8 tensor (C, H, W), from PIL, an array, or the bytes of a file.

    `size` > 0 resizes to a square, `mode` "L" or "RGB" sets the channels. 16-bit pictures lose their lower byte;
    arrays of floats must lie in 0..1. Grey is one channel, anything with more colours is RGB.
    """

    size: int = 0
    mode: str = ""

    def clean(self, value: Any) -> Any:
        from fedfm.data.reading import pictures

        return pictures.tensor(value, self.size, self.mode)


@dataclass(frozen=True)
class Array(Kind):
    """A tensor of finite numbers, any shape (features, or what an own module takes)."""

    def clean(self, value: Any) -> Any:
        import torch

        value = _listed(value, "an array") if isinstance(value, str) else value
        value = value.tolist() if str(getattr(value, "dtype", "")) == "object" else value  # of mixed columns
        try:  # a view that runs backwards, or one of a locked table, is no tensor
            found = torch.as_tensor(value.copy() if hasattr(value, "strides") else value)
        except (TypeError, ValueError, RuntimeError):
            raise Wrong(f"no array of numbers but {type(value).__name__}") from None
        if found.dtype == torch.float64:
            found = found.float()
        if found.is_floating_point() and not bool(found.isfinite().all()):
            raise Wrong("an array with a number that is not finite", "leave the row out, or fill the gap")
        return found


@dataclass(frozen=True)
class Turns(Kind):
    """A chat: a tuple of {role, content, and what a turn says besides}, from `messages` or ShareGPT's from/value.

    At least one turn is the assistant's. A row that has one needs none of the columns `instead`.
    """

    instead: tuple[str, ...] = ("instruction", "answer")

    def clean(self, value: Any) -> tuple[dict[str, Any], ...]:
        from fedfm.data.reading.turns import read

        turns = tuple(map(read, _listed(value, "a list of turns")))
        if not any(t["role"] == "assistant" and (t["content"].strip() or "tool_calls" in t) for t in turns):
            raise Unfit("a chat without an assistant's turn")
        return turns


def _learnt(turn: Mapping[str, Any]) -> bool:
    return bool(turn["content"].strip()) and "weight" not in turn


@dataclass(frozen=True)
class Chat(Turns):
    """A chat for a task that reads one question and one answer: a row for each answer, with all turns before it.

    Rows: `instruction` (the user's last turn), `answer`, `history` (the turns before, the system's among them), and
    `beside` (what the turns of question and answer say besides: reasoning_content, tool_calls, a name).
    """

    def spread(self, turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The rows of a chat; raises Unfit when no assistant's turn follows a user's."""
        from fedfm.data.reading.turns import beside

        found = []
        for i, (before, turn) in enumerate(zip(turns, turns[1:], strict=False)):
            if (before["role"], turn["role"]) == ("user", "assistant") and _learnt(turn):
                row: dict[str, Any] = {"instruction": before["content"], "answer": turn["content"]}
                row |= beside(before, turn)
                history = tuple({k: v for k, v in t.items() if k != "weight"} for t in turns[:i])
                found.append(row | ({"history": history} if i else {}))
        if not found:
            tools = any("tool_calls" in t or t["role"] not in ("system", "user", "assistant") for t in turns)
            raise Unfit(
                "a chat in which every answer calls a tool or follows its turn: how tools are used is not learnt"
                if tools
                else "a chat in which no answer follows a user's turn"
            )
        return found

    def passed(self, turns: Sequence[Mapping[str, Any]]) -> list[str]:
        """Why an assistant's turn is no answer that is trained on: one reason a turn."""
        found = []
        for before, turn in zip([None, *turns], turns, strict=False):
            if turn["role"] != "assistant":
                continue
            if not turn["content"].strip():
                found.append(f"{ASSISTANT} that calls a tool without a word")
            elif "weight" in turn:
                found.append(f"{ASSISTANT} of weight 0")
            elif before is None:
                found.append(f"{ASSISTANT} that opens the chat")
            elif before["role"] != "user":
                found.append(f"{ASSISTANT} behind a turn of {before['role']}")
        return found


@dataclass(frozen=True)
class Reply(Kind):
    """One side of a preference pair: text, or the turns that end with it, from the question on.

    Turns are a list as in a chat, or text with "Human:" and "Assistant:" before them. Where they hold the question,
    the row needs none of the columns `instead`.
    """

    instead: tuple[str, ...] = ("instruction",)

    def clean(self, value: Any) -> Any:
        if isinstance(value, str) and value.lstrip().startswith("Human:"):
            said = _SAID.split(value.lstrip())[1:]
            value = [{"role": r, "content": t.strip()} for r, t in zip(said[::2], said[1::2], strict=True)]
        elif isinstance(value, str) and not value.lstrip().startswith("[{"):
            return Text().clean(value)
        return Turns().clean(value)

    @staticmethod
    def asks(value: Any) -> bool:
        """Does a cleaned value hold the question?"""
        return not isinstance(value, str) and any(t["role"] == "user" for t in value)


@dataclass(frozen=True)
class Words(Kind):
    """A text that was cut into words: a list of texts, or a list as JSON text."""

    def clean(self, value: Any) -> tuple[str, ...]:
        return tuple(Text(numbers=True).clean(v) for v in _listed(value, "a list of words"))


@dataclass(frozen=True)
class Tags(Kind):
    """A label for each token or word: a list, or a list as JSON text."""

    def clean(self, value: Any) -> tuple[str, ...]:
        return tuple(name(v) for v in _listed(value, "a list of tags"))


@dataclass(frozen=True)
class Spans(Kind):
    """Pieces of a text: (start, end, label), from lists or mappings; end is exclusive."""

    def clean(self, value: Any) -> tuple[tuple[int, int, str], ...]:
        found = []
        for span in _listed(value, "a list of spans", bare=True):
            at: list[Any] = (
                [span.get(k) for k in ("start", "end", "label")] if isinstance(span, Mapping) else list(span)
            )
            if len(at) != 3 or not all(isinstance(plain(i), int) for i in at[:2]) or not 0 <= at[0] < at[1]:
                raise Wrong(
                    f"a span that is not start, end, label: {str(span)[:40]}", "give 0 <= start < end"
                )
            found.append((int(at[0]), int(at[1]), name(at[2])))
        return tuple(sorted(found))


@dataclass(frozen=True)
class Anything(Kind):
    """Kept as it is, if it is plain data (what an exact scorer needs)."""

    def clean(self, value: Any) -> Any:
        return kept_whole(value)


def kept_whole(value: Any, depth: int = 0) -> Any:
    """Plain data, not nested deeper than anybody can write out again."""
    if depth > _DEPTH:
        raise Wrong(f"nested more than {_DEPTH} deep", "leave the column out")
    if isinstance(value, Mapping):
        return {str(k): kept_whole(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [kept_whole(v, depth + 1) for v in value]
    value = plain(value)
    if isinstance(value, str):
        return whole(value)
    return float(value) if isinstance(value, Written) else value


def _listed(value: Any, what: str, *, bare: bool = False) -> list[Any]:
    """The items of a list, of an array, or of a list written as JSON text (tables have no other way)."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Wrong(f"not {what}: {value[:40]!r}", "write it as a JSON list") from None
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise Wrong(f"not {what} but {type(value).__name__}", "map a column of lists")
    if not value and not bare:
        raise Unfit("an empty list")
    return list(value)
