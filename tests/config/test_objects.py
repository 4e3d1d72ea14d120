"""The object that is given is the object that runs; config.yaml records it, and says where it cannot make it again."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedfm
from fedfm.cards.registry import knob, name_of
from fedfm.config.building import from_config
from fedfm.config.configure import configure
from fedfm.config.marker import fingerprint
from fedfm.config.record import digest, to_config
from fedfm.config.setup import Setup
from fedfm.config.text import load
from fedfm.core.combine import Pipe
from fedfm.core.errors import ConfigError, ResumeError
from fedfm.core.federation import Federation, replace
from fedfm.core.message import Message
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.training.fedprox import FedProx
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.personal.by_client import ByClient
from fedfm.efficiency.training.servers import Apply
from fedfm.engines.inprocess import InProcess
from fedfm.engines.processes import Processes
from fedfm.laws.homes import quadratics
from fedfm.models import tiny
from fedfm.running.execute import resume
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.trust.robustness.attack.sign_flip import SignFlip

CALLS: list[str] = []


@dataclass(frozen=True)
class Lazy(Local):
    """A client that sends zeros."""

    def work(self, brief: Any, data: Any, state: Any, ctx: Any, bound: Any) -> Any:
        CALLS.append("client")
        return Message(torch.zeros_like(brief.x), "delta", 1.0), state


class Still(Apply):
    """A server that never moves."""

    def step(self, state: Any, agg: Any, ctx: Any) -> Any:
        CALLS.append("server")
        return state


class Harmless(SignFlip):
    """An attack by one party that is heard."""

    def members(self, ids: Any, ctx: Any) -> Any:
        CALLS.append("adversary")
        return super().members(ids, ctx)


class Loud(TopK):
    """A codec that is heard."""

    def encode(self, x: Any, state: Any, ctx: Any) -> Any:
        CALLS.append("wire")
        return super().encode(x, state, ctx)


def fed(**slots: Any) -> Federation:
    base: dict[str, Any] = {"task": Quadratic(), "data": Quadratics(), "engine": InProcess(), "rounds": 1}
    return Federation(**base | slots)


@pytest.mark.parametrize(
    ("slots", "where"),
    [
        ({"client": Lazy(steps=2)}, "client"),
        ({"server": Still()}, "server"),
        ({"adversary": Harmless(count=1)}, "adversary"),
        ({"uplink": Loud(0.5)}, "wire"),
        ({"uplink": ErrorFeedback(Loud(0.5))}, "wire"),
        ({"uplink": Pipe(Loud(0.5))}, "wire"),
        ({"client": ByClient({"*": Lazy()})}, "client"),
    ],
    ids=lambda v: type(next(iter(v.values()))).__name__ if isinstance(v, dict) else v,
)
def test_a_subclass_runs_as_itself(slots: dict[str, Any], where: str, tmp_path: Path) -> None:
    CALLS.clear()
    given = fed(**slots)
    result = fedfm.run(given, out=tmp_path / "run")
    assert CALLS and set(CALLS) == {where}
    written = (tmp_path / "run" / "config.yaml").read_text()
    assert f"object: {__name__}:" in written
    with pytest.raises(ConfigError, match="an object of a Python process"):
        fedfm.run(tmp_path / "run" / "config.yaml", out=tmp_path / "again")
    with pytest.raises(ConfigError, match="an object of a Python process"):
        from_config(load(tmp_path / "run" / "config.yaml"))
    assert result.summary["config_digest"] == digest(Setup.of(given).config)


def test_a_part_of_a_spec_runs_as_itself() -> None:
    """Not only a slot's own value: whatever is inside it, and whatever a setting reaches beside it."""

    @dataclass(frozen=True)
    class Mine(Local):
        """Under no name."""

    client = FedProx(local=Mine(lr=0.5))
    made = configure(fed(client=client), ["client.mu=0.25", "rounds=3"]).fed
    assert made.client == FedProx(local=Mine(lr=0.5), mu=0.25) and type(made.client.local) is Mine  # type: ignore[attr-defined]
    assert made.client.local is client.local  # type: ignore[attr-defined]
    deeper = configure(fed(client=client), {"client.local.lr": np.float64(0.125)}).fed
    assert type(deeper.client.local) is Mine and deeper.client.local.lr == 0.125  # type: ignore[attr-defined]
    several = fed(uplink=Pipe(Loud(0.5), TopK(0.5)))
    first, second = configure(several, ["uplink.0.fraction=0.25"]).fed.uplink.stages  # type: ignore[attr-defined]
    assert type(first) is Loud and first.fraction == 0.25 and second is several.uplink.stages[1]  # type: ignore[attr-defined]
    assert name_of(Still()) == "Still" and name_of(Apply()) == "apply"


def test_what_nobody_touches_is_the_very_object() -> None:
    given = fed(client=Lazy())
    assert configure(given).fed is given
    other = configure(given, seed=3).fed
    assert other.seed == 3 and other.client is given.client and other.data is given.data
    spec = Local(lr=0.5)
    assert configure("fedavg-vision", slots={"client": spec}).fed.client is spec
    assert configure({"recipe": "fedavg-vision", "client": spec}).fed.client is spec
    user = {"recipe": "fedavg-vision", "client": {"name": "local", "lr": 0.5}}
    configure(user, ["client.lr=0.25"])
    assert user["client"] == {"name": "local", "lr": 0.5}  # nobody's mapping is changed


@dataclass(frozen=True)
class Holds(Quadratics):
    """Data that hold what no config can say."""

    rows: Any = knob(None, "rows in memory", live=True)
    how: Any = knob(None, "a function, a module, an array")


def test_a_record_says_what_it_can() -> None:
    def recorded(**fields: Any) -> Any:
        return to_config(fed(data=Holds(**fields)))["data"]

    said = recorded(how=torch.nn.functional.cross_entropy)
    assert said["object"].endswith(":Holds") and said["how"] == {
        "object": "torch.nn.functional:cross_entropy"
    }
    one, two = (recorded(how=np.arange(3) + k)["how"] for k in (0, 1))
    assert one["repr"] == two["repr"] and one["digest"] != two["digest"]
    torch.manual_seed(0)
    net = recorded(how=torch.nn.Linear(2, 2))["how"]
    assert (
        net["object"] == "torch.nn.modules.linear:Linear" and "in_features=2" in net["repr"] and net["digest"]
    )
    assert recorded(how=object())["how"] == {
        "object": "builtins:object",
        "repr": "<object object>",
    }  # no address
    rows = {"a": [{"text": "a secret"}]}
    said = recorded(rows=rows)["rows"]
    assert said == {"object": "builtins:dict", "digest": fingerprint(rows)} and "secret" not in repr(
        Holds(rows=rows)
    )
    pandas = pytest.importorskip("pandas")
    assert "secret" not in str(recorded(how=pandas.DataFrame(rows["a"])))


def test_such_a_run_goes_on_from_python_only(tmp_path: Path) -> None:
    given = fed(client=Lazy())
    fedfm.run(given, out=tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(ResumeError, match=r"(?s)client .*Lazy.*fedfm.resume"):
        resume(tmp_path / "run")
    assert fedfm.resume(tmp_path / "run", given).status.startswith("finished")
    with pytest.raises(ResumeError):
        fedfm.resume(tmp_path / "run", replace(given, client=Lazy(lr=0.5)))


@pytest.mark.parametrize(
    ("slots", "where", "words"),
    [
        ({"task": torch.nn.Linear(2, 2)}, "task", "fedfm.Torch"),
        ({"client": Local}, "client", "Local is a class"),
        ({"client": 5}, "client", "names no method"),
        ({"client": TopK()}, "client", "it is no Client"),
        ({"uplink": Pipe(TopK(), Local())}, "uplink.stages.1", "it is no Wire"),  # type: ignore[arg-type]
        ({"client": Local(lr=-1.0)}, "client.lr", "lowest allowed"),
        ({"client": Local(lr=torch.tensor(0.1))}, "client.lr", "Tensor cannot stand here"),  # type: ignore[arg-type]
        ({"client": Local(steps="5")}, "client.steps", "int is expected"),  # type: ignore[arg-type]
        ({"client": FedProx(local=Local(weight_decay=-2.0))}, "client.local.weight_decay", "lowest allowed"),
        ({"data": object}, "data", "is a class"),
        ({"client": ByClient({"*": Apply()})}, "client.rules.*", "it is no Client"),  # type: ignore[dict-item]
    ],
    ids=str,
)
def test_what_cannot_stand_in_a_slot_is_a_problem(slots: dict[str, Any], where: str, words: str) -> None:
    with pytest.raises(ConfigError) as e:
        configure(replace(fed(), **slots))
    (problem,) = e.value.problems
    assert problem.where == where and words in str(problem)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    rates = np.logspace(-3, -1, 3)
    given = fed(client=Local(lr=rates[1], steps=np.int64(2)))  # type: ignore[arg-type]
    result = fedfm.run(given, rounds=np.arange(1, 3)[0], out=tmp_path / "a")  # type: ignore[arg-type]
    config = load(tmp_path / "a" / "config.yaml")
    assert config["client"]["lr"] == 0.01 and config["client"]["steps"] == 2 and result.summary["rounds"] == 1
    assert from_config(config).client == given.client


def test_every_keyword_takes_what_a_person_has(tmp_path: Path) -> None:
    seen: list[int] = []
    result = fedfm.run(
        fed(),
        out=tmp_path / "run",
        engine=Processes(2),
        settings={"client.lr": 0.25, "client.steps": 1},
        baselines=["local"],
        callbacks=lambda record: seen.append(record["round"]),
        rounds=2,
    )
    assert seen[-1] == 2 and load(result.folder / "config.yaml")["client"]["lr"] == 0.25
    assert result.summary["workers"] == 2
    assert configure(fed(), "client.lr=0.5").fed.client.lr == 0.5  # type: ignore[attr-defined]
    for bad, words in (
        ({"model": torch.nn.Linear(1, 1)}, "fedfm.Torch"),
        ({"clinet": Local()}, "did you mean 'client'"),
        ({"engine": 3}, "names no method"),
    ):
        with pytest.raises(ConfigError, match=words):
            fedfm.run(fed(), **bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cannot be run"):
        fedfm.run(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("nothing", ["none", "", (), None, False])
def test_no_baselines_in_every_spelling(nothing: Any, tmp_path: Path) -> None:
    assert fedfm.run(fed(), rounds=1, out=tmp_path / "run", baselines=nothing).status == "finished"


@pytest.mark.parametrize("wrong", [True, ["local", 3], "locale", 1.5])
def test_a_baseline_that_there_is_not(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="there is no baseline"):
        fedfm.run(fed(), rounds=1, baselines=wrong)


def test_paths_of_any_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("text,label\nx,1\ny,2\n")
    for data, path in (
        (Path("a.csv"), str(tmp_path / "a.csv")),
        ("*.csv", str(tmp_path / "*.csv")),
        ([Path("a.csv"), "b.csv"], (str(tmp_path / "a.csv"), str(tmp_path / "b.csv"))),
        (fedfm.Files((Path("a.csv"), Path("b.csv"))), (str(tmp_path / "a.csv"), str(tmp_path / "b.csv"))),  # type: ignore[arg-type]
        ({"name": "files", "path": "a.csv"}, str(tmp_path / "a.csv")),
    ):
        assert configure("quickstart", slots={"data": data}).fed.data.path == path


class Held(torch.utils.data.Dataset[dict[str, str]]):
    """A data set of torch, whose items are rows."""

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, k: int) -> dict[str, str]:
        return ROWS[k]


ROWS = [{"text": "a secret", "label": "1"}, {"text": "another", "label": "2"}]


def test_rows_in_memory_are_taken_and_never_written_out() -> None:
    arrays = (np.zeros((4, 2), "float32"), np.arange(4))
    for data in (
        ROWS,
        {"a": ROWS},
        Held(),
        arrays,
        {"a": arrays, "b": arrays},
        {"train": ROWS, "test": ROWS},
    ):
        made = configure(fed(), slots={"data": data})
        assert hasattr(made.fed.data, "open") and made.config["data"]["train"]["digest"]
        assert "secret" not in str(made.config) + repr(made.fed)
        assert configure(replace(fed(), data=data)).config == made.config
    one, two = (configure(fed(), slots={"data": rows}).config["data"]["train"] for rows in (ROWS, ROWS[:1]))
    assert one["digest"] != two["digest"]
    for data in (object(), 5, Net()):
        with pytest.raises(ConfigError, match="data set that can be opened"):
            configure(fed(), slots={"data": data})


class Net(torch.nn.Module):
    """Not data."""


@dataclass(frozen=True)
class Typed(Quadratics):
    """A data spec whose annotations only its module knows."""

    more: tuple[float, ...] = field(default=())


def test_equal_runs_of_an_object_and_of_its_config(tmp_path: Path) -> None:
    given = quadratics(engine=InProcess())
    one = fedfm.run(given, out=tmp_path / "one")
    two = fedfm.run(tmp_path / "one" / "config.yaml", out=tmp_path / "two")
    for key in ("config_digest", "model_digest", "ledger_digest"):
        assert one.summary[key] == two.summary[key]
    assert type(configure(replace(given, data=Typed(a=(1.0,), b=(2.0,)))).fed.data) is Typed


@pytest.mark.parametrize("module", [torch.nn.Flatten, lambda: torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)])
def test_a_class_or_a_function_may_stand_where_anything_may(module: Any) -> None:
    scores = {"error": lambda net, batch: torch.zeros(len(batch[0]))}
    task = fedfm.Torch(module, loss=torch.nn.functional.cross_entropy, scores=scores)  # type: ignore[attr-defined]
    rows = {"a": (np.zeros((4, 4), "float32"), np.arange(4) % 2)}
    fed = Federation(task=task, data=fedfm.Arrays(rows))  # type: ignore[attr-defined]
    made = configure(fed, rounds=2).fed
    assert made.task.module is module and made.task.loss is task.loss and made.rounds == 2  # type: ignore[attr-defined]


def test_a_class_may_not_stand_where_a_method_must() -> None:
    with pytest.raises(ConfigError, match="Local is a class"):
        configure(replace(quadratics(), client=Local), rounds=2)  # type: ignore[arg-type]


def test_rows_that_are_left_out_are_told_in_python_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A party without a name, a text that is empty: a warning, the result's line, and the log of a run that is shown."""
    frame = pytest.importorskip("pandas").DataFrame(
        {
            "text": ["good", "bad", "fine", "awful", ""] * 8,
            "label": list("pnpnp") * 8,
            "who": ["a", "b", None, "a", "b"] * 8,
        }
    )
    task = SequenceClassification(model=str(tiny("encoder", tmp_path / "m")))
    settings = {"data.party_column": "who", "client.steps": 1}
    with pytest.warns(UserWarning, match=r"rows left out: 8 \(no text\), 8 \(no party\)") as caught:
        result = fedfm.run(
            "quickstart",
            task=task,
            data=frame,
            settings=settings,
            rounds=1,
            out=tmp_path / "r",
        )
    assert (
        "rows left out: 8 (no text), 8 (no party)" in repr(result) and "8 (no party)" in result._repr_html_()
    )
    assert {w.filename for w in caught} == {__file__}
    assert sum("rows left out" in str(w.message) for w in caught) == 1  # once, and at the line that called
    assert "rows left out" not in capsys.readouterr().out and result.status == "finished"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fedfm.run(
            "quickstart",
            task=task,
            data=frame,
            settings=settings,
            rounds=1,
            progress=True,
            out=tmp_path / "s",
        )
    assert capsys.readouterr().out.startswith("rows left out: ")

    def stops(record: Any) -> None:
        raise RuntimeError("in the first round")

    with (
        pytest.warns(UserWarning, match="rows left out: 8"),
        pytest.raises(RuntimeError, match="in the first round"),
    ):
        fedfm.run(
            "quickstart", task=task, data=frame, settings=settings, callbacks=[stops], out=tmp_path / "f"
        )
    whole = fedfm.run(
        "quickstart",
        task=task,
        data=frame[frame.text != ""].dropna(),
        settings=settings,
        rounds=1,
        out=tmp_path / "w",
    )
    assert not whole.lost and "left out" not in repr(whole)
