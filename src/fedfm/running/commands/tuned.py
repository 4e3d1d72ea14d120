"""What to do with the model of a finished run: ask it, or hand it on."""

from __future__ import annotations

import dataclasses
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm.cards.registry import name_of
from fedfm.config import text
from fedfm.config.building import from_config
from fedfm.config.marker import unspoken
from fedfm.core.errors import ConfigError, DataError, FedfmError, ModelError, ResumeError
from fedfm.core.protocols.scoring import means
from fedfm.data.cleaning.faults import Faults
from fedfm.data.reading.paths import READ, ending
from fedfm.data.reading.text import read
from fedfm.data.splits import opened
from fedfm.files import alive
from fedfm.ledger import file as ledger
from fedfm.running.course import leaving
from fedfm.running.process import borrowed
from fedfm.running.record.folder import EXPORTS, RECORD
from fedfm.running.record.mixed import mixed, plain
from fedfm.running.record.seal import wrong
from fedfm.running.summary import of_best
from fedfm.running.verdict import Result

COLUMNS = ("text", "instruction")
FAR = 1e-3  # relative difference of a loss that merging may make in float32
FAR_HALF = 2e-2  # in bfloat16
MAKING = ".making."  # what is not yet a model
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Exported:
    """Where it lies; its own scores on the test rows, or why there are none; what the run reported."""

    folder: Path
    scores: dict[str, float]
    reported: dict[str, float]
    unscored: str = ""


def model_of(folder: Path, party: str | None = None) -> Path:
    """The tuned model of a run directory, or one party's (or the folder itself, if it is one). Raises ModelError."""
    from fedfm.tasks.export import refuse_other

    for place in (leaving.model_of(folder, party), folder):
        if (place / "fedfm-task.json").is_file():
            return place
    if (folder / "run.json").is_file() and not any(
        (folder / m).is_dir() for m in (leaving.MODEL, leaving.MODELS)
    ):
        raise ModelError(f"{folder}: this run has no model yet\n    fix: fedfm resume {folder}")
    refuse_other(leaving.model_of(folder, party), folder)
    if (place := leaving.model_of(folder, party)).is_dir():
        raise ModelError(
            f"{folder}: there is no tuned text model here, but one of another task\n"
            f"    why: predict and export open models of texts; {place} holds {', '.join(sorted(p.name for p in place.iterdir()))}\n"
            "    fix: use the files as they lie there: safetensors.torch.load_file reads the weights, config.json says of what"
        )
    raise ModelError(
        f"{folder}: there is no tuned text model here\n    fix: give the directory of a finished run of a text task"
    )


def round_of(folder: Path) -> str:
    """Which round a run's model is of, where it is not the last one; empty: it is, or there is no record."""
    try:
        best = Result.read(folder).summary.get("best")
    except ResumeError:
        return ""
    return of_best(best) if best and best["kept"] else ""


def predict(folder: Path, texts: list[Any], party: str | None = None) -> list[Any]:
    """The label or number of each text (or pair of texts), or the answer to each instruction; by one party's model,
    where each has its own."""
    from fedfm.tasks import load_tuned

    if not texts:
        return []
    source = model_of(folder, party)
    with borrowed():
        tuned = load_tuned(source)
        if bad := next(_strange(folder, source), ""):
            warnings.warn(
                f"fedfm: {bad}: the answers are not those of the model that this run reports on",
                UserWarning,
                stacklevel=2,
            )
        return tuned.predict(texts)


def read_texts(file: Path, column: str = "") -> list[Any]:
    """Texts of a file: a column of a file of rows, as training reads them (default: text, else instruction), as a pair
    where a row has `text_pair`; of any other file one a line. Raises DataError."""
    if ending(file)[0] not in READ:
        try:
            content = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as e:
            raise DataError(f"{file} cannot be read: {e}\n    fix: give a text file in UTF-8") from e
        lines = kept.split("\n") if (kept := content.rstrip()) else []
        if bad := [n for n, line in enumerate(lines, 1) if not line.strip()]:
            raise DataError(_blank(file, f"line {bad[0]}", len(bad)))
        return lines
    faults, lost = Faults(str(file)), Counter[str]()
    rows = [row for _, row in read(file, faults, lost)]
    faults.settle()
    wanted = (column,) if column else COLUMNS
    found = next((c for c in wanted if rows and c in rows[0]), None)
    if found is None:
        raise DataError(
            f"{file} has no column {' or '.join(wanted)}\n    fix: --column NAME, one of "
            + ", ".join(rows[0] if rows else ())
        )
    if bad := [n for n, r in enumerate(rows, 1) if not isinstance(t := r.get(found), str) or not t.strip()]:
        raise DataError(_blank(file, f"row {bad[0]} of the column {found}", len(bad)))
    return [(r[found], r["text_pair"]) if isinstance(r.get("text_pair"), str) else r[found] for r in rows]


def _blank(file: Path, where: str, several: int) -> str:
    more = f" ({several} such)" if several > 1 else ""
    return (
        f"{file}: there is no text in {where}{more}\n    why: an answer to nothing would stand beside the others, and without "
        "it the answers would not stand beside their texts\n    fix: take the row out, or write its text"
    )


def export(folder: Path, to: Path | None, *, merged: bool, party: str | None = None) -> Exported:
    """Copy the tuned model to `to`, merged into its base or as it is, and score it on the run's test rows.

    `party`: whose, where each has its own; it is scored on that party's own test rows.

    Raises ModelError when the merged model is not the model that was scored (its loss moved), and leaves nothing then.
    Whoever is killed meanwhile leaves no model there either.
    """
    from fedfm.tasks.export import whole

    source = model_of(folder, party)
    whole(source)  # before a copy is made, which nobody could restore
    to = to or folder / EXPORTS[merged]
    if to.exists() and (not to.is_dir() or not all(map(_left, to.iterdir()))):
        raise ModelError(f"{to} is not empty\n    fix: give another folder with --to")
    for old in to.glob(f"{MAKING}*"):
        shutil.rmtree(old)
    part = to / f"{MAKING}{os.getpid()}"  # inside, for `to` may be a volume's root
    skipped = (*ADAPTER, "README.md") if merged else ()
    try:
        shutil.copytree(source, part, ignore=lambda _, names: [n for n in names if n in skipped])
        with borrowed():
            if merged:
                _merge(source, part)
            found = _scored(folder, part, to, party, merged)
        for path in part.iterdir():
            path.replace(to / path.name)
        part.rmdir()
    except BaseException:
        shutil.rmtree(to, ignore_errors=True)
        raise
    return found


def _left(path: Path) -> bool:
    """Is it what a killed export left?"""
    pid = path.name.removeprefix(MAKING)
    return path.name.startswith(MAKING) and not (pid.isdigit() and alive(int(pid)))


def _merge(source: Path, to: Path) -> None:
    """The network with its adapter added to its weights, in the layout of transformers, with what belongs beside it."""
    from fedfm.efficiency.computation.tuning.full import Full, write_whole
    from fedfm.tasks import load_tuned
    from fedfm.tasks.export import write_task

    tuned = load_tuned(source)
    tuning = tuned.task.tuning
    if not tuning.exact_merge:
        raise ModelError(
            f"{source}: what the tuning '{name_of(tuning)}' learns cannot be folded into the weights\n"
            "    fix: export it as it is, without --merged"
        )
    write_whole(tuning.merged(tuned.objective.network(tuned.module)), to)
    tuned.objective.beside(to)
    whole = dataclasses.replace(
        tuned.task, tuning=Full()
    )  # what lies there now is a network without an adapter
    write_task(tuned.objective, to, whole)


def _scored(folder: Path, model: Path, to: Path, party: str | None, merged: bool) -> Exported:
    """Score what lies in `model`, on its way to `to`, on the run's test rows, and compare with what the run reported."""
    from fedfm.tasks import load_tuned

    if not (folder / "summary.json").is_file():
        return Exported(to, {}, {}, "it is no run directory")
    reported = dict(Result.read(folder).summary["metrics"])
    if party is not None:
        reported = {k.removesuffix(f"/{party}"): v for k, v in reported.items() if k.endswith(f"/{party}")}
    tuned = load_tuned(model)
    try:
        config = text.load(folder / "config.yaml")
        if objects := [where for where, _ in unspoken(config)]:
            gone = f"{', '.join(objects)} of its config.yaml were objects of a Python process, which are gone"
            return Exported(to, {}, reported, gone)
        fed = from_config(config)
        rows = opened(fed.data, fed.seed, fed.task).test(party)
    except FedfmError as e:
        why = (
            [p.what for p in e.problems] if isinstance(e, ConfigError) else [" ".join(str(e).split("\n")[:2])]
        )
        return Exported(to, {}, reported, "; ".join(dict.fromkeys(why)))
    import torch

    with torch.no_grad():
        device = next(tuned.module.parameters()).device
        scores = means([tuned.objective.score(tuned.module, tuned.objective.encode(rows), device)])
    was, now = reported.get("loss"), scores.get("loss")
    limit = FAR_HALF if getattr(tuned.task, "dtype", "") == "bfloat16" else FAR
    if was is not None and now is not None and abs(now - was) > limit * max(1.0, abs(was)):
        raise ModelError(
            f"{to}: the exported model is not the one that was scored (loss {now:.4f}, reported {was:.4f})\n"
            + _apart(folder, merged)
        )
    return Exported(to, scores, reported)


def _apart(folder: Path, merged: bool) -> str:
    """Why what is exported has other scores than the run: files of other runs first, which its seal and summary tell of."""
    lines = list(ledger.read(folder / "metrics.jsonl")) if (folder / "metrics.jsonl").is_file() else []
    if said := (*_strange(folder, folder), *mixed(folder, Result.read(folder).summary, lines)):
        return f"    why: {said[0]}\n    fix: restore it (copy a run directory as a whole)"
    if merged:
        why = "merging changed it (a tied head, or a lower precision)"
        return f"    why: {why}\n    fix: use the adapter itself: fedfm export {folder}"
    why = "every file is as the run left it: the test rows, the base model or the libraries have changed"
    return f"    why: {why}\n    fix: fedfm resume {folder} names what differs"


def _strange(folder: Path, inside: Path) -> Iterator[str]:
    """The files in this part of a finished run that are not as the run left them, by its seal, and why."""
    seal = plain(folder / RECORD).get("seal")
    for name, sha in seal.items() if isinstance(seal, dict) else ():
        path = folder / name
        if path.name == "fedfm-task.json":  # its own digest was looked at, and lets its base lie elsewhere
            continue
        if path.is_relative_to(inside) and (why := wrong(path, str(sha))):
            yield f"{name}: {why}"
