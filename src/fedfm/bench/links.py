"""What the carrier of real parties costs, as ratios to bare mutual-TLS sockets that carry the same bytes in the same run.

One server and two parties, each a process of its own, on this machine; beside them a server and two parties that talk
over sockets with the same certificates, a thread for each. Links and sockets take turns. A round is one message to each
party and back again. Then one party is killed (SIGKILL) and the other is stopped (SIGSTOP), and the server notices.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from fedfm.bench import machine
from fedfm.core.errors import MachineFault, MissingExtra

PARTIES = ("party-0", "party-1")
MB = 1_000_000
SIZES = (MB, 64 * MB, 256 * MB)  # bytes of a message
HUGE = 1000 * MB  # to one party alone: the others' copies would fill a small machine
BEAT_S, PATIENCE_S = 2.0, 8.0  # what is served: how often each end says something, how long silence is borne


def measure(
    quick: bool = False,
    *,
    large: bool = False,
    sizes: Sequence[int] = SIZES,
    exchanges: int = 200,
    repeats: int = 5,
    beat_s: float = BEAT_S,
    patience_s: float = PATIENCE_S,
) -> dict[str, Any]:
    """`exchange` and `rounds` (by bytes): medians of links over those of sockets; the seconds of both.

    `large` adds a message of 1 GB. `peak_bytes`: resident at most, so far, of each process after each size, sizes growing
    (Linux; 0 elsewhere). `killed_s`, `stopped_s`: until the server has noticed. `beat_s`, `patience_s`: of the links.
    Raises MissingExtra without grpcio, MachineFault when an end of the measurement is gone.
    """
    if importlib.util.find_spec("grpc") is None:
        raise MissingExtra("grpcio", "deploy", "fedfm bench links")
    if quick:
        sizes, exchanges, repeats = (
            tuple(n for n in sizes if n <= 64 * MB),
            min(exchanges, 50),
            min(repeats, 2),
        )
    plan: list[tuple[int, tuple[str, ...], int]] = [(0, PARTIES[:1], exchanges)]
    plan += [(n, PARTIES, 4 * repeats if n <= MB else repeats) for n in sorted(sizes)]
    plan += [(HUGE, PARTIES[:1], 1)] if large else []
    with (
        tempfile.TemporaryDirectory(prefix="fedfm-bench-") as name,
        _ends(Path(name), beat_s, patience_s) as ends,
    ):
        links, sockets = ends["links"], ends["sockets"]
        watched = {
            "server": links,
            "party": ends[PARTIES[0]],
            "bare server": sockets,
            "bare party": ends["bare party-0"],
        }
        peaks = {what: {"start": machine.peak(end.pid)} for what, end in watched.items()}
        seconds: dict[str, dict[str, list[float]]] = {"links": {}, "sockets": {}}
        for size, to, times in plan:
            key = str(size) if size else "exchange"
            for what, values in _turns(links, sockets, size, to, times).items():
                seconds[what][key] = values
            for what, end in watched.items():
                peaks[what][key] = machine.peak(end.pid)
            print(f"  {key}: {_ratio(seconds, key)} times a bare socket", file=sys.stderr, flush=True)
        killed = _noticed(links, ends["party-1"], "party-1", signal.SIGKILL)
        stopped = _noticed(links, ends["party-0"], "party-0", signal.SIGSTOP)
    return {
        "exchange": _ratio(seconds, "exchange"),
        "rounds": {key: _ratio(seconds, key) for key in seconds["links"] if key != "exchange"},
        "seconds": {what: {k: machine.spread(v, 6) for k, v in by.items()} for what, by in seconds.items()},
        "peak_bytes": peaks,
        "killed_s": round(killed, 3),
        "stopped_s": round(stopped, 3),
        "patience_s": patience_s,
        "parties": {str(n) if n else "exchange": len(to) for n, to, _ in plan},
    }


def _ratio(seconds: dict[str, dict[str, list[float]]], key: str) -> float:
    links, sockets = (statistics.median(seconds[what][key]) for what in ("links", "sockets"))
    return round(links / max(sockets, 1e-9), 3)


def _turns(links: _End, sockets: _End, size: int, to: Sequence[str], times: int) -> dict[str, list[float]]:
    """Seconds of both; each is warmed once, then they take turns in pieces."""
    found: dict[str, list[float]] = {"links": [], "sockets": []}
    piece = max(1, times // 5)
    for k in range(0, times + piece, piece):  # the first piece is a warm-up
        for what, end in (("links", links), ("sockets", sockets)):
            values = end.ask(do="round", bytes=size, to=list(to), repeats=min(piece, times))["seconds"]
            if k:
                found[what] += values
    return found


def _noticed(links: _End, party: _End, name: str, sent: signal.Signals) -> float:
    """Seconds from a signal to a party until the server gives it up."""
    links.ask(do="lost", peer=name)  # it waits from now on
    begun = time.monotonic()
    party.process.send_signal(sent)
    return float(links.hears()["at"]) - begun


class _End:
    """A process that is told what to do in lines of JSON."""

    def __init__(self, folder: Path, role: str, *words: object):
        self._last = folder / f"{'-'.join([role, *map(str, words)])}.err"
        with self._last.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedfm.bench.bed.ends", role, str(folder), *map(str, words)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
        self.pid = self.process.pid

    def ask(self, **command: Any) -> dict[str, Any]:
        """Its answer to a command. Raises MachineFault when it has ended."""
        stdin: IO[str] | None = self.process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its last words follow
            print(json.dumps(command), file=stdin, flush=True)
        return self.hears()

    def hears(self) -> dict[str, Any]:
        """Its next line. Raises MachineFault, with its last words, when it has ended."""
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            found: dict[str, Any] = json.loads(line)
            return found
        last = self._last.read_text(errors="replace").strip().split("\n")[-1]
        raise MachineFault(f"links: an end of the measurement is gone: {last or 'without a word'}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@contextlib.contextmanager
def _ends(folder: Path, beat_s: float, patience_s: float) -> Iterator[dict[str, _End]]:
    """All processes, linked; they are killed in the end."""
    from fedfm.deploy.authority import Authority

    ends: dict[str, _End] = {}
    ca = Authority.create(folder, "bench")
    try:
        ends["links"] = _End(folder, "serve", beat_s, patience_s)
        address = ends["links"].hears()["address"]
        ends["sockets"] = _End(folder, "listen")
        port = ends["sockets"].hears()["address"]
        for name in PARTIES:
            ca.rehearse(name, address).write(folder / f"{name}.json")
            ends[name] = _End(folder, "join", beat_s, patience_s, name)
            ends[f"bare {name}"] = _End(folder, "dial", name, port)
        for server in ("links", "sockets"):
            ends[server].ask(do="gather", parties=len(PARTIES))
        yield ends
    finally:
        for end in ends.values():
            end.close()
