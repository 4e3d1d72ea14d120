"""Text tasks: what is read from rows, where the loss is, what is scored, and what plain libraries read back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from fedfm.core.errors import DataError, ModelError
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.efficiency.computation.tuning.head import Head
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.models import tiny
from fedfm.tasks import load_tuned
from fedfm.tasks.bound import BoundModule
from fedfm.tasks.ragged import Ragged
from fedfm.tasks.text.causal import CausalLM, judge
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.tasks.text.dialogue import Dialogue


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny("encoder", tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny("causal-lm", tmp_path_factory.mktemp("lm")))


WORDS = {
    "plant": ["red", "rose", "tree", "grass", "flower", "leaf"],
    "money": ["bank", "loan", "price", "market", "coin", "debt"],
}
ROWS = tuple(
    {"text": " ".join([*names[i % 6 :], *names[: i % 4]]), "label": label, "group": f"g{i % 3}"}
    for label, names in WORDS.items()
    for i in range(12)
)
DATA = Parties((Shard("p", ROWS),), labels=("money", "plant"))
SUMS = tuple(
    {"instruction": f"What is {i}+{i % 7}?", "answer": str(i + i % 7), "group": f"g{i % 2}"}
    for i in range(12)
)


def adam(bound: BoundModule, batches: list[Any], lr: float) -> float:
    w = torch.nn.Parameter(bound.init.clone())
    optimizer = torch.optim.AdamW([w], lr=lr, weight_decay=0.0)
    for batch in batches:
        bound.load(w.data)
        loss = bound.gradient(batch)
        w.grad = bound.grads.clone()
        optimizer.step()
    bound.load(w.data)
    return loss


# ---- token sequences ----------------------------------------------------------------------------------------------
def test_padding() -> None:
    ragged = Ragged.of([[1, 2, 3], [4], [], [5, 6]])
    index = torch.tensor([1, 0, 3])
    ids, mask = ragged.padded(index, 9)
    assert ids.tolist() == [[4, 9, 9], [1, 2, 3], [5, 6, 9]] and mask.tolist() == [
        [1, 0, 0],
        [1, 1, 1],
        [1, 1, 0],
    ]
    ids, mask = ragged.padded(index, 9, left=True)
    assert ids.tolist() == [[9, 9, 4], [1, 2, 3], [9, 5, 6]] and mask.tolist() == [
        [0, 0, 1],
        [1, 1, 1],
        [0, 1, 1],
    ]
    assert [c.tolist() for c in ragged.chunks(3)] == [[2, 1, 3], [0]] and len(Ragged.of([])) == 0


# ---- classification -----------------------------------------------------------------------------------------------
def test_rows_are_checked(encoder: str) -> None:
    bound = SequenceClassification(model=encoder).open(DATA)
    with pytest.raises(
        DataError, match=r"(?s)ann: the row 'x' .* 'plants' \(did you mean 'plant'.*known: money, plant"
    ):
        bound.encode(Shard("ann", (ROWS[0], {"text": "x", "label": "plants"})))
    with pytest.raises(DataError, match="2 rows have no `text`, row 0 first"):
        bound.encode(Shard("ann", ({"label": "plant"}, {"text": None, "label": "plant"})))
    with pytest.raises(DataError, match="no labels"):
        SequenceClassification(model=encoder).open(Parties((Shard("p", SUMS),)))
    with pytest.raises(ModelError):
        SequenceClassification(model="tiny-encodr").open(DATA)
    assert bound.score(bound.encode(Shard("nobody", ()))) == {}


def test_encoded_rows(encoder: str) -> None:
    bound = SequenceClassification(model=encoder, max_tokens=5).open(DATA)
    encoded = bound.encode(DATA.train("p"))
    assert len(encoded) == 24 and encoded.labels.tolist() == [1] * 12 + [0] * 12
    assert int(encoded.tokens.lengths.max()) == 5
    flipped = encoded.with_labels(1 - encoded.labels)
    index = torch.tensor([0, 20])
    assert bound.batch(flipped, index).labels.tolist() == [0, 1]
    assert torch.equal(bound.batch(flipped, index).ids, bound.batch(encoded, index).ids)
    with pytest.raises(ValueError, match="24 labels"):
        encoded.with_labels(torch.zeros(3))
    seen = bound.objective.explain(ROWS[0])
    assert seen["tokens"] == ["[CLS]", "red", "r", "##o", "[SEP]"] and not any(seen["loss_mask"])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_features_and_loss(encoder: str, pooling: str) -> None:
    bound = SequenceClassification(model=encoder, pooling=pooling, scale=7.0).open(DATA)
    encoded = bound.encode(DATA.train("p"))
    batch = bound.batch(encoded, torch.tensor([3, 17, 8]))
    with torch.no_grad():
        features = bound.module.features(batch.ids, batch.mask)
        # alone, without padding, the feature is the plain mean (or first) of the token vectors, of length 7
        for row, i in enumerate([3, 17, 8]):
            ids = torch.tensor([encoded.tokens[i]])
            hidden = bound.module.encoder(input_ids=ids).last_hidden_state[0]
            pooled = hidden.mean(0) if pooling == "mean" else hidden[0]
            torch.testing.assert_close(features[row], 7 * pooled / pooled.norm(), rtol=1e-4, atol=1e-5)
        logits = features @ bound.module.head.weight.T + bound.module.head.bias
    assert bound.loss(batch) == pytest.approx(float(functional.cross_entropy(logits, batch.labels)), rel=1e-6)


def test_scores_do_not_depend_on_the_order(encoder: str) -> None:
    bound = SequenceClassification(model=encoder).open(DATA)
    rows = tuple(
        {"text": f"{r['text']} {i}", **{k: r[k] for k in ("label", "group")}} for i in range(5) for r in ROWS
    )
    scores = bound.score(bound.encode(Shard("p", rows)))
    assert bound.score(bound.encode(Shard("p", rows[::-1]))) == scores
    assert scores["accuracy"][1] == 120 and {k for k in scores if "/" in k} == {
        f"accuracy/g{i}" for i in range(3)
    }
    assert sum(scores[f"accuracy/g{i}"][0] for i in range(3)) == scores["accuracy"][0]
    one = [bound.score(bound.encode(Shard("p", (r,))))["loss"][0] for r in rows[:7]]
    assert bound.score(bound.encode(Shard("p", rows[:7])))["loss"][0] == pytest.approx(sum(one), rel=1e-5)


def test_dropout_follows_the_seeded_context(encoder: str) -> None:
    from fedfm.core.context import Ctx

    bound = SequenceClassification(model=encoder, dropout=0.3).open(DATA)
    batch = bound.batch(bound.encode(DATA.train("p")), torch.arange(8))
    losses = []
    for client in ("a", "a", "b"):
        with Ctx(0, client=client).ambient():
            losses.append(bound.gradient(batch))
    assert losses[0] == losses[1] != losses[2]


def readme(folder: Path, base: str, **given: Any) -> dict[str, Any]:
    """Run the code block of the README as its reader would, with the folder's place filled in."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    assert code
    text = code[1].replace('folder = "."', f"folder = {str(folder)!r}")
    text = text.replace(
        'folder, texts = ".", ["a text"]',
        f"folder, texts = {str(folder)!r}, {given.get('texts')!r}",
    )
    names: dict[str, Any] = {}
    exec(text, names)
    assert "fedfm" not in text and names["base"] in (base, str(folder))
    return names


@pytest.mark.parametrize("tuning", [LoRA(), LoRA(residual=True), Head(), Full()])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_saved_classifier_is_the_trained_one(encoder: str, tmp_path: Path, tuning: Any, pooling: str) -> None:
    bound = SequenceClassification(model=encoder, tuning=tuning, pooling=pooling).open(DATA)
    encoded = bound.encode(DATA.train("p"))
    batch = bound.batch(encoded, torch.arange(24))
    adam(bound, [batch] * 40, 0.02)
    accuracy = bound.score(encoded)["accuracy"][0] / 24
    assert accuracy > 0.9
    bound.objective.save(bound.module, str(tmp_path))
    with torch.no_grad():
        ours = bound.objective.outputs(bound.module, batch)
    texts = [r["text"] for r in ROWS]
    torch.testing.assert_close(readme(tmp_path, encoder, texts=texts)["logits"], ours, rtol=1e-4, atol=1e-4)
    tuned = load_tuned(tmp_path)
    assert tuned.task == bound.objective.task
    labels = tuned.predict(texts)
    assert labels == [DATA.labels[i] for i in ours.argmax(1)]  # type: ignore[index]
    assert sum(a == r["label"] for a, r in zip(labels, ROWS, strict=True)) / 24 == accuracy


def test_what_cannot_be_read_back(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tuned model here"):
        load_tuned(tmp_path)
    file = tmp_path / "fedfm-task.json"
    file.write_text(json.dumps({"format": 99}))
    with pytest.raises(ModelError, match="format 99"):
        load_tuned(tmp_path)
    file.write_text(
        json.dumps({"format": 2, "labels": [], "task": {"name": "sequence-classification", "odd": 1}})
    )
    with pytest.raises(ModelError, match="odd"):
        load_tuned(tmp_path)


@pytest.mark.slow
def test_minilm_learns_topics() -> None:
    from fedfm.data.wordnet_topics import WordnetTopics

    data = WordnetTopics(test_rows=100).open(0)
    bound = SequenceClassification().open(data)
    test, train = bound.encode(data.test()), bound.encode(data.pooled())
    g = torch.Generator().manual_seed(0)
    adam(
        bound, [bound.batch(train, torch.randint(0, len(train), (8,), generator=g)) for _ in range(30)], 3e-3
    )
    right, n = bound.score(test)["accuracy"]
    assert right / n > 0.4  # chance is 0.1


# ---- language models ----------------------------------------------------------------------------------------------
def test_the_loss_is_on_the_answer(language_model: str) -> None:
    bound = CausalLM(model=language_model).open(None)
    seen = bound.objective.explain({"instruction": "What is 2+3?", "input": "Be brief.", "answer": "5"})
    assert seen["text"] == (
        "<|im_start|>user\nWhat is 2+3?\n\nBe brief.<|im_end|>\n<|im_start|>assistant\n5<|im_end|>"
    )
    assert [t for t, on in zip(seen["tokens"], seen["loss_mask"], strict=True) if on] == ["5", "<|im_end|>"]
    encoded = bound.encode(Shard("p", SUMS))
    batch = bound.batch(encoded, torch.tensor([0, 11]))
    assert (batch.targets != -100).sum(1).tolist() == [2, 3]
    # oracle: all logits, the mean over each example's answer tokens, the mean over examples
    with torch.no_grad():
        logits = bound.module(input_ids=batch.ids, attention_mask=batch.mask).logits
        means = [
            functional.cross_entropy(x[t != -100], t[t != -100])
            for x, t in zip(logits, batch.targets, strict=True)
        ]
    assert bound.loss(batch) == pytest.approx(float(torch.stack(means).mean()), rel=1e-5)
    assert bound.gradient(batch) == pytest.approx(bound.loss(batch), rel=1e-6)
    first = bound.grads.clone()
    bound.gradient(batch)
    assert torch.equal(first, bound.grads) and bool(first.any())


def test_rows_of_instructions(language_model: str) -> None:
    bound = CausalLM(model=language_model, max_tokens=60).open(None)
    long = {"instruction": "x" * 99, "answer": "y"}, {"instruction": "x", "answer": "z" * 99}
    encoded = bound.encode(Shard("p", (*SUMS, *long)))
    assert len(encoded) == 13 and encoded.dropped == {"the prompt fills task.max_tokens (60)": 1}
    assert int(encoded.tokens.lengths.max()) == 60
    for row in ({"answer": "5"}, {"instruction": "5?"}):
        with pytest.raises(DataError, match=r"(?s)ann: a row has no .*columns `instruction` and `answer`"):
            bound.encode(Shard("ann", (row,)))
    assert (
        len(bound.encode(Shard("nobody", ()))) == 0 and bound.score(bound.encode(Shard("nobody", ()))) == {}
    )


def test_templates(language_model: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(language_model)
    row = {"instruction": "2+3?", "answer": "5"}
    tokenizer_text = lambda pair: tokenizer.decode(pair[0]) + "|" + tokenizer.decode(pair[1])  # noqa: E731
    plain = Dialogue(tokenizer, "plain")
    assert tokenizer_text(plain.encode([row])[0]) == "Instruction:\n2+3?\n\nAnswer:\n|5<|im_end|>"
    # a template whose generation prompt is not a prefix of the finished dialogue
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[think]{% endif %}"
    )
    odd = Dialogue(tokenizer, "chat")
    assert tokenizer_text(odd.encode([row])[0]) == "[user]2+3?[think]|5<|im_end|>"
    assert odd.prompts([row]) == [odd.encode([row])[0][0]]
    told = row | {"system": "be brief"}
    assert tokenizer_text(odd.encode([told])[0]) == "[system]be brief[user]2+3?[think]|5<|im_end|>"
    assert (
        tokenizer_text(plain.encode([told])[0]) == "be brief\n\nInstruction:\n2+3?\n\nAnswer:\n|5<|im_end|>"
    )
    twice = told | {"history": ({"role": "system", "content": "be brief"},)}
    assert odd.encode([twice]) == odd.encode([told])
    assert odd.encode([row | {"system": " "}]) == odd.encode([row])
    tokenizer.chat_template = None
    assert Dialogue(tokenizer, "chat").encode([row]) == plain.encode([row])


def test_generation_scores_and_the_saved_adapter(language_model: str, tmp_path: Path) -> None:
    """A tiny model learns twelve answers by heart: only right padding, stopping and decoding give it full marks."""
    task = CausalLM(model=language_model, tuning=Full(), max_new_tokens=6, score_batch=5)
    bound = task.open(None)
    encoded = bound.encode(Shard("p", SUMS))
    before = bound.score(encoded)
    assert before["exact"] == (0.0, 12) and before["exact/g0"] == (0.0, 6)
    adam(bound, [bound.batch(encoded, torch.arange(12))] * 150, 0.01)
    after = bound.score(encoded)
    assert after["exact"] == (12.0, 12) and after["exact/g1"] == (6.0, 6) and after["loss"][0] < 1
    assert bound.score(bound.encode(Shard("p", SUMS[::-1]))) == after
    bound.check()
    bound.objective.save(bound.module, str(tmp_path))
    asked = [r["instruction"] for r in SUMS[:3]]
    assert load_tuned(tmp_path).predict(asked) == [r["answer"] for r in SUMS[:3]]


def test_batched_generation_is_single_generation(language_model: str) -> None:
    bound = CausalLM(model=language_model, max_new_tokens=8).open(None)
    flat = bound.init + 0.3 * torch.randn(bound.layout.size, generator=torch.Generator().manual_seed(1))
    bound.load(flat)
    bound.module.eval()
    prompts = ["a", "a longer one, surely", "b c"]
    alone = [bound.objective.predict(bound.module, [p], bound.device)[0] for p in prompts]
    assert bound.objective.predict(bound.module, prompts, bound.device) == alone
    # oracle: greedy without a cache
    ids = torch.tensor(bound.objective.dialogue.prompts([{"instruction": prompts[1]}]))
    with torch.no_grad():
        for _ in range(8):
            best = bound.module(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, best], 1)
            if int(best) == bound.objective.tokenizer.eos_token_id:
                break
    assert bound.objective.tokenizer.decode(ids[0, -8:], skip_special_tokens=True).strip() == alone[1]


@pytest.mark.parametrize("residual", [False, True])
def test_adapter_gives_the_same_logits(language_model: str, tmp_path: Path, residual: bool) -> None:
    bound = CausalLM(model=language_model, tuning=LoRA(residual=residual), score_by="loss").open(None)
    g = torch.Generator().manual_seed(3)
    bound.load(
        bound.layout.pack({e.name: 0.1 * torch.randn(e.shape, generator=g) for e in bound.layout.entries})
    )
    bound.objective.save(bound.module, str(tmp_path))
    model = readme(tmp_path, language_model)["model"]
    batch = bound.batch(bound.encode(Shard("p", SUMS)), torch.arange(12))
    bound.module.eval()
    with torch.no_grad():
        ours, theirs = (
            m(input_ids=batch.ids, attention_mask=batch.mask).logits for m in (bound.module, model)
        )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
    assert bound.objective.primary == "loss" and not bound.objective.higher_is_better
    assert set(bound.score(bound.encode(Shard("p", SUMS)))) == {"loss", "loss/g0", "loss/g1"}


def test_judges() -> None:
    assert (
        judge({"answer": "Blue  sky"}, " blue sky.") == 1.0 and judge({"answer": "blue"}, "blue sky") == 0.0
    )
    gym = pytest.importorskip("reasoning_gym")
    entry = json.loads(json.dumps(gym.create_dataset("chain_sum", seed=1, size=1)[0]))
    row = {"task": "chain_sum", "entry": entry, "answer": entry["answer"]}
    assert judge(row, entry["answer"]) == 1.0 and judge(row, "no idea") == 0.0


def test_checkpointing_gives_the_same_gradient(encoder: str, language_model: str) -> None:
    for make, data, rows in ((SequenceClassification, DATA, ROWS), (CausalLM, None, SUMS)):
        grads = []
        for on in (False, True):
            model = encoder if make is SequenceClassification else language_model
            bound = make(model=model, gradient_checkpointing=on).open(data)  # type: ignore[operator]
            bound.gradient(bound.batch(bound.encode(Shard("p", rows)), torch.arange(5)))
            grads.append(bound.grads.clone())
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-7)
