"""Receipts: what has left a site, line by line, each signed and bound to the one before, durable before the bytes leave.

The file is the site's own evidence. A line that is changed, taken out or put in between is found by `verify`; lines that
were cut off at the end are found by whoever kept the number and hash of the last one (`fedfm receipts` prints them).
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedfm.core.errors import FedfmError
from fedfm.core.job import Job, Said
from fedfm.core.message import parts
from fedfm.deploy.authority import private

FILE, KEY = "receipts.jsonl", "receipts.key"
FIRST = "0" * 64  # what the first line is bound to


class Receipts:
    """A site's receipts under `folder`; its key is made at the first one."""

    def __init__(self, folder: Path):
        """Raises FedfmError where the receipts that are there do not hold."""
        self.folder, self.path = folder, folder / FILE
        if not (folder / KEY).exists():
            made = Ed25519PrivateKey.generate()
            form = (
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            private(folder / KEY, made.private_bytes(*form))
        found = serialization.load_pem_private_key((folder / KEY).read_bytes(), None)
        assert isinstance(found, Ed25519PrivateKey)
        self._key, self.last, self.count = found, FIRST, 0
        for line in self.lines():
            self.last, self.count = _hash(line), self.count + 1

    @property
    def public(self) -> str:
        """The key that verifies them (hex)."""
        form = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return self._key.public_key().public_bytes(*form).hex()

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every receipt, verified. Raises FedfmError at the first one that does not hold."""
        yield from verify(self.path, self._key.public_key())

    def add(self, run: str, job: Job, said: Said, norm: float | None, epsilon: float | None) -> None:
        """Write the receipt of a word that is about to leave. `norm`: of the update before it was encoded (L2);
        `epsilon`: that of the run's plan."""
        m, total = said.message, hashlib.sha256()
        for part in parts(m):
            total.update(part)
        tensors = {"x": m.x, **m.side}
        line: dict[str, Any] = {
            "n": self.count,
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "run": run,
            "kind": job.kind,
            "round": job.round,
            "epoch": job.epoch,
            "phase": said.phase,
            "tensors": {k: [str(t.dtype).removeprefix("torch."), list(t.shape)] for k, t in tensors.items()},
            "tells": sorted(m.info),
            "bytes": m.nbytes,
            "sha256": total.hexdigest(),
            "norm": norm,
            "epsilon": epsilon,
            "before": self.last,
        }
        line["signature"] = self._key.sign(_body(line)).hex()
        try:
            with self.path.open("a", encoding="utf-8") as f:
                f.write(json.dumps(line) + "\n")
                f.flush()
                os.fsync(f.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                mend(self.path)
            raise
        self.last, self.count = _hash(line), self.count + 1


def mend(path: Path) -> None:
    """Cut off half a line at the end: its writer was killed, or its disk was full, before the word could leave. For the
    party alone, as nobody else knows that no line is being written."""
    data = path.read_bytes() if path.exists() else b""
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def verify(path: Path, key: Ed25519PublicKey) -> Iterator[dict[str, Any]]:
    """The lines of a file of receipts, each with its signature and its place checked. Raises FedfmError."""
    if not path.exists():
        return
    last, text = FIRST, path.read_text(encoding="utf-8")
    for n, row in enumerate(text.splitlines()):
        try:
            line = json.loads(row)
            key.verify(bytes.fromhex(line["signature"]), _body(line))
            held = line["n"] == n and line["before"] == last
        except (ValueError, KeyError, TypeError, AttributeError, InvalidSignature) as e:
            raise FedfmError(f"{path}:{n + 1} is no receipt of this site ({type(e).__name__})") from e
        if not held:
            raise FedfmError(
                f"{path}:{n + 1} does not follow the line before it: receipts were taken out or moved"
            )
        last = _hash(line)
        yield line


def _body(line: dict[str, Any]) -> bytes:
    return json.dumps({k: v for k, v in line.items() if k != "signature"}, sort_keys=True).encode()


def _hash(line: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()
