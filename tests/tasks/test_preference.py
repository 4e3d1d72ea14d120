"""Preference pairs: where they come from, the loss against plain libraries, a first model that never moves, a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import architectures as arch
from fedfm.config.setup import Setup
from fedfm.core.errors import DataError
from fedfm.core.federation import Federation
from fedfm.data.arrays import Arrays
from fedfm.data.files import Files
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.engines.processes import Processes
from fedfm.running.commands.inspection import example
from fedfm.running.commands.tuned import export
from fedfm.running.entry import run
from fedfm.tasks import load_tuned
from fedfm.tasks.probing import probe
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.preference import Preference

ROWS: list[dict[str, Any]] = [
    {
        "instruction": f"is {i} even?",
        "chosen": ("yes", "no")[i % 2],
        "rejected": f"who knows {i}",
        "group": "ab"[i % 2],
    }
    for i in range(16)
]
DATA = Parties((Shard("p", tuple(ROWS)),))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return arch.decoder(tmp_path_factory.mktemp("lm"))


def opened(**knobs: Any) -> Any:
    return Preference(**knobs).open(DATA)


def learn(bound: Any, steps: int, lr: float) -> Any:
    encoded, x = bound.encode(DATA.train("p")), bound.read()
    for _ in range(steps):
        bound.gradient(bound.batch(encoded, torch.arange(len(encoded))))
        x = x - lr * bound.grads
        bound.load(x)
    return encoded


def likelihood(net: Any, ids: list[int], prompt: int) -> torch.Tensor:
    """The sum of log p of the answer's tokens, by plain torch."""
    logits = net(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return logits[torch.arange(prompt - 1, len(ids) - 1), ids[prompt:]].sum()


@pytest.mark.parametrize(("tuning", "lr"), [(LoRA(r=2), 3.0), (Full(), 0.3)])
def test_the_loss_is_that_of_plain_libraries(model: str, tuning: Any, lr: float) -> None:
    import transformers

    bound = opened(model=model, tuning=tuning, beta=0.3)
    assert probe(bound.objective.task, bound, DATA) == []
    before = bound.score(bound.encode(DATA.train("p")))
    assert before["accuracy"] == (8.0, 16) and before["margin"] == (0.0, 16)
    assert before["loss"][0] / 16 == pytest.approx(float(torch.tensor(2.0).log()))
    encoded = learn(bound, 12, lr)
    bound.module.eval()
    first = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    expected = []
    with torch.no_grad():
        for i in range(len(encoded)):
            gained = [
                likelihood(bound.module, s.tokens[i], int(s.prompts[i]))
                - likelihood(first, s.tokens[i], int(s.prompts[i]))
                for s in (encoded.chosen, encoded.rejected)
            ]
            expected.append(-functional.logsigmoid(0.3 * (gained[0] - gained[1])))
    batch = bound.batch(encoded, torch.arange(16))
    torch.testing.assert_close(bound.losses(batch), torch.stack(expected), rtol=1e-3, atol=1e-4)
    after = bound.score(encoded)
    assert after["accuracy"][0] == 16 and after["margin"][0] > 0
    assert after["accuracy/a"] == (8.0, 8) and set(after) == {*before}


def test_the_first_model_is_the_same_whenever_it_is_asked(model: str) -> None:
    early, late = opened(model=model, tuning=LoRA(r=2)), opened(model=model, tuning=LoRA(r=2))
    a, index = early.encode(DATA.train("p")), torch.tensor([3, 1])
    first = early.batch(a, index).reference
    learn(late, 3, 3.0)
    moved = late.read()
    b = late.encode(DATA.train("p"))
    assert torch.equal(late.batch(b, index).reference, first) and torch.equal(late.read(), moved)
    late.check()


def test_turns_that_hold_the_question(model: str) -> None:
    def turns(*said: str) -> list[dict[str, str]]:
        return [{"role": ("user", "assistant")[i % 2], "content": s} for i, s in enumerate(said)]

    def hh(*said: str) -> str:
        return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {s}" for i, s in enumerate(said))

    task, objective = Preference(model=model), opened(model=model).objective
    plain = Arrays({"p": [{"instruction": "b", "chosen": "c", "rejected": "d"}] * 4})
    expected = objective.encode(plain.open(0, task.columns).train("p"))
    for write in (turns, hh):
        rows = [{"prompt": "not read", "chosen": write("b", "c"), "rejected": write("b", "d")}] * 4
        got = objective.encode(Arrays({"p": rows}).open(0, task.columns).train("p"))
        assert [got.chosen.tokens[0], got.rejected.tokens[0]] == [
            expected.chosen.tokens[0],
            expected.rejected.tokens[0],
        ]
        longer = [{"chosen": write("a", "x", "b", "c"), "rejected": write("a", "x", "b", "d")}] * 4
        row = Arrays({"p": longer}).open(0, task.columns).train("p")
        said = objective.explain(row.rows[0])
        assert all(t in said["text"] for t in "axbc") and said["rejected"]["text"].endswith(
            "d<|im_end|>\n</s>"
        )
    other = [{"chosen": turns("b", "c"), "rejected": turns("a", "d")}] * 4
    apart = Arrays({"p": other}).open(0, task.columns).train("p")
    encoded = objective.encode(apart)
    assert not len(encoded)
    assert encoded.dropped == {"chosen and rejected answer different questions": len(apart)}
    with pytest.raises(DataError, match="left out: chosen and rejected answer different questions"):
        objective.explain(apart.rows[0])


def test_a_prompt_of_another_name_is_proposed_and_a_missing_one_is_said(model: str) -> None:
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(8)]
    with pytest.raises(DataError, match="data.columns={instruction: prompt}"):
        Arrays({"p": rows}).open(0, Preference.columns)
    with pytest.raises(DataError, match="preference pairs.*task=preference"):
        Arrays({"p": rows}).open(0, CausalLM.columns)


def test_pairs_that_teach_nothing_are_counted(model: str) -> None:
    rows = [*ROWS[:4], {"instruction": "q", "chosen": "same", "rejected": "same"}]
    rows += [{"instruction": "q", "chosen": "x" * 80 + "a", "rejected": "x" * 80 + "b"}]
    encoded = opened(model=model, max_tokens=70).encode(Shard("p", tuple(rows)))
    assert len(encoded) == 4 == len(encoded.rejected)
    assert encoded.dropped == {
        "both answers are the same": 1,
        "both answers are the same up to task.max_tokens (70)": 1,
    }


def parties(folder: Path) -> tuple[str, ...]:
    for p in "ab":
        rows = [r | {"instruction": p + r["instruction"]} for r in ROWS]
        (folder / f"{p}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(folder / "a.jsonl"), str(folder / "b.jsonl")


def test_a_run_its_export_and_what_inspect_shows(model: str, tmp_path: Path) -> None:
    fed = Federation(
        Preference(model=model, tuning=LoRA(r=2), beta=0.3),
        Files(parties(tmp_path)),
        client=Local(lr=0.5, steps=4, batch=4),
        rounds=2,
    )
    shown = example(Setup(fed), "a", 0)
    assert shown["rejected"]["text"].count("who knows") == 1 and "chat template" in shown["form"]
    one = run(fed, out=tmp_path / "one")
    two = run(fed, out=tmp_path / "two", engine=Processes(workers=2))
    assert one.summary["model_digest"] == two.summary["model_digest"]
    assert one.summary["ledger_digest"] == two.summary["ledger_digest"]
    assert one.summary["metric"]["name"] == "accuracy" and one.summary["metric"]["base"] == 0.5
    for merged in (False, True):
        found = export(tmp_path / "one", tmp_path / f"out{merged}", merged=merged)
        assert found.scores["loss"] == pytest.approx(found.reported["loss"], rel=1e-4)
    # preferences are usually learnt from a model that was tuned already
    more = Preference(model=model, start=str(tmp_path / "one/model"), tuning=LoRA(r=2), beta=0.3)
    again = run(fed, task=more, out=tmp_path / "again")
    assert again.summary["metric"]["base"] == 0.5  # against the adapter, not against the bare model
    for merged in (False, True):
        found = export(tmp_path / "again", tmp_path / f"again{merged}", merged=merged)
        assert found.scores["loss"] == pytest.approx(found.reported["loss"], rel=1e-4)
    assert isinstance(load_tuned(tmp_path / "again/model").predict(["is 3 even?"])[0], str)


def test_a_question_of_turns_is_the_question(model: str) -> None:
    def say(role: str, text: str) -> dict[str, str]:
        return {"role": role, "content": text}

    asked = (say("system", "be short"), say("user", "is 2 even?"))
    one = [{"prompt": list(asked), "chosen": [say("assistant", "yes")], "rejected": "no"}]
    two = [{"chosen": [*asked, say("assistant", "yes")], "rejected": [*asked, say("assistant", "no")]}]
    task = Preference(model=model)
    found = []
    for rows, columns in ((one, {"instruction": "prompt"}), (two, {})):
        parties = Arrays(rows, columns=columns, test_fraction=0.0).open(0, task.columns)
        encoded = task.open(parties).encode(parties.train("party-0"))
        found.append([encoded.chosen.tokens[0], encoded.rejected.tokens[0], encoded.chosen.prompts.tolist()])
    assert found[0] == found[1]
    open_ended = [one[0] | {"prompt": [say("assistant", "hello")]}, *one]
    parties = Arrays(open_ended, columns={"instruction": "prompt"}, test_fraction=0.0).open(0, task.columns)
    assert parties.account.reasons() == {"instruction: turns that do not end with the user's": 1}


def test_a_prompt_of_turns_is_offered_as_the_instruction(model: str) -> None:
    turns = [{"role": "user", "content": "is 2 even?"}]
    rows = [{"prompt": turns, "chosen": "yes", "rejected": "no"}] * 3
    with pytest.raises(DataError, match="data.columns={instruction: prompt}"):
        Arrays(rows).open(0, Preference(model=model).columns)
