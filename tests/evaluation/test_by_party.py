"""The evaluator by party: numbers against scikit-learn, perturbed copies, refusals, resume, and its laws' power."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score

from conftest import Drive
from federations import OWN_TESTS, SGD, digits
from fedfm import laws
from fedfm.checks.rules import check
from fedfm.core.errors import ConfigError, DataError
from fedfm.core.loop import Run
from fedfm.core.protocols import Evaluator, Scores
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.computation.tuning.head import Head
from fedfm.evaluation.by_party import ByParty
from fedfm.evaluation.perturb import noise, occlusion, perturbed, typos
from fedfm.laws.homes import pictures, quadratics
from fedfm.models import tiny
from fedfm.tasks.text.classify import SequenceClassification
from fedfm.trust.privacy.secure.secagg import SecAgg

DIGITS = digits(data=OWN_TESTS, evaluate=ByParty(parts=3), rounds=2)


def answers(run: Run, rows: Any) -> tuple[list[int], list[int]]:
    """True and most likely classes, from the network itself."""
    encoded = run.bound.encode(rows)
    run.bound.load(run.model())
    with torch.no_grad():
        return encoded.labels.tolist(), run.bound.module.eval()(encoded.pixels).argmax(1).tolist()


def test_macro_f1_is_that_of_scikit_learn_in_every_case(drive: Drive) -> None:
    """Classes that are neither there nor named do not count; parties hold few of the ten digits."""
    played = drive(DIGITS)
    run, found = played.run, played.records[-1]["metrics"]
    parties = run.home.source
    cases = {f"/{i}": parties.test(i) for i in parties.ids}
    cases |= {"": parties.test(), "/with noise": perturbed(parties.test(), "noise", 0.1)}
    for name, rows in cases.items():
        true, said = answers(run, rows)
        assert found[f"macro_f1{name}"] == pytest.approx(f1_score(true, said, average="macro"), abs=1e-12)
        right = sum(a == b for a, b in zip(true, said, strict=True))
        assert found[f"accuracy{name}"] == pytest.approx(right / len(true))
    by_party = [found[f"macro_f1/{i}"] for i in parties.ids]
    assert found["parties/macro_f1"] == pytest.approx(sum(by_party) / len(by_party))
    assert found["parties/macro_f1/worst"] == found["parties/macro_f1/worst tenth"] == min(by_party)
    assert found["parties/loss/worst"] == max(found[f"loss/{i}"] for i in parties.ids)
    assert {n.split("/")[1] for n in found if "with" in n} == {"with noise", "with occlusion"}


def test_scoring_changes_no_model_and_resumes(drive: Drive, tmp_path: Path) -> None:
    plain, whole = drive(digits(data=OWN_TESTS, rounds=2)), drive(DIGITS)
    assert torch.equal(plain.model, whole.model)
    half = tmp_path / "half"
    drive(DIGITS, folder=half, rounds=1)
    again = drive(DIGITS, folder=half, resume=True)
    assert again.digest == whole.digest and torch.equal(again.model, whole.model)
    assert again.records[-1]["metrics"] == whole.records[-1]["metrics"]


def test_personal_scores_are_of_the_partys_own_model(drive: Drive) -> None:
    found = drive(replace(DIGITS, evaluate=ByParty(personal=True, perturb=()))).records[-1]["metrics"]
    common = drive(DIGITS).records[-1]["metrics"]
    for name in ("accuracy/party-0", "macro_f1/party-3", "loss/party-1"):
        assert found[name] == pytest.approx(common[name])  # plain averaging: everybody uses the global model
    assert found["own/macro_f1"] == pytest.approx(common["parties/macro_f1"])
    assert not any(n.startswith(("right/", "named/")) for n in found | common)


def test_without_rows_of_parties_the_common_set_is_scored(drive: Drive) -> None:
    found = drive(digits(evaluate=ByParty(perturb=("occlusion",)), rounds=1)).records[-1]["metrics"]
    assert {n.rpartition("/")[2] for n in found} == {"accuracy", "loss", "macro_f1", "with occlusion"}


def test_texts_are_scored_with_typos(tmp_path: Path, drive: Drive) -> None:
    model = str(tiny("encoder", tmp_path / "model"))
    rows = tuple({"text": f"one two {k}", "label": "ab"[k % 2], "group": "g"} for k in range(8))
    data = Texts(Parties((Shard("p", rows), Shard("q", rows)), (Shard("g", rows),), labels=("a", "b")))
    fed = digits(task=SequenceClassification(model=model, tuning=Head()), data=data, rounds=1, client=SGD)
    found = drive(replace(fed, evaluate=ByParty(typos=0.5))).records[-1]["metrics"]
    assert {"macro_f1", "macro_f1/with typos", "accuracy/g", "accuracy/g/with typos"} <= set(found)


@dataclass(frozen=True)
class Texts:
    parties: Any

    def open(self, seed: int) -> Any:
        return self.parties


# ---- refusals -----------------------------------------------------------------------------------------------------
def test_a_task_without_classes_is_refused_with_the_reason(drive: Drive) -> None:
    with pytest.raises(ConfigError, match="macro F1 needs classes"):
        drive(quadratics(evaluate=ByParty()))


def test_a_perturbation_that_does_not_fit_is_refused(drive: Drive) -> None:
    with pytest.raises(DataError, match="typos changes text"):
        drive(pictures(evaluate=ByParty(perturb=("typos",))))
    with pytest.raises(ValueError, match="no perturbation 'blur'"):
        ByParty(perturb=("blur",))


def test_rows_of_parties_do_not_go_to_a_server_that_masks_hide_from() -> None:
    fed = digits(evaluate=ByParty(), uplink=SecAgg())
    assert any("test" in p.what and p.where == "data" for p in check(fed)), check(fed)


def test_personal_scores_need_rows_of_parties(drive: Drive) -> None:
    with pytest.raises(DataError, match="own_test"):
        drive(digits(evaluate=ByParty(personal=True)))


# ---- perturbed copies -----------------------------------------------------------------------------------------------
def test_copies_are_drawn_from_the_name_of_the_case_alone() -> None:
    rows = Shard("test", tuple({"image": torch.full((1, 16, 16), 90, dtype=torch.uint8)} for _ in range(9)))
    before, stream = rows.digest, torch.get_rng_state()
    one, two = perturbed(rows, "noise", 0.1), perturbed(rows, "noise", 0.1)
    assert one.digest == two.digest != before and Shard("test", rows.rows).digest == before
    assert torch.equal(torch.get_rng_state(), stream)
    pixels = torch.stack([r["image"] for r in one.rows]).double()
    assert float(pixels.std()) == pytest.approx(25.5, rel=0.05) and float(pixels.mean()) == pytest.approx(
        90, abs=2
    )
    assert len({Shard("x", (r,)).digest for r in one.rows}) == 9  # another drawing for every row
    assert perturbed(rows, "noise", 0.0).digest == before


def test_strengths_mean_what_they_say() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    image = torch.arange(256).to(torch.uint8).reshape(1, 16, 16)
    covered = occlusion(image, 0.25, rng)
    assert int((covered == 128).sum()) in (64, 65) and covered.dtype == torch.uint8
    assert noise(torch.zeros(3, 8, 8, dtype=torch.uint8), 0.5, rng).shape == (3, 8, 8)
    text = "the quick brown fox " * 50
    assert typos(text, 0.0, rng) == text != typos(text, 0.1, rng)
    assert sum(a != b for a, b in zip(typos("ä", 1.0, rng), "ä", strict=False)) <= 1
    for one in ("", "a", " ", "?!", "日本語"):
        assert bool(typos(one, 1.0, rng).strip()) == bool(one.strip())


# ---- the laws can be broken -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Drawn(Evaluator):
    """Scores with a draw from torch's global stream."""

    def measure(self, encoded: Any, bound: Any) -> Scores:
        return {"accuracy": (float(torch.rand(())), 1)}


@dataclass(frozen=True)
class Moved(Evaluator):
    """Leaves another model behind."""

    def measure(self, encoded: Any, bound: Any) -> Scores:
        bound.load(bound.read() + 1)
        return bound.score(encoded)


@dataclass(frozen=True)
class Averaged(Evaluator):
    """Means where sums are due."""

    def measure(self, encoded: Any, bound: Any) -> Scores:
        return {name: (total / n, 1) for name, (total, n) in bound.score(encoded).items() if n}

    def finish(self, scores: Any) -> dict[str, float]:
        return super().finish(scores) | ({"parts": float(len(scores[""]))} if scores.get("") else {})


@dataclass(frozen=True)
class Endless(Evaluator):
    """An infinite metric, also of nothing, and not the task's own."""

    def finish(self, scores: Any) -> dict[str, float]:
        return {"worst": float("inf")}


@pytest.mark.parametrize(
    ("spec", "broken"),
    [
        (Drawn(), "a score is pure"),
        (Moved(), "a score is pure"),
        (Averaged(), "metrics are the same in any number of parts"),
        (Endless(), "metrics are finite and have the tasks own"),
        (Endless(), "of nothing there are no metrics"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_a_broken_evaluator_breaks_its_law(spec: Evaluator, broken: str) -> None:
    found = {law.name: law.broken(spec) for law in laws.laws_of(spec) if law.protocol is Evaluator}
    assert len(found) == 5 and found[broken] and "works in no federation" not in found[broken]
