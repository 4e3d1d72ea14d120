"""What leaves a party, who gets it, and whether something covers it: the one place where that is said.

`exposure(fed)` gives every channel its sort: public (agreed before the run), covered by a stage, or private. A
protection names its observer: noise on the sum protects from `recipients` (whoever gets models and files; the server is
trusted), noise at the party and masks from the `server`, and so from everybody. What that observer would get and no
stage covers is a `Problem`. What is KEPT stays in the house: of the run folder `public/` alone may leave.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fedfm.cards.registry import name_of
from fedfm.checks.inherited import inherited
from fedfm.checks.sums import central
from fedfm.core.combine import stages_of
from fedfm.core.errors import Problem
from fedfm.core.protocols import Slot
from fedfm.core.spending import RECIPIENTS, SERVER, guards, noises, observers
from fedfm.data.cleaning.targets import reads
from fedfm.pace import by_the_wall

if TYPE_CHECKING:
    from fedfm.core.federation import Federation

Sort = Literal["public", "covered", "private"]
AROUND = "fedfm.around"
FINE = 2.0**-25  # of the clip: rounded so, 10^10 values move an update by 0.15 % of it at most
HIGHEST = 20.0  # beyond this epsilon (e^20 = 5e8) no meaningful guarantee is left


@dataclass(frozen=True)
class Exposure:
    """One channel: its sort, the stage that covers it, who would get it, why."""

    sort: Sort
    by: str = ""
    to: frozenset[str] = frozenset()  # of "server" and "recipients"; empty: it stays where it is
    why: str = ""
    source: str = ""  # the method that sends it

    def __str__(self) -> str:
        return f"covered by {self.by}" if self.sort == "covered" else self.sort


# ---- the table ---------------------------------------------------------------------------------------------
BOTH, ALONE, NOBODY = frozenset({SERVER, RECIPIENTS}), frozenset({SERVER}), frozenset[str]()
Row = tuple[str, Exposure]


def exposure(fed: Federation) -> dict[str, Exposure]:
    """Every channel of a party in this federation, and of what is computed from its rows."""
    parts = (_upload, _beside, _talk, _answers, _rows, _results, _cohort)
    found = dict(row for part in parts for row in part(fed))
    return found | {channel: Exposure("private", why=why) for channel, why in KEPT.items()}


def _row(channel: str, sort: Sort, to: frozenset[str], why: str, source: Any = None, by: str = "") -> Row:
    return channel, Exposure(sort, by, to, why, name_of(source) if source is not None else "")


def _upload(fed: Federation) -> Iterator[Row]:
    """The update and its weight."""
    for channel, sort, why in (
        ("x", "private", "an update is a function of a party's rows"),
        ("mass", "public", "row counts are public by decision"),
    ):
        by = next((name_of(s) for s in guards(fed, SERVER) if channel in s.covers), "")
        yield _row(channel, "covered" if by else sort, ALONE, why, None, by)  # type: ignore[arg-type]


def _beside(fed: Federation) -> Iterator[Row]:
    """What stands beside the update: tensors of the stages, and words of client and stages."""
    stages = stages_of(fed.uplink)
    wall = next((i for i, s in enumerate(stages) if s.against), len(stages))
    for i, stage in enumerate(stages):
        channel = f"side/{i}.{name_of(stage)}"
        if stage.against:
            continue
        if stage.linear:
            yield _row(
                channel, "public", ALONE, "a linear code sends the same beside every party's values", stage
            )
        elif i > wall:
            yield _row(
                channel, "covered", ALONE, "made from what was protected", stage, name_of(stages[wall])
            )
        else:
            why = "norms, ranges, indices, lengths are functions of the update"
            yield _row(channel, "private", ALONE, why, stage)
    for method in (fed.client, *stages):
        for key in sorted(method.info):
            yield _row(f"info/{key}", "private", ALONE, "it stands beside the update", method)


def _talk(fed: Federation) -> Iterator[Row]:
    """Conversations: with the server, and of stages that are no protection themselves."""
    for phase in fed.serving.phases:
        why = "its server learns from what parties say there, and the model from its server"
        yield _row(f"talk/{phase}", "private", BOTH, why, fed.serving)
    for i, stage in enumerate(stages_of(fed.uplink)):
        for phase in stage.phases if not stage.against else ():
            why = "what parties say in a conversation of a stage is covered by none"
            yield _row(f"phase/{i}.{phase}", "private", BOTH, why, stage)


def _answers(fed: Federation) -> Iterator[Row]:
    """Whatever asks the parties. A method with an `answer` asks, whether or not it says so."""
    if fed.select.releases or (_asks(fed.select) and not fed.select.asks):
        yield _row(
            "answers", "private", BOTH, "computed from private rows, and decides the cohort", fed.select
        )
    elif fed.select.asks:
        yield _row("answers", "public", BOTH, "says nothing of rows", fed.select)
    for slot in ("aggregate", "server", "detect", "value", "reward"):
        method: Slot = fed.serving if slot == "server" else getattr(fed, slot)
        if _asks(method) or (slot == "value" and fed.value.asks):
            why = "computed from private rows, and told to the server"
            yield _row(f"answers/{slot}", "private", BOTH, why, method)


def _asks(method: Slot) -> bool:
    """Does it, or what it is a coat of, bring an `answer` of its own?"""
    where = next(c for c in type(method).__mro__ if "answer" in vars(c))
    return _asks(method.inner) if where.__module__ == AROUND else where is not Slot  # type: ignore[attr-defined]


def _rows(fed: Federation) -> Iterator[Row]:
    """Rows, and what is known of them before the first round."""
    agreed: frozenset[str] = getattr(fed.data, "agreed", frozenset())  # a data spec may have no base class
    if "schema" in agreed or not reads_labels(fed):
        yield _row("schema", "public", BOTH, "agreed before rows are read", fed.data)
    else:
        yield _row("schema", "private", BOTH, "class names are the union of the parties' labels", fed.data)
    if fed.evaluate.collects:
        yield _row("test", "private", ALONE, "parties' own rows are scored at the server", fed.evaluate)
    elif "test" in agreed or fed.evaluate.where != SERVER:
        yield _row(
            "test", "public", NOBODY, "rows of the server's own, or that stay with their party", fed.data
        )
    else:
        yield _row("test", "private", ALONE, "a share of every party's rows is moved to the server", fed.data)
    guided: list[Slot] = [m for m in fed.methods().values() if "server rows" in m.needs]
    guided += [fed.evaluate] if fed.evaluate.validates and fed.serving.whole else []
    if guided and "test" not in agreed:
        why = "the server's rows are a share of every party's, and guide the model without noise"
        yield _row("server rows", "private", BOTH, why, guided[0])


def _results(fed: Federation) -> Iterator[Row]:
    """What is made of the updates, and how well it does at the parties."""
    if fed.evaluate.validates and not fed.serving.whole:
        why = "scores on parties' own rows decide when the run ends"
        yield _row("validation", "private", BOTH, why, fed.evaluate)
    noisy = next((name_of(s) for s in noises(fed)), "")
    why = "made from noisy sums" if noisy else "made from the updates"
    yield _row("model", "covered" if noisy else "private", BOTH, why, None, noisy)
    if fed.evaluate.personal or fed.evaluate.where != SERVER or not fed.serving.whole:
        source = fed.serving if fed.serving.whole is False else fed.evaluate
        why = "each party tells how a model does on its own rows"
        yield _row("own scores", "private", ALONE, why, source)


def _cohort(fed: Federation) -> Iterator[Row]:
    """Who there is, who takes part, and when."""
    hidden = any(s.relation == "add-or-remove" for s in noises(fed))
    why = "who there is, is what the guarantee hides" if hidden else "who is in the federation is no secret"
    yield _row("roster", "private" if hidden else "public", NOBODY if hidden else BOTH, why)
    amplified = any(s.against == RECIPIENTS for s in noises(fed)) and fed.select.draws != "all"
    why = "amplification by sampling holds against those who do not see who was drawn"
    if amplified or hidden:
        yield _row("draw", "private", NOBODY, why, fed.select)
    else:
        yield _row("draw", "public", BOTH, "who takes part amplifies nothing here", fed.select)
    if fed.simulated and not by_the_wall(fed):
        yield _row("time", "public", BOTH, "simulated from names and rounds, whatever the rows are", fed.pace)
    else:
        yield _row("time", "private", NOBODY, "how long a party works is in no account", fed.pace)


KEPT = {  # private, and it stays in the house
    "scores": "measured on rows that are in no account",
    "facts": "norms, losses and seconds in the ledger",
    "errors": "a message may quote values; a real party sends the exception's name",
    "losses": "mean training loss of the cohort",
    "baselines": "trained without noise on each party",
    "checkpoints": "states of parties and server",
}


def reads_labels(fed: Federation) -> bool:
    """Does the task need class names? One that does not say what it reads may."""
    return reads(fed.task.columns)


def outside(fed: Federation) -> dict[str, str]:
    """The channels that no account holds, and why: they stay in the house, outside the run folder's `public/`."""
    return {c: e.why for c, e in exposure(fed).items() if e.sort == "private" and not e.to}


def leaks(fed: Federation) -> dict[str, Exposure]:
    """The private channels that somebody gets from whom protection was asked for."""
    asked = set(observers(fed))
    return {
        c: e
        for c, e in exposure(fed).items()
        if e.sort == "private" and e.to & asked and not (c == "x" or c == "model")
    }


# ---- the rules ---------------------------------------------------------------------------------------------
def exposed(fed: Federation) -> Iterator[Problem]:
    """What a protection that was asked for does not cover, and what no accountant could book."""
    if not observers(fed):
        return
    yield from _uncovered(fed)
    yield from _before_noise(fed)
    yield from _rounded(fed)
    yield from _one_account(fed)
    yield from central(fed)
    yield from _switched_off(fed)
    yield from inherited(fed)


FIXES = {  # channel -> where it is mended, and how
    "talk": (
        "server",
        "another server, or drop the protection: what a party tells there is as private as its upload",
    ),
    "answers": ("select", "select=uniform or poisson"),
    **{f"answers/{slot}": (slot, f"a {slot} that asks nobody") for slot in ("aggregate", "server", "detect")},
    "answers/value": ("value", "value=null"),
    "answers/reward": ("reward", "reward=null"),
    "phase": ("uplink", "drop that stage, or the protection"),
    "schema": (
        "data",
        "give the class names in the config, as agreed beforehand: data.labels=[...]; data.labels=null where there are none",
    ),
    "test": ("data", "data.test_path=FILES that no party trains on"),
    "server rows": ("data", "data.test_path=FILES that no party trains on"),
    "own scores": (
        "evaluate",
        "evaluate=held-out with personal=false and where=server (data.test_path), and a client with one model for all; "
        "or drop the protection",
    ),
    "validation": (
        "evaluate.stop_after",
        "a number of rounds that is fixed beforehand: evaluate.stop_after=0",
    ),
    "info": ("client", "a client that sends nothing beside its update"),
}


def _uncovered(fed: Federation) -> Iterator[Problem]:
    names = " and ".join(name_of(s) for s in guards(fed))
    for channel, e in leaks(fed).items():
        if channel.startswith("side/"):
            continue  # _before_noise says which stage, and why
        where, fix = FIXES.get(channel) or FIXES[channel.split("/")[0]]
        where = f"uplink.{channel[6:].split('.')[0]}" if channel.startswith("phase/") else where
        who = " and ".join(sorted(e.to & set(observers(fed))))
        what = f"{e.source} publishes what {names} does not cover ({channel})"
        yield Problem(where, what, f"{e.why}, and the {who} would get it in clear", fix)


def _before_noise(fed: Federation) -> Iterator[Problem]:
    """Noise at the party covers what it is added to: nothing that an earlier stage sends beside it."""
    stages = stages_of(fed.uplink)
    for i, stage in enumerate(stages):
        name = name_of(stage)
        for k, before in enumerate(stages[:i] if stage.perturbs and not stage.after_sum else ()):
            if not before.linear:
                what = f"{name_of(before)} stands in front of {name}"
                why = "what it sends beside the values (indices, norms, ranges, lengths) leaves without noise"
                fix = "put the code behind the noise, where it is post-processing, or drop it"
                yield Problem(f"uplink.{k}", what, why, fix)
        if not stage.shares or not stage.against:
            continue
        if (mask := next((s for s in stages[i + 1 :] if s.opaque), None)) is None:
            what = f"nothing hides the single messages behind {name}"
            why = "each party adds only its share of the noise; alone it protects nobody"
            yield Problem(f"uplink.{i}", what, why, f"put secagg behind {name}")
        elif mask.step > stage.step:
            what = f"{name_of(mask)} rounds to {mask.step:g}, {name} needs {stage.step:g}"
            why = "noise that is rounded party by party no longer adds up to what the accountant believes"
            yield Problem(f"uplink.{i + 1}.bits", what, why, f"bits={-math.log2(stage.step):.0f} or more")
        if not fed.aggregate.alike:
            what = f"{name_of(fed.aggregate)} weighs parties behind {name}"
            why = "a weight below 1 would make a party's share of the noise smaller"
            yield Problem("aggregate.weights", what, why, "aggregate.weights=equal")


def _rounded(fed: Federation) -> Iterator[Problem]:
    """Noise on a sum is told by what one party moves it: masks that round an update first let it move it further."""
    stages = stages_of(fed.uplink)
    for i, stage in enumerate(stages):
        clip_norm = getattr(
            stage, "clip_norm", None
        )  # a stranger's noise bounds what a party moves in its own way
        if clip_norm is None or not (stage.perturbs and stage.after_sum and stage.against) or stage.shares:
            continue
        finest = clip_norm * FINE
        for k, mask in enumerate(stages[i + 1 :], i + 1):
            if mask.opaque and mask.step > finest:
                what = f"{name_of(mask)} rounds to {mask.step:g} behind {name_of(stage)} with clip_norm={clip_norm:g}"
                why = "rounding adds to what a party moves the sum by, and the epsilon does not count it"
                yield Problem(f"uplink.{k}.bits", what, why, f"bits={math.ceil(-math.log2(finest))} or more")


def _one_account(fed: Federation) -> Iterator[Problem]:
    """Several noises are one guarantee: it hides one thing from one observer, and an epsilon counts all of them."""
    first, *others = noises(fed) or (None,)
    if first is None or not others:
        return
    for other in others:
        one, two, why = name_of(first), name_of(other), "their releases have no common epsilon"
        if first.relation != other.relation:
            what = f"{one} hides {first.relation} of a party, {two} {other.relation}"
            yield Problem("uplink", what, why, f"relation={first.relation} in both, or keep one")
        if (first.against, first.after_sum) != (other.against, other.after_sum):
            what = f"{one} protects from the {first.against}, {two} from the {other.against}"
            yield Problem("uplink", what, why, "keep one of them")
    if asked := [s for s in noises(fed) if getattr(s, "epsilon", None) is not None]:
        what = f"{name_of(asked[0])} has an epsilon for the whole run, and is not the only noise"
        why = "each noise is set for its own epsilon, and together they spend more"
        yield Problem("uplink", what, why, "keep one noise, or give noise_multiplier instead of epsilon")


def _switched_off(fed: Federation) -> Iterator[Problem]:
    """A switch that bears the name of a protection and gives none is said to be off, or refused."""
    for i, stage in enumerate(stages_of(fed.uplink)):
        if stage.accountant is not None and importlib.util.find_spec("dp_accounting") is None:
            what, why = "the privacy spent cannot be computed", "dp-accounting is not installed"
            yield Problem("uplink", what, why, "pip install 'fedfm[privacy]'")
        if stage.off:
            what = f"{name_of(stage)} gives no guarantee: {stage.off}"
            why = "a run of this name would be taken for a private one"
            fix = "give epsilon or noise_multiplier, or say so: no_guarantee=true"
            yield Problem(f"uplink.{i}.noise_multiplier", what, why, fix)
