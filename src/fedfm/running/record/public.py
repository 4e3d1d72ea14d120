"""`public/`: the copy of a finished run that may leave the house, where somebody is to be protected.

A run directory holds states, scores, losses and who was drawn, and no epsilon covers them; under a protection only
what is listed here is for others. It is a list of what leaves, not of what stays: what is new stays in the house.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedfm.cards.registry import load, methods
from fedfm.config import text
from fedfm.config.compose import Config
from fedfm.config.places import unplaced
from fedfm.core.federation import Federation
from fedfm.core.spending import noises, observers
from fedfm.ledger import file as ledger
from fedfm.ledger.events import shown
from fedfm.running.record.folder import CONFIG, writing
from fedfm.running.summary import dumps

PUBLIC, FINISHED = (
    "public",
    "finished",
)  # with findings or without: which ones there are hangs on the parties' rows
TOLD = (  # of the summary: what follows from the config, and the model that is given away
    *("recipe", "rounds", "privacy", "trainable_parameters", "total_parameters", "citations", "versions"),
    "model_digest",
)
_PARTIES = frozenset({"party", "parties", "some parties"})
KEPT = "scores, parties' records, states and baselines stay in the house: no epsilon covers them"


def publish(folder: Path, fed: Federation, config: Config, summary: Mapping[str, Any]) -> Path | None:
    """Write DIR/public anew: model, config without seeds, the public ledger, summary and page; None without a protection."""
    from fedfm import report

    if not observers(fed):
        return None
    roster = not any(stage.relation == "add-or-remove" for stage in noises(fed))
    part, place = folder / f".{PUBLIC}.0", folder / PUBLIC
    with writing(folder):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        if (folder / "model").is_dir():  # models of parties' own are theirs
            shutil.copytree(folder / "model", part / "model")
        (part / CONFIG).write_text(text.dump(unplaced(unseeded(config, roster))), encoding="utf-8")
        with (part / "events.jsonl").open("w", encoding="utf-8") as f:
            for event in ledger.read(folder / "events.jsonl"):
                if (line := shown(event)) is not None:
                    f.write(ledger.line(line) + "\n")
        (part / "summary.json").write_bytes(
            dumps({k: summary[k] for k in TOLD} | {"status": FINISHED, "kept": KEPT})
        )
        report.write([part])
        shutil.rmtree(place, ignore_errors=True)
        part.replace(place)
    return place


def unseeded(config: Config, roster: bool = True) -> Config:
    """A config without seeds: who knows the seed can draw seeded noise, the cohort and the splits again.

    Objects that were given keep their class alone: what they print and their digest are functions of rows, or of what
    was counted in rows (the weights of classes that a loss holds).
    Without `roster` nothing is said of the data, for its settings tell how many parties there are, and their names,
    other settings keep no name or pattern of parties but `*`, and own objects keep their class alone.
    """
    bare, data = {k: _classes(v) for k, v in config.items() if k != "seed"}, config.get("data")
    if not roster:
        bare = {k: v if k == "data" else _nameless(v) for k, v in bare.items()}
    if not isinstance(data, dict):
        return bare
    if not roster:
        return bare | {"data": {k: data[k] for k in ("name", "object") if k in data}}
    return bare | {"data": {k: v for k, v in bare["data"].items() if k not in ("seed", "repr", "digest")}}


def _nameless(node: Any) -> Any:
    """The same without what names parties: which fields do is their own fact, `knob(names=...)`."""
    if isinstance(node, list):
        return [_nameless(v) for v in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("object"), str):  # of an own class no card says which fields those are
        return {"object": node["object"]}
    kept = {k: _nameless(v) for k, v in node.items()}
    for field, of in _naming(node):
        kept[field] = _everybody(kept.get(field), *of)
    return kept


def _naming(node: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """The fields of a spec that name parties, and what keys (or strings) and values of each are names of."""
    name = node.get("name")
    if not isinstance(name, str) or name not in methods():
        return
    for f in dataclasses.fields(load(name)):
        of = f.metadata.get("names") or ""
        keys, values = of if isinstance(of, tuple) else (of, of)
        if f.name in node and _PARTIES & {keys, values}:
            yield f.name, (keys, values)


def _everybody(value: Any, keys: str, values: str) -> Any:
    """What a field says of no party in particular."""
    if isinstance(value, dict):
        return {
            k: v
            for k, v in value.items()
            if _anybody(k, keys) and (isinstance(v, dict) or _anybody(v, values))
        }
    if isinstance(value, list):
        return [v for v in value if _anybody(v, keys)]
    return value if _anybody(value, keys) else None


def _anybody(value: Any, of: str) -> bool:
    return of not in _PARTIES or value == "*" or not isinstance(value, str)


def _classes(node: Any) -> Any:
    """The same with every object of a process named by its class alone."""
    if isinstance(node, dict):
        if isinstance(node.get("object"), str):
            return {k: _classes(v) for k, v in node.items() if k not in ("repr", "digest")}
        return {k: _classes(v) for k, v in node.items()}
    return [_classes(v) for v in node] if isinstance(node, list) else node
