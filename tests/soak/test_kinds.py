"""The siblings of what the soak has found: not only the federation that showed it is refused, but its kind; and no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm.around import facts
from fedfm.checks.rules import check
from fedfm.core.combine import ByPath, Pipe
from fedfm.core.context import Ctx
from fedfm.core.errors import ConfigError
from fedfm.core.federation import Federation, replace
from fedfm.core.fold import Fold
from fedfm.core.loop import Run
from fedfm.core.message import Message
from fedfm.core.protocols import Client, Wire
from fedfm.data.source import Parties
from fedfm.efficiency.communication.coarse.natural import Natural
from fedfm.efficiency.communication.coarse.rotation import Rotation
from fedfm.efficiency.communication.coarse.sign import Sign
from fedfm.efficiency.communication.coarse.terngrad import TernGrad
from fedfm.efficiency.communication.codec.entropy import Entropy
from fedfm.efficiency.communication.codec.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.quantise import Quantise
from fedfm.efficiency.communication.codec.randk import RandK
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.communication.lowrank.powersgd import PowerSGD
from fedfm.efficiency.communication.memory.dgc import DGC
from fedfm.efficiency.communication.memory.ef21 import EF21
from fedfm.efficiency.communication.submodel.heterofl import HeteroFL
from fedfm.efficiency.training.drift.feddyn import FedDyn
from fedfm.efficiency.training.drift.fednova import FedNova
from fedfm.efficiency.training.drift.mime import MimeLite
from fedfm.efficiency.training.drift.rolora import RoLoRA
from fedfm.efficiency.training.fedprox import FedProx
from fedfm.efficiency.training.hierarchy import Edges
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.majority_vote import MajorityVote
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.personal.by_client import ByClient
from fedfm.efficiency.training.personal.fedrep import FedRep
from fedfm.efficiency.training.personal.ifca import IFCA, ClusterMean
from fedfm.efficiency.training.scaffold import Scaffold
from fedfm.efficiency.training.servers import Apply
from fedfm.incentives.contribution.datainf import DataInf
from fedfm.incentives.selection.power_of_choice import PowerOfChoice
from fedfm.laws.homes import factored, play
from fedfm.pace import Buffered, Quorum
from fedfm.trust.privacy.mechanism.discrete_gaussian import DiscreteGaussian
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.trust.privacy.secure.secagg import SecAgg
from fedfm.trust.robustness.attack.label_flip import LabelFlip
from fedfm.trust.robustness.attack.sign_flip import SignFlip
from fedfm.trust.robustness.detection.norm_outliers import NormOutliers
from fedfm.trust.robustness.rule.fltrust import FLTrust
from fedfm.vectors.layout import Layout
from soak.found import PICTURES, SAYS, SPLIT, WEIGHTS
from soak.trial import IMAGES, POINTS, Way, complaints, refused

SGD = Local(lr=0.05, steps=3, batch=2)
KEEPS = Local(momentum=0.9, keep_optimizer=True)
MOVING = HeteroFL(widths=(1.0, 0.5), dynamic=True)
EQUAL = {"aggregate": Mean(weights="equal")}
CLUSTERS = {"client": IFCA(local=SGD), "aggregate": ClusterMean()}

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    # several noises are one guarantee
    (
        EQUAL | {"uplink": Pipe(ClipNoise(relation="replace-one"), ClipNoise())},
        "uplink",
        "hides replace-one",
    ),
    (EQUAL | {"uplink": Pipe(LocalGaussian(relation="zero-out"), ClipNoise())}, "uplink", "protects from"),
    (EQUAL | {"uplink": Pipe(LocalGaussian(), LocalGaussian(epsilon=3.0))}, "uplink", "the only noise"),
    (
        EQUAL | {"uplink": Pipe(ClipNoise(), DiscreteGaussian(), SecAgg())},
        "uplink",
        "protects from the recipients",
    ),
    # values, and codes of them
    ({"uplink": Pipe(QSGD(), TopK())}, "uplink.1", "codes values"),
    ({"uplink": Pipe(Entropy(), Quantise())}, "uplink.1", "codes values"),
    ({"uplink": Pipe(TopK(), Sign(), Entropy(), Rotation())}, "uplink.3", "codes values"),
    ({"uplink": Pipe(QSGD(), LocalGaussian(no_guarantee=True))}, "uplink.1", "codes values"),
    ({"uplink": Pipe(ErrorFeedback(Sign()), TopK())}, "uplink.1", "codes values"),
    ({"uplink": ErrorFeedback(Pipe(TernGrad(), Natural()))}, "uplink.0.inner.1", "codes values"),
    ({"uplink": EF21(Pipe(Sign(), TopK()))}, "uplink.0.inner.1", "codes values"),
    ({"uplink": ByPath({"x*": Pipe(QSGD(), TopK()), "*": Wire()})}, "uplink.0.rules.x*.1", "codes values"),
    ({"uplink": Pipe(ByPath({"x": QSGD(), "*": TopK()}), TopK())}, "uplink.1", "codes values"),
    ({"downlink": Pipe(QSGD(), Quantise())}, "downlink.1", "codes values"),
    ({"talk": Pipe(Natural(), QSGD())}, "talk.1", "codes values"),
    # names of tensors, also inside
    ({"uplink": Pipe(TopK(), ErrorFeedback(PowerSGD()))}, "uplink.1", "names of tensors"),
    ({"uplink": ErrorFeedback(Pipe(TopK(), PowerSGD()))}, "uplink.0.inner.1", "names of tensors"),
    ({"talk": EF21(ByPath({"*": TopK()}))}, "talk.0", "names of tensors"),
    # memory where there is none
    ({"talk": ErrorFeedback(TopK())}, "talk.0", "between two words"),
    ({"talk": Pipe(Rotation(), DGC())}, "talk.1", "between two words"),
    # sub-models
    ({**SPLIT, "select": Edges(inner=HeteroFL())}, "select", "answers while they work"),
    (PICTURES | {"select": MOVING, "client": FedDyn(local=SGD)}, "client", "keeps vectors"),
    (PICTURES | {"select": MOVING, "client": FedProx(local=KEEPS)}, "client", "keeps vectors"),
    (PICTURES | {"select": MOVING, "client": FedRep(local=SGD)}, "client", "keeps vectors"),
    (PICTURES | {"select": MOVING, "client": ByClient({"*": KEEPS})}, "client", "keeps vectors"),
    (PICTURES | {"select": Edges(inner=MOVING), "client": KEEPS}, "client", "keeps vectors"),
    (PICTURES | {"select": MOVING, "uplink": ErrorFeedback(TopK())}, "uplink.0", "change in length"),
    (PICTURES | {"select": MOVING, "uplink": Pipe(TopK(), EF21())}, "uplink.1", "change in length"),
    # kinds of messages, for who forges and who judges
    (WEIGHTS | {"adversary": SignFlip(omniscient=True)}, "adversary", "cannot forge weights"),
    (CLUSTERS | {"adversary": SignFlip(omniscient=True)}, "adversary", "cannot forge delta of one"),
    (WEIGHTS | {"detect": NormOutliers()}, "detect", "cannot judge weights"),
    # lengths at their word
    ({"client": Scaffold(SGD), "aggregate": MajorityVote()}, "aggregate", "another length"),
    ({"client": FedNova(SGD), "aggregate": MajorityVote()}, "aggregate", "another length"),
    ({"client": FedNova(SGD), "aggregate": FLTrust()}, "aggregate", "another length"),
    ({"client": MimeLite(local=SGD), "aggregate": MajorityVote()}, "aggregate", "another length"),
    # a number by which the others are read
    ({"client": FedNova(SGD), "uplink": QSGD()}, "uplink.0", "needs as it is"),
    ({"client": FedNova(SGD), "uplink": Pipe(RandK(), SecAgg())}, "uplink.0", "needs as it is"),
    ({"client": FedNova(SGD), "uplink": ClipNoise(no_guarantee=True)}, "uplink.0", "needs as it is"),
    ({"client": FedNova(SGD), "uplink": ByPath({"*": QSGD()})}, "uplink.0", "needs as it is"),
    (
        {"client": ByClient({"*": FedNova(SGD)}), "uplink": ErrorFeedback(TopK())},
        "uplink.0",
        "needs as it is",
    ),
    # rounds of two kinds
    ({"client": RoLoRA(SGD), "pace": Buffered(2, 4)}, "pace", "two kinds"),
    ({"client": ByClient({"*": RoLoRA(SGD)}), "pace": Quorum(late="keep")}, "pace", "two kinds"),
]


@pytest.mark.parametrize(
    ("slots", "where", "words"), REFUSED, ids=[f"{i} {w}" for i, (_, _, w) in enumerate(REFUSED)]
)
def test_the_kind_is_refused(slots: dict[str, Any], where: str, words: str) -> None:
    problems = check(replace(POINTS, **slots))
    assert any(p.where == where and words in f"{p.what}; {p.why}" for p in problems), problems


PASSES: list[dict[str, Any]] = [
    EQUAL | {"uplink": Pipe(LocalGaussian(relation="zero-out"), LocalGaussian(relation="zero-out"))},
    EQUAL | {"uplink": Pipe(LocalGaussian(), LocalGaussian(relation="zero-out", no_guarantee=True))},
    {"uplink": Pipe(TopK(0.5), Rotation(), QSGD(), Entropy(), Entropy())},
    {"uplink": Pipe(ErrorFeedback(Pipe(TopK(0.5), Sign())), Entropy())},
    {"uplink": Pipe(ByPath({"x": TopK(0.5), "*": Wire()}), QSGD())},
    {"uplink": ErrorFeedback(PowerSGD())},
    {"talk": Pipe(TopK(0.5), QSGD())},
    PICTURES | {"select": HeteroFL(widths=(1.0, 0.5)), "client": Scaffold(SGD)},
    PICTURES | {"select": HeteroFL(widths=(1.0, 0.5)), "uplink": ErrorFeedback(TopK())},
    PICTURES | {"select": HeteroFL(widths=(0.5,), dynamic=True), "client": Scaffold(SGD)},
    PICTURES | {"select": MOVING, "client": FedProx(local=SGD)},
    WEIGHTS | {"adversary": SignFlip()},
    {"client": FedProx(local=SGD), "aggregate": MajorityVote(), "server": Apply(lr=0.01)},
    {"client": FedRep(local=SGD), "aggregate": MajorityVote()},
    {"client": RoLoRA(SGD), "pace": Quorum()},
    {"client": FedNova(SGD), "uplink": Pipe(ByPath({"tau/*": Wire(), "*": QSGD()}), Entropy())},
    {"client": FedNova(SGD), "uplink": SecAgg()},
]


@pytest.mark.parametrize("slots", PASSES, ids=range(len(PASSES)))
def test_and_nothing_beside_it(slots: dict[str, Any]) -> None:
    assert check(replace(POINTS, **slots)) == []


@pytest.mark.parametrize(
    "wires",
    [
        {"downlink": Pipe(ErrorFeedback(QSGD()))},
        {"downlink": EF21(TopK(0.5), whole_first=True)},
        {"uplink": Pipe(QSGD(), Entropy()), "downlink": ByPath({"logits": QSGD()})},
        {"uplink": ByPath({"logits": QSGD()})},
    ],
    ids=range(4),
)
def test_scores_of_unlike_models_pass_codes_by_their_own_layout(
    wires: dict[str, Any], tmp_path: Path
) -> None:
    fed = replace(POINTS, **SAYS, **wires)
    assert check(fed) == [] and refused(fed) == []
    assert complaints(fed, tmp_path, Way(workers=2, twin=True)) == []


def test_a_mixed_population_tells_every_fact_of_its_clients() -> None:
    assert set(facts(Client)) <= set(vars(ByClient)), set(facts(Client)) - set(vars(ByClient))


@pytest.mark.parametrize("mechanism", [ClipNoise, LocalGaussian, DiscreteGaussian])
def test_no_epsilon_without_a_guarantee(mechanism: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="claims none"):
        mechanism(epsilon=3.0, no_guarantee=True)


@pytest.mark.parametrize(
    "adversary",
    [
        LabelFlip(classes=3, fraction=1.0),
        LabelFlip(classes=1, count=1),
        LabelFlip(mapping="pair", target=2),
        LabelFlip(mapping="pair", source=7),
        LabelFlip(mapping="pair", classes=9, target=5),
    ],
    ids=repr,
)
def test_labels_that_are_not_there_are_refused_before_work(adversary: LabelFlip) -> None:
    with pytest.raises(ConfigError, match="label-flip cannot act here"):
        play(replace(IMAGES, adversary=adversary))


@dataclass(frozen=True)
class Sorted:
    """Pictures of which party-0 holds the first class alone, all others the second."""

    def open(self, seed: int, *columns: Any) -> Parties:
        parties = IMAGES.data.open(seed)
        kept = [replace(s, rows=tuple(r for r in s.rows if r["label"] == str(int(k > 0))))
                for k, s in enumerate(parties.shards)]  # fmt: skip
        return replace(parties, shards=tuple(kept))


@pytest.mark.parametrize(
    ("adversary", "acts"),
    [
        (LabelFlip(count=1, rate=0.0), False),
        (LabelFlip(count=4, rate=0.01), False),
        (LabelFlip(count=4, mapping="pair"), True),  # party-0 has what the others lack
        (LabelFlip(count=4), True),
        (SignFlip(count=1, scale=0.0), True),
    ],
    ids=repr,
)
def test_an_attack_that_changes_nothing_is_refused(adversary: Any, acts: bool) -> None:
    said = refused(replace(IMAGES, adversary=adversary, data=Sorted()))
    assert said == [] if acts else "would change nothing" in said[0]


def test_a_flip_of_labels_that_its_parties_lack_is_refused() -> None:
    for source in (0, 1):
        attack = LabelFlip(count=1, mapping="pair", source=source, target=1 - source)
        (who,) = attack.members([s.party for s in Sorted().open(0).shards], Ctx(IMAGES.seed))
        said = refused(replace(IMAGES, adversary=attack, data=Sorted()))
        assert bool(said) == (source != int(who != "party-0")), said


@pytest.mark.parametrize("client", [RoLoRA(SGD), ByClient({"party-0": SGD, "*": RoLoRA(SGD)})], ids=repr)
def test_factors_that_are_not_there_are_refused_before_work(client: Any) -> None:
    with pytest.raises(ConfigError, match="no lora_A and lora_B"):
        play(replace(POINTS, client=client))
    assert not play(factored(client=client)).failed


@pytest.mark.parametrize("select", [MOVING, Edges(inner=HeteroFL())], ids=repr)
def test_sub_models_that_are_not_there_are_refused_before_work(select: Any) -> None:
    with pytest.raises(ConfigError, match="no sub-models"):
        play(factored(select=select))
    play(factored(select=HeteroFL(widths=(1.0,))))


def test_a_budget_that_allows_no_round_is_refused() -> None:
    fed = replace(POINTS, **EQUAL, uplink=LocalGaussian(budget=0.5))
    assert any("allows no round" in why for why in refused(fed)) and not check(fed)
    assert not refused(replace(fed, uplink=LocalGaussian(budget=5.0)))
    assert not refused(replace(fed, uplink=LocalGaussian(budget=0.5), rounds=0))


def test_an_attack_that_knows_the_honest_needs_them() -> None:
    fed = replace(POINTS, adversary=SignFlip(fraction=1.0, omniscient=True))
    assert any("none of 5 is honest" in why for why in refused(fed))
    assert not refused(replace(fed, adversary=SignFlip(fraction=1.0)))
    told = {i: Message(torch.tensor([1.0, -2.0])) for i in ("a", "b")}
    forged, _ = SignFlip(scale=3.0, omniscient=True).forge(told, frozenset(told), {}, Ctx(0))
    assert [m.x.tolist() for m in forged.values()] == [[-3.0, 6.0]] * 2  # a round without an honest party


@pytest.mark.parametrize(
    "fed",
    [
        POINTS,
        replace(POINTS, select=PowerOfChoice(2)),
        replace(POINTS, value=DataInf()),
        replace(POINTS, **CLUSTERS),
        replace(IMAGES, **SPLIT),
    ],
    ids=["plain", "asked", "valued", "clusters", "split"],
)
def test_a_model_that_one_update_broke_ends_no_run(fed: Federation) -> None:
    """Finite and huge: every honest party's loss overflows from then on, and says so; no method is blamed."""

    def broken(run: Run) -> None:
        step = run._step

        def huge(r: Any, messages: Any, ctx: Ctx) -> Any:
            agg, server = step(r, messages, ctx)
            return agg, server | {"w": server["w"].new_full(server["w"].shape, 3e38)}

        run._step = huge  # type: ignore[method-assign]

    played = play(replace(fed, rounds=3), around=broken)
    assert len(played.records) == 4 and not played.records[1]["failed"]
    said = {e.get("error") or e["reason"] for e in played.events if e["kind"] in ("failed", "refused")}
    assert said and all("the loss of" in why or "not finite" in why for why in said), said


def test_running_statistics_do_not_vote() -> None:
    """Weights by majority, buffers by their mean: by hand for three parties."""
    layout = Layout.of({"w": (2,), "mean": (2,)}, buffers=["mean"])
    rule, fold, there = MajorityVote(), Fold("float"), Ctx(0, layout=layout)
    rows = (([1.0, -2.0], [4.0, 10.0]), ([3.0, 5.0], [8.0, -1.0]), ([2.0, -1.0], [0.0, 0.0]))
    for i, (w, still) in enumerate(rows):
        x = layout.pack({"w": torch.tensor(w), "mean": torch.tensor(still)})
        fold.add(rule.lift(Message(x, mass=7.0), there), str(i))
    got = layout.views(rule.finish(fold.total(), fold.mass, 3, {}, there)[0])
    assert got["w"].tolist() == [1.0, -1.0] and got["mean"].tolist() == [4.0, 3.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Local(momentum=1.0),
        lambda: Apply(momentum=1.0),
        lambda: IFCA(local=Local(send="weights")),
        lambda: HeteroFL(widths=()),
        lambda: HeteroFL(widths=(1.0, 0.0)),
        lambda: HeteroFL(widths=(2.0,)),
    ],
)
def test_a_spec_says_what_it_cannot_be(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="momentum must be below 1|set local.send=delta|shares above 0"):
        make()
