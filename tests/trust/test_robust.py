"""Attacks, robust aggregation and detection against closed forms, numpy, scipy and figures worked by hand."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, RoundFailed
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, Client, Say
from fedfm.trust.robustness.attack.label_flip import LabelFlip
from fedfm.trust.robustness.attack.sign_flip import SignFlip
from fedfm.trust.robustness.detection.norm_outliers import NormOutliers
from fedfm.trust.robustness.rule import order
from fedfm.trust.robustness.rule.krum import Krum, distances, scores
from fedfm.trust.robustness.rule.median import CoordinateMedian
from fedfm.trust.robustness.rule.trimmed_mean import TrimmedMean
from fedfm.vectors.layout import Layout

CTX = Ctx(3)


def messages(rows: Any) -> list[Message]:
    return [Message(torch.as_tensor(r).reshape(-1), sender=f"p{i}") for i, r in enumerate(rows)]


def combine(rule: Aggregator, rows: Any) -> Tensor:
    return rule.combine(messages(rows), {}, CTX)[0]


def normal_rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


# ---- order statistics ---------------------------------------------------------------------------------------------
def test_network_sorts() -> None:
    """By the 0-1 principle, exchanges that sort every 0/1 column sort everything: all columns up to 10 rows."""
    for n in range(1, 11):
        columns = torch.tensor(list(itertools.product((0.0, 1.0), repeat=n))).T
        assert torch.equal(torch.stack(order.ordered(columns.clone().unbind(0))), columns.sort(0).values), n
    for n in (17, 32, 33, 64, 100):
        rows = normal_rows(n, 500)
        assert torch.equal(torch.stack(order.ordered(rows.clone().unbind(0))), rows.sort(0).values), n


@given(
    st.integers(1, 12),
    st.integers(1, 40),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_median_is_numpys(n: int, d: int, dtype: torch.dtype, seed: int) -> None:
    rows = normal_rows(n, d, seed).to(dtype)
    before = rows.clone()
    out = combine(CoordinateMedian(), rows)
    assert out.dtype == torch.float32 and torch.equal(rows, before)
    assert np.array_equal(out.numpy(), np.median(rows.float().numpy(), axis=0))


@given(st.integers(1, 12), st.floats(0.0, 0.45), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_trimmed_mean_is_scipys(n: int, beta: float, seed: int) -> None:
    rows, rule = normal_rows(n, 30, seed), TrimmedMean(beta)
    b = int(np.ceil(beta * n - 1e-9))
    if 2 * b >= n:
        with pytest.raises(RoundFailed, match="leaves none"):
            combine(rule, rows)
        return
    # scipy truncates proportion * n, so it gets (b + 1/2)/n.
    expected = scipy.stats.trim_mean(rows.double().numpy(), (b + 0.5) / n, axis=0)
    assert np.allclose(combine(rule, rows).numpy(), expected, atol=1e-6)


def test_coordinate_rules() -> None:
    rows = normal_rows(9, 3 * order.CHUNK // 2)  # more than one chunk
    assert np.array_equal(combine(CoordinateMedian(), rows).numpy(), np.median(rows.numpy(), axis=0))
    assert combine(CoordinateMedian(), [[1.0], [2.0], [3.0], [10.0]]).item() == 2.5  # not the lower middle
    rows = rows[:, :64]
    for rule in (CoordinateMedian(), TrimmedMean(0.2), TrimmedMean(count=3)):
        out = combine(rule, rows)
        assert torch.equal(combine(rule, rows.flip(0)), out)  # order of arrival is nothing
        assert torch.allclose(combine(rule, rows * 2 + 1), out * 2 + 1, atol=1e-5)  # affine
        heavy = [replace(m, mass=1000.0 * (i == 0)) for i, m in enumerate(messages(rows))]
        assert torch.equal(rule.combine(heavy, {}, CTX)[0], out)  # claimed weights are nothing
        wild = rows.clone()
        wild[:2] = 1e30  # two of nine: inside what each withstands
        assert bool((combine(rule, wild).abs() <= rows[2:].abs().max()).all())
        assert combine(rule, torch.zeros(9, 0)).shape == (0,)
    assert torch.allclose(combine(TrimmedMean(0.0), rows), rows.mean(0), atol=1e-6)
    assert [TrimmedMean(f).least for f in (0.0, 0.2, 0.4)] == [1, 3, 5] and TrimmedMean(count=2).least == 5


# ---- Krum ---------------------------------------------------------------------------------------------------------
LINE = [0.0, 1.0, 1.1, 1.3, 1.9, 10.0, 11.0]


def test_krum_on_a_line() -> None:
    """f=2, n=7: the 3 nearest. E.g. 1.3: 0.2^2 + 0.3^2 + 0.6^2 = 0.04 + 0.09 + 0.36 = 0.49, the least."""
    rows = torch.tensor(LINE)[:, None]
    squared = distances(list(rows))
    assert scores(squared, 3).tolist() == pytest.approx(
        [3.90, 0.91, 0.69, 0.49, 1.81, 142.3, 177.9], abs=2e-2
    )
    assert scores(squared, 3)[:5].tolist() == pytest.approx([3.90, 0.91, 0.69, 0.49, 1.81], abs=1e-5)
    assert combine(Krum(f=2), rows).item() == rows[3].item()
    assert int(scores(squared, 4).argmin()) == 2  # the usual mistake, n - f - 1 neighbours, would choose 1.1
    events: list[Any] = []
    Krum(f=2, m=3).combine(messages(rows), {}, CTX.at(events=events))[0]
    assert events[0]["kind"] == "krum" and events[0]["selected"] == ["p1", "p2", "p3"]
    assert events[0]["scores"][3] == pytest.approx(0.49, abs=1e-5)


def test_krum_properties() -> None:
    rows = normal_rows(11, 200)
    rows[[2, 7]] += 50
    out = combine(Krum(f=2), rows)
    assert any(torch.equal(out, r) for r in rows)  # one of the messages, bit for bit
    assert torch.equal(
        combine(Krum(f=2), rows[torch.randperm(11, generator=torch.Generator().manual_seed(0))]), out
    )
    assert torch.allclose(combine(Krum(f=0, m=11), rows), rows.mean(0), atol=1e-5)
    assert torch.allclose(
        combine(Krum(f=2, m=9), rows), rows[[i for i in range(11) if i not in (2, 7)]].mean(0), atol=1e-5
    )
    assert torch.equal(combine(Krum(f=1), [[1.0], [1.0], [1.0], [1.0], [9.0]]), torch.tensor([1.0]))
    assert Krum(f=2).least == 7 and Krum(f=0).least == 3 and Krum(f=1, m=8).least == 9
    with pytest.raises(RoundFailed, match="at least 7"):
        combine(Krum(f=2), rows[:6])
    events: list[Any] = []
    Krum(f=1).combine(messages([[0.0], [1.0], [2.0], [3.0], [4.0]]), {}, CTX.at(events=events))[0]
    assert events[0]["selected"] == ["p1"]  # scores 5, 2, 2, 2, 5: the first of the equal


def test_krum_distances_survive_long_vectors() -> None:
    """Weights, not updates: ||w||^2 = 1e6 beside a squared distance of 4; fp32 products would be off by 25 %."""
    base = normal_rows(1, 40_000)[0]
    base *= 1000 / base.norm()
    step = torch.zeros(40_000)
    step[:4] = 1.0
    rows = [base, base + step]
    exact = float((rows[1].double() - rows[0].double()).square().sum())
    assert float(distances(rows)[0, 1]) == pytest.approx(exact, rel=1e-8)
    wild = [*rows, torch.full((40_000,), 1e15)]  # an attacker of any length does not blur the honest ones
    assert float(distances(wild)[0, 1]) == pytest.approx(exact, rel=1e-8)


def test_deviation_of_each_rule_under_sign_flip() -> None:
    """||aggregate - mu||, mu the honest mean, for n=20, f=4, d=2000, honest ~ signal 0.3 + unit noise.

    Ten times reversed: the mean is off by 4/20 * 11 ||mu||; multi-Krum of n - f drops all four exactly. The median is
    known from simulation (0.35); a pure reversal makes Krum itself choose the attackers, which lie at distance 0 from
    one another: a failure to keep in view.
    """
    d, n, f = 2000, 20, 4
    seen: dict[str, list[float]] = {}
    for seed in range(5):
        honest = (
            normal_rows(n - f, d, seed) + 0.3
        ) / d**0.5  # the signal is spread below each coordinate's noise
        mu = honest.mean(0)
        for scale in (1.0, 10.0):
            rows = {f"p{i}": Message(r) for i, r in enumerate([*honest, *torch.zeros(f, d)])}
            bad = frozenset(f"p{i}" for i in range(n - f, n))
            all_ = list(SignFlip(scale=scale, omniscient=True).forge(rows, bad, {}, CTX)[0].values())
            for name, rule in (
                ("median", CoordinateMedian()),
                ("trim", TrimmedMean(f / n)),
                ("krum", Krum(f)),
                ("multi", Krum(f, m=n - f)),
            ):
                out = rule.combine(all_, {}, CTX)[0]
                seen.setdefault(f"{name} {scale:g}", []).append(float((out - mu).norm()))
                if name == "krum" and scale == 1.0:
                    assert torch.allclose(out, -mu, atol=1e-6)
            mean = torch.stack([m.x for m in all_]).mean(0)
            assert float((mean - mu).norm()) == pytest.approx(
                f / n * (1 + scale) * float(mu.norm()), rel=1e-4
            )
    expected = {
        "median 10": 0.35,
        "trim 10": 0.37,
        "krum 10": 0.94,
        "multi 10": 0.0,
        "median 1": 0.29,
        "trim 1": 0.23,
        "krum 1": 0.79,
        "multi 1": 0.23,
    }
    for name, value in expected.items():
        assert np.mean(seen[name]) == pytest.approx(value, abs=max(0.05, 0.1 * value)), name


# ---- sign flip ----------------------------------------------------------------------------------------------------
LAYOUT = Layout.of({"w": (4,), "running_mean": (2,)}, buffers=["running_mean"])


@dataclass(frozen=True)
class Fixed(Client):
    """Gives a set update, as a difference or as weights."""

    kind: str = "delta"
    talks: bool = False

    def work(self, brief: Message, data: Any, state: Any, ctx: Ctx, bound: Any) -> Any:
        x = LAYOUT.blank(torch.arange(float(LAYOUT.size)))
        if self.kind == "weights":
            x = x + LAYOUT.blank(brief.x.clone())
        m = Message(x, self.kind, mass=7.0), {"seen": 1}
        return self._talk(m) if self.talks else m

    def _talk(self, m: Any) -> Generator[Say, Message, Any]:
        yield Say("acts", Message(torch.ones(1)))
        return m


@pytest.mark.parametrize("talks", [False, True])
@pytest.mark.parametrize("kind", ["delta", "weights"])
def test_sign_flip_inside_a_party(kind: str, talks: bool) -> None:
    """-scale times the update, whatever form it is sent in; buffers, mass and state as they were."""
    brief, bound = Message(torch.full((LAYOUT.size,), 5.0), "weights"), SimpleNamespace(layout=LAYOUT)
    attack = SignFlip(scale=3.0)
    assert not attack.reads
    out: Any = attack.wrap(Fixed(kind, talks)).work(brief, None, {}, CTX, bound)  # type: ignore[arg-type]
    if talks:
        assert next(out).phase == "acts"
        with pytest.raises(StopIteration) as end:
            out.send(Message(torch.ones(1)))
        out = end.value.value
    m, state = out
    own = LAYOUT.blank(torch.arange(float(LAYOUT.size)))
    base = LAYOUT.blank(brief.x.clone()) if kind == "weights" else torch.zeros(LAYOUT.size)
    buffers = LAYOUT.views(torch.arange(LAYOUT.size))["running_mean"]
    expected = base - 3.0 * own
    expected[buffers] = (base + own)[buffers]
    assert torch.equal(LAYOUT.blank(m.x), LAYOUT.blank(expected)) and m.mass == 7.0 and state == {"seen": 1}


def test_sign_flip_closed_form() -> None:
    """Equal honest updates u: the mean is ((n - f) - s f)/n u, for either kind of attacker; s = 4 is the turning point."""
    n, f, u = 20, 4, normal_rows(1, 50)[0]
    for scale in (1.0, 4.0, 10.0):
        attack = SignFlip(count=f, scale=scale, omniscient=True)
        rows = {f"p{i}": Message(u.clone()) for i in range(n)}
        bad = attack.members(list(rows), CTX)
        forged = attack.forge(rows, bad, {}, CTX)[0]
        mean = torch.stack([m.x for m in forged.values()]).mean(0)
        assert attack.reads and list(forged) == list(rows) and len(bad) == f
        assert torch.allclose(mean, ((n - f) - scale * f) / n * u, atol=1e-6)
    assert torch.equal(rows["p0"].x, u)
    assert (
        SignFlip().forge(rows, bad, {}, CTX)[0] is rows
    )  # the plain attacker has flipped at home; never twice
    alone = attack.forge(rows, frozenset(rows), {}, CTX)[0]  # no honest mean: each reverses its own
    assert torch.equal(alone["p3"].x, -attack.scale * u) and list(alone) == list(rows)
    uneven = {f"p{i}": Message(torch.full((3,), float(i))) for i in range(4)}
    assert (
        attack.forge(uneven, frozenset({"p3"}), {}, CTX)[0]["p3"].x.tolist() == [-10.0] * 3
    )  # -10 (0+1+2)/3: honest rows only
    assert attack.takes == ("delta",)  # `check` refuses it where parties send weights


def test_members() -> None:
    ids = [f"p{i}" for i in range(10)]
    for attack in (SignFlip(0.3), LabelFlip(0.3), SignFlip(count=3)):
        assert attack.members(ids, CTX) == SignFlip(0.3).members(
            ids[::-1], CTX
        )  # the same parties for every attack
        assert len(attack.members(ids, CTX)) == 3
    assert SignFlip(0.3).members(ids, Ctx(4)) != SignFlip(0.3).members(ids, CTX)
    assert SignFlip(0.0).members(ids, CTX) == frozenset() and len(SignFlip(1.0).members(ids, CTX)) == 10
    assert SignFlip(0.1).members(ids, CTX) < SignFlip(0.3).members(ids, CTX)


# ---- label flip ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rows:
    labels: Tensor

    def with_labels(self, labels: Tensor) -> Rows:
        return Rows(labels)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Echo(Client):
    """Gives the labels that it was made to train on."""

    def work(self, brief: Message, data: Any, state: Any, ctx: Ctx, bound: Any) -> Any:
        return Message(data.labels.float(), mass=float(len(data))), state


def trained_on(attack: LabelFlip, labels: Tensor, classes: int = 0, **at: Any) -> Tensor:
    named = SimpleNamespace(
        layout=LAYOUT, objective=SimpleNamespace(labels=tuple("abcdefghij")[:classes] or None)
    )
    client = attack.wrap(Echo())
    return client.work(Message(torch.zeros(1)), Rows(labels), {}, Ctx(1, client="p", **at), named)[0].x.long()  # type: ignore


@given(st.integers(0, 60), st.floats(0, 1), st.integers(2, 10), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_label_flip_counts(m: int, rate: float, classes: int, seed: int) -> None:
    labels = torch.randint(-1, classes, (m,), generator=torch.Generator().manual_seed(seed))
    before = labels.clone()
    out = trained_on(LabelFlip(rate=rate), labels, classes)
    changed = out != labels
    eligible = (labels >= 0) & (classes - 1 - labels != labels)
    assert torch.equal(labels, before)
    assert int(changed.sum()) == int(rate * int(eligible.sum()) + 1e-9)
    assert torch.equal(out[changed], classes - 1 - labels[changed]) and not bool(changed[labels < 0].any())
    pair = trained_on(LabelFlip(mapping="pair", source=1, target=0, rate=rate), labels)
    changed = pair != labels
    assert int(changed.sum()) == int(rate * int((labels == 1).sum()) + 1e-9)
    assert bool((labels[changed] == 1).all()) and not bool(pair[changed].any())


def test_label_flip_is_one_poisoned_data_set() -> None:
    labels = torch.arange(10).repeat(5)
    assert torch.equal(trained_on(LabelFlip(), labels, 10), 9 - labels)
    attack = LabelFlip(rate=0.4)
    assert torch.equal(trained_on(attack, labels, 10, round=0), trained_on(attack, labels, 10, round=9))
    # A party that lacks the last class still flips over all classes.
    assert torch.equal(trained_on(LabelFlip(), torch.tensor([0, 1]), 10), torch.tensor([9, 8]))
    assert torch.equal(trained_on(LabelFlip(classes=3), torch.tensor([0, 1, 2])), torch.tensor([2, 1, 0]))
    with pytest.raises(ClientFailed, match="adversary.classes"):
        trained_on(LabelFlip(), labels)
    with pytest.raises(ClientFailed, match="label 9 with 3 classes"):
        trained_on(LabelFlip(classes=3), labels)
    with pytest.raises(ClientFailed, match="language modelling"):
        LabelFlip().wrap(Echo()).work(Message(torch.zeros(1)), [1, 2], {}, CTX, SimpleNamespace())  # type: ignore[arg-type]


# ---- detection ----------------------------------------------------------------------------------------------------
def test_norm_outliers() -> None:
    """Norms 1..5, 20: median 3.5, deviations 2.5 1.5 0.5 0.5 1.5 16.5, MAD 1.5: z = 16.5/(1.4826 * 1.5) = 7.42."""
    rows = {f"p{i}": Message(torch.tensor([n, 0.0])) for i, n in enumerate((1.0, 2.0, 3.0, 4.0, 5.0, 20.0))}
    flagged = NormOutliers().flag(rows, {}, CTX)[0]
    assert list(flagged) == ["p5"] and "7.4" in flagged["p5"] and "median 3.5" in flagged["p5"]
    assert NormOutliers(k=7.5).flag(rows, {}, CTX)[0] == {}
    assert NormOutliers().flag({i: rows[i] for i in ("p0", "p1", "p5")}, {}, CTX)[0] == {}  # fewer than four
    short = {f"p{i}": Message(torch.tensor([n])) for i, n in enumerate((9.0, 10.0, 11.0, 10.5, 9.5, 0.0))}
    assert NormOutliers().flag(short, {}, CTX)[0] == {} and list(
        NormOutliers(one_sided=False).flag(short, {}, CTX)[0]
    ) == ["p5"]
    same = {f"p{i}": Message(torch.full((4,), 1.0 + 1e-7 * i)) for i in range(6)}
    assert NormOutliers(one_sided=False).flag(same, {}, CTX)[0] == {}  # rounding errors are no reason
    assert list(NormOutliers().flag(same | {"p6": Message(torch.full((4,), 10.0))}, {}, CTX)[0]) == ["p6"]
    zeros = {f"p{i}": Message(torch.zeros(4)) for i in range(5)}
    assert NormOutliers().flag(zeros, {}, CTX)[0] == {}
    assert "infinitely" in NormOutliers().flag(zeros | {"p9": Message(torch.ones(4))}, {}, CTX)[0]["p9"]


def test_norm_outliers_see_scaling_and_spare_the_honest() -> None:
    caught = spared = 0
    for seed in range(20):
        honest = normal_rows(16, 300, seed)
        rows = {f"p{i}": Message(r) for i, r in enumerate([*honest, *(-10 * honest[:4])])}
        flagged = NormOutliers().flag(rows, {}, CTX)[0]
        caught += len([i for i in flagged if int(i[1:]) >= 16])
        spared += len([i for i in flagged if int(i[1:]) < 16])
    assert caught == 80 and spared <= 4  # of 320
