"""What lives in an actor of `engine=ray`: a site of its own, opened once, and the sessions that it is told of.

Frames go in and out, as with `processes`; a party's state travels with its job, so that machines share no folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedfm import __version__
from fedfm.checks.place import settled
from fedfm.core.errors import ResumeError, words_of
from fedfm.core.federation import Federation
from fedfm.core.message import Message, parts, raw, unpack
from fedfm.core.protocols import Bound, State
from fedfm.core.session import Site
from fedfm.core.state import Store, freeze, holds, lasting, thaw
from fedfm.data.splits import opened
from fedfm.engines.carried import carry
from fedfm.engines.desk import Desk
from fedfm.engines.frames import pieces, told
from fedfm.tasks.probing import open_task


class Hand(Store):
    """The one state that came with a job, and the one that leaves with its upload."""

    def __init__(self) -> None:
        super().__init__(Path("with the job"))
        self.came: tuple[str, int, bytes] | None = None
        self.leaves = b""

    def load(self, client: str, version: int) -> State:
        if not version:
            return {}
        if self.came is None or self.came[:2] != (client, version):
            raise ResumeError(
                f"the state {version} of {client} is missing; restore it from a copy of the run's folder, or "
                "start a new run"
            )
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            file.write(self.came[2])
            file.flush()
            return thaw(Path(file.name))

    def save(self, client: str, version: int, state: State) -> int:
        if not holds(state := lasting(state)):
            return 0
        self.leaves = freeze(state)
        return version


class Actor:
    """One worker: opened with a federation, then told one thing at a time, and it says one word for each."""

    def open(self, own: dict[str, tuple[str, str]], parcel: bytes, start: Any, how: dict[str, Any]) -> str:
        """Open data and model; returns the facts that all machines must have in common, or an error, as JSON."""
        try:
            carry(own)
            fed = _unpacked(parcel)
            _settle(fed, how)
            parties = opened(fed.data, fed.seed, fed.task)
            bound = open_task(fed.task, parties, how["device"])
            facts = common(fed, bound, parties)
            bound.init = unpack(memoryview(start)).x
            self.hand = Hand()
            self.desk = Desk(Site(fed, bound, parties, self.hand))
        except (Exception, SystemExit) as e:  # noqa: BLE001 - whatever it is, it is told
            return json.dumps(_here() | {"error": words_of(e)})
        return json.dumps(_here() | {"facts": facts})

    def hear(self, head: str, brief: Any, state: Any) -> Any:
        """The next word as a frame, with the state that leaves behind it; nothing where nobody is due."""
        line: dict[str, Any] = json.loads(head)
        if state is not None:
            self.hand.came = line["job"]["id"], line["job"]["base"], bytes(state)
        self.desk.told(line, None if brief is None else unpack(memoryview(brief)))
        said = self.desk.step() if self.desk.todo else None
        self.hand.came = None
        if said is None:
            return b""
        state, self.hand.leaves = self.hand.leaves, b""
        return blob([*pieces(told(said), said.message), state])


def blob(some: Sequence[bytes | memoryview]) -> Any:
    """Bytes as an array, which Ray hands over without a copy."""
    return np.frombuffer(b"".join(some), dtype=np.uint8)


def packed(m: Message) -> Any:
    """A message as an array of bytes."""
    return blob(parts(m))


def _here() -> dict[str, Any]:
    """This process, and its machine by name."""
    return {"where": socket.gethostname(), "pid": os.getpid()}


def _unpacked(parcel: bytes) -> Federation:
    """The federation, as Ray pickled it: one owner's, of one cluster."""
    import ray

    fed: Federation = ray.cloudpickle.loads(parcel)
    return fed


# ---- what bits depend on --------------------------------------------------------------------------------------
def how(device: str) -> dict[str, Any]:
    """How this process computes."""
    cudnn = torch.backends.cudnn
    return {
        "device": device,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": {k: getattr(cudnn, k) for k in ("enabled", "benchmark", "deterministic", "allow_tf32")},
    }


def _settle(fed: Federation, as_there: Mapping[str, Any]) -> None:
    """Compute as the process does that asks."""
    torch.set_num_threads(fed.threads)
    settled(replace(fed, device=as_there["device"]))
    torch.use_deterministic_algorithms(as_there["deterministic"], warn_only=as_there["warn_only"])
    torch.set_float32_matmul_precision(as_there["precision"])
    for name, value in as_there["cudnn"].items():
        setattr(torch.backends.cudnn, name, value)


def common(fed: Federation, bound: Bound, parties: Any) -> dict[str, str]:
    """What must be the same wherever a session runs, or it would give other bits: by name, in words or as a digest."""
    each = fed.task.each(bound, parties.ids)
    facts = {
        "python": platform.python_version(),
        "fedfm": __version__,
        "torch": torch.__version__,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "the rows": str(getattr(parties, "digest", parties.ids)),
        **{f"the model{' of ' * bool(name)}{name}": _digest(own) for name, (_, own, _) in each.items()},
    }
    if bound.device.type == "cuda":
        facts["the graphics card"] = torch.cuda.get_device_name()
    return facts


def _digest(bound: Bound) -> str:
    """Of what is trained, by name and shape, and of the bytes of all that is not."""
    trained = {e.name: [*e.shape] for e in bound.layout.entries}
    total = hashlib.sha256(json.dumps(trained).encode())
    module: nn.Module = bound.module
    named: list[tuple[str, Tensor]] = [*module.named_parameters(), *module.named_buffers()]
    for name, t in named:
        if name not in trained:
            total.update(f"{name} {t.dtype} {tuple(t.shape)}".encode() + b"\0")
            total.update(raw(t))
    return total.hexdigest()
