"""Writers of what people bring, and the columns that the tasks read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.tasks.vision.image import ImageClassification

TEXT, LM, PICTURE = SequenceClassification.columns, CausalLM.columns, ImageClassification.columns
WORDS = [
    "good film",
    "bad film",
    "nice plot",
    "dull plot",
    "great cast",
    "weak cast",
    "fine work",
    "poor work",
]


def labelled(n: int = 16, names: tuple[Any, ...] = ("pos", "neg"), also: str = "") -> list[dict[str, Any]]:
    return [{"text": f"{WORDS[i % 8]} {i}{also}", "label": names[i % len(names)]} for i in range(n)]


def asked(n: int = 12, answer: str = "answer") -> list[dict[str, Any]]:
    return [{"instruction": f"what is {i}", answer: f"it is {i}"} for i in range(n)]


def chat(*turns: str, system: str = "") -> dict[str, Any]:
    roles = ("user", "assistant")
    said = [{"role": roles[i % 2], "content": t} for i, t in enumerate(turns)]
    return {"messages": [*([{"role": "system", "content": system}] if system else []), *said]}


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path
