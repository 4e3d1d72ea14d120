"""Compatibility is data: what cannot be honoured together is refused before a model is loaded, with reason and fix.

Every rule reads facts that methods declare; none knows a method's name, and a fact that is not declared has the value
that promises least. All problems are collected.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fedfm.cards.registry import name_of
from fedfm.checks import codes, protection
from fedfm.checks.exposure import exposed
from fedfm.checks.filled import filled, typed
from fedfm.checks.place import forks, unknown
from fedfm.checks.ranges import ranges
from fedfm.checks.stages import staged
from fedfm.config.stages import MOST, many
from fedfm.core.combine import Pipe, stages_of
from fedfm.core.errors import Problem
from fedfm.core.federation import Federation, readers


def check(fed: Federation) -> list[Problem]:
    """Every problem of these settings; an empty list means that they go together. `fedfm.probe` opens data and model too."""
    rules = (
        ranges,
        _pairs,
        _kinds,
        codes.lossy,
        codes.joint,
        codes.orders,
        codes.memories,
        _groups,
        _guided,
        _personal,
        _architectures,
        protection.hidden_messages,
        protection.central_noise,
        _sub_models,
        protection.misplaced,
        exposed,
        _idle_switches,
        _place,
    )
    if len(fed.stages) > MOST:
        return [many(len(fed.stages))]
    if strangers := list(filled(fed)):
        return strangers
    if strangers := typed(fed):
        return strangers
    found = [problem for rule in rules for problem in rule(fed)]
    return [*found, *staged(fed, check)] if fed.stages else found


def _pairs(fed: Federation) -> Iterator[Problem]:
    if fed.client.dialect != fed.serving.dialect:
        yield Problem(
            "server",
            f"{name_of(fed.client)} speaks '{fed.client.dialect}', {name_of(fed.serving)} '{fed.serving.dialect}'",
            "client and server halves of a method belong together, with the same knobs",
            "server=null takes the client's own half; or client=local",
        )
    if fed.serving.phases and fed.pace.late == "keep":
        yield Problem(
            "pace",
            f"{name_of(fed.pace)} lets work outlive its round",
            f"{name_of(fed.serving)} ends its conversations with a round",
            "pace=synchronous, or quorum with late=cancel",
        )
    if fed.client.alternates and fed.pace.late == "keep":
        yield Problem(
            "pace",
            f"{name_of(fed.pace)} lets work outlive its round",
            f"the rounds of {name_of(fed.client)} are of two kinds, which would be mixed in one sum",
            "pace=synchronous, or quorum with late=cancel",
        )
    if fed.aggregate.rescales and not fed.serving.elastic:
        yield Problem(
            "aggregate",
            f"{name_of(fed.aggregate)} gives what all agree on another length",
            f"{name_of(fed.serving)} takes lengths at their word, or does not say that it does not (`elastic`)",
            "aggregate=mean without a denominator, or a server that only adds the update (apply); one of your own "
            "that does says elastic = True",
        )
    if fed.serving.sums_up and not fed.aggregate.averages:
        yield Problem(
            "aggregate",
            f"{name_of(fed.serving)} adds up what its parties add up too, and {name_of(fed.aggregate)} is no plain mean of "
            "theirs, or does not say that it is (`averages`)",
            "the two sums would part, and the model would settle at a point that nobody asked for",
            "aggregate=mean without factors and without a denominator, or client=local; one of your own that gives it says "
            "averages = True",
        )


def _kinds(fed: Federation) -> Iterator[Problem]:
    """The kind of message goes from client to aggregator to server."""
    makes = fed.client.makes
    for slot, who, does in (("adversary", fed.adversary, "forge"), ("detect", fed.detect, "judge")):
        if who.reads and makes not in who.takes:
            yield Problem(
                slot,
                f"{name_of(who)} cannot {does} {makes}",
                f"it takes {' or '.join(who.takes)}",
                f"client.send={who.takes[0]} and server.takes alike, or drop {slot}={name_of(who)}",
            )
    if makes not in fed.aggregate.takes:
        takes = " or ".join(fed.aggregate.takes)
        yield Problem(
            "client.send",
            f"{name_of(fed.aggregate)} takes {takes}, {name_of(fed.client)} sends {makes}",
            "it would compute something else from it",
            f"client.send={fed.aggregate.takes[0]} where the client has that knob, and server.takes alike",
        )
    if makes != fed.serving.takes:
        yield Problem(
            "server.takes",
            f"clients send {makes}, {name_of(fed.serving)} takes {fed.serving.takes}",
            "adding weights as if they were differences doubles the model",
            f"server.takes={makes} where the server has that knob, or client.send={fed.serving.takes}",
        )


def _groups(fed: Federation) -> Iterator[Problem]:
    """Edges send sums: nobody behind them sees a single message."""
    for slot, name in readers(fed) if fed.select.groups else ():
        yield Problem(
            slot,
            f"{name} reads single messages, and {name_of(fed.select)} sums them at edges",
            "the root gets one sum an edge",
            f"drop {slot}={name}, or {name_of(fed.select)}",
        )


def _guided(fed: Federation) -> Iterator[Problem]:
    """A server that learns on its own rows runs the federation's client there, alone."""
    if "server rows" in fed.aggregate.needs and fed.serving.phases:
        yield Problem(
            "aggregate",
            f"{name_of(fed.aggregate)} lets the server learn, and {name_of(fed.client)} learns by talking to a server",
            "the server's own rows have nobody to talk to",
            f"drop aggregate={name_of(fed.aggregate)}, or take a client that does not converse",
        )


def _architectures(fed: Federation) -> Iterator[Problem]:
    """Parties of unlike architectures have no weights in common, only what their models say."""
    if fed.task.whole == fed.client.mixed:
        yield Problem(
            "client",
            f"{name_of(fed.client)} sends "
            + (
                "outputs of models"
                if fed.task.whole
                else "weights, and each party has an architecture of its own"
            ),
            "parties of task-by-client share no vector of weights, only what their models say of public rows",
            "client=fedmd with task=task-by-client (a single rule '*' gives everybody one architecture)",
        )
    if fed.client.mixed and fed.pace.late == "keep":
        yield Problem(
            "pace",
            f"{name_of(fed.pace)} lets work outlive its round",
            f"{name_of(fed.client)} speaks of the public rows of one round; a mean with those of another says nothing",
            "pace=synchronous, or quorum with late=cancel",
        )
    if not fed.task.whole and fed.serving.whole:
        yield Problem(
            "server",
            f"{name_of(fed.serving)} keeps one model",
            "there are as many as architectures",
            "server=null",
        )
    if not fed.task.whole and fed.select.cuts:
        what = f"{name_of(fed.select)} cuts sub-models out of one model"
        yield Problem("select", what, "there are several", f"drop {name_of(fed.select)}")


def _personal(fed: Federation) -> Iterator[Problem]:
    """Whoever needs the one model of the server."""
    if fed.serving.whole:
        return
    if fed.evaluate.keep_best:
        yield Problem(
            "evaluate.keep_best",
            f"{name_of(fed.serving)} has no one model, but one for each party",
            "the states that make a party's model of an earlier round are not kept",
            "evaluate.stop_after=5 ends the run soon after its best round",
        )
    for slot, method, asks in (
        ("value", fed.value, not fed.value.identity()),
        ("select", fed.select, fed.select.needs_model),
        ("aggregate", fed.aggregate, fed.aggregate.needs_model),
    ):
        if asks:
            yield Problem(
                slot,
                f"{name_of(method)} needs one model, and {name_of(fed.serving)} has one for each party",
                "its score would be of a model that nobody uses",
                f"drop {slot}={name_of(method)}",
            )


def _sub_models(fed: Federation) -> Iterator[Problem]:
    if fed.select.recuts and fed.client.remembers:
        yield Problem(
            "client",
            f"{name_of(fed.client)} keeps vectors of its model, and {name_of(fed.select)} changes a party's sub-model",
            "what a party kept has the size of an earlier round's",
            f"{name_of(fed.select)} with one sub-model a party (dynamic=false), or a client that keeps nothing",
        )
    if fed.select.cuts:
        if fed.serving.phases:
            yield Problem(
                "select",
                f"{name_of(fed.select)} gives parties sub-models, and {name_of(fed.serving)} answers while they work",
                "its own part of the network has the full width, and theirs would not fit to it",
                f"drop {name_of(fed.select)}, or take a client that does not converse",
            )
        for slot, name in readers(fed):
            yield Problem(
                slot,
                f"{name} compares messages, but sub-models differ in size",
                "their vectors have no common coordinates",
                f"drop {slot}={name}, or {name_of(fed.select)}",
            )
        if fed.aggregate.form == "sum" and not fed.aggregate.widens:
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


def _idle_switches(fed: Federation) -> Iterator[Problem]:
    if fed.fold == "fixed" and (names := [name for _, name in readers(fed)]):
        yield Problem(
            "fold",
            "fixed has no effect here",
            "messages are kept, not folded: " + ", ".join(names),
            "fold=float",
        )
    if fed.value.identity() and fed.reward.needs_values:
        yield Problem(
            "reward",
            f"{name_of(fed.reward)} pays by value, and nobody values",
            "every contribution would be zero",
            "value=shapley-permutation",
        )
    if fed.select.promises and not fed.reward.identity():
        yield Problem(
            "reward",
            f"{name_of(fed.select)} promises money, and {name_of(fed.reward)} pays by another rule",
            "nobody would get what was promised, and the auction is truthful no more",
            "reward=null pays what the plan promised",
        )


def _place(fed: Federation) -> Iterator[Problem]:
    if problem := unknown(fed):
        yield problem
    elif fed.device == "cuda" and not torch.cuda.is_available():
        yield Problem(
            "device", "no CUDA device is visible", "torch.cuda.is_available() is false", "device=auto"
        )
    elif fed.device == "cuda" and forks(fed):
        yield Problem(
            "engine",
            f"the workers of {name_of(fed.engine)} cannot share a GPU",
            "a process that uses CUDA cannot be forked",
            "engine=inprocess",
        )
