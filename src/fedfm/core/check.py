"""Compatibility is data: what cannot be honoured together is refused before a model is loaded, with reason and fix.

Every rule reads facts that methods declare; none knows a method's name. All problems are collected.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fedfm.core.combine import Pipe, sends, stages_of
from fedfm.core.errors import Problem
from fedfm.core.exposure import exposed
from fedfm.core.federation import Federation
from fedfm.core.protocols import Reward, Valuer
from fedfm.core.registry import name_of


def check(fed: Federation) -> list[Problem]:
    """Every problem of this federation; an empty list means that it can run."""
    return [
        problem
        for rule in (
            _pairs,
            _hidden_messages,
            _central_noise,
            _sub_models,
            _misplaced,
            exposed,
            _idle_switches,
            _place,
        )
        for problem in rule(fed)
    ]


def readers(fed: Federation) -> Iterator[tuple[str, str]]:
    """(slot, name) of everything that reads single messages."""
    for slot in ("aggregate", "value", "detect", "adversary"):
        if (method := getattr(fed, slot)).reads:
            yield slot, name_of(method)


def _pairs(fed: Federation) -> Iterator[Problem]:
    if fed.client.dialect != fed.server.dialect:
        yield Problem(
            "client",
            f"{name_of(fed.client)} speaks '{fed.client.dialect}', the server '{fed.server.dialect}'",
            "client and server halves of a method belong together",
            f"set server to the one that belongs to {name_of(fed.client)} (fedfm list --slot server), or client=local",
        )
    if fed.server.phases and fed.pace.late == "keep":
        yield Problem(
            "pace",
            f"{name_of(fed.pace)} lets work outlive its round",
            f"{name_of(fed.server)} ends its conversations with a round",
            "pace=synchronous, or quorum with late=cancel",
        )
    send = sends(fed.client)
    takes = getattr(fed.server, "takes", "delta")
    if send != takes:
        fix = f"server.takes={send}" if hasattr(fed.server, "takes") else f"client.local.send={takes}"
        yield Problem(
            "server.takes",
            f"clients send {send}, {name_of(fed.server)} takes {takes}",
            "adding weights as if they were differences doubles the model",
            fix,
        )
    if fed.aggregate.takes and fed.aggregate.takes != send:
        where = "client.send" if hasattr(fed.client, "send") else "client.local.send"
        yield Problem(
            where,
            f"{name_of(fed.aggregate)} needs {fed.aggregate.takes}, clients send {send}",
            "it combines whole factors",
            f"{where}={fed.aggregate.takes} and server.takes={fed.aggregate.takes}",
        )


def _hidden_messages(fed: Federation) -> Iterator[Problem]:
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


def _central_noise(fed: Federation) -> Iterator[Problem]:
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
    if sends(fed.client) == "weights":
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


def _sub_models(fed: Federation) -> Iterator[Problem]:
    if fed.select.cuts:
        for slot, name in readers(fed):
            yield Problem(
                slot,
                f"{name} compares messages, but sub-models differ in size",
                "their vectors have no common coordinates",
                f"drop {slot}={name}, or {name_of(fed.select)}",
            )
        if fed.aggregate.form == "sum" and not fed.aggregate.plain:
            yield Problem(
                "aggregate",
                f"{name_of(fed.aggregate)} does not know sub-models",
                "it needs whole messages",
                "aggregate=mean",
            )
        for i, stage in enumerate(stages_of(fed.uplink)[: Pipe(fed.uplink).hidden or 0]):
            if not stage.after_sum:  # what acts on the sum too keeps the length
                yield Problem(
                    f"uplink.{i}",
                    f"{name_of(stage)} codes sub-models before they are masked",
                    "only vectors of the whole model can be summed under masks",
                    f"drop {name_of(stage)}, or {name_of(fed.select)}",
                )


def _misplaced(fed: Federation) -> Iterator[Problem]:
    """Protection covers whole uploads or their sum: it works as a stage of the uplink itself and nowhere else."""
    for slot in ("uplink", "downlink", "talk"):
        for i, stage in enumerate(stages_of(getattr(fed, slot))):
            if (slot != "uplink" or hasattr(stage, "rules")) and (
                stage.after_sum or stage.opaque or stage.phases or stage.perturbs
            ):
                yield Problem(
                    f"{slot}.{i}",
                    f"the protection of {name_of(stage)} has no effect here",
                    "it covers whole uploads, or the "
                    "sum of a round's, which only the uplink's own stages see",
                    "make it a stage of the uplink",
                )


def _idle_switches(fed: Federation) -> Iterator[Problem]:
    if fed.fold == "fixed" and (names := [name for _, name in readers(fed)]):
        yield Problem(
            "fold",
            "fixed has no effect here",
            "messages are kept, not folded: " + ", ".join(names),
            "fold=float",
        )
    if (
        type(fed.value) is Valuer
        and type(fed.reward) is not Reward
        and getattr(fed.reward, "needs_values", False)
    ):
        yield Problem(
            "reward",
            f"{name_of(fed.reward)} pays by value, and nobody values",
            "every contribution would be zero",
            "value=shapley-permutation",
        )
    if getattr(fed.reward, "plans", False) and getattr(fed.select, "inner", fed.select) != fed.reward:
        yield Problem(
            "reward",
            f"{name_of(fed.reward)} pays what its own plan promised, and another selector plans",
            "nobody would be paid",
            "fill select and reward with the same auction",
        )


def _place(fed: Federation) -> Iterator[Problem]:
    if fed.device == "cuda" and not torch.cuda.is_available():
        yield Problem(
            "device", "no CUDA device is visible", "torch.cuda.is_available() is false", "device=auto"
        )
    elif fed.device == "cuda" and name_of(fed.engine) == "processes":
        yield Problem(
            "engine",
            "processes cannot share a GPU",
            "a process that uses CUDA cannot be forked",
            "engine=inprocess",
        )
