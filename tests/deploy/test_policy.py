"""A site's policy is read strictly, is asked before work and before bytes leave, and the server cannot get round it."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

import fedfm
import golden
from federations import digits
from fedfm.config.record import digest, to_config
from fedfm.core.context import Terms
from fedfm.core.errors import ClientFailed, FedfmError, MachineFault
from fedfm.core.job import Job
from fedfm.deploy.server import Service, serve
from fedfm.deploy.site.journal import Journal, answered, bind
from fedfm.deploy.site.policy import Epsilon, Needs, Policy, epsilon, reserve
from fedfm.deploy.site.receipts import FILE, Receipts
from loopback import Loopback, played


def read(text: str, folder: Path) -> Policy:
    path = folder / "site.yaml"
    path.write_text(text)
    return Policy.read(path)


def served(name: str, folder: Path, policy: Policy, **service: Any) -> tuple[Any, Loopback]:
    """A run in which party-1 has a policy."""
    carrier = Loopback(folder, policies={"party-1": policy})
    more = {"listen": carrier.listen, "clock": carrier.clock, "wait_s": 30.0} | service
    return serve(digits(**golden.ALL[name]), folder, Service(**more)), carrier


# ---- the file -------------------------------------------------------------------------------------------------
def test_a_whole_policy_is_read(tmp_path: Path) -> None:
    found = read(
        "authority: ab12\nconfigs: [aa]\nmodels: [minilm]\nkinds: [delta]\nphases: [upload]\njobs: [train]\n"
        "needs: {clip_norm: 1, secure_aggregation: 3}\nepsilon: {run: 3, life: 8.5}\nmost_bytes: 1000\nmost_steps: 5\n"
        'most_rounds: 9\nhours: ["22:00", "06:30"]\ntell: [loss]\n',
        tmp_path,
    )
    assert (
        found.needs == Needs(1.0, 3)
        and found.epsilon == Epsilon(3.0, 8.5)
        and found.hours == ("22:00", "06:30")
    )
    assert read("", tmp_path) == Policy() == read("{}", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "most_byte: 5",
        "most_bytes: -1",
        "most_bytes: 1.5",
        "most_bytes: true",
        "most_bytes: '5'",
        "needs: {clip: 1}",
        "needs: 3",
        "epsilon: {run: .inf}",
        "epsilon: {run: .nan}",
        "epsilon: {run: 0}",
        "hours: ['22:00']",
        "hours: ['25:00', '06:00']",
        "kinds: delta",
        "kinds: [1]",
        "[a, b]",
        "a: [",
        "phases: {upload: yes}",
    ],
)
def test_what_cannot_be_kept_is_no_policy(text: str, tmp_path: Path) -> None:
    with pytest.raises(FedfmError):
        read(text, tmp_path)
    with pytest.raises(FedfmError):
        Policy.read(tmp_path / "missing.yaml")


# ---- what it refuses ------------------------------------------------------------------------------------------
REFUSED: dict[str, tuple[Policy, str]] = {
    "config": (Policy(configs=("ab",)), "configs: this one's digest is"),
    "kind": (Policy(kinds=("weights",)), "kinds: it sends 'delta'"),
    "rounds": (Policy(most_rounds=1), "most_rounds: 3 rounds"),
    "steps": (Policy(most_steps=1), "most_steps:"),
    "clip": (Policy(needs=Needs(clip_norm=1.0)), "clipped to nothing"),
    "sums": (Policy(needs=Needs(secure_aggregation=2)), "would see single updates"),
    "epsilon": (Policy(epsilon=Epsilon(run=1.0)), "promises none"),
    "life": (Policy(epsilon=Epsilon(life=1.0)), "promises none"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_federation_that_does_not_fit_is_refused_and_told_why(name: str, tmp_path: Path) -> None:
    policy, why = REFUSED[name]
    with pytest.raises(MachineFault, match=f"(?s)not here: party-1.*its policy refuses: .*{why}"):
        served("fedavg", tmp_path / "run", policy)
    assert not list(tmp_path.glob("run/sites/party-1/receipts.jsonl"))


def test_what_fits_runs_and_leaves_receipts(tmp_path: Path) -> None:
    config = to_config(digits(**golden.ALL["fedavg"]))
    policy = Policy(
        configs=(digest(config),),
        kinds=("delta",),
        phases=("upload",),
        jobs=("train",),
        most_rounds=3,
        most_bytes=1 << 20,
    )
    result, _ = served("fedavg", tmp_path / "run", policy)
    assert result.status == "finished"
    receipts = Receipts(tmp_path / "run" / "sites" / "party-1")
    lines = list(receipts.lines())
    assert [e["round"] for e in lines] == [0, 1, 2] and all(e["phase"] == "upload" for e in lines)
    assert all(e["norm"] > 0 and e["tensors"]["x"][0] == "float32" and len(e["sha256"]) == 64 for e in lines)


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (Policy(most_bytes=100), "100 bytes leave at once"),
        (Policy(phases=("mask",)), "no 'upload' leave"),
        (Policy(jobs=("own",)), "no job of the kind 'train'"),
    ],
)
def test_what_may_not_leave_does_not(policy: Policy, why: str, tmp_path: Path) -> None:
    result, carrier = served("fedavg", tmp_path / "run", policy)
    assert result.status == "finished with findings" and why in " ".join(result.reasons)
    said = [head for name, head in carrier.said if name == "party-1" and head["do"] == "said"]
    assert said and all(head["phase"] == "gone" for head in said)
    assert not list(tmp_path.glob("run/sites/party-1/receipts.jsonl"))


def test_a_job_asks_for_no_more_than_is_allowed() -> None:
    job = Job("train", "a", 1, terms=Terms(steps=50))
    with pytest.raises(ClientFailed, match="allows 10 steps"):
        Policy(most_steps=10).enter(job)
    night = Policy(hours=("22:00", "06:00"))
    night.enter(job, datetime.time(23, 0)), night.enter(job, datetime.time(5, 59))
    for outside in (datetime.time(6, 0), datetime.time(12, 0), datetime.time(21, 59)):
        with pytest.raises(ClientFailed, match="works from 22:00 to 06:00"):
            night.enter(job, outside)
    day = Policy(hours=("08:00", "17:00"))
    day.enter(job, datetime.time(8, 0))
    with pytest.raises(ClientFailed):
        day.enter(job, datetime.time(17, 0))


def test_protection_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    noisy, secure = digits(**golden.ALL["local noise"]), digits(**golden.ALL["secure"])
    cost = epsilon(noisy, 3)
    assert cost is not None
    for fed, needs, fits in (
        (noisy, Policy(needs=Needs(clip_norm=100.0)), True),
        (noisy, Policy(needs=Needs(clip_norm=1e-3)), False),
        (noisy, Policy(epsilon=Epsilon(run=cost + 0.1)), True),
        (noisy, Policy(epsilon=Epsilon(run=cost - 0.1)), False),
        (secure, Policy(needs=Needs(secure_aggregation=3)), True),
        (secure, Policy(needs=Needs(secure_aggregation=50)), False),
    ):
        assert (needs.refuses(fed, to_config(fed), 3, 10) == []) == fits


def test_noise_that_the_server_is_to_add_counts_where_it_is_trusted(tmp_path: Path) -> None:
    central = digits(**golden.ALL["central noise"])
    for policy, fits in (
        (Policy(epsilon=Epsilon(run=1e6)), False),
        (Policy(epsilon=Epsilon(run=1e6, against="recipients")), True),
    ):
        wrong = policy.refuses(central, to_config(central), 6, 10)
        assert (wrong == []) == fits and all("the server's to add" in w for w in wrong)
    assert read("epsilon: {run: 3, against: recipients}", tmp_path).epsilon.against == "recipients"
    with pytest.raises(FedfmError, match="there is no 'nobody'"):
        read("epsilon: {against: nobody}", tmp_path)


def test_a_masked_config_is_answered_in_one_run_only(tmp_path: Path) -> None:
    """Of two sums of one update with other cohorts the difference would be a party's own."""
    states = tmp_path / "states"
    for run, rounds in (("0" * 16, {}), ("1" * 16, {3: 7})):
        bind(states / run / "config", run, "digest")
        journal = Journal(states / run / "journal.json")
        for t, epoch in rounds.items():
            journal.speaks(Job("train", "a", epoch, round=t))
    assert answered(states, "2" * 16, "digest") == "1" * 16
    assert answered(states, "1" * 16, "digest") == answered(states, "2" * 16, "other") == ""


def test_a_second_run_of_a_masked_config_is_refused_at_the_site(tmp_path: Path) -> None:
    fed = digits(**golden.ALL["secure"])
    assert played(fed, tmp_path / "one").status == "finished"

    def again(name: str, fed: Any) -> Any:
        carrier = Loopback(tmp_path / name)
        carrier.homes = tmp_path / "one" / "sites"
        service = Service(listen=carrier.listen, clock=carrier.clock, wait_s=30.0)
        return serve(fed, tmp_path / name, service)

    with pytest.raises(MachineFault, match="was answered in run .* already, under secure aggregation"):
        again("two", fed)
    assert again("three", fedfm.replace(fed, seed=1)).status == "finished"


def test_a_life_is_booked_once_a_run_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "life.json"
    reserve(path, "a", 3.0, 8.0), reserve(path, "a", 3.0, 8.0), reserve(path, "b", 4.0, 8.0)
    with pytest.raises(FedfmError, match="7.00 is spent, this run plans 2.00"):
        reserve(path, "c", 2.0, 8.0)
    path.write_text("nothing")
    with pytest.raises(FedfmError, match="is not known"):
        reserve(path, "a", 3.0, 8.0)


def test_errors_are_told_where_the_policy_lets_them() -> None:
    assert Policy().worded("it broke") == "it broke" == Policy(tell=("errors",)).worded("it broke")
    assert Policy(tell=()).worded("a row: 17") == "it failed" and Policy(tell=()).worded("") == ""


# ---- receipts -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spoil", ["change", "take out", "swap", "forge", "noise"])
def test_receipts_that_were_touched_do_not_hold(spoil: str, tmp_path: Path) -> None:
    served("fedavg", tmp_path / "run", Policy())
    folder = tmp_path / "run" / "sites" / "party-1"
    path = folder / FILE
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    if spoil == "change":
        lines[1] = json.dumps(json.loads(lines[1]) | {"bytes": 1})
    elif spoil == "take out":
        del lines[1]
    elif spoil == "swap":
        lines[0], lines[1] = lines[1], lines[0]
    elif spoil == "forge":
        (other := tmp_path / "other").mkdir()
        served("fedavg", other / "run", Policy())
        lines[1] = (other / "run" / "sites" / "party-1" / FILE).read_text().splitlines()[1]
    else:
        lines[1] = "[]"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(FedfmError, match=r"receipts.jsonl:\d"):
        Receipts(folder)
