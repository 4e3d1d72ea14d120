"""Which columns a data set must give: those that the task declares, else those of the layout that the rows have."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import yaml

from fedfm.core.schema import Column
from fedfm.data import kinds
from fedfm.data.cleaning.faults import Faults

Wanted = tuple[Column, ...]
KNOWN = {
    c.name: c
    for c in (
        Column("text", kinds.Text()),
        Column("text_pair", kinds.Text(), required=False),
        Column("label", kinds.Label()),
        Column("labels", kinds.Labels()),
        Column("number", kinds.Number()),
        Column("image", kinds.Image()),
        Column("instruction", kinds.Text()),
        Column("input", kinds.Text(), required=False),
        Column("answer", kinds.Text(numbers=True)),
        Column("system", kinds.Text(), required=False),
        Column("messages", kinds.Turns()),
        Column("chosen", kinds.Reply()),
        Column("rejected", kinds.Reply()),
        Column("words", kinds.Words()),
        Column("tags", kinds.Tags()),
        Column("spans", kinds.Spans()),
        Column("x", kinds.Array()),
        Column("y", kinds.Array()),
        Column("group", kinds.Group(), required=False),
        Column("task", kinds.Group(), required=False),
        Column("entry", kinds.Anything(), required=False),
    )
}
LAYOUTS = {  # what rows of each kind of task are called; the first that fits is taken
    "labelled texts": ("text", "label"),
    "instructions": ("instruction", "answer"),
    "chats": ("messages",),
    "preference pairs": ("chosen", "rejected"),
    "labelled pictures": ("image", "label"),
    "pictures with numbers": ("image", "number"),
    "texts with numbers": ("text", "number"),
    "texts with several labels": ("text", "labels"),
    "tagged texts": ("text", "tags"),
    "tagged words": ("words", "tags"),
    "texts with spans": ("text", "spans"),
    "arrays": ("x", "y"),
}
EXTRA = {  # what a layout may have besides; a name of another layout's is not taken for it
    "labelled texts": ("text_pair",),
    "instructions": ("input", "system"),
    "chats": ("system",),
    "preference pairs": ("instruction", "system"),
    "texts with numbers": ("text_pair",),
}
ALIASES = {  # the same thing under the name of another tool
    "messages": ("conversations", "conversation"),
    "system": ("system_prompt",),
    "words": ("tokens",),
    "tags": ("ner_tags", "pos_tags"),
}
USUAL = {  # what people call them, to propose a column
    "text": (
        "review",
        "body",
        "sentence",
        "sentence1",
        "premise",
        "question1",
        "text_a",
        "content",
        "message",
        "comment",
    ),
    "text_pair": ("sentence2", "hypothesis", "question2", "text_b"),
    "label": ("topic", "class", "category", "target", "sentiment", "stars"),
    "number": ("score", "similarity", "rating", "target", "value"),
    "instruction": ("question", "prompt", "query"),
    "answer": ("reply", "response", "output", "completion"),
    "messages": ("dialog", "dialogue", "chat", "turns"),
    "image": ("img", "picture", "photo", "pixel_values"),
}


TARGETS = {
    "label",
    "y",
    "group",
}  # what a map may name in a table of numbers, whose others are under their own names
UNREAD = {  # what other tools give a meaning; where no column of the task reads it, a person is told first
    **dict.fromkeys(("tools", "functions"), "no prompt tells of the tools that it lists"),
    **dict.fromkeys(("documents", "context", "contexts"), "no prompt holds it; put it into `input`"),
    **dict.fromkeys(
        ("reasoning", "reasoning_content", "thinking", "thoughts", "rationale", "chain_of_thought"),
        "nothing is learnt of it; write it into the answers, or as a key of the assistant's turn in `messages`",
    ),
    "history": "earlier turns are read from `messages` alone",
    **dict.fromkeys(("weight", "weights", "sample_weight", "class_weight"), "every row counts once"),
    **dict.fromkeys(
        ("fold", "is_train", "is_test"), "rows are split without it (data.test_path, test files)"
    ),
}


_ASKED = re.compile(  # what a question is about, or chosen from, beside it
    r"(choice|option|passage|article|document|paragraph|abstract|supporting_fact)s?|option_?[a-z0-9]", re.I
)
WHOSE = re.compile(
    r"(patient|subject|person|user|customer|client|participant|speaker|author|writer|student|donor|member|session|visit|case|"
    r"doc|document)(id|no|nr|number|name)?|mrn",
    re.I,
)


def owning(name: object, values: Callable[[], Iterable[Any]]) -> bool:
    """Does a column of this name say to whom several rows belong? `Patient ID` is patient_id."""
    if not WHOSE.fullmatch(re.sub(r"[-_. ]", "", str(name))):
        return False
    there = [str(v) for v in values() if not kinds.empty(v)]
    return 1 < len({*there}) < len(there)


def whose(rows: Sequence[Mapping[str, Any]], used: Collection[str], read: Wanted = ()) -> list[str]:
    """A sentence for each column that names to whom several rows belong: a split by rows would part them."""
    features = {c.name for c in read if isinstance(c.kind, kinds.Array)}
    return [
        f"rows of one '{name}' may be learnt from and tested on: test rows are drawn one by one; give test files "
        f"(data.test_path), or let it name the party ({setting_of('party_column', name)})"
        + f"; '{name}' is a feature too: leave it out if it should be none"
        * (name in features)
        for name in dict.fromkeys(k for r in rows for k in r if k not in used)
        if owning(name, partial(_cells, rows, name))
    ]


def _cells(rows: Sequence[Mapping[str, Any]], column: str) -> list[Any]:
    return [r.get(column) for r in rows]


def setting_of(knob: str, value: str) -> str:
    """A setting of the data that can be pasted into a shell."""
    return shlex.quote(f"data.{knob}={value}")


def unread(wanted: Wanted, mapping: Collection[str], has: Collection[str]) -> list[str]:
    """A sentence for each column that says something, and that nobody reads."""
    used = {*mapping, *(c.name for c in wanted), "group"}
    left = dict.fromkeys(h for h in has if h not in used)
    if {"x", "y"} <= used:
        return [
            f"the column '{h}' is not read: a batch is (x, y); call the targets `label`, and it is a mapping of all columns"
            for h in left
        ]
    free = {c.name: [h for h in left if h in USUAL.get(c.name, ())] for c in wanted if not c.required}
    said = [
        f"the column '{h}' is not read: is it the {c}? data.columns={{{c}: {h}}} reads it"
        for c, names in free.items()
        if c not in mapping and c not in has
        for h in names
    ]
    told = {h: UNREAD[h] for h in left if h in UNREAD}
    if "instruction" in used:
        told |= {h: UNREAD["context"] for h in left if h not in told and _ASKED.fullmatch(h)}
    return said + [f"the column '{h}' is not read: {told[h]}" for h in left if h in told]


def sources(column: str, mapping: Mapping[str, tuple[str, ...]], has: Collection[str]) -> list[str]:
    """The columns of a file that may stand for a canonical one: as mapped, else its own name and aliases."""
    given = mapping.get(column) or (column, *ALIASES.get(column, ()))
    return [s for s in given if s in has]


def layout_of(has: Collection[str]) -> str:
    """The name of the first layout whose columns are all there; empty when there is none."""
    there = {*has, *(c for c, also in ALIASES.items() if set(also) & set(has))}
    return next((name for name, columns in LAYOUTS.items() if set(columns) <= there), "")


def wanted(
    columns: Sequence[Column] | None,
    mapped: Collection[str],
    found: Collection[str],
    faults: Faults,
    numbers: Collection[str] = (),
    used: Collection[str] = (),
) -> Wanted:
    """The columns to read: the task's, or, when it declares none, those of the layout that map or rows have.

    Rows of no layout, all of whose columns are `numbers` (but those that a map has `used` for a target), give these, each an
    array under its own name. A map with
    `text` and no `label` asks for plain text. A mapped name that nobody reads is a fault.
    """
    known = {c.name: c for c in columns} if columns else KNOWN
    strange = [m for m in mapped if m not in known]
    for m in strange:
        close = difflib.get_close_matches(m, known, n=1, cutoff=0.75)
        what = f"the task does not read a column '{m}'" if columns else f"unknown canonical column '{m}'"
        why = f"did you mean '{close[0]}'?" if close else f"it reads {', '.join(known)}"
        fix = f"rename '{m}' to '{close[0]}' in data.columns" if close else f"leave '{m}' out of data.columns"
        faults.add("columns", what, why, fix)
    if columns:
        return tuple(columns)
    mine = [m for m in mapped if m in known]
    free = [f for f in found if f not in ("label", "group", *used)]
    if TARGETS.issuperset(mapped) and not layout_of(found) and free and set(free) <= set(numbers):
        rest = [c for c in ("label", "group", "y") if c in mapped or (c in found and c not in free)]
        return (*(Column(c, kinds.Array()) for c in free), *(KNOWN[c] for c in rest))
    there = {*found, *mine, *(c for c, also in ALIASES.items() if set(also) & set(found))}
    name = (
        layout_of(mine)
        or (layout_of(found) if set(mine) <= _of(layout_of(found)) else "")
        or _partly(mine, there)
    )
    base = LAYOUTS[name]
    if name == "labelled texts" and "text" in mine and "label" not in there:
        base = ("text",)
    more = [c for c in (*EXTRA.get(name, ()), "group", "task", "entry") if c in there and c not in base]
    extra = [m for m in mine if m not in base and m not in more]
    return tuple(
        Column(c, KNOWN[c].kind, required=c in base or (c in extra and KNOWN[c].required))
        for c in (*base, *more, *extra)
    )


def _of(name: str) -> set[str]:
    return {*LAYOUTS.get(name, ()), *EXTRA.get(name, ()), "group", "task", "entry"}


def _partly(mine: Sequence[str], there: Collection[str]) -> str:
    """The layout that shares most with the map, then with the rows."""

    def fit(name: str) -> tuple[int, int]:
        return len(set(LAYOUTS[name]) & set(mine)), len(set(LAYOUTS[name]) & set(there))

    return max(LAYOUTS, key=fit)


def setting(columns: Mapping[str, Any]) -> str:
    """The column map as a setting that can be pasted into a shell."""
    plain = yaml.safe_dump(
        dict(columns), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6
    )
    return shlex.quote(f"data.columns={plain.strip()}")
