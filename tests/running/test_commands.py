"""The commands around a run: check in three depths, sweeps, predictions, exports, the doctor."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import fedfm
from fedfm.cli import app
from fedfm.core.errors import ConfigError, ModelError, ResumeError
from fedfm.core.federation import Federation
from fedfm.data.files import Files
from fedfm.efficiency.computation.tuning.full import Full
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.engines.inprocess import InProcess
from fedfm.models import tiny
from fedfm.running.commands import tuned
from fedfm.running.commands.checking import here, probe
from fedfm.running.commands.sweep import axes, sweep, table
from fedfm.running.commands.tuned import export, read_texts
from fedfm.running.execute import configure
from fedfm.running.record.folder import owned
from fedfm.tasks.text.causal import CausalLM
from fedfm.tasks.text.classify import SequenceClassification
from stopping import apart

Q = """
task: {name: quadratic}
data: {name: quadratics, a: [1.0, 2.0, 5.0], b: [3.0, 4.0, 5.0]}
client: {name: local, lr: 0.02, steps: 2, batch: 0}
engine: {name: inprocess}
rounds: 2
"""


def fedfm_(*args: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture
def q(tmp_path: Path) -> Path:
    (tmp_path / "q.yaml").write_text(Q)
    return tmp_path / "q.yaml"


def rows(folder: Path, name: str, n: int, **more: Any) -> None:
    lines = [
        {"text": f"{name} {k} " * 3, "label": "ab"[k % 2], "instruction": f"{name} {k}", "answer": "yes"}
        for k in range(n)
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(r | more) + "\n" for r in lines))


def texts(folder: Path, kind: str, **task: Any) -> Federation:
    rows(folder, "left", 10)
    rows(folder, "right", 10)
    model = str(tiny("encoder" if kind == "classify" else "causal-lm", folder / "model"))
    of = SequenceClassification if kind == "classify" else CausalLM
    columns = {"instruction": "instruction", "answer": "answer"} if kind == "causal" else {}
    return Federation(
        of(model=model, max_tokens=48, **{"tuning": LoRA(r=2), **task}),
        Files(str(folder / "*.jsonl"), columns=columns),
        client=Local(lr=0.05, steps=2, batch=4),
        engine=InProcess(),
        rounds=2,
    )


# ---- check ----------------------------------------------------------------------------------------------------
def test_check_has_three_depths(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(configure(texts(tmp_path, "classify")).config))
    said = fedfm_("check", config)
    assert said.exit_code == 0 and "no problems" in said.output and "seconds of local work" in said.output
    said = fedfm_("check", config, "task.model=some-org/some-model")
    assert said.exit_code == 0 and "not probed: some-org/some-model is not here" in said.output
    assert "no problems" not in said.output and "rows to train on / to test on" in said.output
    said = fedfm_("check", config, "--no-model", "data.path=/nowhere/*.jsonl")
    assert said.exit_code == 0 and "no problems" not in said.output and "not looked at" in said.output
    assert fedfm_("check", config, "data.path=/nowhere/*.jsonl").exit_code != 0


def test_check_never_fetches_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a packaged model, of the hub, and of a model that is made on the spot (which is always here)."""
    monkeypatch.setenv("FEDFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert not here("minilm") and not here("org/name") and not here("org/name@main")
    assert here("tiny-encoder") and here("./a-folder") and here(str(tmp_path))
    said = fedfm_("check", "quickstart", "data.train_rows=200")
    assert "not probed: minilm is not here" in said.output
    assert not list((tmp_path / "cache" / "models").glob("minilm*")) and not (tmp_path / "hub").exists()


def test_check_says_which_rows_are_left_out(tmp_path: Path) -> None:
    fed = texts(tmp_path, "classify")
    rows(tmp_path, "third", 4)
    path = tmp_path / "third.jsonl"
    path.write_text(path.read_text() + json.dumps({"text": "", "label": "a"}) + "\n")
    found = probe(configure(fed))
    assert found.lost.rows() == 1 and "1 rows are left out" in found.remarks[0]
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(configure(fed).config))
    said = fedfm_("check", config)
    assert "left out" in said.output and "no problems" not in said.output


# ---- sweep and repeats ----------------------------------------------------------------------------------------
def test_axes_split_at_commas_outside_of_brackets() -> None:
    grid, plain = axes(
        ["client.lr=1e-4,1e-3", "uplink={name: topk, fraction: 0.1}", "data.a=[1,2]", "seed=0"]
    )
    assert grid == {"client.lr": ["1e-4", "1e-3"]}
    assert plain == ["uplink={name: topk, fraction: 0.1}", "data.a=[1,2]", "seed=0"]
    assert axes(["uplink={name: topk, fraction: 0.1},null"])[0] == {
        "uplink": ["{name: topk, fraction: 0.1}", "null"]
    }
    with pytest.raises(ConfigError, match="given twice"):
        axes(["seed=0,1", "seed=2,3"])


def test_a_sweep_is_a_grid_with_mean_and_spread_over_seeds(q: Path, tmp_path: Path) -> None:
    said = fedfm_(
        "sweep",
        q,
        "client.lr=0.01,0.02",
        "seed=0,1,2",
        "select={name: uniform, count: 1}",
        "--out",
        tmp_path / "s",
    )
    assert said.exit_code == 0, said.output
    told = json.loads((tmp_path / "s" / "sweep.json").read_text())["table"]
    assert "Over seeds" in (tmp_path / "s" / "report.html").read_text()
    assert [r["settings"] for r in told] == [{"client.lr": 0.01}, {"client.lr": 0.02}]
    scores = [
        json.loads((tmp_path / "s" / f"client.lr=0.01,seed={k}" / "summary.json").read_text())
        for k in range(3)
    ]
    values = [s["metric"]["federated"] for s in scores]
    assert len(set(values)) > 1  # the seeds drew other cohorts
    assert told[0]["federated"] == pytest.approx(statistics.fmean(values))
    assert told[0]["federated_spread"] == pytest.approx(statistics.stdev(values))
    assert told[0]["status"] == {"finished": 3} and " ± " in said.output


def test_a_sweep_goes_on_where_it_stopped(q: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedfm.running.commands import sweep as sweeping

    begun: list[str] = []
    execute = sweeping.execute

    def counting(config: Any, out: Path, **more: Any) -> Any:
        begun.append(out.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return execute(config, out, **more)

    monkeypatch.setattr(sweeping, "execute", counting)
    with pytest.raises(KeyboardInterrupt):
        sweep(q, ["seed=0,1,2"], out=tmp_path / "s")
    points = sweep(q, ["seed=0,1,2"], out=tmp_path / "s")
    assert begun == ["seed=0", "seed=1", "seed=1", "seed=2"]  # the finished one was read
    assert [p.result is not None for p in points] == [True] * 3 and table(points)[0]["runs"] == 3
    with pytest.raises(ConfigError, match="a run of another config"):
        sweep(q, ["seed=0,1,2", "client.steps=3"], out=tmp_path / "s")


def test_all_points_are_checked_before_the_first_run(q: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"client\.lr"):
        sweep(q, ["client.lr=0.01,fast"], out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_point_that_fails_is_a_row(q: Path, tmp_path: Path) -> None:
    said = fedfm_("sweep", q, "client.lr=0.01,1.0e+38", "client.steps=5", "--out", tmp_path / "s")
    assert said.exit_code == 1 and "1 failed" in said.output and "1 finished" in said.output


@pytest.mark.parametrize("frees", [True, False])
def test_a_point_that_another_sweep_works_on_is_looked_at_again(frees: bool, q: Path, tmp_path: Path) -> None:
    """Two sweeps in one folder: what the other one has finished meanwhile is no 'not run'."""
    sweep(q, ["seed=0,1"], out=tmp_path)
    with contextlib.ExitStack() as held:
        held.enter_context(owned(tmp_path / "seed=0"))

        def begins(point: Any, k: int, n: int) -> None:
            if frees and k == 2:
                held.close()

        done = sweep(q, ["seed=0,1,2"], out=tmp_path, progress=begins)
    ran = [p.result is not None and p.result.status for p in done]
    assert ran == ["finished" if frees else False, "finished", "finished"]
    (row,) = json.loads((tmp_path / "sweep.json").read_text())["table"]
    assert row["status"]["finished"] == 2 + frees and frees == ("not run" not in str(row["status"]))
    assert frees or "is being written by process" in str(row["status"])


def test_repeats_begin_at_the_seed_that_is_said_and_leave_no_option_out(q: Path, tmp_path: Path) -> None:
    q.write_text(Q + "seed: 5\n")
    for n, (given, seeds) in enumerate({(): (5, 6), ("seed=8",): (8, 9), ("--seed", 2): (2, 3)}.items()):
        out = tmp_path / f"s{n}"
        options = ("--keep-rounds", 1, "--tracker", "tensorboard", "--baselines", "none", "--out", out)
        said = fedfm_("run", q, *given, "--repeats", 2, *options)
        assert said.exit_code == 0, said.output
        for seed in seeds:
            run = out / f"seed={seed}"
            assert sorted(p.name for p in (run / "rounds").iterdir()) == ["000000", "000001", "000002"]
            assert json.loads((run / "run.json").read_text())["trackers"] == ["tensorboard"]
        assert len(list(out.glob("seed=*"))) == 2
    said = fedfm_("run", q, "seed=1,2", "--repeats", 2, "--out", tmp_path / "twice")
    assert isinstance(said.exception, ConfigError) and "this axis is given twice" in str(said.exception)
    said = fedfm_(
        "run", q, "client.steps=1,2", "--repeats", 2, "--baselines", "none", "--out", tmp_path / "grid"
    )
    assert said.exit_code == 0 and len(list((tmp_path / "grid").glob("*seed=*"))) == 4


def test_repeats_are_as_strict_as_one_run(q: Path, tmp_path: Path) -> None:
    """A run with findings: a party that never contributed."""
    q.write_text(Q + "pace: {name: synchronous, drop: {party-0: upload}}\n")
    for n, repeats in enumerate((1, 2)):
        for strict in (False, True):
            options = ("--baselines", "none", "--out", tmp_path / f"s{n}{strict}", *["--strict"] * strict)
            assert fedfm_("run", q, "--repeats", repeats, *options).exit_code == int(strict), (
                repeats,
                strict,
            )


def test_a_sweep_says_which_setting_gives_way(q: Path, tmp_path: Path) -> None:
    said = fedfm_("sweep", q, "client.steps=1", "client.steps=2,3", "--out", tmp_path / "s")
    assert said.exit_code == 0 and "client.steps=1 gives way to client.steps=2" in said.output


def test_repeats_are_the_sweep_over_seeds(q: Path, tmp_path: Path) -> None:
    said = fedfm_("run", q, "--repeats", 2, "--seed", 3, "--baselines", "none", "--out", tmp_path / "s")
    assert said.exit_code == 0 and " ± " in said.output
    assert {p.name for p in (tmp_path / "s").iterdir()} == {"seed=3", "seed=4", "sweep.json", "report.html"}


# ---- the tuned model ------------------------------------------------------------------------------------------
def test_predict_asks_the_tuned_model(tmp_path: Path) -> None:
    run = fedfm.run(texts(tmp_path, "classify"), out=tmp_path / "run").folder
    (tmp_path / "t.txt").write_text("left 1\nright 2\n")
    (tmp_path / "t.csv").write_text('text,other\n"left, 1",x\nright 2,y\n')
    said = fedfm_("predict", run, "--text", "left 1", "--file", tmp_path / "t.txt")
    assert said.exit_code == 0 and len(said.output.split()) == 3 and set(said.output.split()) <= {"a", "b"}
    said = fedfm_("predict", run, "--file", tmp_path / "t.csv", "--json")
    assert [json.loads(line)["text"] for line in said.output.splitlines()] == ["left, 1", "right 2"]
    assert read_texts(tmp_path / "left.jsonl")[0] == "left 0 left 0 left 0 "
    assert read_texts(tmp_path / "left.jsonl", "instruction")[0] == "left 0"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.jsonl", '{"other": 1}\n', "has no column text or instruction"),
        ("x.jsonl", "{half\n", "x.jsonl:1: not valid JSON"),
        ("x.jsonl", '{"text": 3}\n', "there is no text in row 1 of the column text"),
        ("x.csv", "", "has no column"),
        ("gone.txt", None, "cannot be read"),
    ],
)
def test_texts_that_cannot_be_read_are_said(
    name: str, content: str | None, words: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(fedfm.core.errors.DataError, match=words):  # type: ignore[attr-defined]
        read_texts(tmp_path / name)


def test_what_is_no_run_with_a_model_is_said(q: Path, tmp_path: Path) -> None:
    fedfm.run(str(q), out=tmp_path / "quadratic")
    for folder in (tmp_path / "quadratic", tmp_path / "nothing"):
        for command in (["predict", folder, "--text", "x"], ["export", folder]):
            said = fedfm_(*command)
            assert isinstance(said.exception, ModelError) and "no tuned text model" in str(said.exception)
            told = str(said.exception)
            assert ("README.md shows how to load it" in told) == (folder.name == "quadratic"), told
    said = fedfm_("predict", tmp_path / "quadratic")
    assert isinstance(said.exception, ConfigError)


@pytest.mark.parametrize("kind", ["classify", "causal"])
@pytest.mark.parametrize("tuning", [LoRA(r=2), Full()], ids=["lora", "full"])
def test_an_exported_model_has_the_reported_score(kind: str, tuning: Any, tmp_path: Path) -> None:
    """Read back by the library alone, without an adapter, and scored on the run's own test rows."""
    import transformers

    run = fedfm.run(texts(tmp_path, kind, tuning=tuning), out=tmp_path / "run").folder
    found = export(run, tmp_path / "out", merged=True)
    assert found.scores["loss"] == pytest.approx(found.reported["loss"], rel=1e-3)
    assert not list((tmp_path / "out").glob("adapter*")) and (tmp_path / "out" / "tokenizer.json").exists()
    auto = transformers.AutoModel if kind == "classify" else transformers.AutoModelForCausalLM
    network = auto.from_pretrained(tmp_path / "out")
    assert not any("lora" in n for n, _ in network.named_parameters())
    again = export(tmp_path / "out", tmp_path / "copy", merged=False)
    assert again.unscored == "it is no run directory"


def test_an_export_of_an_earlier_round_is_told_when_the_run_goes_on(tmp_path: Path) -> None:
    fed = texts(tmp_path, "classify")
    fedfm.run(fed, rounds=1, baselines="none", out=tmp_path / "run")
    export(tmp_path / "run", None, merged=False)
    with pytest.warns(UserWarning, match="export in .*run is of round 1: export again"):
        fedfm.resume(tmp_path / "run", rounds=2)


def test_an_adapter_is_exported_as_peft_expects_it(tmp_path: Path) -> None:
    import peft
    import transformers

    run = fedfm.run(texts(tmp_path, "causal"), out=tmp_path / "run").folder
    said = fedfm_("export", run, "--to", tmp_path / "out")
    assert said.exit_code == 0 and "(reported " in said.output
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert peft.PeftModel.from_pretrained(base, str(tmp_path / "out")).peft_config
    said = fedfm_("export", run, "--to", tmp_path / "out")
    assert isinstance(said.exception, ModelError) and "is not empty" in str(said.exception)


def test_a_merged_model_that_is_another_model_is_refused(tmp_path: Path) -> None:
    run = fedfm.run(texts(tmp_path, "causal"), out=tmp_path / "run").folder
    told = json.loads((run / "summary.json").read_text())
    told["metrics"]["loss"] += 0.5  # as if merging had moved it
    (run / "summary.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match="not the one that was scored"):
        export(run, tmp_path / "out", merged=True)
    assert not (tmp_path / "out").exists()


def test_a_model_outlives_the_records_of_its_run(tmp_path: Path) -> None:
    """A prediction needs no record; an export that is compared with nothing says so, or what cannot be read."""
    run = fedfm.run(texts(tmp_path, "classify"), out=tmp_path / "run").folder
    sound = (run / "summary.json").read_bytes()
    for n, content in enumerate((b"", b"null\n", b"{}\n", b"\xff\n")):
        (run / "summary.json").write_bytes(content)
        assert fedfm_("predict", run, "--text", "x").exit_code == 0
        said = fedfm_("export", run, "--to", tmp_path / f"out-{n}")
        assert isinstance(said.exception, ResumeError) and "summary.json cannot be read" in str(
            said.exception
        )
        assert not (tmp_path / f"out-{n}").exists()
    (run / "summary.json").write_bytes(sound)
    for content in (b"\xff\xfe\xff", b"[", b"[1]"):
        (run / "config.yaml").write_bytes(content)
        said = fedfm_("export", run, "--to", tmp_path / "out")
        assert said.exit_code == 0 and "not scored: " in said.output
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("merged", [False, True])
def test_a_killed_export_leaves_no_model_and_no_hindrance(merged: bool, tmp_path: Path) -> None:
    run, out = fedfm.run(texts(tmp_path, "classify"), out=tmp_path / "run").folder, tmp_path / "out"
    out.mkdir()  # a folder that is there and empty may be given

    def killed() -> None:
        tuned._scored = lambda *given: os._exit(9)  # type: ignore[assignment]
        export(run, out, merged=merged)

    apart(killed)
    (left,) = out.iterdir()
    assert left.name.startswith(".making.") and any(left.iterdir())
    said = fedfm_("predict", out, "--text", "x")
    assert isinstance(said.exception, ModelError) and "no tuned text model" in str(said.exception)
    export(run, out, merged=merged)
    assert not list(out.glob(".*")) and fedfm_("predict", out, "--text", "x").exit_code == 0
    other = tmp_path / "other" / f".making.{os.getpid()}"  # that of an export which goes on
    other.mkdir(parents=True)
    with pytest.raises(ModelError, match="other is not empty"):
        export(run, other.parent, merged=merged)
    assert other.exists()


# ---- doctor, version ------------------------------------------------------------------------------------------
def test_the_doctor_says_what_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDFM_CACHE", str(tmp_path / "cache"))
    told = json.loads(fedfm_("doctor", "--json").output)
    assert set(told) == {"versions", "extras", "machine", "models", "recipes"}
    assert told["versions"]["torch"] and told["machine"]["cores"] and "not here" in told["models"]["minilm"]
    assert told["recipes"]["quickstart"] == "would fetch minilm first"
    assert "cores" in fedfm_("doctor").output


def test_the_version_is_said() -> None:
    said = fedfm_("--version")
    assert said.exit_code == 0 and said.output.strip() == f"fedfm {fedfm.__version__}"
