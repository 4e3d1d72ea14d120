"""Scores by party and on perturbed rows, with the macro F1 of every case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedfm.cards.registry import knob, method
from fedfm.core.errors import DataError
from fedfm.core.protocols import Bound, Evaluator, Scores
from fedfm.core.schema import Parties
from fedfm.evaluation.held_out import BEST, STOP
from fedfm.evaluation.perturb import KINDS, fitting, perturbed
from fedfm.tasks.bound import evaluating

WITH = "with "  # begins the names of perturbed cases
RIGHT, NAMED = "right/", "named/"  # rows of a class that are found; rows that are said to be of it
RISES = "rises/"  # is more of a score better? 1 or 0


@method(
    "by-party",
    slot="evaluate",
    section="VII",
    survey=(235,),
    paper="van Rijsbergen, Information Retrieval, 1979 (F1); Hendrycks and Dietterich, Benchmarking neural network "
    "robustness to common corruptions and perturbations, ICLR 2019; Li et al., Fair resource allocation in "
    "federated learning, ICLR 2020 (the spread over parties)",
    atlas=("fairness-audit",),
    also=("by-client", "federated"),
)
@dataclass(frozen=True)
class ByParty(Evaluator):
    """Score the global model on the common test rows, on each party's own, and on perturbed copies of the common ones.

    Every case has the task's scores and `macro_f1`: the mean over classes c, of those in the case's labels or answers,
    of F1_c = 2 right_c / (true_c + named_c). `METRIC/PARTY` where the data have test rows of parties (in simulation),
    with `parties/METRIC`, its mean over parties, `.../worst` and `.../worst tenth`; `METRIC/with noise` and the like.
    For tasks that classify.
    """

    every: int = knob(1, "rounds between two scores (the last round is always scored)", low=1)
    parts: int = knob(2, "pieces of a case, scored side by side", low=1, high=256)
    personal: bool = knob(
        False, "the party's own model on its own rows, where methods keep one, not the global model"
    )
    perturb: tuple[str, ...] | None = knob(
        None, "kinds of perturbed copies: noise, occlusion, typos; null: all that fit the rows"
    )
    noise: float = knob(
        0.1, "standard deviation of the noise on pictures, a share of the range", low=0.0, high=1.0
    )
    occlusion: float = knob(0.25, "share of a picture that is covered", low=0.0, high=1.0)
    typos: float = knob(0.05, "share of letters that are dropped, doubled or swapped", low=0.0, high=1.0)
    stop_after: int = knob(0, STOP, low=0)
    keep_best: bool = knob(False, BEST)

    collects = True

    def __post_init__(self) -> None:
        if bad := [p for p in self.perturb or () if p not in KINDS]:
            raise ValueError(f"there is no perturbation '{bad[0]}'; there are {', '.join(KINDS)}")

    def feasible(self, parties: int, bound: Bound) -> str:
        if not getattr(bound.objective, "classes", 0):
            return (
                "macro F1 needs classes, and this task has none, or its data number them (y) and do not name them; "
                "name them in a column `label` in place of y, or take evaluate=held-out, which scores any task"
            )
        return ""

    # ---- cases ------------------------------------------------------------------------------------------------
    def cases(self, parties: Parties) -> tuple[str, ...]:
        """Raises DataError for a perturbation that the rows cannot suffer."""
        fit = fitting(parties.schema.columns)
        kinds = fit if self.perturb is None else self.perturb
        if bad := [k for k in kinds if k not in fit]:
            raise DataError(
                f"evaluate.perturb: {bad[0]} changes {' or '.join(KINDS[bad[0]][1])}, and the rows have "
                f"{', '.join(parties.schema.columns)}\n    fix: one of {', '.join(fit) or '[] (none fits)'}"
            )
        own = () if self.personal else tuple(s.party for s in getattr(parties, "own", ()))
        damaged = tuple(WITH + k for k in kinds)
        if twice := set(own) & set(damaged):
            raise DataError(
                f"a party is called '{min(twice)}', as a case of evaluate=by-party is: rename the party"
            )
        return ("", *own, *damaged)

    def rows(self, case: str, parties: Parties) -> Any:
        if not case.startswith(WITH) or (kind := case.removeprefix(WITH)) not in KINDS:
            return parties.test(case or None)
        return perturbed(parties.test(), kind, getattr(self, kind))

    # ---- numbers ----------------------------------------------------------------------------------------------
    def measure(self, encoded: Any, bound: Bound) -> Scores:
        """The task's scores, for each class k `right/k` (right, true) and `named/k` (named, rows), and `macro_f1`.

        The last is of these rows alone; `finish` computes it anew from the sums of all. `rises/SCORE` says which way is better.
        """
        found, objective = dict(bound.score(encoded)), bound.objective
        found |= {f"{RISES}{name}": (float(objective.rises(name)), 1) for name in found}
        right, true, named = (torch.zeros(objective.classes, dtype=torch.long) for _ in range(3))
        with evaluating(bound.module):
            for index in objective.chunks(encoded):
                batch = bound.batch(encoded, index)
                said, is_ = (t.cpu().long() for t in objective.classify(bound.module, batch))
                for total, classes in ((right, is_[said == is_]), (true, is_), (named, said)):
                    total += torch.bincount(classes, minlength=len(total))
        n = len(encoded)
        for k in range(objective.classes):
            found[f"{RIGHT}{k}"] = float(right[k]), int(true[k])
            found[f"{NAMED}{k}"] = float(named[k]), n
        return found | ({"macro_f1": (_macro_f1([found]) * n, n)} if n else {})

    def finish(self, scores: Mapping[str, Sequence[Scores]]) -> dict[str, float]:
        found, parties, down = dict[str, float](), dict[str, list[float]](), set[str]()
        for case, parts in scores.items():
            plain = [{n: s for n, s in p.items() if not n.startswith((RIGHT, NAMED, RISES))} for p in parts]
            down |= {
                n.removeprefix(RISES)
                for p in parts
                for n, (up, _) in p.items()
                if n.startswith(RISES) and not up
            }
            for name, value in super().finish({"": plain}).items():
                value = _macro_f1(parts) if name == "macro_f1" else value
                found[f"{name}/{case}" if case else name] = value
                if case and case.removeprefix(WITH) not in KINDS and "/" not in name:
                    parties.setdefault(name, []).append(value)
        for name, values in parties.items():
            ordered = sorted(values, reverse=name in down)  # the worst first
            tenth = ordered[: max(1, math.ceil(len(ordered) / 10))]
            found |= {
                f"parties/{name}": math.fsum(ordered) / len(ordered),
                f"parties/{name}/worst": ordered[0],
                f"parties/{name}/worst tenth": math.fsum(tenth) / len(tenth),
            }
        return found


def _macro_f1(parts: Sequence[Scores]) -> float:
    """The mean of the F1 of all classes that somebody named or that are there."""
    right, either = dict[str, float](), dict[str, float]()
    for part in parts:
        for name, (total, n) in part.items():
            if name.startswith(RIGHT):
                k = name.removeprefix(RIGHT)
                right[k] = right.get(k, 0.0) + total
                either[k] = either.get(k, 0.0) + n
            elif name.startswith(NAMED):
                k = name.removeprefix(NAMED)
                either[k] = either.get(k, 0.0) + total
    each = [2 * right.get(k, 0.0) / n for k, n in either.items() if n]
    return math.fsum(each) / len(each) if each else 0.0
