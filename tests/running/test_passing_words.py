"""What people write in passing: numbers as text, blanks in settings, None; and what their own modules give and do."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fedfm
from fedfm.core.errors import ConfigError
from fedfm.models import path as model_path
from fedfm.running.execute import configure
from fedfm.tasks.text.causal import CausalLM


def points(seed: int, n: int = 40) -> Any:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return x.numpy(), (x[:, 0] > x[:, 1]).long().numpy()


def fed(task: Any = None, **slots: Any) -> fedfm.Federation:
    data = fedfm.Arrays({"a": points(0), "b": points(1)}, test=points(9))
    task = task or fedfm.Torch(lambda: nn.Linear(4, 2))
    return fedfm.Federation(
        **{"task": task, "data": data, "client": fedfm.Local(lr=0.1, steps=2, batch=8), **slots}
    )


@pytest.mark.parametrize(
    ("slots", "where"),
    [
        ({"client": fedfm.Local(lr="1e-1", steps=2)}, "client.lr"),
        ({"client": fedfm.Local(weight_decay="1e-4", steps=2)}, "client.weight_decay"),
        ({"client": fedfm.FedProx(mu="1")}, "client.mu"),
        ({"server": fedfm.FedAdam(lr="0.1")}, "server.lr"),
        ({"uplink": fedfm.TopK("0.1")}, "uplink.fraction"),
        ({"aggregate": fedfm.TrimmedMean("0.1")}, "aggregate"),
        ({"aggregate": fedfm.Mean(cap="10")}, "aggregate.cap"),
    ],
)  # fmt: skip
def test_a_number_that_is_text_is_refused_before_work(slots: Any, where: str) -> None:
    for call in (fedfm.probe, fedfm.run):
        with pytest.raises(ConfigError, match=rf"{where}.*is text(?s:.*)as a number"):
            call(fed(**slots))


def test_a_number_that_is_text_is_read_where_a_config_says_it() -> None:
    """YAML 1.1 reads 1e-3 as text."""
    assert configure("quickstart", {"client.lr": "1e-3"}).fed.client.lr == 1e-3


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        (["client.lr", "=", "0.01"], "client.lr=0.01 "),
        (["rounds=3", "client.lr", "=0.01", "seed=1"], "client.lr=0.01 "),
        (["client.lr=", "0.01"], "client.lr=0.01 "),
        (["task.tuning.targets=", "[query,", "value]", "seed=1"], "'task.tuning.targets=[query, value]' "),
        (["task.tuning.targets=[query,", "value]"], "'task.tuning.targets=[query, value]' "),
        (["data.seed=None"], "data.seed=null"),
        (["uplink=None"], "uplink=null"),
        (["client.schedule=None"], "client.schedule=null"),
    ],
)
def test_blanks_and_none_in_settings(settings: list[str], fix: str) -> None:
    with pytest.raises(ConfigError) as e:
        configure("quickstart", settings)
    assert f"fix: {fix}" in str(e.value) and str(e.value).startswith("1 problem")


def test_a_factory_that_raises() -> None:
    class Lacking(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 2)
            import no_such_library  # noqa: F401

    for make, what in ((Lacking, "no_such_library"), (lambda: nn.Linear("4", 2), "task.module")):  # type: ignore[arg-type]
        with pytest.raises(
            fedfm.FedfmError, match=rf"it cannot be made(?s:.*){what}|{what}.*it cannot be made"
        ):
            fedfm.run(fed(fedfm.Torch(make)))


class Writing(nn.Linear):
    """Scales its rows where they stand."""

    def __init__(self) -> None:
        super().__init__(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x -= 0.5
        return super().forward(x)


class Scaling(Writing):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.Linear.forward(self, x - 0.5)


def hit(module: Any, batch: Any) -> Any:
    return module(batch[0]).argmax(1) == batch[1]


def test_a_module_that_writes_into_its_rows(tmp_path: Path) -> None:
    found = {}
    for kind in (Writing, Scaling):
        task = fedfm.Torch(kind, scores={"one": hit, "accuracy": hit})
        found[kind] = fedfm.run(fed(task), rounds=2, out=tmp_path / kind.__name__)
    digests = {r.summary["model_digest"] for r in found.values()}
    last = found[Writing].history.iloc[-1]
    assert len(digests) == 1 and last["one"] == last["accuracy"]


def test_rows_of_one_column_and_outputs_that_are_no_tensor(tmp_path: Path) -> None:
    rows = {"a": torch.randn(20, 4).numpy(), "b": torch.randn(20, 4).numpy()}
    alone = fedfm.Federation(
        task=fedfm.Torch(lambda: nn.Linear(4, 4), loss=lambda m, b: ((m(b) - b) ** 2).mean(1)),
        data=fedfm.Arrays({k: {"x": v} for k, v in rows.items()}),
    )
    with pytest.raises(
        ConfigError, match=r"a batch that is a mapping of tensors \(x\)(?s:.*)takes batch\['x'\] \(scores"
    ):
        fedfm.probe(alone)

    class Output(dict[str, Any]):
        logits: torch.Tensor

    class Wrapped(nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            made = Output()
            made.logits = super().forward(x)
            return made

    with pytest.raises(ConfigError, match=r"it gives Output(?s:.*)module\(batch\[0\]\)\.logits"):
        fedfm.run(fed(fedfm.Torch(lambda: Wrapped(4, 2))))
    task = fedfm.Torch(
        lambda: Wrapped(4, 2),
        loss=lambda m, b: F.cross_entropy(m(b[0]).logits, b[1], reduction="none"),
        scores={"accuracy": lambda m, b: m(b[0]).logits.argmax(1) == b[1]},
    )
    assert fedfm.run(fed(task), rounds=1, out=tmp_path / "run").status == "finished"


def test_marks_of_a_template_that_are_no_tokens(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(model_path("tiny-causal-lm", progress=False), folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = (
        "{% for m in messages %}<|role|>{{ m.role }}<|end|>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|role|>assistant<|end|>{% endif %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.warns(UserWarning, match=r"writes <\|role\|> \(\d+ tokens\), <\|end\|>.*has no token for"):
        CausalLM(model=str(folder)).open(None)


@pytest.mark.parametrize(
    "score", [lambda output, target: output.argmax(1) == target, lambda m, b: m(b[0]).argmx(1)]
)
def test_a_score_that_cannot_be_called_is_refused_before_work(score: Any) -> None:
    task = fedfm.Torch(lambda: nn.Linear(4, 2), scores={"accuracy": score})
    with pytest.raises(ConfigError, match=r"task.scores\['accuracy'\]: fails(?s:.*)lambda module, batch"):
        fedfm.probe(fed(task))


@pytest.mark.parametrize(
    "loss",
    [F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss(), nn.HuberLoss(), F.mse_loss, nn.L1Loss()],
)
def test_targets_that_are_whole_numbers(loss: Any, tmp_path: Path) -> None:
    """0 and 1 as integers teach what 0.0 and 1.0 do."""
    found = set()
    for kind in ("int64", "float32"):
        rows = {p: (x, y.astype(kind)) for p, (x, y) in {"a": points(0), "b": points(1)}.items()}
        x, y = points(9)
        data = fedfm.Arrays(rows, test=(x, y.astype(kind)))
        task = fedfm.Torch(lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), loss=loss)
        found.add(fedfm.run(fed(task, data=data), rounds=1, out=tmp_path / kind).summary["model_digest"])
    assert len(found) == 1


def test_a_module_in_double_is_told(tmp_path: Path) -> None:
    class Wide(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.double())

    with pytest.warns(UserWarning, match="in the precision of float32"):
        fedfm.probe(fed(fedfm.Torch(lambda: Wide(4, 2).double())))


def test_a_path_with_blanks() -> None:
    with pytest.raises(ConfigError, match=r"fix: 'data.path=d/my data \(1\)/\*.jsonl' \(in quotes"):
        configure("quickstart", ["data=files", "data.path=d/my", "data", "(1)/*.jsonl"])


def test_a_tracker_that_fails_costs_nothing_but_itself(tmp_path: Path) -> None:
    class Tracker:
        def __init__(self, when: str) -> None:
            self.when, self.heard = when, list[int]()

        def log(self, round: int, metrics: Any) -> None:
            self.heard.append(round)
            if self.when == "log":
                raise RuntimeError("no network")

        def close(self) -> None:
            if self.when == "close":
                raise RuntimeError("gone")

    for when, rounds in (("log", 1), ("close", 3)):
        tracker = Tracker(when)
        with pytest.warns(UserWarning, match=r"the tracker Tracker failed.*(no network|gone)"):
            result = fedfm.run(fed(), rounds=2, out=tmp_path / when, trackers=[tracker])
        assert result.status == "finished" and len(tracker.heard) == rounds
        assert (tmp_path / when / "report.html").exists() and (tmp_path / when / "model").is_dir()


class Trained(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 2)

    def train(self, data: Any = None, epochs: int = 1) -> Any:  # type: ignore[override]
        raise ValueError("dataset missing")


class Forgetful(Trained):
    def train(self, mode: bool = True) -> Any:  # type: ignore[override]
        nn.Linear.train(self, mode)


def test_a_train_that_is_no_switch(tmp_path: Path) -> None:
    with pytest.raises(fedfm.FedfmError, match=r"`train` is no switch of modes(?s:.*)another name"):
        fedfm.run(fed(fedfm.Torch(Trained)))
    assert fedfm.run(fed(fedfm.Torch(Forgetful)), rounds=1, out=tmp_path / "run").status == "finished"


def test_outputs_that_are_the_same_for_every_row() -> None:
    class Blind(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(F.group_norm(x, 4))

    def zeros() -> nn.Module:
        made = nn.Linear(4, 2)
        nn.init.zeros_(made.weight)
        return made

    with pytest.warns(UserWarning, match="the same output for every row"):
        fedfm.probe(fed(fedfm.Torch(lambda: Blind(4, 2))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fedfm.probe(fed(fedfm.Torch(zeros)))  # at the start alone


def test_a_pull_that_has_nothing_to_pull() -> None:
    lone = fedfm.FedProx(mu=0.1, local=fedfm.Local(lr=0.1, steps=1, batch=8))
    whole = fedfm.FedProx(mu=0.1, local=fedfm.Local(lr=0.1, epochs=1, batch=64))
    for client in (lone, whole):
        with pytest.raises(ConfigError, match=r"fedprox does nothing in 1 local step"):
            fedfm.probe(fed(client=client))
    fedfm.probe(fed(client=fedfm.FedProx(mu=0.0, local=lone.local)))


def test_arrays_of_objects_and_targets_of_positions(tmp_path: Path) -> None:
    x, y = points(0)
    mixed = fedfm.Arrays({"a": (x.astype(object), y), "b": (x, y)}, test=points(9))
    assert mixed.read(0, ()).train("a").rows[0]["x"].dtype == torch.float32
    tags = x, torch.zeros(40, 5, dtype=torch.long)
    with pytest.raises(fedfm.FedfmError, match=r"without a loss a row is of one class(?s:.*)flatten\(0, 1\)"):
        fedfm.probe(fed(data=fedfm.Arrays({"a": tags}, test=tags)))
    turns = [{"prompt": [{"role": "user", "content": "q"}], "completion": "a"}] * 40
    with pytest.raises(fedfm.FedfmError, match="not text but turns(?s:.*)one column `messages`"):
        fedfm.probe(
            "fedit",
            data=fedfm.Arrays({"a": turns}, columns={"instruction": "prompt", "answer": "completion"}),
        )


def test_a_deadline_that_nobody_meets(tmp_path: Path) -> None:
    slow = fedfm.Quorum(0.4, deadline_s=0.1, speed=fedfm.Speed(mean_s=1.8))
    with pytest.raises(ConfigError, match=r"pace.deadline_s: no work is done within 0.1 s: it takes 1.8 s"):
        fedfm.probe(fed(pace=slow))
    for pace in (
        fedfm.replace(fed(pace=slow), pace=fedfm.Quorum(0.4, deadline_s=1.8, speed=fedfm.Speed(mean_s=1.8))),
        fed(pace=fedfm.Quorum(0.4, deadline_s=1.0, speed=fedfm.Speed(mean_s=1.8, spread=0.5))),
    ):
        fedfm.probe(pace)
