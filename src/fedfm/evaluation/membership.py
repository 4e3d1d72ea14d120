"""Membership inference by the loss: were these rows trained on? What a finished model tells whoever has it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import FedfmError
from fedfm.core.protocols import Audit, Bound
from fedfm.data.splits import fingerprint
from fedfm.tasks.bound import evaluating

ALL = "all parties"
BEFORE = f"{ALL}, before training"


@method(
    "loss-threshold",
    slot="audit",
    section="V.B",
    paper="Yeom et al., Privacy risk in machine learning: analyzing the connection to overfitting, CSF 2018; Carlini "
    "et al., Membership inference attacks from first principles, S&P 2022 (true positives at few false ones); Hanley "
    "and McNeil, The meaning and use of the area under a ROC curve, 1982; Clopper and Pearson, 1934",
    departs="the threshold is chosen on the rows that are judged (the best one, and one by false positives), beside "
    "the paper's, the mean training loss",
    also=("mia", "membership-inference", "yeom"),
)
@dataclass(frozen=True)
class LossThreshold(Audit):
    """Guess that a row was trained on when the final model's loss on it is small: training rows against held-out rows.

    Members are the training rows of the parties whose work was used; the others are held-out rows that nobody trained
    on (a party's own where the data have them). For each party and for all, and for all before training and after each
    round that the run kept: `auc` (the chance that a member's loss is the smaller of a pair; ties count half) with Hanley and McNeil's
    bounds; `advantage`, the largest true minus false positive rate of any threshold; `advantage_yeom`, that at the mean
    loss of the members; `tpr` and `fpr` with at most `fpr` false positives, with exact bounds. Rates are shares, losses
    in the task's unit. What the model before training tells apart is no membership but rows drawn otherwise: only what
    goes beyond its bounds is put down to training, and that under the condition that the sentence names.
    """

    fpr: float = knob(0.01, "false positive rate at which the true one is reported", low=0.0, below=1.0)
    confidence: float = knob(0.95, "of the bounds, two-sided", above=0.0, below=1.0)

    def run(self, opened: Any, ctx: Ctx) -> dict[str, Any]:
        """Raises FedfmError where there is nobody or nothing to compare."""
        parties, bound = opened.parties, opened.bound
        if not opened.contributors:
            raise FedfmError("no party's work was used in this run: its model was trained on nobody's rows")
        trained = {fingerprint(r) for i in parties.ids for r in parties.train(i).rows}
        bound.load(opened.model)
        with ctx.ambient("audit"):
            members = {i: losses(bound, parties.train(i)) for i in opened.contributors}
            test = parties.test()
            fresh = _unseen(test, trained)
            others = losses(bound, fresh)
            models = {BEFORE: bound.init}
            models |= {f"{ALL}, after round {k}": opened.at(k) for k in sorted(opened.kept)}
            over = {k: self._under(x, opened, fresh) for k, x in models.items()} if len(fresh) else {}
            own = {s.party: losses(bound, _unseen(s, trained)) for s in getattr(parties, "own", ())}
        if not len(others):
            raise FedfmError(
                "there is no held-out row that nobody trained on, so nothing can be compared\n"
                "    fix: hold out more (data.test_fraction, data.test_path)"
            )
        cases = {ALL: self.compare(torch.cat(list(members.values())), others)}
        cases |= {k: self.compare(*both) for k, both in over.items()}
        for i, mine in members.items():
            theirs = own.get(i, others)
            if len(mine) and len(theirs):
                cases[i] = self.compare(mine, theirs)
        return {
            "meaning": self.meaning(cases),
            "cases": cases,
            "against": "each party's own test rows" if own else "the common held-out rows",
            "held_out_rows_also_trained_on": len(test) - len(fresh),
            "parties_whose_work_was_not_used": len(parties.ids) - len(members),
        }

    def _under(self, model: Tensor, opened: Any, fresh: Any) -> tuple[Tensor, Tensor]:
        """Losses of members and others under another model of the run."""
        bound = opened.bound
        bound.load(model)
        found = [losses(bound, opened.parties.train(i)) for i in opened.contributors]
        others = losses(bound, fresh)
        bound.load(opened.model)
        return torch.cat(found), others

    def compare(self, members: Tensor, others: Tensor) -> dict[str, Any]:
        """The attack's numbers from the losses of members (n,) and of others (m,); a loss of NaN counts as infinite."""
        members, others = (x.double().nan_to_num(nan=math.inf).sort().values for x in (members, others))
        n, m = len(members), len(others)
        below, upto = (torch.searchsorted(others, members, right=r).double() for r in (False, True))
        auc = float(((m - upto) + (upto - below) / 2).sum() / (n * m))
        rank = torch.searchsorted(members, members, right=True).double()
        gaps = rank / n - upto / m  # true minus false positive rate of "loss <= that of a member"
        best = int(gaps.argmax())
        mean = members.mean()
        allowed = math.floor(self.fpr * m + 1e-9)  # so many of the others may be taken for members
        limit = others[allowed]
        tp, fp = int((members < limit).sum()), int((others < limit).sum())
        return {
            "members": n,
            "others": m,
            "auc": auc,
            "auc_bounds": around(auc, n, m, self.confidence),
            "advantage": max(0.0, float(gaps[best])),
            "threshold": float(members[best]) if gaps[best] > 0 and members[best].isfinite() else None,
            "advantage_yeom": float((members <= mean).double().mean() - (others <= mean).double().mean()),
            "tpr": tp / n,
            "tpr_bounds": exact(tp, n, self.confidence),
            "fpr": fp / m,
            "fpr_bounds": exact(fp, m, self.confidence),
        }

    def meaning(self, cases: dict[str, dict[str, Any]]) -> str:
        """What the numbers say, in one sentence."""
        found = cases[ALL]
        low, high = found["auc_bounds"]
        told = (
            f"Whoever has the model and one training row beside one held-out row picks the training row by its smaller "
            f"loss in {100 * found['auc']:.1f} % of pairs (50 % is guessing; {100 * self.confidence:g} % bounds "
            f"{100 * low:.1f} to {100 * high:.1f} %)"
        )
        before = cases[BEFORE]
        if _beyond(found, before):
            return (
                f"{told}: the model gives away who was trained on, if the held-out rows are drawn like the training rows "
                f"(before training: {_percent(before)})."
            )
        if _apart(before) and _apart(found):
            return (
                f"{told}, and the model before training did so too ({_percent(before)}): the two sets of rows differ in "
                "more than that one was trained on, and this attack says nothing about membership."
            )
        if high < 0.5:
            return (
                f"{told}: its losses are larger on training rows, so the two sets of rows differ in more than that "
                "one was trained on, and this attack says nothing about membership."
            )
        if _apart(found):
            told += f", which is not beyond the bounds of the model before training ({_percent(before)})"
        return f"{told}: this attack cannot tell them apart, which is no proof that a stronger one could not."


def _apart(case: Mapping[str, Any]) -> bool:
    """Are the losses of the two sets of rows told apart beyond chance, by pairs or at few false positives?"""
    return bool(case["auc_bounds"][0] > 0.5 or case["tpr_bounds"][0] > case["fpr_bounds"][1])


def _beyond(case: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Are they told apart beyond chance, and beyond what the model before training does?"""
    pairs = case["auc_bounds"][0] > max(0.5, before["auc_bounds"][1])
    return bool(pairs or case["tpr_bounds"][0] > max(case["fpr_bounds"][1], before["tpr_bounds"][1]))


def _percent(case: Mapping[str, Any]) -> str:
    low, high = case["auc_bounds"]
    return f"{100 * case['auc']:.1f} %, bounds {100 * low:.1f} to {100 * high:.1f} %"


def losses(bound: Bound, rows: Any) -> Tensor:
    """The loss of each row (n,), fp64, with the loaded parameters in evaluation mode."""
    encoded = bound.encode(rows)
    found = torch.zeros(len(encoded), dtype=torch.float64)
    with evaluating(bound.module):
        for index in bound.objective.chunks(encoded) if len(encoded) else ():
            each = bound.losses(bound.batch(encoded, index)).double().cpu()
            if len(index) > 1 and bool((each == each[0]).all()):  # the mean of a batch may stand for each row
                each = torch.cat(
                    [bound.losses(bound.batch(encoded, k)).double().cpu() for k in index.split(1)]
                )
            found[index] = each
    return found


def _unseen(shard: Any, trained: set[bytes]) -> Any:
    return replace(shard, rows=tuple(r for r in shard.rows if fingerprint(r) not in trained))


# ---- bounds -------------------------------------------------------------------------------------------------------
def around(auc: float, n: int, m: int, confidence: float) -> list[float]:
    """Hanley and McNeil's bounds of an AUC from n and m values; where all pairs agree, by the rule of three."""
    q1, q2 = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    variance = (auc * (1 - auc) + (n - 1) * (q1 - auc * auc) + (m - 1) * (q2 - auc * auc)) / (n * m)
    z = math.sqrt(2) * float(torch.erfinv(torch.tensor(confidence, dtype=torch.float64)))
    wide = z * math.sqrt(max(0.0, variance))
    if auc in (0.0, 1.0):
        wide = 1 - exact(min(n, m), min(n, m), confidence)[0]
    return [max(0.0, auc - wide), min(1.0, auc + wide)]


def exact(k: int, n: int, confidence: float) -> list[float]:
    """Clopper and Pearson's bounds of a rate, k of n."""
    return [_lower(k, n, (1 - confidence) / 2), 1.0 - _lower(n - k, n, (1 - confidence) / 2)]


def _lower(k: int, n: int, alpha: float) -> float:
    """The p at which P(X >= k) of n trials is alpha, by bisection; 0 for k = 0."""
    if not k:
        return 0.0
    j = torch.arange(k, n + 1, dtype=torch.float64)
    ways = math.lgamma(n + 1) - torch.lgamma(j + 1) - torch.lgamma(n - j + 1)
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        if not low < p < high:
            break
        tail = float(torch.logsumexp(ways + j * math.log(p) + (n - j) * math.log1p(-p), 0).exp())
        low, high = (low, p) if tail > alpha else (p, high)
    return low
