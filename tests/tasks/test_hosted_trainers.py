"""Trainers of one's own in a federation: the numbers are those of the same steps by hand, and of one plain training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import fedfm
import hosted
from fedfm.core.errors import ConfigError
from fedfm.engines.processes import Processes
from fedfm.tasks.hosted.rows import Trainers
from fedfm.tasks.hosted.task import Hosted

torch.set_num_threads(1)


def weights(module: Any) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters() if p.requires_grad]).clone()


def left(run: Any) -> Tensor:
    """The weights of the model that a run leaves, in the module's order."""
    from safetensors.torch import load_file

    module = hosted.model()
    module.load_state_dict(load_file(run.folder / "model" / "model.safetensors"))
    return weights(module)


def adamw(party: str, **more: Any) -> Any:
    told = {"optim": "adamw_torch", "lr_scheduler_type": "linear", "learning_rate": 0.01, "warmup_steps": 2}
    return hosted.trainer(party, **told | {"max_grad_norm": 1.0, "dropout": 0.1} | more)


# ---- the same numbers -----------------------------------------------------------------------------------------
def test_fedavg_of_three_trainers_is_that_of_the_same_steps_by_hand(tmp_path: Path) -> None:
    """Each party takes 2 steps of SGD a round on the batches of its trainer; the mean is weighed by rows."""
    run = fedfm.run(fedfm.patch(hosted.trainer, parties=3, steps=2, rounds=2), out=tmp_path / "run")
    made = [hosted.trainer(f"party-{k}") for k in range(3)]
    order = []
    for t in made:  # the order of a plain training of as many steps
        torch.manual_seed(t.args.seed)
        loader = t.get_train_dataloader()
        order.append([batch for epoch in range(2) for batch in _epoch(loader, epoch)])
    w, rows = weights(made[0].model), [len(t.train_dataset) for t in made]
    for r in range(2):
        total = torch.zeros_like(w)
        for t, batches, n in zip(made, order, rows, strict=True):
            torch.nn.utils.vector_to_parameters(w.clone(), t.model.parameters())
            t.model.train()
            for batch in batches[2 * r : 2 * r + 2]:
                t.model.zero_grad()
                t.model(**batch).loss.backward()
                with torch.no_grad():
                    for p in t.model.parameters():
                        p -= 0.05 * p.grad
            total += n * (weights(t.model) - w)
        w = w + total / sum(rows)
    assert float((left(run) - w).abs().max()) < 1e-6
    assert float((w - weights(hosted.model())).abs().max()) > 1e-3


def _epoch(loader: Any, epoch: int) -> list[Any]:
    loader.set_epoch(epoch)
    return list(loader)


def by_length() -> dict[str, Any]:
    known = hasattr(hosted.arguments(), "train_sampling_strategy")
    return {"train_sampling_strategy": "group_by_length"} if known else {"group_by_length": True}


@pytest.mark.parametrize(
    "more",
    [{"gradient_accumulation_steps": 2}, by_length(), {"dataloader_drop_last": True, "seed": 5}],
    ids=str,
)
def test_rounds_that_end_within_a_pass_go_on_in_its_order(more: dict[str, Any], tmp_path: Path) -> None:
    """18 rows; two steps a round, three passes or more; an order that is drawn from the global generator too."""
    fed = fedfm.patch(lambda p: adamw(p, **more), parties=["party-4"], rounds=4, steps=2)
    if "gradient_accumulation_steps" in more and transformers.__version__ < "5":
        with pytest.raises(ConfigError, match="takes no step on the last of them"):
            fedfm.run(fed, out=tmp_path / "run")
        return
    run = fedfm.run(fed, out=tmp_path / "run")
    plain = adamw("party-4", **more, max_steps=8)
    plain.train()
    assert float((left(run) - weights(plain.model)).abs().max()) < 1e-6


@pytest.mark.parametrize("length", [{"steps": 4}, {"epochs": 1.0}, {}], ids=str)
def test_a_party_alone_takes_the_steps_of_one_plain_training(length: dict[str, Any], tmp_path: Path) -> None:
    """AdamW, clipping, dropout, warm-up and a linear schedule, in rounds that end within epochs and at their ends."""
    plan = {"max_steps": 12} if "steps" in length else {"num_train_epochs": 3}
    run = fedfm.run(
        fedfm.patch(lambda party: adamw(party, **plan), parties=["party-0"], rounds=3, **length),
        out=tmp_path / "run",
    )
    plain = adamw("party-0", **plan)
    plain.train()
    assert plain.state.global_step == (12 if "steps" in length else 9)
    assert float((left(run) - weights(plain.model)).abs().max()) < 1e-6
    assert run.metric["federated"] == pytest.approx(plain.evaluate()["eval_loss"], abs=1e-6)


def test_what_is_reported_is_of_the_aggregated_model(tmp_path: Path) -> None:
    run = fedfm.run(fedfm.patch(hosted.trainer, parties=3, steps=2, rounds=2), out=tmp_path / "run")
    judge = hosted.trainer("party-0")
    torch.nn.utils.vector_to_parameters(left(run), judge.model.parameters())
    tests = [row for k in range(3) for row in hosted.rows(100 + k, 6)]
    found = judge.evaluate(eval_dataset=tests)
    metrics = run.summary["metrics"] if "metrics" in run.summary else run.summary["final"]
    assert metrics["loss"] == pytest.approx(found["eval_loss"], abs=1e-6)
    assert metrics["accuracy"] == pytest.approx(found["eval_accuracy"], abs=1e-6)


# ---- the same bits --------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_engines_and_a_resumed_run_give_the_same_bits(tmp_path: Path) -> None:
    fed = fedfm.patch(adamw, parties=3, steps=2, rounds=4)
    one = fedfm.run(fed, out=tmp_path / "one")
    two = fedfm.run(fed, out=tmp_path / "two", engine=Processes(2))

    def stop(record: Any) -> None:
        if record["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fedfm.run(fed, out=tmp_path / "three", callbacks=stop)
    three = fedfm.resume(tmp_path / "three", fed)
    digests = {(r.summary["model_digest"], r.summary["ledger_digest"]) for r in (one, two, three)}
    assert len(digests) == 1
    again = fedfm.run(fed, out=tmp_path / "again", seed=7)
    assert again.summary["model_digest"] == one.summary["model_digest"]  # the scripts seed what is drawn


def test_the_run_draws_where_it_is_asked_to(tmp_path: Path) -> None:
    fed = fedfm.patch(adamw, parties=2, steps=2, rounds=1)
    fed = fedfm.replace(fed, client=fedfm.OwnLoop(steps=2, draws="run"))
    found = {s: fedfm.run(fed, out=tmp_path / str(s), seed=s).summary["model_digest"] for s in (0, 1)}
    assert found[0] != found[1]


def test_a_client_learns_from_the_rows_that_it_is_given() -> None:
    """The server's rows (FLTrust), or what holding out has left, and not whatever the trainer holds."""
    parties = Trainers(hosted.trainer, ("party-0", "party-1")).open(0)
    bound, ctx = Hosted().open(parties), fedfm.Ctx(0, client="server", horizon=1)
    data = bound.encode(dataclasses.replace(parties.test(), rows=parties.test().rows[:8]))
    m, _ = fedfm.OwnLoop(steps=3).work(fedfm.Message(bound.init, "weights"), data, {}, ctx, bound)
    plain = hosted.trainer("party-0", max_steps=3)
    before, plain.train_dataset = weights(plain.model), (hosted.rows(100, 6) + hosted.rows(101, 6))[:8]
    plain.train()
    change = torch.cat([v.reshape(-1) for v in bound.layout.views(m.x).values()])
    assert m.mass == 8.0 and float((change - (weights(plain.model) - before)).abs().max()) < 1e-6
    assert len(bound.host.trainer.train_dataset) == 10  # as it was
