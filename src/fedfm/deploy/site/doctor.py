"""What stands in the way of joining, looked at before: the papers, the folder, the policy, and the way to the server.

Nothing is written: a site that has no key yet gets none here. Each step of the way is taken by itself (a name, a port, a
handshake, a greeting that ends before joining), so that the one which fails is named, with the rule that lets it pass.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from fedfm.core.errors import FedfmError, MissingExtra
from fedfm.deploy.authority import KEY, Credentials, Invitation, answer, credentials, fingerprint, private
from fedfm.deploy.site.findings import Finding, Grade
from fedfm.deploy.site.journal import Journal
from fedfm.deploy.site.policy import Policy, booked
from fedfm.deploy.site.receipts import FILE, Receipts
from fedfm.deploy.site.receipts import KEY as RECEIPTS_KEY
from fedfm.report.numbers import size

SOON = datetime.timedelta(days=7)  # before a certificate runs out
LITTLE, NONE = 1 << 30, 1 << 26  # free bytes of the folder's disk: worth a word; no run could keep anything
NEEDED = ("fedfm", "torch", "grpcio", "cryptography")


def placed(path: Path, folder: Path | None = None) -> tuple[Path, Path]:
    """The join file and the site's folder, of either: `fedfm join` keeps a folder of the same name beside the file."""
    file = path.with_name(f"{path.name}.json") if path.is_dir() else path
    return file, folder or (path if path.is_dir() else path.with_suffix(""))


def examine(
    path: Path,
    folder: Path | None = None,
    policy: Path | None = None,
    *,
    timeout_s: float = 5.0,
    now: datetime.datetime | None = None,
) -> list[Finding]:
    """Everything that can be known at a site before it joins, in the order in which joining would meet it.

    `path`: the join file, or the site's folder beside it. `timeout_s`: of each step on the network. `now`: the time
    (with its zone) that dates are held against; by default this machine's. Raises nothing for what is wrong: that is
    a finding.
    """
    file, home = placed(path, folder)
    found = list(_versions())
    try:
        asked = Invitation.read(file)
        authority = x509.load_pem_x509_certificate(asked.authority.encode())
    except (FedfmError, ValueError) as e:
        return [*found, _of("join file", e, "the file that `fedfm invite SITE` wrote")]
    now = now or datetime.datetime.now(datetime.UTC)
    found.append(
        Finding(
            "join file",
            "good",
            f"{asked.site} in {asked.federation}, authority {fingerprint(asked.authority)}",
        )
    )
    found += _private(file)
    found += _dates("authority", authority, now)
    found += _papers(asked, authority, home, now)
    found += _folder(home)
    found += _records(home)
    found += _policy(policy, asked)
    return found + list(_way(asked, home, timeout_s))


# ---- what lies at the site -------------------------------------------------------------------------------------
def _versions() -> Iterator[Finding]:
    for name in NEEDED:
        try:
            yield Finding("versions", "good", f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            if name == "fedfm":  # a checkout on the path
                yield Finding(
                    "versions", "note", "fedfm is not installed as a package", "", "pip install fedfm"
                )
            else:
                fix = "pip install 'fedfm[deploy]'"
                yield Finding("versions", "bad", f"{name} is not installed", "joining needs it", fix)


def _private(path: Path) -> Iterator[Finding]:
    """A secret that others may read."""
    if os.name == "posix" and path.stat().st_mode & 0o077:
        said, why = f"{path} can be read by others", "whoever has it can speak in this party's name"
        yield Finding("secrets", "note", said, why, f"chmod 600 {path}")


def _dates(what: str, certificate: x509.Certificate, now: datetime.datetime) -> Iterator[Finding]:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    span = f"valid from {begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC"
    said = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC; it is {span}"
    anew = "fedfm revoke SITE and fedfm invite SITE at the authority, then join anew with another folder"
    if what == "authority":
        anew = "the federation makes a new authority (fedfm ca init) and invites everybody anew"
    if now < begins:
        clock = "set the clock (timedatectl set-ntp true); if it is right, wait, or ask the authority for its clock"
        yield Finding(what, "bad", f"not yet valid: {said}", "no server takes it before its date", clock)
    elif now > ends:
        fix = f"set the clock if it is wrong (timedatectl set-ntp true); else {anew}"
        yield Finding(what, "bad", f"has expired: {said}", "no server takes it after its date", fix)
    elif ends - now < SOON:
        why = "no link is taken after that"
        yield Finding(what, "note", f"expires in {(ends - now).days} days: {said}", why, anew)
    else:
        yield Finding(what, "good", span)


def _papers(
    asked: Invitation, authority: x509.Certificate, home: Path, now: datetime.datetime
) -> Iterator[Finding]:
    """The certificate: its name, who signed it, its dates, and whether it is of the site's key."""
    key, path = home / KEY, home / answer(asked.site)
    if not _answered(asked, home):
        yield _unsigned(asked, key, path)
        return
    try:
        pem = asked.certificate.encode() if asked.key else path.read_bytes()
        own = x509.load_pem_x509_certificate(pem)
    except (OSError, ValueError) as e:
        yield _of("certificate", e, f"the authority's answer again, as {path}")
        return
    if not asked.key:
        yield from _private(key)
    names = own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    named = str(names[0].value) if names else "nobody"
    if named != asked.site:
        said, fix = f"is of {named}, the join file of {asked.site}", f"the answer to {home / 'request.json'}"
        yield Finding("certificate", "bad", said, "a server knows a party by its certificate's name", fix)
    else:
        yield Finding("certificate", "good", f"is of {named}")
    try:
        own.verify_directly_issued_by(authority)
        yield Finding("certificate", "good", f"is signed by the authority of {asked.federation}")
    except (ValueError, TypeError, InvalidSignature):
        said = f"is not signed by the authority in the join file, but by {own.issuer.rfc4514_string()}"
        fix = "certificate and join file of one authority; fedfm ca sign answers with the right one"
        yield Finding("certificate", "bad", said, "no server of this federation takes it", fix)
    yield from _dates("certificate", own, now)
    try:
        credentials(asked, home)
    except (FedfmError, ValueError) as e:
        yield _of("key", e, f"the key that made {home / 'request.json'}")
    else:
        yield Finding("key", "good", "is the certificate's")


def _unsigned(asked: Invitation, key: Path, path: Path) -> Finding:
    if path.exists():
        said, why = f"{key} is not there", "the certificate is of a key that is lost"
        fix = f"restore it, or fedfm revoke {asked.site} and fedfm invite {asked.site} at the authority"
    elif key.exists():
        said, why = "the authority has not answered yet", f"there is no {path}"
        fix = f"send {key.with_name('request.json')} to it; then fedfm join JOINFILE --certificate FILE"
    else:
        said, why = "this site has asked for none yet", f"there is no {key}"
        fix = "fedfm join JOINFILE makes the key and the request"
    return Finding("certificate", "bad", said, why, fix)


def _folder(home: Path) -> Iterator[Finding]:
    there = next(p for p in (home, *home.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        fix = f"the owner of {there}, or another --folder"
        yield Finding("folder", "bad", f"{there} cannot be written to", "a party keeps its states there", fix)
        return
    free = shutil.disk_usage(there).free
    grade: Grade = "bad" if free < NONE else "note" if free < LITTLE else "good"
    words = ("", "") if grade == "good" else ("states and receipts are kept there", "make room, or --folder")
    yield Finding("folder", grade, f"{size(free)} are free in {there}", *words)


def _records(home: Path) -> Iterator[Finding]:
    """Journals and receipts of earlier runs: one that cannot be read ends a party."""
    journals = sorted(home.glob("states/*/journal.json"))
    wrong = []
    for path in journals:
        try:
            Journal(path)
        except FedfmError as e:
            wrong.append(_of("journal", e, "restore it"))
    yield from wrong or [
        Finding("journal", "good", f"{len(journals)} can be read" if journals else "none yet")
    ]
    if (home / "life.json").exists():
        try:
            runs = booked(home / "life.json")
            yield Finding(
                "privacy", "good", f"epsilon {sum(runs.values()):.2f} is booked by {len(runs)} runs"
            )
        except FedfmError as e:
            yield _of("privacy", e, "restore it")
    key, lines = (home / RECEIPTS_KEY).exists(), (home / FILE).exists()
    if not lines:
        yield Finding("receipts", "good", "none yet")
    elif not key:
        said, why = (
            f"{home / RECEIPTS_KEY} is not there",
            f"it signed {home / FILE}, which cannot be verified",
        )
        yield Finding("receipts", "bad", said, why, f"restore it, or move {home / FILE} away and keep it")
    else:
        try:
            made = Receipts(home)
            told = dict.fromkeys(line["run"] for line in made.lines())
            yield Finding("receipts", "good", f"{made.count} hold, the last is {made.last}")
            yield from _gone(home, [r for r in told if not (home / "states" / r).is_dir()])
        except (FedfmError, ValueError, AssertionError, OSError) as e:
            fix = "restore the folder; else move the file away, keep it, and ask who changed it"
            yield _of("receipts", e, fix)


def _gone(home: Path, runs: list[str]) -> Iterator[Finding]:
    """Runs that this site has spoken in, and of which it has nothing any more."""
    if runs:
        said = f"the states of {len(runs)} runs are gone from {home / 'states'}: {', '.join(runs[-3:])}"
        why = (
            "in a run that goes on, what the site remembered begins anew, or the run goes on without it; under protection it "
            "stays out of rounds that it may have answered"
        )
        yield Finding("states", "note", said, why, "restore them from a copy, if such a run is under way")


def _policy(path: Path | None, asked: Invitation) -> Iterator[Finding]:
    if path is None:
        yield Finding("policy", "open", "none was given (--policy): whatever the federation asks is allowed")
        return
    try:
        rules = Policy.read(path)
    except FedfmError as e:
        yield Finding(
            "policy", "bad", f"{path}: {str(e).strip()}", "a site without its policy takes no part", ""
        )
        return
    if rules.authority is not None and rules.authority != (other := fingerprint(asked.authority)):
        said, why = f"{path} takes the authority {rules.authority}", f"the join file is of {other}"
        fix = "compare both with the fingerprint that the federation tells on another way"
        yield Finding("policy", "bad", said, why, fix)
        return
    yield Finding("policy", "good", f"{path} can be read")


def _way(asked: Invitation, home: Path, timeout_s: float) -> Iterator[Finding]:
    """Each step to the server, until one fails."""
    try:
        from fedfm.deploy.site.way import steps
    except MissingExtra:  # told under versions
        yield Finding("server", "open", "the way to it was not tried: grpcio is not installed")
        return
    own = None
    if _answered(asked, home):  # else `credentials` would make a key
        with contextlib.suppress(FedfmError, ValueError):
            own = credentials(asked, home)
    assert not isinstance(own, Path)
    with _files(own) as files:
        yield from steps(asked.address, own, files, timeout_s)


def _answered(asked: Invitation, home: Path) -> bool:
    """Does the site hold a key and a certificate?"""
    return bool(asked.key) or ((home / KEY).exists() and (home / answer(asked.site)).exists())


@contextlib.contextmanager
def _files(own: Credentials | None) -> Iterator[tuple[Path, Path] | None]:
    """Certificate and key as files, which is how a TLS library wants them; their owner alone may read them."""
    if own is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="fedfm-doctor-") as name:
        certificate, key = Path(name) / "certificate.pem", Path(name) / KEY
        private(certificate, own.certificate)
        private(key, own.key)
        yield certificate, key


def _of(topic: str, e: Exception, fix: str) -> Finding:
    """An error as a finding: its first line, its reason, its own fix if it has one."""
    first, *rest = (str(e) or type(e).__name__).split("\n")
    told: dict[str, Any] = {}
    for line in rest:
        name, _, text = line.strip().partition(": ")
        told |= {name: text} if name in ("why", "fix") else {}
    return Finding(topic, "bad", first, told.get("why", ""), told.get("fix", fix))
