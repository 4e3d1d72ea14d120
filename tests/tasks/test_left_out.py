"""Rows that a task cannot learn from stand in one account, for training and test rows, in `check` and in the summary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import architectures as arch
from fedfm.config.setup import Setup
from fedfm.core.errors import ConfigError
from fedfm.core.federation import Federation
from fedfm.core.schema import Account, Lost
from fedfm.data.files import Files
from fedfm.efficiency.training.local import Local
from fedfm.evaluation.by_party import ByParty
from fedfm.evaluation.held_out import HeldOut
from fedfm.models import tiny
from fedfm.running.commands.checking import Checked, probe
from fedfm.running.entry import run
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.tasks.text.preference import Preference


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_of_training_and_test_rows_alike(tmp_path: Path) -> None:
    rows = [{"instruction": f"q{i}", "answer": f"a{i}"} for i in range(12)]
    long = {"instruction": "q" * 90, "answer": "a"}
    write(tmp_path / "d/a.jsonl", [*rows, long, {"instruction": "q", "answer": " "}])
    write(tmp_path / "d/b.jsonl", rows[::2])
    write(tmp_path / "t/t.jsonl", [*rows[:4], long, long, {"instruction": "", "answer": "a"}])
    task = CausalLM(model=arch.decoder(tmp_path / "m"), max_tokens=64, score_by="loss")
    data = Files(str(tmp_path / "d"), test_path=str(tmp_path / "t/t.jsonl"))
    fed = Federation(task, data, client=Local(steps=1, batch=2), rounds=1)
    full = "the prompt fills task.max_tokens (64)"
    found = probe(Setup(fed))
    assert set(found.lost.entries) == {
        Lost("a", "train", "no answer", 1),
        Lost("", "test", "no instruction", 1),
        Lost("a", "train", full, 1),
        Lost("", "test", full, 2),
    }
    assert f"all parties, test: 2 rows are left out ({full})" in found.remarks
    assert (found.rows, found.test_rows) == ({"a": 12, "b": 6}, 4)  # those that are left
    summary = run(fed, out=tmp_path / "run").summary
    assert summary["dropped"] == {"no answer": 1, "no instruction": 1, full: 3}


def test_of_pairs_and_of_an_evaluator_with_several_cases(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"q{i}", "chosen": "yes", "rejected": "no" if i % 4 else "yes"} for i in range(40)
    ]
    write(tmp_path / "d/a.jsonl", rows)
    task = Preference(model=arch.decoder(tmp_path / "m"))
    fed = Federation(task, Files(str(tmp_path / "d")), client=Local(steps=1, batch=2), rounds=1)
    lost = probe(Setup(fed)).lost
    assert lost.rows(split="train") + lost.rows(split="test") == 10 and lost.rows(split="test") > 0
    texts = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(20)]
    write(tmp_path / "c/a.jsonl", [*texts, {"text": "", "label": "a"}])
    encoder = SequenceClassification(model=str(tiny("encoder", tmp_path / "e")))
    fed = Federation(
        encoder, Files(str(tmp_path / "c")), client=Local(steps=1, batch=2), evaluate=ByParty(), rounds=1
    )
    assert probe(Setup(fed)).lost.entries == (Lost("a", "train", "no text", 1),)


@pytest.mark.parametrize(("long", "refused"), [(3, False), (4, False), (5, True), (8, True)])
def test_a_score_of_the_few_that_fit_is_refused(long: int, refused: bool, tmp_path: Path) -> None:
    """More than half of the test rows do not fit: before the work, in `check` and `run` alike."""
    rows = [{"instruction": f"q{i}", "answer": f"a{i}"} for i in range(12)]
    write(tmp_path / "d/a.jsonl", rows)
    write(
        tmp_path / "t/t.jsonl",
        [*rows[long:8], *[{"instruction": f"{i}" + "q" * 90, "answer": "a"} for i in range(long)]],
    )
    task = CausalLM(model=arch.decoder(tmp_path / "m"), max_tokens=64, score_by="loss")
    data = Files(str(tmp_path / "d"), test_path=str(tmp_path / "t/t.jsonl"))
    fed = Federation(task, data, client=Local(steps=1, batch=2), rounds=1)
    if not refused:
        assert probe(Setup(fed)).lost.rows(split="test") == long
        return
    for go in (lambda: probe(Setup(fed)), lambda: run(fed, out=tmp_path / "run")):
        with pytest.raises(ConfigError, match=f"{long} of 8 test rows cannot be scored"):
            go()


def test_pairs_that_cannot_be_scored_are_refused(tmp_path: Path) -> None:
    pairs = [{"instruction": f"q{i}", "chosen": "yes", "rejected": "no"} for i in range(20)]
    write(tmp_path / "d/a.jsonl", pairs)
    write(tmp_path / "t/t.jsonl", [*pairs[:3], *[p | {"rejected": "yes"} for p in pairs[3:9]]])
    task = Preference(model=arch.decoder(tmp_path / "m"))
    data = Files(str(tmp_path / "d"), test_path=str(tmp_path / "t/t.jsonl"))
    with pytest.raises(ConfigError, match="6 of 9 test rows cannot be scored") as e:
        probe(Setup(Federation(task, data, client=Local(steps=1, batch=2), rounds=1)))
    assert "both answers are the same" in e.value.problems[0].why


def chats(path: Path, short: int, long: int) -> list[dict[str, str]]:
    """A party's file: `long` rows that do not fit stand in front of those that do."""
    rows = [
        {"instruction": f"{path.stem}{i}" + "q" * 90 * (i < long), "answer": "a"} for i in range(short + long)
    ]
    write(path, rows)
    return rows


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"a": (4, 6), "b": (8, 6)}, ""),  # just half of them
        ({"a": (4, 6), "b": (7, 7)}, "13 of 24 training rows cannot be learnt from"),
        ({"a": (9, 0), "b": (0, 4)}, "none of the training rows of b can be learnt from"),
        ({"a": (300, 40), "b": (1, 9)}, ""),  # what stands in front is not what most are
    ],
)
def test_what_most_rows_or_all_of_a_party_cannot_teach_is_refused(
    rows: dict[str, tuple[int, int]], said: str, tmp_path: Path
) -> None:
    for name, (short, long) in rows.items():
        chats(tmp_path / f"d/{name}.jsonl", short, long)
    chats(tmp_path / "t/t.jsonl", 6, 0)
    task = CausalLM(model=arch.decoder(tmp_path / "m"), max_tokens=64, score_by="loss")
    data = Files(str(tmp_path / "d"), test_path=str(tmp_path / "t/t.jsonl"))
    fed = Federation(task, data, client=Local(steps=1, batch=2), rounds=1)
    if not said:
        found = probe(Setup(fed))
        assert found.lost.rows(split="train") == sum(long for _, long in rows.values())
        assert not [r for r in found.remarks if "are cut" in r]  # rows that are left out are not cut beside
        return
    for go in (lambda: probe(Setup(fed)), lambda: run(fed, out=tmp_path / "run")):
        with pytest.raises(ConfigError, match=said) as e:
            go()
        assert "the prompt fills task.max_tokens (64)" in e.value.problems[0].why
        assert not (tmp_path / "run/metrics.jsonl").exists()


def test_test_rows_of_parties_are_counted_where_they_are_scored(tmp_path: Path) -> None:
    """Rows that a party tests at home are lost as the common ones are."""
    for name in "ab":
        chats(tmp_path / f"d/{name}.jsonl", 14, 10)
    task = CausalLM(model=arch.decoder(tmp_path / "m"), max_tokens=64, score_by="loss")
    data = Files(str(tmp_path / "d"), test_fraction=0.4)
    fed = Federation(task, data, client=Local(steps=1, batch=2), rounds=1)
    for where in ("server", "parties"):
        lost = probe(Setup(replace(fed, evaluate=HeldOut(where=where)))).lost
        assert lost.rows(split="test") > 0 and lost.rows() == 20, where
        named = {e.party for e in lost.entries if e.split == "test"}
        assert named == ({""} if where == "server" else {"a", "b"})


@pytest.mark.parametrize("parties", [1, 8, 9, 300])
def test_many_parties_are_told_of_in_one_line(parties: int) -> None:
    """One by one as far as anybody reads; the three that lose most otherwise, and never a row less."""
    entries = tuple(Lost(f"p{k}", "train", "no text", k + 1) for k in range(parties))
    test = Lost("", "test", "no text", 2), Lost("server", "server", "no text", 1)
    said = Checked({}, 1, Account((*entries, *test))).remarks
    rest = ["all parties, test: 2 rows are left out (no text)", "server: 1 rows are left out (no text)"]
    if parties <= 8:
        each = [f"p{k}, train: {k + 1} rows are left out (no text)" for k in range(parties)]
        assert said == [*each, *rest]
        return
    n, most = (
        parties * (parties + 1) // 2,
        ", ".join(f"p{k} {k + 1}" for k in range(parties - 1, parties - 4, -1)),
    )
    assert said == [f"{parties} parties, train: {n:,} rows are left out (no text); most of {most}", *rest]


@pytest.mark.parametrize(
    ("name", "takes"), [("roberta", 39), ("bert", 40)]
)  # RoBERTa numbers from padding + 1
def test_the_limit_that_cuts_is_named_the_models_or_the_tasks(tmp_path: Path, name: str, takes: int) -> None:
    model = arch.encoder(tmp_path / "m", name, max_position_embeddings=40)
    rows = [
        {"text": f"{i} is a text of fifty characters or a few above", "label": "ab"[i % 2]} for i in range(12)
    ]
    write(tmp_path / "d/a.jsonl", rows)
    for asked, named in (
        (64, f"the {takes} tokens that the model takes (task.max_tokens is 64)"),
        (16, "task.max_tokens (16)"),
    ):
        task = SequenceClassification(model=model, max_tokens=asked)
        fed = Federation(task, Files(str(tmp_path / "d")), client=Local(steps=1, batch=2), rounds=1)
        for said, split in zip(probe(Setup(fed)).remarks, ("training", "test"), strict=True):
            assert f"{split} texts are longer than {named} and are cut" in said
            assert ("another task.model or shorter texts" in said) == (asked == 64)


def test_a_prompt_that_fills_the_positions_of_the_model_is_not_the_settings_fault(tmp_path: Path) -> None:
    rows = [{"instruction": "q" * (1 + i % 2 * 60), "answer": "a"} for i in range(12)]
    write(tmp_path / "d/a.jsonl", rows)
    model = arch.decoder(tmp_path / "m", "gpt2", n_positions=48)
    task = CausalLM(model=model, max_tokens=64, score_by="loss", template="plain")
    fed = Federation(task, Files(str(tmp_path / "d")), client=Local(steps=1, batch=2), rounds=1)
    assert "the prompt fills the 48 tokens that the model takes (task.max_tokens is 64)" in str(
        probe(Setup(fed)).remarks
    )
