"""A run goes on as what it began as, or not at all: what differs is named, what may change is noted."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import fedfm
from fedfm.core.errors import ResumeError
from fedfm.core.federation import Federation
from fedfm.data.files import Files
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.communication.memory.ef21 import EF21
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.scaffold import Scaffold, ScaffoldServer
from fedfm.engines.inprocess import InProcess
from fedfm.incentives.selection.uniform import Uniform
from fedfm.models import tiny
from fedfm.running.record import identity
from fedfm.running.record.identity import Identity
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.tasks.text.classify import SequenceClassification
from stopping import interrupted, killed

SGD = Local(lr=0.02, steps=3, batch=0)


def quadratics(**slots: Any) -> Federation:
    base: dict[str, Any] = {"client": SGD, "select": Uniform(count=2), "rounds": 6, "engine": InProcess()}
    data = Quadratics(a=(1.0, 2.0, 5.0, 10.0), b=(0.0, 1.0, -1.0, 3.0))
    return Federation(Quadratic(dim=3), data, **base | slots)


SCAFFOLD = {"client": Scaffold(SGD), "server": ScaffoldServer()}


def edit(folder: Path, change: Any) -> None:
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def digests(folder: Path) -> tuple[str, str]:
    told = json.loads((folder / "summary.json").read_text())
    return told["model_digest"], told["ledger_digest"]


def test_everything_is_recorded_before_the_first_round(tmp_path: Path) -> None:
    killed(quadratics(), tmp_path / "run", after=0)
    plan = json.loads((tmp_path / "run" / "run.json").read_text())
    told = plan["identity"]
    assert plan["format"] == 1 and not plan["complete"]
    assert told["config"]["rounds"] == 6 and told["bits"] == identity.BITS and told["versions"]["torch"]
    assert set(told["data"]) == {"all", "party-0", "party-1", "party-2", "party-3"} and told["base"]["start"]


def test_killed_and_resumed_it_is_the_run_that_was_never_interrupted(tmp_path: Path) -> None:
    fedfm.run(quadratics(), out=tmp_path / "whole")
    killed(quadratics(), tmp_path / "killed", after=3)
    assert fedfm.resume(tmp_path / "killed").status == "finished"
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["client"].update(lr=0.0001), "client.lr: was 0.02, is 0.0001"),
        (lambda c: c.update(seed=7), "seed: was 0, is 7"),
        (lambda c: c.update(rounds=2), "rounds: was 6, is 2"),
        (lambda c: c.update(fold="fixed"), "fold: was float, is fixed"),
        (lambda c: c.update(uplink={"name": "topk", "fraction": 0.5}), "uplink"),
        (lambda c: c["data"].update(b=[0.0, 1.0, -1.0, 4.0]), "data.b.3: was 3.0, is 4.0"),
    ],
)
def test_an_edited_config_is_refused_by_its_keys(change: Any, words: str, tmp_path: Path) -> None:
    interrupted(quadratics(), tmp_path / "run", after=3)
    edit(tmp_path / "run", change)
    with pytest.raises(ResumeError) as e:
        fedfm.resume(tmp_path / "run")
    assert words in str(e.value) and "fix:" in str(e.value)


def test_what_may_change_changes_and_is_noted(tmp_path: Path) -> None:
    interrupted(quadratics(rounds=4), tmp_path / "run", after=2)

    def change(config: Any) -> None:
        config.update(rounds=8, engine={"name": "processes", "workers": 2})
        config["evaluate"].update(every=2)

    edit(tmp_path / "run", change)
    result = fedfm.resume(tmp_path / "run")
    fresh = fedfm.run(quadratics(rounds=8), out=tmp_path / "fresh")
    assert result.summary["model_digest"] == fresh.summary["model_digest"]
    noted = {h["what"]: (h["was"], h["now"], h["after"]) for h in result.summary["history"]}
    assert noted["rounds"] == ("4", "8", 2) and noted["evaluate.every"] == ("1", "2", 2)
    assert noted["engine.name"][:2] == ("inprocess", "processes")


def test_a_finished_run_is_extended(tmp_path: Path) -> None:
    fedfm.run(quadratics(rounds=3), out=tmp_path / "run", baselines="local")
    longer = fedfm.resume(tmp_path / "run", rounds=7)
    fresh = fedfm.run(quadratics(rounds=7, horizon=3), out=tmp_path / "fresh", baselines="local")
    assert longer.summary["rounds"] == 7 and digests(tmp_path / "run") == digests(tmp_path / "fresh")
    assert longer.metric["local"] == fresh.metric["local"]  # they trained longer too
    assert longer.summary["config_digest"] == fresh.summary["config_digest"]
    again = fedfm.resume(tmp_path / "run")  # nothing is left to do
    assert again.summary == longer.summary
    edit(tmp_path / "run", lambda c: c.update(rounds=9))  # in the file, it is not ignored either
    assert fedfm.resume(tmp_path / "run").summary["rounds"] == 9
    with pytest.raises(ResumeError, match="more rounds than it has done"):
        fedfm.resume(tmp_path / "run", rounds=5)


def test_libraries_may_change_and_are_noted_and_other_bits_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(quadratics(), tmp_path / "run", after=2)
    path = tmp_path / "run" / "run.json"
    plan = json.loads(path.read_text())
    plan["identity"]["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(plan))
    result = fedfm.resume(tmp_path / "run")
    assert [h["what"] for h in result.summary["history"]] == ["torch"]
    plan["identity"]["versions"] |= {"torch": result.summary["versions"]["torch"], "device": "cuda"}
    path.write_text(json.dumps(plan))  # begun where `auto` found a GPU
    history = fedfm.resume(tmp_path / "run", rounds=8).summary["history"]
    assert {"what": "device", "was": "cuda", "now": "cpu"}.items() <= history[-1].items(), history
    del plan["identity"]["versions"]["device"]  # by a release that did not note it
    path.write_text(json.dumps(plan))
    assert "device" not in [
        h["what"] for h in fedfm.resume(tmp_path / "run", rounds=9).summary["history"][2:]
    ]
    plan["identity"]["bits"] = identity.BITS + 1
    path.write_text(json.dumps(plan))
    with pytest.raises(ResumeError, match="bits epoch: was 2, is 1"):
        fedfm.resume(tmp_path / "run", rounds=20)


@pytest.mark.parametrize("name", ["run.json", "baselines.json"])
def test_a_record_of_another_format_is_said(name: str, tmp_path: Path) -> None:
    fedfm.run(quadratics(rounds=2), out=tmp_path / "run", baselines="local")
    path = tmp_path / "run" / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(ResumeError, match="has format 99, this release reads 1"):
        fedfm.resume(tmp_path / "run", rounds=2 if name == "run.json" else 3)
    path.write_text("{")
    with pytest.raises(ResumeError, match="damaged"):
        fedfm.resume(tmp_path / "run", rounds=3)


MEMORIES = {  # where states lie that a checkpoint names, and who has them
    "clients": SCAFFOLD,
    "checkpoints/receivers": {"downlink": EF21(TopK(count=1), whole_first=True)},
}


@pytest.mark.parametrize("where", MEMORIES)
@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_states_that_are_missing_are_found_before_any_work(how: str, where: str, tmp_path: Path) -> None:
    interrupted(quadratics(**MEMORIES[where]), tmp_path / "run", after=4)
    states = sorted((tmp_path / "run" / where).glob("*/*.safetensors"))
    assert states
    for path in states:
        if path.parent.name == states[-1].parent.name:
            path.unlink() if how == "gone" else path.write_bytes(b"half")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(ResumeError, match=r"1 states that .*\n.*" + states[-1].parent.name):
        fedfm.resume(tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_without_its_record_a_run_that_has_rounds_does_not_go_on(tmp_path: Path) -> None:
    interrupted(quadratics(), tmp_path / "run", after=2)
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(ResumeError, match="run.json is missing"):
        fedfm.resume(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResumeError, match="no run directory"):
        fedfm.resume(tmp_path / "empty")


def test_a_config_that_was_removed_is_known_from_the_record(tmp_path: Path) -> None:
    fedfm.run(quadratics(), out=tmp_path / "whole")
    interrupted(quadratics(), tmp_path / "run", after=2)
    (tmp_path / "run" / "config.yaml").unlink()
    fedfm.resume(tmp_path / "run")
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
    assert (tmp_path / "run" / "config.yaml").is_file()


# ---- data and base model --------------------------------------------------------------------------------------
def rows(n: int, word: str) -> str:
    return "".join(
        json.dumps({"text": f"{word} number {k} " * 3, "label": str(k % 2)}) + "\n" for k in range(n)
    )


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    """Two parties' files and a test file, on a tiny encoder in a folder."""
    monkeypatch.chdir(tmp_path)
    for name, word in (("a", "left"), ("b", "right"), ("test", "mid")):
        (tmp_path / f"{name}.jsonl").write_text(rows(8, word))
    task = SequenceClassification(
        model=str(tiny("encoder", tmp_path / "model")), tuning=LoRA(r=2), max_tokens=8
    )
    data = Files("*.jsonl", test_path="test.jsonl")
    return Federation(task, data, client=Local(steps=1, batch=2), engine=InProcess(), rounds=3)


@pytest.mark.parametrize(("file", "words"), [("a", "data.a: was "), ("test", "held-out rows")])
def test_changed_data_are_refused_after_a_hard_kill(
    file: str, words: str, texts: Federation, tmp_path: Path
) -> None:
    killed(texts, tmp_path / "run", after=1)
    (tmp_path / f"{file}.jsonl").write_text(rows(8, "other"))
    with pytest.raises(ResumeError, match=words):
        fedfm.resume(tmp_path / "run")


def test_a_party_that_joins_or_leaves_is_named(texts: Federation, tmp_path: Path) -> None:
    killed(texts, tmp_path / "run", after=1)
    (tmp_path / "c.jsonl").write_text(rows(8, "new"))
    with pytest.raises(ResumeError, match=r"data\.c: was nothing"):
        fedfm.resume(tmp_path / "run")


def _other_weights(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = model / "model.safetensors"
    tensors = load_file(file)
    name = next(n for n in sorted(tensors) if tensors[n].is_floating_point())
    tensors[name] = torch.randn_like(tensors[name])
    save_file(tensors, file, metadata={"format": "pt"})


def _other_template(model: Path) -> None:
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "{{ messages }}"}))


@pytest.mark.parametrize(
    ("change", "words"),
    [(_other_weights, "base model.weights of"), (_other_template, r"template\..*tokenizer_config.json")],
)
def test_another_base_model_is_refused(change: Any, words: str, texts: Federation, tmp_path: Path) -> None:
    killed(texts, tmp_path / "run", after=1)
    assert isinstance(texts.task, SequenceClassification)
    change(Path(texts.task.model))
    with pytest.raises(ResumeError, match=words):
        fedfm.resume(tmp_path / "run")


# ---- own code -------------------------------------------------------------------------------------------------
OWN = '''
from dataclasses import dataclass
from fedfm.cards.registry import method
from fedfm.efficiency.training.mean import Mean
import {name}_beside

@method("{method}", slot="aggregate", section="IV.A")
@dataclass(frozen=True)
class OwnMean(Mean):
    """The mean under another name."""
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """A file of one's own with a method, the module that it imports, and a way to forget both."""
    name = f"own_{abs(hash(request.node.name)) % 10**8}"
    code = tmp_path / "code"
    code.mkdir()
    (code / f"{name}.py").write_text(OWN.format(name=name, method=name.replace("_", "-")))
    (code / f"{name}_beside.py").write_text("SCALE = 1.0\n")
    monkeypatch.syspath_prepend(str(code))
    module = importlib.import_module(name)

    def forget() -> None:
        from fedfm.cards import registry

        for gone in (name, f"{name}_beside"):
            sys.modules.pop(gone, None)
        for key in [k for k, e in registry._live.items() if e.card.module == name]:
            registry.forget(*key)
        monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(code)])

    yield module, forget
    forget()


def test_a_run_with_an_own_method_goes_on_in_a_fresh_process(own: Any, tmp_path: Path) -> None:
    module, forget = own
    fed = quadratics(aggregate=module.OwnMean())
    fedfm.run(fed, out=tmp_path / "whole")
    killed(fed, tmp_path / "run", after=3)
    forget()
    assert fedfm.resume(tmp_path / "run").status == "finished"
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


@pytest.mark.parametrize("which", ["", "_beside"])
def test_changed_own_code_is_refused_unless_it_is_accepted(which: str, own: Any, tmp_path: Path) -> None:
    """The module itself, and what it imports of one's own."""
    module, forget = own
    killed(quadratics(aggregate=module.OwnMean()), tmp_path / "run", after=3)
    file = Path(str(module.__file__)).with_name(f"{module.__name__}{which}.py")
    file.write_text(file.read_text() + "\n# another line\n")
    forget()
    with pytest.raises(ResumeError, match=f"import {module.__name__}{which}: was .*(?s:.)*--accept imports"):
        fedfm.resume(tmp_path / "run")
    assert module.__name__ not in sys.modules  # what is refused is not run
    result = fedfm.resume(tmp_path / "run", accept=("imports",))
    assert [h["what"] for h in result.summary["history"]] == [f"import {module.__name__}{which}"]


def test_an_own_file_that_is_gone_is_named_and_may_have_moved(own: Any, tmp_path: Path) -> None:
    from fedfm.running.execute import resume

    module, forget = own
    killed(quadratics(aggregate=module.OwnMean()), tmp_path / "run", after=3)
    moved = tmp_path / "elsewhere" / f"{module.__name__}.py"
    (tmp_path / "code").rename(tmp_path / "elsewhere")
    forget()
    with pytest.raises(ResumeError, match="--import"):
        fedfm.resume(tmp_path / "run")
    beside = moved.with_name(f"{module.__name__}_beside.py")
    assert resume(tmp_path / "run", imports=[str(moved), str(beside)]).status == "finished"


def test_code_inside_a_run_directory_is_never_run(own: Any, tmp_path: Path) -> None:
    module, forget = own
    killed(quadratics(aggregate=module.OwnMean()), tmp_path / "run", after=3)
    planted = tmp_path / "run" / f"{module.__name__}.py"
    planted.write_text("raise SystemExit('code of a stranger')")
    path = tmp_path / "run" / "run.json"
    plan = json.loads(path.read_text())
    for one in plan["identity"]["imports"].values():
        one["file"] = str(planted)
    path.write_text(json.dumps(plan))
    forget()
    with pytest.raises(ResumeError, match="code in it is never run"):
        fedfm.resume(tmp_path / "run")


def test_differences_name_leaves_and_say_what_is_allowed() -> None:
    was = Identity({"client": {"lr": 0.1, "steps": [1, 2]}, "rounds": 5}, {"all": "x"}, {"weights": "a" * 64})
    now = Identity(
        {"client": {"lr": 0.2, "steps": [1, 3]}, "rounds": 9, "horizon": 5},
        {"all": "x"},
        {"weights": "b" * 64},
    )
    found = {d.what: (d.was, d.now, d.allowed) for d in was.differs(now, done=5)}
    assert found == {
        "client.lr": ("0.1", "0.2", False),
        "client.steps.1": ("2", "3", False),
        "rounds": ("5", "9", True),
        "base model.weights": ("a" * 12, "b" * 12, False),
    }
    assert was.differs(was) == [] and Identity.of(json.loads(json.dumps(was.plain()))).differs(was) == []
