"""What a run came to is computed once and said first: by the exception, the terminal, and summary.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import fedfm
from fedfm.cli import app
from fedfm.core.combine import Pipe
from fedfm.core.errors import ConfigError, RunFailed
from fedfm.core.federation import Federation
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.engines.inprocess import InProcess
from fedfm.incentives.selection.uniform import Uniform
from fedfm.pace import AllArrive
from fedfm.running.printed import table, verdict
from fedfm.running.progress import Lines
from fedfm.running.verdict import Result, judge, tally
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.trust.privacy.secure.secagg import SecAgg
from fedfm.trust.robustness.attack.label_flip import LabelFlip
from fedfm.trust.robustness.attack.sign_flip import SignFlip


def quadratics(**slots: Any) -> Federation:
    base: dict[str, Any] = {
        "client": Local(lr=0.02, steps=2, batch=0),
        "rounds": 4,
        "engine": InProcess(),
    }
    data = Quadratics(a=(1.0, 2.0, 5.0, 10.0), b=(0.0, 1.0, -1.0, 3.0))
    return Federation(Quadratic(dim=3), data, **base | slots)


# ---- failed ---------------------------------------------------------------------------------------------------
def test_a_run_whose_every_party_fails_raises_with_its_result(tmp_path: Path) -> None:
    with pytest.raises(RunFailed) as e:
        wild = {"client": Local(lr=1e38, steps=5, batch=0), "data": Quadratics(a=(1.0, 2.0), b=(3.0, 4.0))}
        fedfm.run(fedfm.replace(quadratics(), **wild), out=tmp_path / "run")
    result = e.value.result
    assert isinstance(result, Result) and result.status == "failed" and result.metric["federated"] is None
    assert "every round failed (4 of 4)" in str(e.value) and "never contributed" in str(e.value)
    told = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(told)[:2] == ["status", "reasons"] and told["reasons"] == list(result.reasons)
    assert repr(result).startswith("<failed; every round failed") and len(repr(result)) < 600
    with pytest.raises(RunFailed):  # whoever reads it again is told again
        fedfm.resume(tmp_path / "run")
    said = CliRunner().invoke(app, ["resume", str(tmp_path / "run")])
    assert said.exit_code == 1 and said.output.lstrip().startswith("failed")


def test_a_failed_run_is_judged_not_raised_twice_by_the_command(tmp_path: Path) -> None:
    (tmp_path / "q.yaml").write_text(
        "task: {name: quadratic}\ndata: {name: quadratics, a: [1.0, 2.0], b: [3.0, 4.0]}\n"
        "engine: {name: inprocess}\nrounds: 2\n"
        "client: {name: local, lr: 1.0e+38, steps: 5, batch: 0}\n"
    )
    ours = [str(tmp_path / "q.yaml"), "--baselines", "none", "--out", str(tmp_path / "run")]
    said = CliRunner().invoke(app, ["run", *ours])
    assert said.exit_code == 1 and "every round failed (2 of 2)" in said.output
    assert "Traceback" not in said.output


def test_a_model_that_is_not_finite_and_a_score_that_is_no_number_fail() -> None:
    whole = {"events": [], "rows": {"a": 1}, "malicious": (), "primary": "loss"}
    lines = [{"round": r, "metrics": {"loss": 1.0 - r / 8}} for r in range(3)]
    assert judge(records=lines, **whole).status == "finished"
    assert "not finite" in judge(records=lines, finite=False, **whole).reasons[0]
    for no_number in (float("nan"), float("inf"), None):  # the records write null for both
        lines[-1]["metrics"] = {"loss": no_number}
        found = judge(records=lines, **whole)
        assert found.status == "failed" and "cannot be scored" in found.reasons[0]
    lines[-1]["metrics"] = {}
    assert judge(records=lines, **whole).reasons == (
        "the model was never scored: there is no test row with a loss",
    )


def test_a_second_score_that_ends_as_no_number_fails_too() -> None:
    """A finite model of which the loss overflows still has an accuracy: that of chance."""
    whole = {"events": [], "rows": {"a": 1}, "malicious": (), "primary": "accuracy"}
    first, last = {"accuracy": 0.1, "loss": 2.3}, {"accuracy": 0.1, "loss": None}
    found = judge(records=[{"round": 0, "metrics": first}, {"round": 1, "metrics": last}], **whole)
    assert found.status == "failed" and "its loss is not a number" in found.reasons[0]
    both = judge(records=[{"round": 0, "metrics": last}, {"round": 1, "metrics": last}], **whole)
    assert both.status == "finished"  # it never was a number here
    named = judge(
        records=[{"round": 0, "metrics": first}, {"round": 1, "metrics": {**last, "accuracy": None}}], **whole
    )
    assert "its accuracy" in named.reasons[0]


# ---- findings -------------------------------------------------------------------------------------------------
def test_an_attack_that_cannot_act_is_refused_before_work(tmp_path: Path) -> None:
    """Label flipping on a task without labels would drop the attackers: the defence would only look perfect."""
    with pytest.raises(ConfigError, match="label-flip cannot act here"):
        fedfm.run(quadratics(adversary=LabelFlip(count=2)), out=tmp_path / "run")


def test_an_attacker_that_nobody_asked_never_attacked_either(tmp_path: Path) -> None:
    """It never raised: it was never drawn."""
    fed = quadratics(adversary=SignFlip(count=1), rounds=1, select=Uniform(count=1))
    outcomes = {
        fedfm.run(fedfm.replace(fed, seed=seed), out=tmp_path / str(seed)).reasons for seed in range(6)
    }
    assert () in outcomes and any("none of them was ever asked" in r[0] for r in outcomes if r)


def test_an_attack_that_was_refused_was_carried_out() -> None:
    """A detector that throws every attacker out is a success, not a finding."""
    events = [{"kind": "plan", "round": r, "client": None, "clients": ["a", "b"]} for r in range(3)]
    events += [{"kind": "upload", "round": r, "client": i} for r in range(3) for i in "ab"]
    events += [{"kind": "refused", "round": r, "client": "b", "reason": "too loud"} for r in range(3)]
    lines = [{"round": r, "metrics": {"loss": 1.0 - r / 8}} for r in range(4)]
    whole: dict[str, Any] = {"records": lines, "events": events, "rows": {"a": 1, "b": 1}, "primary": "loss"}
    assert judge(malicious={"b"}, **whole).status == "finished"
    honest = judge(malicious=(), **whole)
    assert honest.reasons == ("b never contributed (1 of 2 rows, the largest party among them): too loud",)


@pytest.mark.parametrize("failed", [False, True])
def test_who_was_on_the_way_when_the_run_ended_is_told_so(failed: bool) -> None:
    """An asynchronous run of a few steps: nothing of the slow party had failed."""
    events = [{"kind": "plan", "round": 0, "client": None, "clients": ["a", "b"]}]
    events += [{"kind": "upload", "round": r, "client": "a"} for r in range(3)]
    lines = [{"round": r, "metrics": {"loss": 1.0 - r / 8}} for r in range(4)]
    lines[1] |= {"failed": "no quorum"} if failed else {}
    told = judge(malicious=(), records=lines, events=events, rows={"a": 1, "b": 1}, primary="loss").reasons
    assert ("its rounds failed" in told[0]) == failed and (
        "on its way when the run ended" in told[0]
    ) != failed


def test_a_party_that_never_contributed_is_named_with_its_rows(tmp_path: Path) -> None:
    result = fedfm.run(quadratics(pace=AllArrive(drop={"party-2": "upload"})), out=tmp_path / "run")
    assert result.status == "finished with findings"
    assert result.reasons[0].startswith("party-2 never contributed (")


def test_a_party_that_failed_in_most_rounds_and_rounds_that_failed() -> None:
    events: list[dict[str, Any]] = []
    for r in range(4):
        events.append({"kind": "plan", "round": r, "client": None, "clients": ["a", "b"]})
        events.append({"kind": "upload", "round": r, "client": "a"})
        late = {"kind": "failed", "round": r, "client": "b", "error": "not today"}
        events.append(late if r < 3 else {"kind": "upload", "round": r, "client": "b"})
    lines: list[dict[str, Any]] = [{"round": r, "metrics": {"loss": 1.0 - r / 8}} for r in range(5)]
    whole: dict[str, Any] = {"rows": {"a": 5, "b": 1}, "malicious": (), "primary": "loss"}
    assert judge(records=lines, events=events, **whole).reasons == ("b failed in 3 of 4 rounds: not today",)
    lines[2]["failed"] = "too few"
    told = judge(records=lines, events=events, **whole)
    assert told.reasons[-1] == "1 of 4 rounds failed (round 2 first): too few"
    found = tally(events, {1})
    assert (found["a"].asked, found["a"].sent, found["a"].used) == (4, 4, 3)  # one was for nothing
    assert (found["b"].used, found["b"].lost["failed"]) == (1, 3)


def test_chance_alone_is_no_finding(tmp_path: Path) -> None:
    """Parties that were never drawn, and one drop-out in a while."""
    result = fedfm.run(quadratics(select=Uniform(count=1), rounds=2), out=tmp_path / "run")
    assert result.status == "finished" and result.reasons == ()


# ---- refused before work --------------------------------------------------------------------------------------
def test_an_adversary_without_a_member_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sign-flip has no malicious party(?s:.)*adversary.count=1"):
        fedfm.run(quadratics(adversary=SignFlip(fraction=0.1)), out=tmp_path / "run")


class Nobody(SignFlip):
    """An own attack that names parties which are not there."""

    names: frozenset[str] = frozenset({"clinic-0"})

    def members(self, ids: Any, ctx: Any) -> frozenset[str]:
        return self.names & frozenset(ids)


@pytest.mark.parametrize("own", [Nobody(count=1), Nobody(fraction=0.9)])
def test_an_own_adversary_that_names_nobody_is_told_whom_it_could_name(own: Any, tmp_path: Path) -> None:
    """It is not sent to a count or a share, which it does not read."""
    with pytest.raises(ConfigError, match=r"none of party-0, party-1(?s:.)*fix: let Nobody.members"):
        fedfm.run(quadratics(adversary=own), out=tmp_path / "run")
    one = type("One", (Nobody,), {"names": frozenset({"party-1"})})(count=1)
    assert (
        fedfm.run(quadratics(adversary=one, rounds=1), out=tmp_path / "one").summary["status"] == "finished"
    )


def test_a_party_that_is_too_heavy_for_secure_aggregation_is_refused(tmp_path: Path) -> None:
    """Its weight travels behind the update and would not fit: it would fail in every round, after its training."""
    from fedfm.data.digits import Digits
    from fedfm.data.partition.iid import Iid
    from fedfm.tasks.vision.image import ImageClassification

    fed = Federation(
        ImageClassification(channels=(4, 8)),
        Digits(train_rows=120, test_rows=20, partition=Iid(parties=3)),
        client=Local(lr=0.05, steps=1, batch=4),
        uplink=SecAgg(range_bound=33.0),
        engine=InProcess(),
        rounds=1,
    )
    with pytest.raises(ConfigError) as e:
        fedfm.run(fed, out=tmp_path / "run")
    (problem,) = e.value.problems
    assert problem.where == "uplink" and problem.fix.startswith("uplink.range_bound=")
    with pytest.raises(ConfigError) as e:
        fedfm.run(fedfm.replace(fed, uplink=Pipe(fed.uplink)), out=tmp_path / "pipe")
    (in_a_pipe,) = e.value.problems
    assert in_a_pipe.where == "uplink.0" and in_a_pipe.fix.startswith("uplink.0.range_bound=")
    assert fedfm.run(fedfm.replace(fed, uplink=SecAgg(range_bound=64.0)), out=tmp_path / "wide").status == (
        "finished"
    )
    equal = fedfm.replace(fed, aggregate=Mean(weights="equal"))
    assert fedfm.run(equal, out=tmp_path / "equal").status == "finished"


# ---- in Python, in a notebook, in the terminal ----------------------------------------------------------------
def test_a_result_shows_its_curve_and_itself(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    result = fedfm.run(quadratics(), out=tmp_path / "run", callbacks=[seen.append])
    history = result.history
    assert [r["round"] for r in seen] == [0, 1, 2, 3, 4] == list(history.index)
    assert history["loss"].iloc[-1] == result.summary["metrics"]["loss"] and "bytes/up" in history
    html = result._repr_html_()
    assert "<b>finished</b>" in html and "federated" in html
    assert repr(result) == str(result) and "finished: loss " in repr(result)
    assert Result.read(tmp_path / "run").summary == result.summary


def test_without_pandas_the_curve_is_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = fedfm.run(quadratics(rounds=1), out=tmp_path / "run")
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    assert [r["round"] for r in result.history] == [0, 1] and "loss" in result.history[0]


def test_what_a_notebook_shows_of_a_stranger_is_text(tmp_path: Path) -> None:
    told = {"status": "failed", "reasons": ["<script>"], "rounds": 0, "metric": {"name": "<b>", "base": 1.0}}
    assert "<script>" not in Result(tmp_path, told)._repr_html_()
    console = Console(width=200)
    with console.capture() as said:
        console.print(verdict(told | {"reasons": ["[red]brackets[/red] stay"]}))
    assert "[red]brackets[/red] stay" in said.get()


def test_trackers_are_names_or_objects(tmp_path: Path) -> None:
    class Mine:
        def __init__(self) -> None:
            self.seen: list[int] = []
            self.closed = 0

        def log(self, round: int, metrics: dict[str, float]) -> None:
            self.seen.append(round)

        def close(self) -> None:
            self.closed += 1

    mine = Mine()
    fedfm.run(quadratics(rounds=2), out=tmp_path / "run", trackers=[mine])
    assert mine.seen == [0, 1, 2] and mine.closed == 1
    for bad, words in (
        ({"trackers": [3]}, "int is no tracker"),
        ({"callbacks": [3]}, "int cannot be called"),
    ):
        with pytest.raises(ConfigError, match=words):
            fedfm.run(quadratics(), out=tmp_path / "bad", **bad)
        assert not (tmp_path / "bad").exists()
    with pytest.raises(ConfigError, match="no tracker 'tensorbord'"):
        fedfm.run(quadratics(), out=tmp_path / "bad", trackers="tensorbord")


def test_progress_in_python_is_a_line_a_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fedfm.run(quadratics(rounds=2), out=tmp_path / "run", progress=True)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and said[1].startswith("round   1  loss ") and "4/4 parties" in said[1]
    fedfm.run(quadratics(rounds=2), out=tmp_path / "quiet")
    assert capsys.readouterr().out == "" and Lines is not None


def test_scores_of_parties_stand_in_the_table_where_records_hold_them() -> None:
    told: dict[str, Any] = {
        "metric": {"name": "accuracy", "base": 0.1, "local": 0.2, "federated": 0.5, "pooled": None},
        "metrics": {"accuracy": 0.5, "accuracy/a": 0.25, "accuracy/b": 0.75},
        "parties": {"a": {}, "b": {}},
        "privacy": None,
        "bytes": {"up": 1, "down": 1, "talk": 0},
        "trainable_parameters": 1,
        "total_parameters": 2,
        "failures": {},
        "seconds": 1.0,
        "dropped": {},
    }

    def shown() -> str:
        console = Console(width=200)
        with console.capture() as said:
            console.print(table(told, "runs/x"))
        return " ".join(said.get().split())

    assert "a, its own rows 0.250" in shown() and "b, its own rows 0.750" in shown()
    told["parties"] = {f"p{k}": {} for k in range(20)}
    told["metrics"] = {f"accuracy/p{k}": k / 20 for k in range(20)}
    assert "parties, own rows 0.000 (p0) .. 0.950 (p19)" in shown()


@pytest.mark.parametrize(("phase", "counts"), [("unmask", True), ("upload", False)])
def test_who_goes_away_after_its_upload_has_contributed(phase: str, counts: bool, tmp_path: Path) -> None:
    pace = fedfm.Quorum(fraction=0.5, drop={"party-1": phase})
    fed = fedfm.replace(quadratics(), uplink=SecAgg(threshold=0.62), pace=pace, rounds=1)
    run = fedfm.run(fed, out=tmp_path / "run")
    never = [r for r in run.reasons if "party-1 never contributed" in r]
    assert bool(never) is not counts, run.reasons
