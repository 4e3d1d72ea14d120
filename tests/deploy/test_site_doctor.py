"""What stands in the way of joining is named before, with its remedy; nothing is written by looking."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedfm.cli import app
from fedfm.core.errors import ConfigError
from fedfm.core.job import Job, Said
from fedfm.core.message import nothing
from fedfm.deploy.authority import Authority, Credentials, Invitation, answer, credentials, fingerprint
from fedfm.deploy.site import doctor, way
from fedfm.deploy.site.doctor import examine, placed
from fedfm.deploy.site.findings import Finding
from fedfm.deploy.site.receipts import FILE, Receipts

grpc = pytest.importorskip("fedfm.deploy.grpc")
NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(autouse=True)
def straight(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in way.PROXIES:
        monkeypatch.delenv(name, raising=False)


def site(folder: Path, ca: Authority, address: str) -> Path:
    """A party that has been invited and answered; its join file."""
    file = folder / "a.json"
    asked = ca.invite("a", address)
    asked.write(file)
    request = credentials(asked, folder / "a")
    assert isinstance(request, Path)
    (folder / "a" / answer("a")).write_bytes(ca.sign(json.loads(request.read_text()))[1])
    return file


@contextmanager
def serving(ca: Authority) -> Iterator[str]:
    made = grpc.GrpcServer("127.0.0.1:0", ca.server(), ca.admits, 1 << 20)
    made.open()
    try:
        yield made.address
    finally:
        made.close()


@contextmanager
def answering(take: Callable[[socket.socket], None]) -> Iterator[str]:
    """A port at which something else answers."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def once() -> None:
            with door.accept()[0] as link:
                take(link)

        thread = threading.Thread(target=once, daemon=True)
        thread.start()
        yield f"127.0.0.1:{door.getsockname()[1]}"
        thread.join(timeout=10)


def bad(found: list[Finding]) -> list[str]:
    return [f.topic for f in found if f.grade == "bad"]


def one(found: list[Finding], topic: str) -> Finding:
    """The gravest of a topic."""
    return min(
        (f for f in found if f.topic == topic), key=lambda f: ("bad", "note", "open", "good").index(f.grade)
    )


def test_a_site_that_can_join_hears_so(tmp_path: Path) -> None:
    ca = Authority.create(tmp_path / "ca", "acme")
    rules = tmp_path / "site.yaml"
    rules.write_text(f"authority: {fingerprint(ca.certificate)}\n")
    with serving(ca) as address:
        file = site(tmp_path, ca, address)
        before = sorted(p.name for p in (tmp_path / "a").iterdir())
        found = examine(file, policy=rules)
        assert not bad(found), found
        assert {"join file", "certificate", "key", "policy", "port", "handshake", "server"} <= {
            f.topic for f in found if f.grade == "good"
        }
        assert sum(f.topic == "server" for f in found) == 3  # protocol, fedfm, torch
        done = CliRunner().invoke(app, ["doctor", str(tmp_path / "a"), "--policy", str(rules)])
        assert done.exit_code == 0 and "nothing stands in the way" in done.output
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == before


def test_a_greeting_takes_nobodys_link(tmp_path: Path) -> None:
    ca = Authority.create(tmp_path / "ca", "acme")
    made = grpc.GrpcServer("127.0.0.1:0", ca.server(), ca.admits, 1 << 20)
    made.open()
    file = site(tmp_path, ca, made.address)
    own = credentials(Invitation.read(file), tmp_path / "a")
    assert isinstance(own, Credentials)
    party = grpc.GrpcParty(made.address, own, 1 << 20)
    party.open()
    try:
        assert made.receive(10).kind == "linked" and party.receive(10).kind == "linked"
        assert not bad(examine(file))
        assert made.receive(0.3) is None and party.receive(0.1) is None
    finally:
        party.close()
        made.close()


def test_a_rehearsals_join_file_holds_everything(tmp_path: Path) -> None:
    ca = Authority.create(tmp_path / "ca", "acme")
    with serving(ca) as address:
        ca.rehearse("a", address).write(tmp_path / "a.json")
        assert not bad(examine(tmp_path / "a.json"))
    assert not (tmp_path / "a").exists()  # looking makes no folder


def test_a_site_without_a_certificate_is_told_the_next_step_and_gets_no_key(tmp_path: Path) -> None:
    ca = Authority.create(tmp_path / "ca", "acme")
    with serving(ca) as address:
        file = tmp_path / "a.json"
        asked = ca.invite("a", address)
        asked.write(file)
        first = examine(file)
        assert bad(first) == ["certificate"] and "makes the key" in one(first, "certificate").fix
        assert one(first, "port").grade == "good" and one(first, "handshake").grade == "open"
        assert not (tmp_path / "a").exists()
        credentials(asked, tmp_path / "a")
        assert "request.json" in one(examine(file), "certificate").fix
        (tmp_path / "a" / "key.pem").unlink()
        (tmp_path / "a" / answer("a")).write_text(ca.rehearse("b", address).certificate)
        assert "key.pem is not there" in one(examine(file), "certificate").said
        assert not (tmp_path / "a" / "key.pem").exists()


def test_papers_that_do_not_fit_are_told_apart(tmp_path: Path) -> None:
    ca, other = Authority.create(tmp_path / "ca", "acme"), Authority.create(tmp_path / "other", "acme")
    file = site(tmp_path, ca, "127.0.0.1:1")
    paper = tmp_path / "a" / answer("a")
    paper.write_text(ca.rehearse("b", "127.0.0.1:1").certificate)
    found = examine(file)
    assert "is of b, the join file of a" in one(found, "certificate").said and "key" in bad(found)
    paper.write_text(other.rehearse("a", "127.0.0.1:1").certificate)
    assert any("is not signed by the authority" in f.said for f in examine(file) if f.grade == "bad")
    paper.write_text("nothing")
    assert "certificate" in bad(examine(file))
    file.write_text("[]")
    assert bad(examine(file)) == ["join file"]


@pytest.mark.parametrize(
    ("days", "grade", "word"),
    [
        (-1, "bad", "not yet valid"),
        (0, "good", "valid from"),
        (355, "note", "expires in"),
        (361, "bad", "has expired"),
    ],
)
def test_dates_are_held_against_the_clock(days: int, grade: str, word: str, tmp_path: Path) -> None:
    file = site(tmp_path, Authority.create(tmp_path / "ca", "acme"), "127.0.0.1:1")
    found = one(examine(file, now=NOW + datetime.timedelta(days=days)), "certificate")
    if grade == "good":
        assert found.grade == "good"
    else:
        assert found.grade == grade and word in found.said and found.fix


def test_a_port_at_which_nobody_listens_and_a_name_that_is_none(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    file = site(tmp_path, Authority.create(tmp_path / "ca", "acme"), f"127.0.0.1:{port}")
    found = examine(file)
    assert bad(found) == ["port"] and "refuses" in one(found, "port").said
    assert f"inwards to port {port}" in one(found, "port").fix and "handshake" not in {f.topic for f in found}
    done = CliRunner().invoke(app, ["doctor", str(file), "--json"])
    assert done.exit_code == 1 and any(f["topic"] == "port" for f in json.loads(done.output))
    replace(Invitation.read(file), address="no.such.name.invalid:1").write(file)
    assert bad(examine(file)) == ["address"]
    replace(Invitation.read(file), address="nowhere").write(file)
    assert bad(examine(file)) == ["address"]


def test_a_firewall_that_drops_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dropped(*_: object) -> socket.socket:
        raise TimeoutError

    file = site(tmp_path, Authority.create(tmp_path / "ca", "acme"), "127.0.0.1:7443")
    monkeypatch.setattr(way.socket, "create_connection", dropped)
    found = one(examine(file), "port")
    assert (
        found.grade == "bad" and "outwards to 127.0.0.1 port 7443" in found.fix and "dport 7443" in found.fix
    )


def test_a_server_of_another_authority_and_one_that_speaks_no_tls(tmp_path: Path) -> None:
    ca, other = Authority.create(tmp_path / "ca", "acme"), Authority.create(tmp_path / "other", "acme")
    with serving(other) as address:
        file = site(tmp_path, ca, address)
        found = one(examine(file), "handshake")
        assert found.grade == "bad" and "has not signed" in found.said and "TLS inspection" in found.fix
    for take, word in (
        (lambda link: link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "speaks no TLS"),
        (lambda link: link.recv(1), "ends the link"),
    ):
        with answering(take) as address:
            replace(Invitation.read(file), address=address).write(file)
            found = one(examine(file), "handshake")
            assert found.grade == "bad" and word in found.said, found


def test_a_server_that_does_not_know_this_authority(tmp_path: Path) -> None:
    """Its own certificate holds, and it refuses the party's."""
    ca, other = Authority.create(tmp_path / "ca", "acme"), Authority.create(tmp_path / "other", "acme")
    file, own = site(tmp_path, ca, "127.0.0.1:1"), ca.server()
    (tmp_path / "c.pem").write_bytes(own.certificate)
    (tmp_path / "k.pem").write_bytes(own.key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    tls.load_verify_locations(cadata=other.certificate.decode())
    tls.verify_mode = ssl.CERT_REQUIRED

    def take(link: socket.socket) -> None:
        with pytest.raises(ssl.SSLError):
            tls.wrap_socket(link, server_side=True)

    with answering(take) as address:
        replace(Invitation.read(file), address=address).write(file)
        found = one(examine(file), "handshake")
    assert found.grade == "bad" and "does not take this site's certificate" in found.said


def test_a_revoked_party_and_other_versions_are_told_by_the_greeting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = Authority.create(tmp_path / "ca", "acme")
    with serving(ca) as address:
        file = site(tmp_path, ca, address)
        monkeypatch.setattr(way, "versions", lambda: {"fedfm": "0.0.1"})
        found = one(examine(file), "server")
        assert found.grade == "bad" and "here 0.0.1" in found.said and "the same fedfm" in found.fix
        ca.revoke("a")
        found = one(examine(file), "server")
        assert found.grade == "bad" and "not on the roster" in found.said and "fedfm invite" in found.fix


def test_a_server_that_knows_no_greeting_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = Authority.create(tmp_path / "ca", "acme")
    with serving(ca) as address:
        file = site(tmp_path, ca, address)
        monkeypatch.setattr(grpc, "HELLO", "/fedfm.Federation/Nothing")
        found = examine(file)
    assert not bad(found) and "compared when the party joins" in one(found, "server").why


def test_what_is_of_a_site_needs_a_site(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--policy", str(tmp_path / "site.yaml")])
    assert isinstance(done.exception, ConfigError) and "JOINFILE" in str(done.exception)


def test_through_a_proxy_the_steps_are_not_dialled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = site(tmp_path, Authority.create(tmp_path / "ca", "acme"), "127.0.0.1:1")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    found = examine(file, timeout_s=0.5)
    assert one(found, "address").grade == "open" and "https_proxy" in one(found, "address").said
    assert "port" not in {f.topic for f in found} and one(found, "server").grade != "good"


def test_records_of_earlier_runs_and_the_policy(tmp_path: Path) -> None:
    file = site(tmp_path, Authority.create(tmp_path / "ca", "acme"), "127.0.0.1:1")
    home, job = tmp_path / "a", Job("train", "a", 1, 1)
    (home / "states" / "r").mkdir(parents=True)
    (home / "states" / "r" / "journal.json").write_text('{"1": 1}')
    for _ in range(2):
        Receipts(home).add("r", job, Said("a", 1, "upload", message=nothing()), None, None)
    assert (
        "2 hold" in one(examine(file), "receipts").said
        and "1 can be read" in one(examine(file), "journal").said
    )
    assert "states" not in {f.topic for f in examine(file)}
    Receipts(home).add("other", job, Said("a", 1, "upload", message=nothing()), None, None)
    gone = one(examine(file), "states")
    assert gone.grade == "note" and gone.said.endswith(": other")
    lines = (home / FILE).read_text().splitlines(keepends=True)
    (home / FILE).write_text(lines[1])
    (home / "states" / "r" / "journal.json").write_text("{")
    (home / "life.json").write_text('{"r": 1.5}')
    assert "epsilon 1.50 is booked by 1 run" in one(examine(file), "privacy").said
    (home / "life.json").write_text("[]")
    assert "privacy" in bad(examine(file))
    rules = tmp_path / "site.yaml"
    rules.write_text("modles: [minilm]\n")
    assert {"receipts", "journal", "policy"} <= set(bad(examine(file, policy=rules)))
    rules.write_text("authority: abc\n")
    assert "takes the authority abc" in one(examine(file, policy=rules), "policy").said
    (home / "receipts.key").unlink()
    assert "cannot be verified" in one(examine(file), "receipts").why
    assert not (home / "receipts.key").exists()


def test_a_full_disk_and_a_secret_that_others_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = site(tmp_path, Authority.create(tmp_path / "ca", "acme"), "127.0.0.1:1")
    file.chmod(0o644)
    usage = type(doctor.shutil.disk_usage(tmp_path))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    found = examine(file)
    assert one(found, "secrets").fix == f"chmod 600 {file}" and "folder" in bad(found)


def test_a_site_is_named_by_its_file_or_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a.b").mkdir()
    assert placed(tmp_path / "a.b") == (tmp_path / "a.b.json", tmp_path / "a.b")
    assert placed(tmp_path / "a.b.json") == (tmp_path / "a.b.json", tmp_path / "a.b")
    assert placed(tmp_path / "a.b.json", tmp_path) == (tmp_path / "a.b.json", tmp_path)
