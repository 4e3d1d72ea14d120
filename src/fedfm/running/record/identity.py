"""What a run is a run of: config, data, base model, template, the user's own modules, library versions and device.

The record is durable before the first round; a resume makes it anew, and `differs` names whatever is not the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfm import models
from fedfm.config.compose import Config
from fedfm.core.errors import ModelError, ResumeError
from fedfm.core.message import raw
from fedfm.running.record.places import moved, renamed

BITS = 1  # grows with every change of this package that moves the bits of a run under the same config
CHANGEABLE = ("rounds", "evaluate.every", "engine")  # keys of a config that a resumed run may change


@dataclass(frozen=True)
class Difference:
    """One thing that is not as the run recorded it; `allowed` says whether the run may go on all the same."""

    what: str
    was: str
    now: str
    allowed: bool

    def __str__(self) -> str:
        return f"{self.what}: was {self.was}, is {self.now}"


@dataclass(frozen=True)
class Identity:
    """The record. Digests are SHA-256 (hex) by name: of all rows and of each party's, of each file of the base model.

    `imports` holds the file and digest of each module of the user's own that the federation rests on.
    """

    config: Config
    data: Mapping[str, str] = field(default_factory=dict)
    base: Mapping[str, str] = field(default_factory=dict)
    template: Mapping[str, str] = field(default_factory=dict)
    imports: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    bits: int = BITS

    def plain(self) -> dict[str, Any]:
        """As it stands in run.json."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Identity:
        """The inverse of `plain`. Raises ResumeError for fields that this release does not know."""
        try:
            return cls(**plain)
        except TypeError as e:
            raise ResumeError(
                f"run.json holds another record of identity than this release knows ({e})"
            ) from e

    def differs(self, other: Identity, *, done: int = 0, accept: Iterable[str] = ()) -> list[Difference]:
        """What `other`, made now, does not share with this record.

        `done`: rounds that are kept (a plan of fewer is refused). `accept`: "imports" lets changed own modules pass.
        """
        elsewhere = moved(self.config, other.config)
        found = [
            Difference(
                what,
                _short(was),
                _short(now),
                self._may(what, now, done, elsewhere) or self._told(what, was, accept),
            )
            for what, was, now in _unlike(_settled(self.config), _settled(other.config), "")
        ]
        if self.data.get("all") != other.data.get("all"):
            parts = list(_unlike({**self.data, "all": ""}, {**other.data, "all": ""}, "data"))
            found += [Difference(w, _short(a), _short(b), False) for w, a, b in parts] or [
                Difference("data", "other held-out rows or names", "these", False)
            ]
        for name, was, now in (
            ("base model", self.base, renamed(other.base, self.config, other.config)),
            ("template", self.template, renamed(other.template, self.config, other.config)),
        ):
            found += [Difference(w, _short(a), _short(b), False) for w, a, b in _unlike(was, now, name)]
        found += imports_differ(self.imports, other.imports, "imports" in set(accept))
        if self.bits != other.bits:
            found.append(Difference("bits epoch", str(self.bits), str(other.bits), False))
        found += [
            Difference(w, str(a), str(b), True)
            for w, a, b in _unlike(self.versions, other.versions, "")
            if w in self.versions  # an older release did not note it
        ]
        return found

    def _told(self, what: str, was: Any, accept: Iterable[str]) -> bool:
        """Is it the digest of own code that is accepted as it is now, or one that an older release did not note?"""
        *path, last = what.split(".")
        node: Any = self.config
        for key in path:
            found = node[int(key)] if isinstance(node, list) and key.isdecimal() else None
            node = node.get(key) if isinstance(node, Mapping) else found
        own = last == "digest" and isinstance(node, Mapping) and "object" in node
        return own and (was == _MISSING or "repr" not in node and "imports" in set(accept))

    def _may(self, what: str, now: Any, done: int, elsewhere: Iterable[str]) -> bool:
        if what == "rounds":
            return isinstance(now, int) and now >= done
        evaluate = self.config.get("evaluate") or {}
        if what == "evaluate.every" and (evaluate.get("stop_after") or evaluate.get("keep_best")):
            return False  # which rounds are compared decides which is the best
        return any(what == key or what.startswith(f"{key}.") for key in (*CHANGEABLE, *elsewhere))


def imports_differ(
    was: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]], accepted: bool
) -> list[Difference]:
    """Own modules whose content is not the recorded one; a module may move, and may no longer be needed."""
    return [
        Difference(f"import {name}", _said(was[name]), _said(now[name]), accepted)
        for name in sorted(was.keys() & now.keys())
        if was[name]["sha256"] != now[name]["sha256"]
    ]


def refuse(differences: Iterable[Difference], folder: Path) -> None:
    """Raise ResumeError that names every difference which is not allowed."""
    bad = [d for d in differences if not d.allowed]
    if not bad:
        return
    fixes = ["restore what changed, or start another run"]
    free = [key for key in CHANGEABLE if all(d.what != key for d in bad)]
    if all(d.what.startswith("import ") for d in bad):
        fixes.append(f"`fedfm resume {folder} --accept imports` goes on with the changed code and records it")
    if any(d.what.endswith(".digest") for d in bad):
        fixes.append(
            "functions and objects as they were: what they close over, globals that they name, attributes"
        )
    if any(d.what == "rounds" for d in bad):
        fixes.append("a run may get more rounds than it has done, not fewer")
    if any(d.what == "evaluate.every" for d in bad):
        fixes.append("evaluate.every stays as it is where the best round is looked for")
    raise ResumeError(
        f"{folder} cannot go on: it is a run of something else\n    "
        + "\n    ".join(map(str, bad))
        + f"\n    may change: {', '.join(free)}; library versions, device=auto's choice, and where "
        "the same rows and models lie" + "".join(f"\n    fix: {fix}" for fix in fixes)
    )


def models_of(node: Any) -> Iterator[str]:
    """Every model that a task's config names, at any depth."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "model" and isinstance(value, str):
                yield value
            else:
                yield from models_of(value)
    elif isinstance(node, list):
        for value in node:
            yield from models_of(value)


# ---- its parts ------------------------------------------------------------------------------------------------
def of_data(parties: Any) -> dict[str, str]:
    """The digest of all rows, and those of each party's training rows and of scripts that make them, so that a change can be named."""
    return {
        "all": parties.digest,
        **{i: str(getattr(parties.train(i), "digest", "")) for i in parties.ids},
        **getattr(parties, "scripts", {}),
    }


def of_base(config: Config, starts: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Digests of the base model and of what makes its inputs, for every model that the task names.

    The starts (by name, the vector from which each stage's training begins) are a part of the base: an adapter or a
    module given from Python has no folder to look at.
    """
    base = {name: hashlib.sha256(raw(start)).hexdigest() for name, start in starts.items()}
    template: dict[str, str] = {}
    tasks = [config.get("task"), *(stage.get("task") for stage in config.get("stages", ()))]
    for name in sorted(set(models_of(tasks))):
        try:
            found = models.base(name)
        except ModelError:
            continue  # no folder in the usual layout: its start says what can be said
        base[f"weights of {name}"] = found.weights
        if found.revision:
            base[f"revision of {name}"] = found.revision
        template |= {f"{name}/{file}": digest for file, digest in models.words(found.folder).items()}
    return base, template


# ---- comparing ------------------------------------------------------------------------------------------------
_MISSING = "nothing"


def _settled(config: Config) -> Any:
    """As it is after a way through a file, with the horizon as a number."""
    return json.loads(json.dumps({**config, "horizon": span(config)}))


def span(config: Config) -> Any:
    """The horizon of a config: `rounds` where it names none."""
    return config.get("rounds") if config.get("horizon") is None else config["horizon"]


def _unlike(was: Any, now: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Every leaf that is not the same: its dotted path, and both values."""
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        was, now = ({str(k): v for k, v in enumerate(node)} for node in (was, now))
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*was, *now)):
            at = f"{path}.{key}" if path else str(key)
            yield from _unlike(was.get(key, _MISSING), now.get(key, _MISSING), at)
    elif was != now or type(was) is not type(now) and {type(was), type(now)} != {int, float}:
        yield path, was, now


def _said(module: Mapping[str, str]) -> str:
    return f"{module['sha256'][:12]} ({module['file'] or 'no file'})"


def _short(value: Any) -> str:
    """A digest in twelve letters; other values as they are."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
