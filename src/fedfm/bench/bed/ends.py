"""The ends of two carriers, each a process of its own: links as a served run has them, and bare mutual-TLS sockets.

    python -m fedfm.bench.bed.ends serve FOLDER BEAT_S PATIENCE_S      # the server of links; told what to do on stdin
    python -m fedfm.bench.bed.ends join FOLDER BEAT_S PATIENCE_S NAME  # a party of links: says again what it hears
    python -m fedfm.bench.bed.ends listen FOLDER                       # the server of sockets
    python -m fedfm.bench.bed.ends dial FOLDER NAME PORT               # a party of sockets

FOLDER holds an authority, and what it has given to NAME. A server prints a line of JSON for every line that it reads.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fedfm.deploy.authority import SERVER_NAME, Authority, Credentials, Invitation, credentials, private

MOST = 1 << 32  # bytes of a message
LONG_S = 600.0  # nothing that is measured takes longer
SMALL = 64  # bytes of the smallest message on a bare socket; a link's is its head
LENGTH = 8  # bytes of the number before each message of a bare socket


def papers(folder: Path, name: str) -> Credentials:
    """What the authority has given to a party."""
    found = credentials(Invitation.read(folder / f"{name}.json"), folder)
    assert isinstance(found, Credentials)
    return found


# ---- links ----------------------------------------------------------------------------------------------------
def serve(folder: Path, beat_s: float, patience_s: float) -> None:
    """The server of links."""
    from fedfm.deploy.grpc import GrpcServer

    ca = Authority(folder)
    made = GrpcServer("127.0.0.1:0", ca.server(), ca.admits, MOST)
    made.beat_s, made.patience_s = beat_s, patience_s
    made.open()
    _obey(
        made.address,
        {
            "round": lambda c: _round(made, c),
            "gather": lambda c: _gather(made, c),
            "lost": lambda c: _lost(made, c),
        },
    )
    made.close()


def _gather(made: Any, command: dict[str, Any]) -> dict[str, Any]:
    here: set[str] = set()
    while len(here) < command["parties"]:
        if (frame := made.receive(LONG_S)) is None:
            raise TimeoutError("nobody comes")
        here.add(frame.peer)
    return {"here": sorted(here)}


def _round(made: Any, command: dict[str, Any]) -> dict[str, Any]:
    """The same message to some parties, and back from all of them; seconds of each time."""
    import torch

    from fedfm.core.message import Message
    from fedfm.deploy.letters import Letter

    message = Message(torch.zeros(command["bytes"] // 4)) if command["bytes"] else None

    def once() -> None:
        for peer in command["to"]:
            made.send(peer, Letter({"do": "say"}, message))
        left = set(command["to"])
        while left:
            frame = made.receive(LONG_S)
            if frame is None or frame.kind == "lost":
                raise ConnectionError("a party is gone")
            left -= {frame.peer} if frame.kind == "letter" else set()

    return {"seconds": _timed(once, command["repeats"])}


def _lost(made: Any, command: dict[str, Any]) -> dict[str, Any]:
    """When a party is given up, by the clock that all processes of a machine share."""
    _say({"waiting": command["peer"]})
    while (frame := made.receive(LONG_S)) is not None:
        if frame.kind == "lost" and frame.peer == command["peer"]:
            return {"at": time.monotonic(), "why": frame.letter.head["why"]}
    raise TimeoutError(f"{command['peer']} is never given up")


def join(folder: Path, beat_s: float, patience_s: float, name: str) -> None:
    """A party of links."""
    from fedfm.deploy.grpc import GrpcParty
    from fedfm.deploy.transport import SERVER

    made = GrpcParty(Invitation.read(folder / f"{name}.json").address, papers(folder, name), MOST)
    made.beat_s, made.patience_s = beat_s, patience_s
    made.open()
    while True:
        frame = made.receive()
        if frame is not None and frame.kind == "letter":
            made.send(SERVER, frame.letter)
        frame = None  # the next one may need its memory


# ---- bare sockets ---------------------------------------------------------------------------------------------
def listen(folder: Path) -> None:
    """The server of sockets: a thread for each party."""
    tls = _context(ssl.PROTOCOL_TLS_SERVER, Authority(folder).server(), folder / "server")
    tls.verify_mode = ssl.CERT_REQUIRED
    door = socket.create_server(("127.0.0.1", 0))
    links: list[ssl.SSLSocket] = []

    def gather(command: dict[str, Any]) -> dict[str, Any]:
        while len(links) < command["parties"]:
            link = tls.wrap_socket(door.accept()[0], server_side=True)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            links.append(link)
        return {"here": len(links)}

    with ThreadPoolExecutor(8) as pool:

        def rounds(command: dict[str, Any]) -> dict[str, Any]:
            body, to = bytes(command["bytes"] or SMALL), links[: len(command["to"])]

            def told(link: ssl.SSLSocket) -> None:
                _put(link, body)
                _get(link)

            once = (lambda: told(to[0])) if len(to) == 1 else (lambda: list(pool.map(told, to)))
            return {"seconds": _timed(once, command["repeats"])}

        _obey(str(door.getsockname()[1]), {"gather": gather, "round": rounds})


def dial(folder: Path, name: str, port: int) -> None:
    """A party of sockets."""
    tls = _context(ssl.PROTOCOL_TLS_CLIENT, papers(folder, name), folder / name)
    link = tls.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname=SERVER_NAME)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while True:
        _put(link, _get(link))


def _context(kind: int, own: Credentials, at: Path) -> ssl.SSLContext:
    tls = ssl.SSLContext(kind)
    files = at.with_suffix(".certificate"), at.with_suffix(".key")
    for path, pem in zip(files, (own.certificate, own.key), strict=True):
        private(path, pem)
    tls.load_cert_chain(*files)
    tls.load_verify_locations(cadata=own.authority.decode())
    return tls


def _put(link: ssl.SSLSocket, body: bytes | bytearray) -> None:
    link.sendall(len(body).to_bytes(LENGTH, "big"))
    link.sendall(body)


def _get(link: ssl.SSLSocket) -> bytearray:
    return _whole(link, int.from_bytes(_whole(link, LENGTH), "big"))


def _whole(link: ssl.SSLSocket, n: int) -> bytearray:
    body, got = bytearray(n), 0
    view = memoryview(body)
    while got < n:
        if not (more := link.recv_into(view[got:])):
            raise ConnectionError("the other end is gone")
        got += more
    return body


# ---- both -----------------------------------------------------------------------------------------------------
def _timed(once: Callable[[], Any], repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - begun)
    return seconds


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def _obey(address: str, able: dict[str, Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """Do what each line asks, until there are no more."""
    _say({"address": address})
    for line in sys.stdin:
        command = json.loads(line)
        _say(able[command["do"]](command))


def main(words: Sequence[str]) -> None:
    """What the command line asks for."""
    role, folder, *rest = words
    at = Path(folder)
    if role == "serve":
        serve(at, float(rest[0]), float(rest[1]))
    elif role == "join":
        join(at, float(rest[0]), float(rest[1]), rest[2])
    elif role == "listen":
        listen(at)
    else:
        dial(at, rest[0], int(rest[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
