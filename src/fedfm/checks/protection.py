"""Protection covers what it is told to cover and nothing else: rules of masks, noise and their places."""

from __future__ import annotations

from collections.abc import Iterator

from fedfm.core.combine import Pipe, stages_of
from fedfm.core.errors import Problem
from fedfm.core.federation import Federation, readers
from fedfm.core.protocols import Wire
from fedfm.core.registry import name_of


def protects(stage: Wire) -> bool:
    """Is there protection anywhere inside this stage?"""
    return (
        stage.after_sum
        or stage.opaque
        or bool(stage.phases)
        or stage.perturbs
        or any(map(protects, stage.stages))
    )


def hidden_messages(fed: Federation) -> Iterator[Problem]:
    """No single message is readable: whatever reads one is refused."""
    stages, at = stages_of(fed.uplink), Pipe(fed.uplink).hidden
    if at is None:
        return
    hider = name_of(stages[at])
    for slot, name in readers(fed):
        yield Problem(
            slot,
            f"{name} reads single messages, which {hider} hides",
            "the server sees only the sum of the cohort",
            f"drop {slot}={name}, or drop {hider} from the uplink",
        )
    if fed.aggregate.form == "sum" and not fed.aggregate.shares:
        yield Problem(
            "aggregate",
            f"{name_of(fed.aggregate)} cannot be computed on the client",
            f"{hider} needs the client to weigh its own message before it is masked",
            "aggregate=mean",
        )
    if fed.pace.late == "keep" or fed.pace.partial:
        yield Problem(
            "pace",
            f"{name_of(fed.pace)} closes rounds on part of a cohort",
            f"the masks of {hider} cancel only over the whole cohort; a late upload could be unmasked alone",
            "pace=synchronous, or quorum with late=cancel, eager=false",
        )
    for i, stage in enumerate(stages):
        if i < at and not stage.linear:
            yield Problem(
                f"uplink.{i}",
                f"{name_of(stage)} stands before {hider} and is not linear",
                "only the sum is decoded, and this code of a sum is not the sum of the codes",
                f"move it out, or use a linear code with a shared seed (randk) before {hider}",
            )
        if i > at and not stage.lossless:
            yield Problem(
                f"uplink.{i}",
                f"{name_of(stage)} stands after {hider} and loses bits",
                "a masked vector that is changed cannot be unmasked",
                f"put it before {hider} if it is linear",
            )
        if i > at and stage.opaque:
            yield Problem(
                f"uplink.{i}",
                f"{name_of(stage)} would mask what {hider} has masked",
                "one mask is enough",
                "keep one",
            )


def central_noise(fed: Federation) -> Iterator[Problem]:
    """Noise on the sum: valid for a clipped sum with equal weights and for nothing else that looks at the messages."""
    stages = stages_of(fed.uplink)
    i = next((i for i, s in enumerate(stages) if s.after_sum and not s.opaque), None)
    if i is None:
        return
    name = name_of(stages[i])
    for slot, reader in readers(fed):
        if slot != "adversary":
            yield Problem(
                slot,
                f"{reader} reads single messages under {name}",
                "the noise covers the sum; what is computed from "
                "single messages is a release that no accountant knows",
                f"drop {slot}={reader}, or use noise on the client (local-gaussian)",
            )
    if fed.aggregate.form == "sum" and not fed.aggregate.plain:
        yield Problem(
            "aggregate",
            f"{name_of(fed.aggregate)} transforms the clipped message",
            "its sum is no longer bounded by clip_norm, so the noise would be too small",
            "aggregate=mean with weights=equal",
        )
    if fed.client.makes == "weights":
        yield Problem(
            "client.send",
            "clients send weights",
            f"{name} would clip the model itself, not the update",
            "client.send=delta",
        )
    for k, before in enumerate(stages[:i] if Pipe(fed.uplink).hidden is None else ()):
        yield Problem(
            f"uplink.{k}",
            f"{name_of(before)} is decoded after {name} has clipped its code",
            "what it makes of a clipped code may be longer than clip_norm",
            f"drop {name_of(before)}, or add secagg behind {name}",
        )
    for k, after in enumerate(stages[i + 1 :], i + 1):
        if not (after.lossless or after.opaque):
            yield Problem(
                f"uplink.{k}",
                f"{name_of(after)} changes the update after {name} has clipped it",
                "the clipped norm would no longer hold",
                f"put it before {name}",
            )


def misplaced(fed: Federation) -> Iterator[Problem]:
    """Protection covers whole uploads or their sum: it works as a stage of the uplink itself and nowhere else."""
    for slot, wire in (("uplink", fed.uplink), ("downlink", fed.downlink), ("talk", fed.talk)):
        for i, stage in enumerate(stages_of(wire)):
            if any(map(protects, stage.stages)) or (slot != "uplink" and protects(stage)):
                yield Problem(
                    f"{slot}.{i}",
                    f"the protection of {name_of(stage)} has no effect here",
                    "it covers whole uploads, or the sum of a round's, which only the uplink's own stages see",
                    "make it a stage of the uplink",
                )
