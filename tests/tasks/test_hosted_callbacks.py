"""What a person's own optimiser, schedule and callbacks meet when their training is cut into rounds."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

import fedfm
import hosted
from fedfm.core.errors import ConfigError, DataError, ModelError
from fedfm.engines.processes import Processes

torch.set_num_threads(1)


class Diary(TrainerCallback):
    """What it has heard, in plain values; a file in its hands, which no state can hold."""

    def __init__(self) -> None:
        self.heard: dict[str, int] = {}
        self.rates: list[float] = []
        self.hand = object()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.heard["begin"] = self.heard.get("begin", 0) + 1

    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.heard["end"] = self.heard.get("end", 0) + 1

    def on_step_end(self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **more: Any) -> None:
        self.heard["step"] = self.heard.get("step", 0) + 1
        self.rates.append(lr_scheduler.get_last_lr()[0])

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        Path(args.output_dir).mkdir(exist_ok=True, parents=True)
        Path(args.output_dir, "diary").write_text(
            f"{sorted(self.heard.items())} {self.rates}", encoding="utf-8"
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_callbacks_hear_of_one_training(workers: int, tmp_path: Path) -> None:
    """10 rows in batches of 4 are 3 steps a pass: rounds of 2 steps end within passes and at their ends."""

    def make(party: str, where: str) -> Any:
        args = {"output_dir": f"{tmp_path}/{where}/{party}", "lr_scheduler_type": "linear", "max_steps": 6}
        return hosted.trainer(party, more={"callbacks": [Diary()]}, **args)

    engine = Processes(workers) if workers else None
    fed = fedfm.patch(functools.partial(make, where="rounds"), parties=2, steps=2, rounds=3)
    fedfm.run(fed, out=tmp_path / "run", engine=engine)
    make("party-0", "plain").train()
    told = [(tmp_path / w / "party-0" / "diary").read_text() for w in ("rounds", "plain")]
    assert told[0] == told[1] and "('begin', 2), ('end', 2), ('step', 6)" in told[0]
    assert sorted(p.name for p in (tmp_path / "rounds" / "party-0").iterdir()) == ["diary"]  # no checkpoints


def test_an_optimiser_and_a_schedule_of_ones_own_go_on(tmp_path: Path) -> None:
    def make(party: str) -> Any:
        made = hosted.trainer(party, max_steps=6)
        optimizer = torch.optim.Adam(made.model.parameters(), lr=0.02, betas=(0.8, 0.9))
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        return hosted.trainer(
            party, max_steps=6, model_of=made.model, more={"optimizers": (optimizer, schedule)}
        )

    fed = fedfm.patch(make, parties=["party-0"], steps=2, rounds=3)
    one, two = fedfm.run(fed, out=tmp_path / "one"), fedfm.run(fed, out=tmp_path / "two")
    plain = make("party-0")
    plain.train()
    assert one.metric["federated"] == pytest.approx(plain.evaluate()["eval_loss"], abs=1e-6)
    assert one.summary["model_digest"] == two.summary["model_digest"]
    fresh = fedfm.replace(fed, client=fedfm.OwnLoop(steps=2, keep_optimizer=False))
    assert fedfm.run(fresh, out=tmp_path / "fresh").summary["model_digest"] != one.summary["model_digest"]


def test_a_callback_that_stops_ends_its_round_alone(tmp_path: Path) -> None:
    class Enough(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any:
            control.should_training_stop = state.global_step % 2 == 1
            return control

    def make(party: str) -> Any:
        return hosted.trainer(party, more={"callbacks": [Enough()] if party == "party-1" else []})

    run = fedfm.run(fedfm.patch(make, parties=2, steps=3, rounds=2), out=tmp_path / "run")
    steps = {(e["round"], e["client"]): e["steps"] for e in _events(run.folder) if e["kind"] == "upload"}
    assert steps == {(0, "party-0"): 3, (0, "party-1"): 1, (1, "party-0"): 3, (1, "party-1"): 2}


def test_patience_is_kept_over_rounds(tmp_path: Path) -> None:
    """A rate of zero gains nothing: with patience 3 and a score a step, the fourth step is the last, in round 2."""

    def make(party: str) -> Any:
        args = {
            "eval_strategy": "steps",
            "eval_steps": 1,
            "metric_for_best_model": "loss",
            "learning_rate": 0.0,
        }
        return hosted.trainer(
            party, more={"callbacks": [EarlyStoppingCallback(3)]}, greater_is_better=False, **args
        )

    run = fedfm.run(fedfm.patch(make, parties=1, steps=3, rounds=2), out=tmp_path / "run")
    assert [e["steps"] for e in _events(run.folder) if e["kind"] == "upload"] == [3, 1]


# ---- what cannot be -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 500},
            "evaluate.keep_best=true",
        ),
        ({"auto_find_batch_size": True}, "a per_device_train_batch_size that fits"),
        ({"bf16_full_eval": True}, "change the type of the weights"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_what_no_round_can_be_honest_about_is_refused(
    args: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        fedfm.run(fedfm.patch(lambda p: hosted.trainer(p, **args), parties=2, rounds=1), out=tmp_path / "run")


def test_all_that_is_wrong_is_said_at_once() -> None:
    class Odd(Trainer):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self.args.fsdp, self.args.fp16, self.model_init = ["full_shard"], True, lambda: self.model
            self.train_dataset = iter(())

    with pytest.raises(ConfigError) as e:
        fedfm.probe(fedfm.patch(lambda p: hosted.trainer(p, kind=Odd), parties=2, rounds=1))
    assert [p.where.rpartition(".")[2] for p in e.value.problems] == [
        "fsdp",
        "fp16",
        "model_init",
        "train_dataset",
    ]


def test_makers_that_make_no_trainer_are_told() -> None:
    def broken(party: str) -> Any:
        raise FileNotFoundError(f"visits of {party}")

    cases: list[tuple[Any, str, type[Exception]]] = [
        (lambda p: hosted.model(), "is BertForSequenceClassification", ModelError),
        (broken, r"visits of party-0[\s\S]*why: raised at .*broken", ModelError),
        (lambda p: hosted.trainer(p, more={"tests": None}), "no trainer has test rows", DataError),
        ("nowhere.py", "there is no script nowhere.py", ModelError),
    ]
    for make, said, kind in cases:
        with pytest.raises(kind, match=said):
            fedfm.probe(fedfm.patch(make, parties=2, rounds=1))
    with pytest.raises(ConfigError, match="nobody takes part"):
        fedfm.patch(hosted.trainer)
    with pytest.raises(ConfigError, match="int is no trainer and makes none"):
        fedfm.patch(3, parties=2)


def test_test_rows_that_are_trained_on_are_told() -> None:
    def leaky(party: str) -> Any:
        return hosted.trainer(party, more={"tests": hosted.rows(int(party[-1]), 4)})

    found = fedfm.probe(fedfm.patch(leaky, parties=2, rounds=1))
    assert any("8 of 8 test rows are also in the training rows" in str(r) for r in found.remarks)


def test_unlike_models_and_bases_are_refused() -> None:
    def wider(party: str) -> Any:
        made = hosted.trainer(party)
        if party == "party-1":
            made.model.classifier = torch.nn.Linear(8, 3)
        return made

    def other_base(party: str) -> Any:
        made = hosted.trainer(party)
        made.model.bert.requires_grad_(False)
        if party == "party-1":
            made.model.bert.pooler.dense.bias += 1.0
        return made

    with pytest.raises(
        ModelError, match=r"trains classifier.weight of shape \(2, 8\), party-1 of shape \(3, 8\)"
    ):
        fedfm.probe(fedfm.patch(wider, parties=2, rounds=1))
    with pytest.raises(ModelError, match="frozen weights bert.pooler.dense.bias of party-1 are others"):
        fedfm.probe(fedfm.patch(other_base, parties=2, rounds=1))


def test_halves_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    rows = fedfm.Arrays({"a": (torch.randn(8, 4).numpy(), torch.zeros(8).long().numpy())})
    torch_task = fedfm.Torch(lambda: torch.nn.Linear(4, 2))
    fed = fedfm.Federation(task=torch_task, data=rows, client=fedfm.OwnLoop(steps=1), rounds=1)
    with pytest.raises(ConfigError, match="the task has no trainer"):
        fedfm.run(fed, out=tmp_path / "one")
    with pytest.raises(ModelError, match="holds rows and no trainers"):
        fedfm.run(dataclasses.replace(fed, task=fedfm.Hosted()), out=tmp_path / "two")
    with pytest.raises(ValueError, match="two ways to say one thing"):
        fedfm.OwnLoop(steps=1, epochs=1.0)


def test_a_loss_that_is_no_number_costs_the_party_its_round(tmp_path: Path) -> None:
    class Lost(Trainer):
        def compute_loss(self, *args: Any, **more: Any) -> Any:
            loss = super().compute_loss(*args, **more)
            return loss * float("nan") if self.model.training else loss

    def make(party: str) -> Any:
        return hosted.trainer(party, kind=Lost if party == "party-1" else Trainer)

    run = fedfm.run(fedfm.patch(make, parties=2, steps=2, rounds=1), out=tmp_path / "run")
    lost = [
        e for e in _events(run.folder) if e.get("client") == "party-1" and "loss" in str(e.get("reason", e))
    ]
    assert any("at local step 0; lower its learning_rate" in str(e) for e in lost)


def _events(folder: Path) -> list[dict[str, Any]]:
    from fedfm.ledger import file

    return list(file.read(folder / "events.jsonl"))


def test_gradient_checkpointing_hooks_the_model_and_changes_no_bit(tmp_path: Path) -> None:
    def ran(folder: str, **args: Any) -> Any:
        make = functools.partial(hosted.trainer, max_steps=4, **args)
        return fedfm.run(
            fedfm.patch(make, parties=2, steps=2, rounds=2), out=tmp_path / folder, baselines=None
        )

    one, two = ran("plain"), ran("checkpointed", gradient_checkpointing=True)
    assert one.summary["model_digest"] == two.summary["model_digest"]
