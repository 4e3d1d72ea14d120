"""A relay on this machine that passes TCP bytes on and counts them: what a carrier really puts on the wire, TLS and all."""

from __future__ import annotations

import socket
import threading
from collections import Counter

PIECE = 1 << 18  # bytes read at once


class Relay:
    """Listens on `port`, and passes every connection on to `to` (HOST:PORT), which may be told later."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # bytes "up" (towards `to`) and "down"
        self.to = ""
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._door.accept()
            except OSError:  # closed
                return
            host, _, port = self.to.rpartition(":")
            there = socket.create_connection((host, int(port)))
            for way, a, b in (("up", here, there), ("down", there, here)):
                threading.Thread(target=self._pass, args=(way, a, b), daemon=True).start()

    def _pass(self, way: str, a: socket.socket, b: socket.socket) -> None:
        try:
            while data := a.recv(PIECE):
                self.counts[way] += len(data)
                b.sendall(data)
        except OSError:  # one of them is gone
            pass
        for end in (a, b):
            end.close()

    def close(self) -> None:
        self._door.close()
