"""Pairs of texts and numbers to predict: what the encoder is given, what plain libraries read back, a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import architectures as arch
from fedfm.core.errors import DataError, ModelError
from fedfm.core.federation import Federation
from fedfm.data.arrays import Arrays
from fedfm.data.files import Files
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.efficiency.computation.tuning.head import Head
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.models import tiny
from fedfm.running.commands.tuned import export, predict, read_texts
from fedfm.running.entry import run
from fedfm.tasks import load_tuned
from fedfm.tasks.probing import probe
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.tasks.text.regress import TextRegression

ROWS: list[dict[str, Any]] = [
    {
        "text": f"a dog {i}",
        "text_pair": ("a cat", "a dog")[i % 2],
        "label": "ny"[i % 2],
        "number": 3 + i % 2 + i / 64,
    }
    for i in range(16)
]
DATA = Parties((Shard("p", tuple(ROWS)),), labels=("n", "y"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny("encoder", tmp_path_factory.mktemp("encoder")))


def readme(folder: Path, texts: list[str], pairs: list[str], base: str) -> dict[str, Any]:
    """What the README's program computes, with the pairs that it tells how to give."""
    text = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    text = text.replace(
        'folder, texts = ".", ["a text"]', f"folder, texts, pairs = {str(folder)!r}, {texts!r}, {pairs!r}"
    )
    text = text.replace("tokenizer(texts, ", "tokenizer(texts, pairs, ")
    text = text.replace(
        "attention_mask=batch[", 'token_type_ids=batch["token_type_ids"], attention_mask=batch[', 1
    )
    names: dict[str, Any] = {}
    exec(text, names)
    return names


@pytest.mark.parametrize("tuning", [LoRA(r=2), Head(), Full()])
@pytest.mark.parametrize("make", [SequenceClassification, TextRegression])
def test_pairs_are_read_as_plain_libraries_read_them(
    make: Any, tuning: Any, encoder: str, tmp_path: Path
) -> None:
    knobs = {"center": 3.5, "spread": 0.5} if make is TextRegression else {}
    bound = make(model=encoder, tuning=tuning, **knobs).open(DATA)
    assert probe(bound.objective.task, bound, DATA) == []
    encoded = bound.encode(DATA.train("p"))
    bound.gradient(bound.batch(encoded, torch.arange(16)))
    bound.load(bound.read() - 0.02 * bound.grads)
    bound.objective.save(bound.module, str(tmp_path))
    texts, pairs = [r["text"] for r in ROWS], [r["text_pair"] for r in ROWS]
    names = readme(tmp_path, texts, pairs, encoder)
    said = load_tuned(tmp_path).predict(list(zip(texts, pairs, strict=True)))
    if make is TextRegression:
        assert said == pytest.approx(names["numbers"].tolist(), rel=1e-4)
        wrong = [(a - r["number"]) ** 2 for a, r in zip(said, ROWS, strict=True)]
        assert bound.score(encoded)["mse"][0] == pytest.approx(sum(wrong), rel=1e-4)
    else:
        assert said == [DATA.labels[i] for i in names["logits"].argmax(1)]  # type: ignore[index]
    # a second text is not lost, and rows without one are what they were
    alone = bound.encode(Shard("p", tuple({k: v for k, v in r.items() if k != "text_pair"} for r in ROWS)))
    assert alone.types is None and len(alone.tokens[0]) < len(encoded.tokens[0])
    mixed = bound.encode(Shard("p", (ROWS[0], {k: v for k, v in ROWS[1].items() if k != "text_pair"})))
    assert mixed.tokens[0] == encoded.tokens[0] and mixed.tokens[1] == alone.tokens[1]
    assert mixed.types is not None and set(mixed.types[0]) == {0, 1} and set(mixed.types[1]) == {0}


def test_a_tokenizer_without_a_separator_gets_two_lines(tmp_path: Path) -> None:
    bound = SequenceClassification(model=arch.encoder(tmp_path / "m", "roberta")).open(DATA)
    tokens = bound.objective.explain({"text": "ab", "text_pair": "cd", "label": "n"})["tokens"]
    assert "".join(tokens) == "<s>ab\ncd</s>"
    assert probe(bound.objective.task, bound, DATA) == []


def test_the_second_text_is_proposed_with_the_first() -> None:
    rows = [{"sentence1": f"a{i}", "sentence2": f"b{i}", "label": i % 2, "score": i / 4} for i in range(12)]
    offer = "data.columns={text: sentence1, text_pair: sentence2}"
    with pytest.raises(DataError, match=offer):
        Arrays({"p": rows}).open(0, SequenceClassification.columns)
    with pytest.raises(DataError, match="text: sentence1, number: score, text_pair: sentence2"):
        Arrays({"p": rows}).open(0, TextRegression.columns)


@pytest.mark.parametrize(
    ("row", "kind", "fix"),
    [
        ({"text": "a b", "tags": ["x", "y"]}, "tagged texts", "no task learns from tagged texts yet"),
        (
            {"text": "a b", "spans": [[0, 1, "x"]]},
            "texts with spans",
            "no task learns from texts with spans yet",
        ),
        (
            {"text": "a b", "labels": ["x", "y"]},
            "texts with several labels",
            "no task learns from texts with several",
        ),
        ({"text": "a b", "number": 0.5}, "texts with numbers", "task=text-regression"),
        ({"instruction": "a", "answer": "b"}, "instructions", "task=causal-lm"),
        ({"chosen": "a", "rejected": "b", "instruction": "c"}, "preference pairs", "task=preference"),
    ],
)
def test_rows_that_another_task_reads_or_none(row: dict[str, Any], kind: str, fix: str) -> None:
    with pytest.raises(DataError, match=f"these rows are {kind}; the task reads text, label: .*{fix}"):
        Arrays({"p": [row] * 6}).open(0, SequenceClassification.columns)


def test_numbers_far_from_where_predictions_begin_are_refused(encoder: str) -> None:
    rows = tuple(r | {"number": 250.0 + 10 * r["number"]} for r in ROWS)
    data = Parties((Shard("p", rows),))
    task = TextRegression(model=encoder)
    (problem,) = probe(task, task.open(data), data)
    assert problem.where == "task.center" and "mean 281" in problem.why
    knobs = dict(part.removeprefix("task.").split("=") for part in problem.fix.split())
    task = TextRegression(model=encoder, center=float(knobs["center"]), spread=float(knobs["spread"]))
    assert probe(task, task.open(data), data) == []


def test_a_regression_run_its_export_and_its_predictions(encoder: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for p in "ab":
        rows = [r | {"text": p + r["text"]} for r in ROWS]
        (tmp_path / f"d/{p}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    fed = Federation(
        TextRegression(model=encoder, tuning=Head(), center=3.5),
        Files(str(tmp_path / "d")),
        client=Local(lr=0.05, steps=8, batch=4),
        rounds=3,
    )
    result = run(fed, out=tmp_path / "run")
    metric = result.summary["metric"]
    assert metric["name"] == "mse" and not metric["higher_is_better"] and metric["federated"] < metric["base"]
    found = export(tmp_path / "run", tmp_path / "out", merged=False)
    assert found.scores["mse"] == pytest.approx(found.reported["mse"])
    file = tmp_path / "ask.jsonl"
    file.write_text('{"text": "a dog", "text_pair": "a cat"}\n{"text": "a dog"}\n')
    texts = read_texts(file)
    assert texts == [("a dog", "a cat"), "a dog"]
    assert all(2 < n < 6 for n in predict(tmp_path / "run", texts[:1]))


@pytest.mark.parametrize("paired", [True, False])
def test_a_tuned_model_answers_what_it_has_learnt(paired: bool, encoder: str, tmp_path: Path) -> None:
    kept = ROWS if paired else [{k: v for k, v in r.items() if k != "text_pair"} for r in ROWS]
    bound = SequenceClassification(model=encoder, tuning=Head()).open(DATA)
    bound.encode(Shard("p", tuple(kept)))
    bound.objective.save(bound.module, str(tmp_path))
    tuned = load_tuned(tmp_path)
    good, bad = ([("a dog", "a cat")], ["a dog"])[:: 1 if paired else -1]
    assert len(tuned.predict(good)) == 1
    with pytest.raises(ModelError, match=r"text 1 is a (single text|pair), and the model has learnt"):
        tuned.predict([*good, *bad])
    bound.encode(Shard("p", tuple(r if i else kept[0] for i, r in enumerate(ROWS))))
    bound.encode(Shard("p", ({"text": "a", "label": "n"},)))
    bound.objective.save(bound.module, str(tmp_path / "both"))
    assert len(load_tuned(tmp_path / "both").predict([*good, *bad])) == 2
