"""The federation's authority: who may take part, proven by certificates that it signs.

A party makes its own key, which never leaves it; the request that goes to the authority carries a proof that whoever
made it holds the one-time secret of the invitation. Keys are of P-256, which every TLS library takes.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import os
import re
import secrets
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedfm.core.errors import FedfmError
from fedfm.files import write

SERVER_NAME = "server.fedfm"  # in the server's certificate, whatever its address is
DAYS = 360
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")  # of a party
ROSTER, KEY, CERTIFICATE, REQUEST = "roster.json", "key.pem", "certificate.pem", "request.json"


@dataclass(frozen=True)
class Credentials:
    """What one end of a link shows and trusts; PEM."""

    key: bytes
    certificate: bytes
    authority: bytes


@dataclass(frozen=True)
class Invitation:
    """What a party gets: the authority's certificate, the server's address, its own name, a one-time secret.

    `key` and `certificate` are filled where all parties are on one machine (a rehearsal) and nowhere else.
    """

    federation: str
    site: str
    address: str
    authority: str
    secret: str = ""
    key: str = ""
    certificate: str = ""

    @classmethod
    def read(cls, path: Path) -> Invitation:
        """Raises FedfmError when the file is none."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            names = {f.name for f in fields(cls)}
            if not isinstance(found, dict) or not found.keys() <= names:
                raise ValueError("it holds something else")
            if missing := names - {"secret", "key", "certificate"} - found.keys():
                raise ValueError(f"it has no {', '.join(sorted(missing))}")
            if not all(isinstance(v, str) for v in found.values()) or not NAME.fullmatch(found["site"]):
                raise ValueError("its values are none")
            x509.load_pem_x509_certificate(found["authority"].encode())
            return cls(**found)
        except (OSError, ValueError, RecursionError) as e:
            why = str(e) if isinstance(e, OSError) or type(e) is ValueError else "it is no JSON"
            raise FedfmError(
                f"{path} is no invitation: {why}\n    fix: the file that `fedfm invite SITE` wrote"
            ) from e

    def write(self, path: Path) -> None:
        """The file holds a secret: its owner alone may read it."""
        private(path, json.dumps(asdict(self), indent=1).encode())


class Authority:
    """The folder of an authority: its key and certificate, and the roster of parties."""

    def __init__(self, folder: Path):
        """Raises FedfmError when there is none in `folder`."""
        self.folder = folder
        if not (folder / ROSTER).is_file():
            raise FedfmError(f"{folder} holds no authority\n    fix: fedfm ca init NAME --ca {folder}")
        self.certificate = (folder / CERTIFICATE).read_bytes()

    @classmethod
    def create(cls, folder: Path, name: str) -> Authority:
        """A new authority. Raises FedfmError where there is one."""
        if (folder / KEY).exists():
            raise FedfmError(f"{folder} holds an authority already\n    fix: another folder (--ca)")
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        made = _builder(subject, subject, key.public_key(), 10 * DAYS)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        private(folder / KEY, _pem(key))
        write(folder / CERTIFICATE, made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        write(folder / ROSTER, json.dumps({"federation": name, "sites": {}}, indent=1).encode())
        return cls(folder)

    @property
    def roster(self) -> dict[str, Any]:
        """`federation`, and `sites`: name -> secret (until it is used), serial number, revoked."""
        found: dict[str, Any] = json.loads((self.folder / ROSTER).read_text(encoding="utf-8"))
        return found

    def invite(self, site: str, address: str) -> Invitation:
        """Raises FedfmError for a name that cannot be one, and for a party that has been invited."""
        if not NAME.fullmatch(site):
            raise FedfmError(
                f"'{site[:60]}' cannot be the name of a party: letters, digits, '.', '_' and '-', at most 63"
            )
        roster = self.roster
        if site in roster["sites"]:
            raise FedfmError(
                f"{site} has been invited already\n    fix: fedfm revoke {site}, or another name"
            )
        secret = secrets.token_urlsafe(24)
        roster["sites"][site] = {"secret": secret, "serial": None, "revoked": False}
        self._keep(roster)
        return Invitation(roster["federation"], site, address, self.certificate.decode(), secret)

    def sign(self, request: dict[str, str]) -> tuple[str, bytes]:
        """The party and its certificate, for what `ask` made. Raises FedfmError where the proof does not hold."""
        roster = self.roster
        try:
            asked = x509.load_pem_x509_csr(request["request"].encode())
            site = str(asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
            proof = request["proof"].encode()
        except (KeyError, ValueError, IndexError, TypeError, AttributeError) as e:
            raise FedfmError(f"this is no request of a party: {e}") from e
        entry = roster["sites"].get(site)
        if entry is None or entry["revoked"]:
            raise FedfmError(f"{site} is not invited\n    fix: fedfm invite {site}")
        if not entry["secret"]:
            raise FedfmError(
                f"the invitation of {site} has been used\n    fix: fedfm revoke {site}, then invite it anew"
            )
        if not asked.is_signature_valid or not hmac.compare_digest(
            proof, _proof(entry["secret"], request["request"]).encode()
        ):
            raise FedfmError(
                f"the request in the name of {site} was not made with its invitation\n    why: its proof does not hold\n"
                f"    fix: fedfm revoke {site}, invite it anew, and ask who sent this file"
            )
        certificate = self._issue(site, asked.public_key(), server=False)
        entry |= {"secret": "", "serial": str(certificate.serial_number)}
        self._keep(roster)
        return site, certificate.public_bytes(serialization.Encoding.PEM)

    def revoke(self, site: str) -> None:
        """From now on no link of this party is taken, and it may be invited anew. Raises FedfmError."""
        roster = self.roster
        if site not in roster["sites"]:
            raise FedfmError(f"there is no party '{site}' in {self.folder / ROSTER}")
        entry = roster["sites"].pop(site)
        roster.setdefault("revoked", []).append({"site": site, "serial": entry["serial"]})
        self._keep(roster)

    def admits(self, site: str, serial: int) -> str:
        """Why a certificate's holder may not take part; empty: it may."""
        entry = self.roster["sites"].get(site)
        if entry is None:
            return "is not on the roster"
        return "" if entry["serial"] == str(serial) else "shows a certificate that was replaced or revoked"

    def server(self) -> Credentials:
        """A fresh key and certificate for the server, which hold as long as this process does."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._issue(SERVER_NAME, key.public_key(), server=True)
        return Credentials(_pem(key), made.public_bytes(serialization.Encoding.PEM), self.certificate)

    def rehearse(self, site: str, address: str) -> Invitation:
        """An invitation with a key and certificate made on the spot, for parties that are one person's on one machine."""
        asked = self.invite(site, address)
        key = ec.generate_private_key(ec.SECP256R1())
        _, certificate = self.sign(ask(asked, key))
        return Invitation(
            asked.federation, site, address, asked.authority, "", _pem(key).decode(), certificate.decode()
        )

    def _issue(self, name: str, public: Any, *, server: bool) -> x509.Certificate:
        key = serialization.load_pem_private_key((self.folder / KEY).read_bytes(), None)
        own = x509.load_pem_x509_certificate(self.certificate)
        use = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        made = _builder(_name(name), own.subject, public, DAYS)
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        made = made.add_extension(x509.ExtendedKeyUsage([use]), critical=True)
        if server:
            made = made.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False
            )
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return made.sign(key, hashes.SHA256())

    def _keep(self, roster: dict[str, Any]) -> None:
        private(self.folder / ROSTER, json.dumps(roster, indent=1).encode())


def ask(invitation: Invitation, key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """A party's request for a certificate: its public key, and the proof that it holds the invitation."""
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(invitation.site))
    pem = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    return {"request": pem, "proof": _proof(invitation.secret, pem)}


def credentials(invitation: Invitation, folder: Path) -> Credentials | Path:
    """A party's credentials; the first time, the path of the request that it has to send to the authority.

    The party's folder keeps its key; the authority's answer, `SITE.certificate.pem`, is looked for there. Raises FedfmError.
    """
    if invitation.key:
        pem = (invitation.key.encode(), invitation.certificate.encode())
        return Credentials(*pem, invitation.authority.encode())
    folder.mkdir(parents=True, exist_ok=True)
    key, certificate, request = folder / KEY, folder / answer(invitation.site), folder / REQUEST
    if not key.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        write(request, json.dumps(ask(invitation, made), indent=1).encode())
        private(key, _pem(made))
    if not certificate.exists():
        return request
    _fits(certificate, key, invitation)
    return Credentials(key.read_bytes(), certificate.read_bytes(), invitation.authority.encode())


def accept(given: Path, invitation: Invitation, folder: Path) -> None:
    """Put the authority's answer into a party's folder, if it is of its key, name and authority. Raises FedfmError."""
    if not (folder / KEY).exists():
        raise FedfmError(
            f"{folder} holds no key that {given} could be for\n    fix: fedfm join JOINFILE, once without --certificate"
        )
    try:
        data = given.read_bytes()
    except OSError as e:
        raise FedfmError(
            f"{given} cannot be read: {e.strerror}\n    fix: the file that `fedfm ca sign` wrote"
        ) from e
    _fits(given, folder / KEY, invitation)
    write(folder / answer(invitation.site), data)


def _fits(certificate: Path, key: Path, invitation: Invitation) -> None:
    """Raises FedfmError when a certificate is not of this key, name and authority."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        own = serialization.load_pem_private_key(key.read_bytes(), None)
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(invitation.authority.encode()))
        named = str(found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    except (ValueError, TypeError, InvalidSignature, IndexError) as e:
        raise FedfmError(
            f"{certificate} was not signed by {invitation.federation}: {e or type(e).__name__}\n    fix: the answer of its "
            f"authority to {key.with_name(REQUEST)}"
        ) from e
    if (now := datetime.datetime.now(datetime.UTC)) > found.not_valid_after_utc:
        raise FedfmError(
            f"{certificate} held until {found.not_valid_after_utc:%Y-%m-%d}, and it is {now:%Y-%m-%d}\n    fix: at the authority "
            f"`fedfm revoke {invitation.site}` and `fedfm invite {invitation.site}`; the new invitation goes with a new --folder"
        )
    kind = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if named != invitation.site or found.public_key().public_bytes(*kind) != own.public_key().public_bytes(
        *kind
    ):
        raise FedfmError(
            f"{certificate} is of another party or key\n    fix: the answer to {key.with_name(REQUEST)}"
        )


def answer(site: str) -> str:
    """What the file with a party's certificate is called."""
    return f"{site}.certificate.pem"


def serial(certificate: bytes) -> int:
    """The serial number of a PEM certificate."""
    return x509.load_pem_x509_certificate(certificate).serial_number


def fingerprint(pem: str | bytes) -> str:
    """The SHA-256 of a certificate, as people compare it."""
    data = pem.encode() if isinstance(pem, str) else pem
    return hashlib.sha256(
        x509.load_pem_x509_certificate(data).public_bytes(serialization.Encoding.DER)
    ).hexdigest()


def private(path: Path, data: bytes) -> None:
    """Write a file that its owner alone may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    part.replace(path)


def _proof(secret: str, request: str) -> str:
    return hmac.new(secret.encode(), request.encode(), hashlib.sha256).hexdigest()


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(subject: x509.Name, issuer: x509.Name, public: Any, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
    return made.not_valid_after(now + datetime.timedelta(days=days))
