"""Uploads that are there but not yet due: beyond a few they wait on disk, so memory stays what the window allows."""

from __future__ import annotations

import tempfile
from typing import IO

from fedfm.core.message import Message, pack, unpack


class Spool:
    """Messages in one anonymous temporary file, each taken out once."""

    def __init__(self) -> None:
        self.file: IO[bytes] | None = None
        self.places: dict[int, tuple[int, int]] = {}  # epoch -> where it begins, and its bytes

    def __del__(self) -> None:
        if self.file is not None:
            self.file.close()

    def put(self, epoch: int, m: Message) -> None:
        """Keep the message of a session."""
        if self.file is None:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115 - it goes with the spool
        data = pack(m)
        self.places[epoch] = (self.file.seek(0, 2), len(data))
        self.file.write(data)

    def __contains__(self, epoch: int) -> bool:
        return epoch in self.places

    def take(self, epoch: int) -> Message:
        """Give it back."""
        assert self.file is not None
        self.file.seek(self.places[epoch][0])
        m = unpack(bytearray(self.file.read(self.places[epoch][1])))
        self.drop(epoch)
        return m

    def drop(self, epoch: int) -> None:
        """Nobody will ask for it; the file shrinks when all are gone."""
        if self.places.pop(epoch, None) and not self.places and self.file is not None:
            self.file.truncate(0)
