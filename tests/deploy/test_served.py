"""A federation that is served to parties gives the bits of its simulation; what befalls them costs at most their round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedfm
import golden
from federations import digits
from fedfm.core.errors import ConfigError, FedfmError, MachineFault, ResumeError, RunFailed
from fedfm.deploy.course.replay import replay
from fedfm.deploy.letters import Letter
from fedfm.deploy.server import Service, again, serve, unfit
from fedfm.deploy.site.journal import Journal
from fedfm.deploy.site.party import Party
from fedfm.deploy.transport import SERVER, Frame
from fedfm.running.verdict import Result
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from loopback import Fate, Killed, Loopback, played

FAULTY = ["fedavg", "scaffold", "feedback, quantised", "split, talk coded", "buffered", "secure"]
SERVED = [
    n
    for n, slots in golden.ALL.items()
    if n != "scored by party" and not unfit(digits(**slots), rehearsal=True)
]
SAMPLE = [
    "fedavg",
    "scaffold",
    "feedback, quantised",
    "split, talk coded",
    "buffered",
    "deadline",
    "auction",
    "secure",
]
COMPARED = ("model_digest", "ledger_digest", "metrics", "status", "reasons")


def outcome(run: Callable[[], Result]) -> Any:
    """Digests of a run; of one that is refused the reasons, of one that fails the digests all the same."""
    try:
        summary = run().summary
    except RunFailed as e:
        summary = e.result.summary
    except ConfigError as e:
        return str(e)
    return summary["status"], summary["model_digest"], summary["ledger_digest"]


def same(name: str, folder: Path) -> None:
    fed = digits(**golden.ALL[name])
    alone = outcome(lambda: fedfm.run(fed, out=folder / "alone", engine="inprocess"))
    assert outcome(lambda: played(fed, folder / "apart")) == alone


@pytest.mark.parametrize("name", SAMPLE)
def test_the_bits_of_the_simulation(name: str, tmp_path: Path) -> None:
    same(name, tmp_path)


def test_noise_that_is_calibrated_for_an_epsilon_is_the_same_at_every_party(tmp_path: Path) -> None:
    noise = LocalGaussian(noise_multiplier=None, epsilon=8.0)
    fed = fedfm.replace(digits(**golden.ALL["fedavg"]), uplink=noise)
    alone = fedfm.run(fed, out=tmp_path / "alone", engine="inprocess").summary
    apart = played(fed, tmp_path / "apart").summary
    assert apart["model_digest"] == alone["model_digest"] and apart["privacy"] == alone["privacy"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in SERVED if n not in SAMPLE])
def test_the_bits_of_every_simulation(name: str, tmp_path: Path) -> None:
    same(name, tmp_path)


# ---- faults ---------------------------------------------------------------------------------------------------
def faulty(seed: int, folder: Path) -> None:
    """A run that links and processes are lost in ends, says so, is the same again from the same seed, and in one process."""
    name = FAULTY[seed % len(FAULTY)]
    found = []
    for time in ("one", "two"):
        fate = Fate(seed, cut=0.03, kill=0.02, most=6)
        try:
            summary = played(digits(**golden.ALL[name]), folder / time, fate).summary
        except RunFailed as e:
            summary = e.result.summary
            assert "every round failed" in str(e)
        found.append((summary["model_digest"], summary["ledger_digest"], fate.told))
    alone = replay(folder / "two", folder / "alone").summary
    assert found[0] == found[1]
    assert [alone[k] for k in COMPARED] == [summary[k] for k in COMPARED]
    assert summary["rounds"] == digits(**golden.ALL[name]).rounds


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", range(12))
def test_faults_cost_a_party_its_round_at_most(seed: int, tmp_path: Path) -> None:
    faulty(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12, 200))
def test_many_faults(seed: int, tmp_path: Path) -> None:
    faulty(seed, tmp_path)


def test_a_link_that_is_lost_before_a_word_was_said_costs_nothing(tmp_path: Path) -> None:
    """The session is begun anew when the party is back in time, and its work is the same."""

    fed = digits(**golden.ALL["fedavg"])
    whole = played(fed, tmp_path / "whole").summary

    class AtWork(Fate):
        """Cuts the link of a party that has begun and has not said anything."""

        carrier: Loopback | None = None

        def strikes(self, name: str) -> str:
            assert self.carrier is not None
            if self.told or not self.carrier._parties[name].busy:
                return ""
            self.told.append(name)
            self.carrier._away.clear()
            return "cut"

    fate = AtWork()
    carrier = Loopback(tmp_path / "cut", fate)
    fate.carrier = carrier
    fate.random.choice = lambda options: options[0]  # type: ignore[method-assign]  # back at once
    cut = serve(fed, tmp_path / "cut", Service(listen=carrier.listen, clock=carrier.clock)).summary
    assert fate.told and cut["model_digest"] == whole["model_digest"]
    assert cut["ledger_digest"] == whole["ledger_digest"]


def test_a_party_that_is_away_too_long_is_named_and_the_round_goes_on(tmp_path: Path) -> None:
    class Leaves(Fate):
        def strikes(self, name: str) -> str:
            return "kill" if name == "party-1" and carrier._parties[name].busy else ""

    carrier = Loopback(tmp_path / "run", Leaves())
    carrier.fate.random.choice = lambda options: 1e9 if options[0] == 0.0 else options[0]  # type: ignore[method-assign]
    result = serve(
        digits(**golden.ALL["fedavg"]), tmp_path / "run", Service(listen=carrier.listen, clock=carrier.clock)
    )
    assert result.status == "finished with findings" and "party-1 never contributed" in result.reasons[0]
    assert "its link was lost" in result.reasons[0]


def restarted(name: str, folder: Path, dies_at: int) -> tuple[Result, Loopback]:
    """The server is killed at its so-many-eth letter of a party, and goes on; the parties live."""
    carrier = Loopback(folder)
    service = Service(listen=carrier.listen, clock=carrier.clock, wait_s=1000.0)
    carrier.dies_at = dies_at
    with pytest.raises(Killed):
        serve(digits(**golden.ALL[name]), folder, service)
    return again(folder, service), carrier


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["fedavg", "scaffold", "feedback, quantised", "split, talk coded"])
@pytest.mark.parametrize("dies_at", [12, 17])
def test_a_server_that_is_killed_repeats_the_round_with_the_same_bits(
    name: str, dies_at: int, tmp_path: Path
) -> None:
    whole = played(digits(**golden.ALL[name]), tmp_path / "whole").summary
    result, _ = restarted(name, tmp_path / "run", dies_at)
    for what in ("model_digest", "ledger_digest", "rounds"):
        assert result.summary[what] == whole[what], what
    alone = replay(tmp_path / "run", tmp_path / "alone").summary
    assert [alone[k] for k in COMPARED] == [result.summary[k] for k in COMPARED]


@pytest.mark.parametrize("dies_at", [14, 20, 23])
def test_no_party_says_a_round_twice_under_secure_aggregation(dies_at: int, tmp_path: Path) -> None:
    """Two sums of one round with other cohorts give a party's update away."""
    result, carrier = restarted("secure", tmp_path / "run", dies_at)
    assert result.status.startswith("finished") and result.summary["rounds"] == 3
    alone = replay(tmp_path / "run", tmp_path / "alone").summary
    assert [alone[k] for k in COMPARED] == [result.summary[k] for k in COMPARED]
    uploads: dict[tuple[str, int], set[int]] = {}
    for name, head in carrier.said:
        for e in head.get("events", ()):
            if e["kind"] == "upload":
                uploads.setdefault((name, e["round"]), set()).add(head["epoch"])
    assert uploads and all(len(epochs) == 1 for epochs in uploads.values())


def test_a_journal_that_cannot_be_read_ends_the_party(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    path.write_text("{")
    with pytest.raises(FedfmError, match="none may be answered twice"):
        Journal(path)


@pytest.mark.parametrize("run", ["../../x", "", "a" * 17, 3, None])
def test_a_run_that_names_another_folder_is_refused(run: Any, tmp_path: Path) -> None:
    party = Party("a", tmp_path)
    with pytest.raises(FedfmError, match="no name of a run"):
        party.hear(Frame(SERVER, 1, "letter", Letter({"do": "welcome", "run": run})))


def test_who_does_not_come_is_named(tmp_path: Path) -> None:
    carrier = Loopback(tmp_path / "run", only=("party-0",))
    service = Service(listen=carrier.listen, clock=carrier.clock, wait_s=30.0)
    with pytest.raises(MachineFault, match="not here: party-1"):
        serve(digits(**golden.ALL["fedavg"]), tmp_path / "run", service)
    assert not (tmp_path / "run").exists()  # nothing had begun


@pytest.mark.parametrize("name", ["fedrep", "stages"])
def test_what_real_parties_cannot_run_is_refused_before_anybody_is_waited_for(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="stages|a model for each party"):
        played(digits(**golden.ALL[name]), tmp_path / "run")


def test_rows_of_parties_are_scored_where_they_are_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it scores rows of party-0 at the server"):
        played(digits(**golden.ALL["scored by party"]), tmp_path / "by-party")
    data = fedfm.replace(digits().data, own_test=0.2)
    fed = fedfm.replace(digits(**golden.ALL["fedavg"]), evaluate=fedfm.HeldOut(where="parties"), data=data)
    alone = fedfm.run(fed, out=tmp_path / "alone", engine="inprocess").summary
    apart = played(fed, tmp_path / "apart").summary
    assert apart["metrics"] == alone["metrics"] and apart["ledger_digest"] == alone["ledger_digest"]


def test_a_config_that_was_changed_is_another_run(tmp_path: Path) -> None:
    carrier = Loopback(tmp_path / "run")
    service = Service(listen=carrier.listen, clock=carrier.clock, wait_s=1000.0)
    carrier.dies_at = 14
    with pytest.raises(Killed):
        serve(digits(**golden.ALL["fedavg"]), tmp_path / "run", service)
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace("lr: ", "lr: 1", 1))
    with pytest.raises(ResumeError, match=r"client.lr: was"):
        again(tmp_path / "run", service)


@pytest.mark.parametrize("part", ["events.jsonl", "model/model.safetensors"])
def test_a_served_run_that_was_damaged_since_is_named(part: str, tmp_path: Path) -> None:
    folder = played(digits(**golden.ALL["fedavg"]), tmp_path / "run").folder
    assert again(folder).status == "finished"
    data = (folder / part).read_bytes()
    (folder / part).write_bytes(data[:-5])
    with pytest.raises(ResumeError, match=f"(?s)damaged since.*{part}.*fix: restore {part}"):
        again(folder)


def test_a_real_run_takes_no_attack_and_no_drawn_drop_outs() -> None:
    for name in ("krum under attack", "split, dropped"):
        fed = digits(**golden.ALL[name])
        assert unfit(fed, rehearsal=False) and not unfit(fed, rehearsal=True)
