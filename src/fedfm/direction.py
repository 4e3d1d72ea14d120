"""Which way is better: what the name of a score tells of it, and whether anybody has said so."""

from __future__ import annotations

import functools
import re
from typing import Any

ERRORS = {"loss", "error", "err", "mse", "mae", "rmse", "mape", "nll", "ppl", "perplexity", "wer", "cer"}
FALLING = {
    *ERRORS, "losses", "errors", "smape", "msle", "rmsle", "nrmse", "nmse", "mase", "wape", "wmape", "bce", "ce", "xent",
    "crossentropy", "logloss", "hinge", "deviance", "deviation", "distance", "divergence", "kl", "kld", "brier", "ece",
    "regret", "eer", "fpr", "fnr", "frr", "fdr", "bpb", "bpc", "bpd", "fid", "kid", "lpips", "hamming", "levenshtein",
    "wasserstein", "emd", "misclassified", "misclassification", "misclassifications", "wrong", "mistakes", "miss", "misses",
    "ter", "der", "mer",
}  # fmt: skip
RISING = {
    "accuracy", "acc", "f1", "fscore", "fbeta", "auc", "auroc", "auprc", "aucpr", "roc", "prauc", "precision", "recall", "ap",
    "map", "r2", "mrr", "ndcg", "hit", "hits", "bleu", "rouge", "meteor", "chrf", "iou", "miou", "dice", "jaccard", "kappa",
    "mcc", "psnr", "ssim", "sensitivity", "specificity", "tpr", "tnr", "exact", "correct", "right", "likelihood", "correlation",
    "pearson", "spearman", "gain", "reward", "success", "concordance",
}  # fmt: skip
PHRASES = (  # words that mean one thing together
    ("false (positive|negative|alarm|discovery|acceptance|rejection|omission)s?", "error"),
    ("true (positive|negative)s?", "accuracy"),
    ("explained variance", "accuracy"),
    ("cross entropy", "loss"),
    ("bits (per|a|an) [a-z]+", "loss"),
)


def way(name: str) -> bool | None:
    """Is more of a score of this name better? None where the name does not plainly tell, or tells both."""
    words = _words(name)
    if words[:1] in (["neg"], ["negative"], ["minus"]):
        return None if (told := way(" ".join(words[1:]))) is None else not told
    falls, gains = any(map(_falls, words)), any(map(_gains, words))
    return None if falls == gains else gains


def rises(name: str) -> bool:
    """The direction that is taken of a score of this name where nobody has said one: up, unless it tells of an error."""
    told = way(name)
    return not any(map(_falls, _words(name))) if told is None else told


def of_score(name: str, measure: Any) -> bool | None:
    """What the name of a score tells, else that of the function which computes it."""
    while isinstance(measure, functools.partial):
        measure = measure.func
    told = way(name)
    return way(str(getattr(measure, "__name__", type(measure).__name__))) if told is None else told


def unsaid(objective: Any) -> str:
    """The primary score of an objective where nobody has said which way it is better; empty: somebody has.

    Who names a primary score of its own and inherits a direction has said none, unless the name tells the same.
    """
    name, told = str(objective.primary), getattr(objective, "directed", None)
    if told is None:
        holders = [vars(objective), *map(vars, type(objective).__mro__)]
        at = [
            next((i for i, h in enumerate(holders) if n in h), len(holders))
            for n in ("primary", "higher_is_better")
        ]
        told = at[0] >= at[1] or way(name) == objective.higher_is_better
    return "" if told else name


def _words(name: str) -> list[str]:
    plain = " ".join(re.findall("[a-z]+[0-9]*", re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower()))
    for phrase, word in PHRASES:
        plain = re.sub(rf"\b{phrase}\b", word, plain)
    whole = (
        re.findall("[a-z]+[0-9]*", name.lower()) if re.search("[a-z][A-Z]", name) else []
    )  # mIoU is one word
    return [*plain.split(), *whole]


def _falls(word: str) -> bool:
    plain = word.rstrip("0123456789")
    return plain in FALLING or plain.endswith(
        ("loss", "error", "errors", "crossentropy", "perplexity", "divergence")
    )


def _gains(word: str) -> bool:
    plain = word.rstrip("0123456789")
    return (
        word in RISING or plain in RISING or plain.endswith(("accuracy", "likelihood", "precision", "recall"))
    )
