"""The way from a site to the server, step by step: a name, a port, a handshake, a greeting that ends before joining."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

from fedfm.core.errors import FedfmError
from fedfm.deploy.authority import SERVER_NAME, Credentials
from fedfm.deploy.grpc import hello
from fedfm.deploy.reception import versions
from fedfm.deploy.site.findings import Finding
from fedfm.deploy.transport import checked

PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # which the carrier's library looks at, in this order
TOO_EARLY, TOO_LATE = 9, 10  # OpenSSL's words for a certificate before and after its dates


def steps(
    address: str, own: Credentials | None, files: tuple[Path, Path] | None, timeout_s: float
) -> Iterator[Finding]:
    """The findings of each step to HOST:PORT, until one stands in the way.

    `own` and `files`: the party's credentials, and its certificate and key as files; None: it has none yet, and the
    way ends at the port. `timeout_s`: seconds for each step.
    """
    try:
        host, _, port = checked(address).rpartition(":")
    except FedfmError as e:
        yield Finding("address", "bad", str(e).split("\n")[0], "it is in the join file", "a new invitation")
        return
    if proxy := next((f"{k}={v}" for k in PROXIES if (v := os.environ.get(k))), ""):
        said, fix = (
            f"{address} was not dialled: links go through {proxy}",
            f"no_grpc_proxy={host} lets them go straight",
        )
        yield Finding("address", "open", said, "the carrier's library takes that proxy", fix)
    else:
        found = list(_dialled(host.strip("[]"), int(port), own, files, timeout_s))
        yield from found
        if found[-1].grade == "bad":
            return
    if own is None:
        yield Finding("handshake", "open", "was not tried: this site has no key and certificate that fit")
    else:
        yield from _greeted(address, own, timeout_s)


def _dialled(
    host: str, port: int, own: Credentials | None, files: tuple[Path, Path] | None, timeout_s: float
) -> Iterator[Finding]:
    """A name, a port, a handshake; ends with the one that fails."""
    try:
        found = sorted({str(a[4][0]) for a in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError) as e:
        fix = (
            f"ask the federation for the name; use a name server that knows it, or put {host} into /etc/hosts"
        )
        yield Finding("address", "bad", f"{host} has no address", str(e), fix)
        return
    yield Finding("address", "good", f"{host} is {', '.join(found)}")
    try:
        link = socket.create_connection((host, port), timeout_s)
    except OSError as e:
        yield _shut(host, port, found, e, timeout_s)
        return
    with link:
        yield Finding("port", "good", f"{host}:{port} answers")
        if own is not None and files is not None:
            yield _shaken(link, f"{host}:{port}", own, files)


def _shut(host: str, port: int, found: list[str], e: OSError, timeout_s: float) -> Finding:
    """Nobody answers; which rule would let the link pass."""
    out = f"here: allow TCP outwards to {', '.join(found)} port {port}"
    inwards = f"at the server: allow TCP inwards to port {port}"
    rules = f"nft add rule inet filter output tcp dport {port} accept; nft add rule inet filter input tcp dport {port} accept"
    if isinstance(e, ConnectionRefusedError):
        said, why = f"{host}:{port} refuses", "nothing listens there, or a firewall rejects the link"
        return Finding(
            "port", "bad", said, why, f"start fedfm serve --address there; else {inwards} ({rules})"
        )
    if isinstance(e, TimeoutError):
        said = f"{host}:{port} has not answered within {timeout_s:g} s"
        why = "a firewall drops the link on its way, or the machine is down"
        return Finding("port", "bad", said, why, f"{out}; {inwards} (with nftables: {rules})")
    why = e.strerror or str(e)
    return Finding(
        "port", "bad", f"{host}:{port} cannot be reached", why, f"a route to {found[0]}; then {out}"
    )


def _shaken(link: socket.socket, at: str, own: Credentials, files: tuple[Path, Path]) -> Finding:
    """The handshake in which both ends prove their names; the server's first bytes say that it takes ours."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.load_verify_locations(cadata=own.authority.decode())
    tls.load_cert_chain(*files)
    tls.set_alpn_protocols(["h2"])
    try:
        with tls.wrap_socket(link, server_hostname=SERVER_NAME) as shaken:
            if shaken.recv(1):
                return Finding("handshake", "good", f"{shaken.version()}, both certificates are taken")
            why = "the link was closed after both certificates were shown"
    except ssl.SSLCertVerificationError as e:
        return _unproven(at, e)
    except TimeoutError:
        said, why = (
            f"{at} took the link and then said nothing",
            "it is no server of fedfm, or something between holds it",
        )
        fix = f"the right HOST:PORT; no inspection between here and {at}"
        return Finding("handshake", "bad", said, why, fix)
    except ssl.SSLError as e:
        why = (e.reason or str(e)).replace("_", " ").lower()
        if "alert" not in why:
            fix = f"the right HOST:PORT; a rule that lets TCP to {at} pass without TLS inspection"
            return Finding("handshake", "bad", f"{at} speaks no TLS that a server of fedfm speaks", why, fix)
    except OSError as e:
        why = e.strerror or str(e)
    said = f"{at} does not take this site's certificate, or something between ends the link"
    fix = (
        f"join file and certificate of this server's authority; a rule that lets TCP to {at} pass uninspected"
    )
    return Finding("handshake", "bad", said, why, fix)


def _unproven(at: str, e: ssl.SSLCertVerificationError) -> Finding:
    """The server's certificate does not hold here."""
    if e.verify_code in (TOO_EARLY, TOO_LATE):
        said = f"the certificate of {at} is out of its dates by this machine's clock"
        fix = "set the clock here (timedatectl set-ntp true); else the server's, and start fedfm serve anew"
        return Finding("handshake", "bad", said, e.verify_message, fix)
    said = f"{at} shows a certificate that the join file's authority has not signed for {SERVER_NAME}"
    fix = "the federation's own address; a rule that exempts it from TLS inspection; a join file of its authority"
    return Finding("handshake", "bad", said, e.verify_message, fix)


def _greeted(address: str, own: Credentials, timeout_s: float) -> Iterator[Finding]:
    """The server's versions beside those of here; it says as well whether this party is on the roster."""
    try:
        told, here = hello(address, own, timeout_s), versions()
    except PermissionError as e:
        fix = "a new invitation: fedfm revoke SITE and fedfm invite SITE at the authority"
        yield Finding("server", "bad", f"will not have this party: {e}", "its roster says so", fix)
        return
    except FedfmError as e:
        why = "its versions are compared when the party joins"
        yield Finding(
            "server", "note", f"has not answered the greeting: {e}", why, "its log; the same release of fedfm"
        )
        return
    for what, mine in here.items():
        theirs = told.get(what)
        if theirs == mine:
            yield Finding("server", "good", f"{what} {mine}, as here")
        else:
            said, fix = f"{what} {str(theirs)[:60]}, here {mine}", f"the same {what} at both ends"
            yield Finding(
                "server", "bad", said, "a party must have the server's, or its updates are others", fix
            )
