"""The carrier over real sockets: names are proven, letters are whole, a lost link is told and dialled again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm
from fedfm.core.message import Message
from fedfm.deploy.authority import Authority, Credentials, credentials
from fedfm.deploy.letters import Letter
from fedfm.deploy.transport import SERVER, Frame
from fedfm.running.verdict import Result

grpc = pytest.importorskip("fedfm.deploy.grpc")
MOST = 1 << 28


@contextmanager
def server(ca: Authority, address: str = "127.0.0.1:0", most: int = MOST) -> Iterator[Any]:
    made = grpc.GrpcServer(address, ca.server(), ca.admits, most)
    made.open()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def party(own: Credentials, address: str) -> Iterator[Any]:
    made = grpc.GrpcParty(address, own, MOST)
    made.open()
    try:
        yield made
    finally:
        made.close()


def own(ca: Authority, name: str) -> Credentials:
    found = credentials(ca.rehearse(name, ""), Path())
    assert isinstance(found, Credentials)
    return found


def heard(end: Any, kind: str, timeout_s: float = 20.0) -> Frame:
    """The next frame of a kind."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if (frame := end.receive(0.5)) is not None and frame.kind == kind:
            found: Frame = frame
            return found
    raise AssertionError(f"no {kind} in {timeout_s} s")


def test_letters_of_any_size_go_both_ways(tmp_path: Path) -> None:
    ca = Authority.create(tmp_path, "acme")
    with server(ca) as s, party(own(ca, "a"), s.address) as p:
        assert heard(s, "linked").peer == "a" and heard(p, "linked").peer == SERVER
        for n in (0, 10, 3_000_000):
            x = torch.randn(n)
            s.send("a", Letter({"do": "x", "n": n}, Message(x)))
            p.send(SERVER, heard(p, "letter").letter)
            back = heard(s, "letter")
            assert back.peer == "a" and back.letter.head == {"do": "x", "n": n}
            assert back.letter.message is not None and torch.equal(back.letter.message.x, x)
        assert s.totals["sent"] >= 12_000_000 and abs(s.totals["sent"] - s.totals["received"]) < 100
        s.drop("a", "enough")
        assert heard(p, "letter").letter.head == {"do": "refused", "why": "enough"}
        assert heard(s, "lost").peer == "a"


def test_a_stranger_and_a_revoked_party_are_not_let_in(tmp_path: Path) -> None:
    ca, other = Authority.create(tmp_path / "ca", "acme"), Authority.create(tmp_path / "other", "acme")
    mine = own(ca, "a")
    foreign = replace(own(other, "a"), authority=ca.certificate)
    with server(ca) as s:
        with party(foreign, s.address) as p:
            assert heard(p, "lost").letter.head["do"] == "lost"  # no handshake
        ca.revoke("a")
        with party(mine, s.address) as p:
            told = heard(p, "lost").letter.head
            assert told["do"] == "refused" and "not on the roster" in told["why"]
        assert s.receive(0.2) is None


def test_a_server_of_another_authority_is_not_dialled(tmp_path: Path) -> None:
    ca, other = Authority.create(tmp_path / "ca", "acme"), Authority.create(tmp_path / "other", "acme")
    mine = replace(own(other, "a"), authority=ca.certificate)
    with server(other) as s, party(mine, s.address) as p:
        assert heard(p, "lost").letter.head["do"] == "lost" and s.receive(0.2) is None


def test_a_party_cannot_be_the_server(tmp_path: Path) -> None:
    ca = Authority.create(tmp_path, "acme")
    false = own(ca, "a")
    made = grpc.GrpcServer("127.0.0.1:0", false, ca.admits, MOST)
    made.open()
    with party(own(ca, "b"), made.address) as p:
        assert heard(p, "lost").letter.head["do"] == "lost" and made.receive(0.2) is None
    made.close()


def test_a_letter_longer_than_agreed_ends_its_link_alone(tmp_path: Path) -> None:
    ca = Authority.create(tmp_path, "acme")
    with server(ca, most=1000) as s, party(own(ca, "a"), s.address) as p, party(own(ca, "b"), s.address) as q:
        heard(s, "linked"), heard(s, "linked"), heard(p, "linked"), heard(q, "linked")
        p.send(SERVER, Letter({"do": "x"}, Message(torch.zeros(1000))))
        lost = heard(s, "lost")
        assert lost.peer == "a" and "1,000 are agreed" in lost.letter.head["why"]
        q.send(SERVER, Letter({"do": "still"}))
        assert heard(s, "letter").peer == "b"


def test_a_party_dials_again_when_the_server_is_back(tmp_path: Path) -> None:
    ca = Authority.create(tmp_path, "acme")
    with server(ca) as s:
        address = s.address
        with party(own(ca, "a"), address) as p:
            first = heard(s, "linked").link
            heard(p, "linked")
            s.close()
            heard(p, "lost")
            with server(ca, address) as t:
                assert heard(t, "linked").link >= first and heard(p, "linked").link > 1
                t.send("a", Letter({"do": "again"}))
                assert heard(p, "letter").letter.head == {"do": "again"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats of a fifth of a second, and the patience of ten of them."""
    monkeypatch.setattr(grpc, "BEAT_S", 0.2)
    monkeypatch.setattr(grpc, "PATIENCE_S", 2.0)


def test_of_two_processes_with_one_certificate_the_last_stays_and_the_other_hears_why(tmp_path: Path) -> None:
    """And does not dial again: they would push each other out for ever."""
    ca = Authority.create(tmp_path, "acme")
    mine = own(ca, "a")
    with server(ca) as s, party(mine, s.address) as p:
        first = heard(p, "linked"), heard(s, "linked")
        with party(mine, s.address) as q:
            second = heard(q, "linked"), heard(s, "linked")
            refused = heard(p, "letter").letter.head
            assert refused["do"] == "refused" and "another process" in refused["why"]
            assert heard(p, "lost") and first[1].link < second[1].link
            assert heard(s, "lost").link == first[1].link
            time.sleep(1)  # nobody dials
            assert s.receive(0.1) is None and p.receive(0.1) is None and q.receive(0.1) is None
            q.send(SERVER, Letter({"do": "here"}))
            assert heard(s, "letter").link == second[1].link


@pytest.mark.parametrize("what", ["a letter longer than a line may be", "a letter that no line can hold"])
def test_whatever_breaks_a_link_the_party_dials_again(what: str, tmp_path: Path) -> None:
    ca = Authority.create(tmp_path, "acme")
    with server(ca) as s, party(own(ca, "a"), s.address) as p:
        heard(s, "linked"), heard(p, "linked")
        p.send(SERVER, Letter({"do": "x", "y": "z" * (2 << 20) if "longer" in what else float("nan")}))
        assert heard(p, "lost").letter.head["why"]
        assert heard(s, "linked") and heard(p, "linked")
        p.send(SERVER, Letter({"do": "here"}))
        assert heard(s, "letter").letter.head["do"] == "here"


def test_a_party_that_is_stopped_is_noticed_and_one_that_works_is_not(tmp_path: Path, quick: None) -> None:
    ca = Authority.create(tmp_path, "acme")
    with server(ca) as s, party(own(ca, "a"), s.address) as p, party(own(ca, "b"), s.address) as q:
        heard(s, "linked"), heard(s, "linked"), heard(p, "linked"), heard(q, "linked")
        time.sleep(3)  # nobody says a word, and nobody is given up
        assert s.receive(0.1) is None
        p._loop.call_soon_threadsafe(time.sleep, 8)  # as a process that is stopped
        lost = heard(s, "lost")
        assert lost.peer == "a" and "silent for 2 s" in lost.letter.head["why"]
        q.send(SERVER, Letter({"do": "here"}))
        assert heard(s, "letter").peer == "b"


def test_an_end_that_stood_still_itself_gives_nobody_up(tmp_path: Path, quick: None) -> None:
    ca = Authority.create(tmp_path, "acme")
    with server(ca) as s, party(own(ca, "a"), s.address) as p:
        heard(s, "linked"), heard(p, "linked")
        p.patience_s = 100.0
        s._loop.call_soon_threadsafe(time.sleep, 4)  # twice its patience
        time.sleep(5)
        assert s.receive(0.2) is None and p.receive(0.2) is None


def test_a_server_that_reads_late_gives_nobody_up(tmp_path: Path, quick: None) -> None:
    ca = Authority.create(tmp_path, "acme")
    with server(ca) as s, party(own(ca, "a"), s.address) as p:
        heard(s, "linked"), heard(p, "linked")
        for n in range(9):  # more than may lie unread
            p.send(SERVER, Letter({"do": "x", "n": n}))
        time.sleep(3)
        assert [heard(s, "letter").letter.head["n"] for _ in range(9)] == list(range(9))
        assert s.receive(0.2) is None


def test_the_newer_link_of_a_name_counts(tmp_path: Path) -> None:
    ca = Authority.create(tmp_path, "acme")
    mine = own(ca, "a")
    with server(ca) as s, party(mine, s.address) as p:
        heard(s, "linked"), heard(p, "linked")
        with party(mine, s.address) as q:
            frames = [s.receive(10), s.receive(10)]
            assert {f.kind for f in frames if f} == {"linked", "lost"}
            newer = next(f.link for f in frames if f and f.kind == "linked")
            assert newer == 2
            p.close()
            heard(q, "linked")
            q.send(SERVER, Letter({"do": "mine"}))
            assert heard(s, "letter").link == newer


@pytest.mark.slow
def test_a_rehearsal_over_sockets_gives_the_bits_of_the_simulation(tmp_path: Path) -> None:
    """The README's commands, in processes of their own."""
    config = tmp_path / "digits.yaml"
    config.write_text(
        "task: {name: image-classification}\ndata: {name: digits, partition: {name: iid, parties: 2}}\n"
        "client: {name: local, lr: 0.1, steps: 3}\nrounds: 2\nengine: {name: inprocess}\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    fed = [sys.executable, "-m", "fedfm"]

    def started(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*fed, *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    run = tmp_path / "run"
    serving = started("serve", str(config), "--out", str(run), "--wait-s", "120")
    files = [run / "join" / f"party-{k}.json" for k in (0, 1)]
    _until(lambda: all(f.exists() for f in files))
    parties = [started("join", str(f)) for f in files]
    said = serving.communicate(timeout=200)[0]
    assert serving.returncode == 0 and "finished" in said, said
    for p in parties:
        assert "the run has ended: finished" in p.communicate(timeout=60)[0] and p.returncode == 0
    alone = fedfm.run(str(config), out=tmp_path / "alone").summary
    assert Result.read(run).summary["model_digest"] == alone["model_digest"]
    assert Result.read(run).summary["ledger_digest"] == alone["ledger_digest"]


def _until(true: Callable[[], bool], timeout_s: float = 120.0) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > until:
            raise AssertionError(f"not within {timeout_s} s")
        time.sleep(0.1)
