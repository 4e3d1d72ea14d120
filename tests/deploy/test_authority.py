"""Who may take part: a request answers to its invitation, once; certificates are of one authority, name and key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedfm.core.errors import FedfmError
from fedfm.deploy.authority import Authority, Credentials, Invitation, answer, ask, credentials, serial
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


@pytest.mark.parametrize("request_", [{}, {"request": "x", "proof": "y"}, {"request": 3, "proof": "y"}])
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
    (tmp_path / "no.json").write_text("[]")
    with pytest.raises(FedfmError, match="is no invitation"):
        Invitation.read(tmp_path / "no.json")


@pytest.mark.parametrize("address", ["host", ":1", "host:", "host:x", "host:65536", "host:-1", ""])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(FedfmError, match="is no address"):
        checked(address)
    assert checked("host:0") == "host:0" and checked("[::1]:65535") == "[::1]:65535"
