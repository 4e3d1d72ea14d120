"""Who may take part: a request answers to its invitation, once; certificates are of one authority, name and key."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedfm.core.errors import FedfmError
from fedfm.deploy import authority
from fedfm.deploy.authority import (
    Authority,
    Credentials,
    Invitation,
    accept,
    answer,
    ask,
    credentials,
    serial,
)
from fedfm.deploy.transport import checked


def test_the_way_from_an_invitation_to_a_certificate(tmp_path: Path) -> None:
    ca = Authority.create(tmp_path / "ca", "acme")
    path = tmp_path / "hospital-a.json"
    ca.invite("hospital-a", "localhost:1").write(path)
    assert path.stat().st_mode & 0o077 == 0 and (tmp_path / "ca" / "key.pem").stat().st_mode & 0o077 == 0
    asked = Invitation.read(path)
    request = credentials(asked, tmp_path / "site")
    assert isinstance(request, Path) and request == credentials(asked, tmp_path / "site")  # asked once
    site, certificate = ca.sign(json.loads(request.read_text()))
    assert site == "hospital-a" and not ca.admits(site, serial(certificate))
    (tmp_path / "site" / answer("hospital-a")).write_bytes(certificate)
    own = credentials(asked, tmp_path / "site")
    assert isinstance(own, Credentials) and own.certificate == certificate
    assert (tmp_path / "site" / "key.pem").stat().st_mode & 0o077 == 0
    with pytest.raises(FedfmError, match="has been used"):
        ca.sign(json.loads(request.read_text()))
    ca.revoke(site)
    assert "not on the roster" in ca.admits(site, serial(certificate))
    ca.invite(site, "localhost:1")
    assert "replaced or revoked" in ca.admits(site, serial(certificate))


def test_who_does_not_hold_the_invitation_gets_no_certificate(tmp_path: Path) -> None:
    ca = Authority.create(tmp_path / "ca", "acme")
    asked = ca.invite("hospital-a", "localhost:1")
    thief = replace(asked, secret="guessed")
    with pytest.raises(FedfmError, match="its proof does not hold"):
        ca.sign(ask(thief, ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(FedfmError, match="is not invited"):
        ca.sign(ask(replace(asked, site="hospital-b"), ec.generate_private_key(ec.SECP256R1())))
    honest = ask(asked, ec.generate_private_key(ec.SECP256R1()))
    other = ask(thief, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(FedfmError, match="its proof does not hold"):
        ca.sign({"request": other["request"], "proof": honest["proof"]})
    assert ca.sign(honest)[0] == "hospital-a"  # nobody has used it up


@pytest.mark.parametrize("request_", [{}, [], {"request": "x", "proof": "y"}, {"request": 3, "proof": "y"}])
def test_what_is_no_request_is_refused(request_: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(FedfmError, match="no request"):
        Authority.create(tmp_path / "ca", "acme").sign(request_)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "ä", "x" * 64, "-a", "a\nb"])
def test_a_name_that_cannot_be_one(name: str, tmp_path: Path) -> None:
    with pytest.raises(FedfmError, match="cannot be the name"):
        Authority.create(tmp_path / "ca", "acme").invite(name, "localhost:1")


def test_a_certificate_of_another_authority_or_key_is_refused(tmp_path: Path) -> None:
    ca, other = Authority.create(tmp_path / "ca", "acme"), Authority.create(tmp_path / "other", "acme")
    asked = ca.invite("hospital-a", "localhost:1")
    credentials(asked, tmp_path / "site")
    foreign = other.rehearse("hospital-a", "localhost:1").certificate
    (tmp_path / "site" / answer("hospital-a")).write_text(foreign)
    with pytest.raises(FedfmError, match="was not signed by acme"):
        credentials(asked, tmp_path / "site")
    _, own = ca.sign(ask(asked, ec.generate_private_key(ec.SECP256R1())))
    (tmp_path / "site" / answer("hospital-a")).write_bytes(own)
    with pytest.raises(FedfmError, match="another party or key"):
        credentials(asked, tmp_path / "site")


def test_an_authority_is_not_made_twice_and_not_made_up(tmp_path: Path) -> None:
    ca = Authority.create(tmp_path / "ca", "acme")
    with pytest.raises(FedfmError, match="holds an authority already"):
        Authority.create(tmp_path / "ca", "acme")
    with pytest.raises(FedfmError, match="fedfm ca init"):
        Authority(tmp_path / "nothing")
    ca.invite("a", "localhost:1")
    with pytest.raises(FedfmError, match="invited already"):
        ca.invite("a", "localhost:1")
    with pytest.raises(FedfmError, match="no party 'b'"):
        ca.revoke("b")


@pytest.mark.parametrize("address", ["host", ":1", "host:", "host:x", "host:65536", "host:-1", ""])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(FedfmError, match="is no address"):
        checked(address)
    assert checked("host:0") == "host:0" and checked("[::1]:65535") == "[::1]:65535"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"site": "../a"}, "its values are none"),
        ({"address": 3}, "its values are none"),
        ({"request": "x"}, "something else"),
        ({"authority": "x"}, "is no invitation"),
        (None, "it has no address, authority, federation"),
        ("[]", "something else"),
        ("x", "no JSON"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_a_file_that_is_no_invitation_is_told_in_words(change: Any, why: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    asked = asdict(Authority.create(tmp_path / "ca", "acme").invite("a", "localhost:1"))
    text = (
        change if isinstance(change, str) else json.dumps({"site": "a"} if change is None else asked | change)
    )
    path.write_text(text)
    with pytest.raises(FedfmError, match="(?s)is no invitation: .*fix: the file that") as e:
        Invitation.read(path)
    assert why in str(e.value)


def test_an_answer_is_looked_at_before_it_takes_the_place_of_another(tmp_path: Path) -> None:
    ca, other = Authority.create(tmp_path / "ca", "acme"), Authority.create(tmp_path / "other", "acme")
    asked, site, given = ca.invite("a", "localhost:1"), tmp_path / "site", tmp_path / "given.pem"
    with pytest.raises(FedfmError, match="no key .* could be for"):
        accept(given, asked, site)
    request = credentials(asked, site)
    assert isinstance(request, Path)
    with pytest.raises(FedfmError, match="cannot be read"):
        accept(given, asked, site)
    given.write_bytes(ca.sign(json.loads(request.read_text()))[1])
    accept(given, asked, site)
    kept = (site / answer("a")).read_bytes()
    for wrong in (
        other.rehearse("a", "localhost:1").certificate,
        ca.rehearse("b", "localhost:1").certificate,
        "x",
    ):
        given.write_text(wrong)
        with pytest.raises(FedfmError):
            accept(given, asked, site)
    assert (site / answer("a")).read_bytes() == kept and isinstance(credentials(asked, site), Credentials)


def test_a_certificate_that_has_run_out_is_told_with_its_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority, "DAYS", 0.0)
    ca = Authority.create(tmp_path / "ca", "acme")
    asked = ca.invite("a", "localhost:1")
    request = credentials(asked, tmp_path / "site")
    assert isinstance(request, Path)
    (tmp_path / "site" / answer("a")).write_bytes(ca.sign(json.loads(request.read_text()))[1])
    time.sleep(1.1)
    with pytest.raises(FedfmError, match="(?s)held until .*fedfm revoke a"):
        credentials(asked, tmp_path / "site")


def test_a_proof_that_is_no_ascii_does_not_hold(tmp_path: Path) -> None:
    ca = Authority.create(tmp_path / "ca", "acme")
    honest = ask(ca.invite("a", "localhost:1"), ec.generate_private_key(ec.SECP256R1()))
    for proof in ("é", "", "\0"):
        with pytest.raises(FedfmError, match="does not hold"):
            ca.sign(honest | {"proof": proof})
    assert ca.sign(honest)[0] == "a"
