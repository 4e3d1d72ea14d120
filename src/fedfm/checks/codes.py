"""What codes may be put around, behind one another, and what they may remember."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields

from fedfm.cards.registry import name_of
from fedfm.core.combine import ByPath, stages_of
from fedfm.core.errors import Problem
from fedfm.core.federation import Federation
from fedfm.core.protocols import Wire
from fedfm.vectors.patterns import matches


def lossy(fed: Federation) -> Iterator[Problem]:
    """What a code that loses something may be put around."""
    for i, stage in enumerate(stages_of(fed.uplink)):
        if (
            fed.client.makes != "delta"
            and not (stage.lossless or stage.opaque or (stage.unbiased and fed.aggregate.plain))
            and not stage.after_sum
        ):
            yield Problem(
                f"uplink.{i}",
                f"{name_of(stage)} loses part of {fed.client.makes}",
                "what it leaves out of a difference is small or comes later; of whole weights it is the model itself",
                "client.send=delta and server.takes=delta, or a lossless code",
            )
    for name in fed.client.exact:
        for i, stage in enumerate(stages_of(fed.uplink)):
            if not (stage.lossless or stage.opaque or _spares(stage, name)):
                yield Problem(
                    f"uplink.{i}",
                    f"{name_of(stage)} changes '{name}', which {name_of(fed.client)} needs as it is",
                    "the rest of the message is read by it: an error there is one in every value",
                    f"by-path with {{'{name}': null, '*': ...}}, or another client",
                )
    for i, stage in enumerate(stages_of(fed.downlink)):
        if not (stage.lossless or stage.unbiased or stage.follows):
            yield Problem(
                f"downlink.{i}",
                f"{name_of(stage)} leaves out part of the model that parties start from",
                "the broadcast holds the model and no difference: what is left out is missing, also if it comes later",
                "downlink=quantise or qsgd, or {name: ef21, whole_first: true}; a code of one's own whose receiver has "
                "about the whole model after each message says so: `follows = True`",
            )


def _spares(stage: Wire, name: str) -> bool:
    """Does a code by the names of tensors leave this one as it is?"""
    rules = stage.rules if isinstance(stage, ByPath) else {}
    first = next((wire for pattern, wire in rules.items() if matches(pattern, name)), None)
    return first is not None and all(s.lossless for s in stages_of(first))


def joint(fed: Federation) -> Iterator[Problem]:
    """A code takes range, sign or choice from all values that it sees: those of unlike units need one each."""
    parts = fed.client.units
    for i, stage in enumerate(stages_of(fed.uplink) if parts else ()):
        if not (stage.lossless or stage.opaque or stage.perturbs or _apart(stage, parts)):
            rules = ", ".join(f"'{part}/*': ..." for part in parts)
            yield Problem(
                f"uplink.{i}",
                f"{name_of(stage)} codes {' and '.join(parts)} of {name_of(fed.client)} as one vector",
                "they are of unlike units: the larger ones decide range and choice, and of the others little is left",
                f"by-path with {{{rules}}}, or another client",
            )


def _apart(stage: Wire, parts: tuple[str, ...]) -> bool:
    """Does a code by the names of tensors, or one around it, keep these parts of a message from each other?"""
    if isinstance(inner := getattr(stage, "inner", None), Wire):
        return _apart(inner, parts)
    if stage.separate:
        return True
    left = set(parts)
    for pattern, wire in stage.rules.items() if isinstance(stage, ByPath) else [("*", stage)]:
        if part := next((p for p in parts if pattern.startswith(f"{p}/")), ""):
            left -= {part} if pattern == f"{part}/*" else set()
        elif len(left) > 1 and not all(s.lossless or s.separate for s in stages_of(wire)):
            return False
    return True


def orders(fed: Federation) -> Iterator[Problem]:
    """What may stand behind what, in each sequence of stages, those inside of others too."""
    for i, stage in enumerate(stages_of(fed.talk)):
        if "structure" in stage.needs:
            yield Problem(
                f"talk.{i}",
                f"{name_of(stage)} goes by the names of tensors",
                "what is said in a conversation has none",
                "use a codec of plain vectors (qsgd, quantise)",
            )
    for slot in ("uplink", "downlink", "talk"):
        for where, stages in _sequences(slot, getattr(fed, slot)):
            for i, stage in enumerate(stages):
                yield from _behind(f"{where}.{i}", stage, stages[:i])


def _behind(where: str, stage: Wire, before: tuple[Wire, ...]) -> Iterator[Problem]:
    coded = [s for s in before if s.opaque or not s.perturbs]  # clipping and noise keep every coordinate
    if "structure" in stage.needs and coded:
        yield Problem(
            where,
            f"{name_of(stage)} goes by the names of tensors",
            f"behind {name_of(coded[-1])} there are none",
            f"put {name_of(stage)} first",
        )
    codes = [s for s in before if s.makes != "values" and (stage.lossless or not s.opaque)]
    if stage.takes == "values" and codes:
        yield Problem(
            where,
            f"{name_of(stage)} codes values, and {name_of(codes[-1])} leaves none",
            "what comes out there are packed codes, in which a changed bit is another value",
            f"put {name_of(stage)} before {name_of(codes[-1])}, or keep one of them",
        )


def _sequences(where: str, wire: Wire) -> Iterator[tuple[str, tuple[Wire, ...]]]:
    """The stages of a wire, and of the wires that its stages hold, with where they stand."""
    yield where, (stages := stages_of(wire))
    for i, stage in enumerate(stages):
        for f in fields(stage):
            held = getattr(stage, f.name)
            for key, inner in held.items() if isinstance(held, Mapping) else [("", held)]:
                if isinstance(inner, Wire):
                    yield from _sequences(f"{where}.{i}.{f.name}" + (f".{key}" if key else ""), inner)


def memories(fed: Federation) -> Iterator[Problem]:
    """Codes that remember what they sent, where that helps nobody, or would not fit."""
    cuts = {"downlink": fed.select.cuts, "uplink": fed.select.recuts, "talk": False}
    for slot, cut in cuts.items():
        for i, stage in enumerate(stages_of(getattr(fed, slot))):
            if stage.remembers and cut:
                yield Problem(
                    f"{slot}.{i}",
                    f"{name_of(stage)} remembers what it sent, and parties get sub-models",
                    "their vectors change in length",
                    f"drop {name_of(stage)}, or {name_of(fed.select)}",
                )
            if stage.remembers and slot == "talk":
                yield Problem(
                    f"talk.{i}",
                    f"{name_of(stage)} remembers what it left out, and nobody keeps that between two words",
                    "what it leaves out of a conversation would never be sent",
                    "use a codec without memory (qsgd, quantise)",
                )
