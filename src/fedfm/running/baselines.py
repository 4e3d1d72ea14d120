"""What a federated result is worth: each party alone, and all data in one place.

`local`: every party trains alone for as many steps as it took in the federation's rounds; the mean of their scores (each
on its own test rows, where parties have models of their own).
`pooled`: one owner of all data takes as many steps as the busiest party, each on a batch as large as all parties' together.
So all three see the same number of examples in all, with the same local method and rate.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fedfm.core import scoring
from fedfm.core.context import Terms
from fedfm.core.errors import ConfigError, Problem
from fedfm.core.job import POOLED, Job
from fedfm.core.loop import Run
from fedfm.core.message import Message
from fedfm.core.protocols.scoring import means
from fedfm.files import write
from fedfm.running.record.folder import FORMAT, versioned, writing
from fedfm.text import nearest

KINDS = ("local", "pooled")
AT_ONCE = 1 << 28  # bytes of models that wait for their score, so that no core waits for the longest


def parse(text: str | Sequence[str] | None) -> tuple[str, ...]:
    """ "local,pooled", "none" or None, or a sequence of kinds to kinds; an unknown word is an error."""
    given = text.split(",") if isinstance(text, str) else text if isinstance(text, Sequence) else [text or ""]
    words = tuple(w for w in (str(w).strip() for w in given) if w and w != "none")
    if bad := [w for w in words if w not in KINDS]:
        raise ConfigError(
            [
                Problem(
                    "--baselines",
                    f"there is no baseline '{bad[0]}'",
                    nearest(bad[0], (*KINDS, "none")),
                    "--baselines local,pooled or none",
                )
            ]
        )
    return words


def baselines(
    run: Run, kinds: Sequence[str], tick: Callable[[int, int], None], start: Tensor
) -> dict[str, Any]:
    """Scores by kind: {"local": {party: scores}, "pooled": scores}; kept in the run directory, so a resume does not repeat them.

    They begin from `start`, as nobody else has trained, and take the steps of all stages.
    """
    path = run.folder / "baselines.json"
    rounds = run.state.round  # those that were run: one may stop before its last
    known: dict[str, Any] = kept(path, rounds)
    todo = [k for k in kinds if k not in known]
    if not todo:
        return known
    fed, parties = run.fed, run.parties
    client = fed.client.alone()
    done = [(s, max(0, min(rounds, s.last) - s.since)) for s in fed.each]
    steps = {i: sum(k * s.client.alone().steps_for(n) for s, k in done) for i, n in parties.items()}
    jobs = []
    if "pooled" in todo:  # the longest first
        jobs.append(
            _job(
                run,
                POOLED,
                Terms(
                    steps=max(steps.values()) or None,
                    batch=client.per_step * len(parties) or None,
                ),
            )
        )
    if "local" in todo:
        jobs += [_job(run, i, Terms(steps=steps[i] or None)) for i in parties]
    brief = Message(start, "weights")
    scores, window = dict[str, Any](), max(1, run.engine.workers, AT_ONCE // max(1, start.nbytes))
    for at in range(0, len(jobs), window):  # each leaves a model, which is scored and forgotten
        tick(at, len(jobs))
        for s in run.hub.collect(jobs[at : at + window], lambda job: brief):
            told = s.upload
            if told is None:
                scores[s.job.id] = {"failed": s.error}
            elif told.kind == "scores":  # of the party's own model, on its own test rows
                scores[s.job.id] = means([scoring.told(told)])
            else:
                scores[s.job.id] = scoring.scores(run, told.x)
    tick(len(jobs), len(jobs))
    if "pooled" in todo:
        known["pooled"] = scores.pop(POOLED)
    if "local" in todo:
        known["local"] = scores
    with writing(run.folder):
        write(path, json.dumps({"format": FORMAT, "rounds": rounds, "scores": known}, indent=1).encode())
    return known


def kept(path: Path, rounds: int) -> dict[str, Any]:
    """The scores that lie there, if they are of as many rounds: an extended run is compared with longer training."""
    if not path.exists():
        return {}
    plain = versioned(path)
    return dict(plain["scores"]) if plain["rounds"] == rounds else {}


def _job(run: Run, id: str, terms: Terms) -> Job:
    return dataclasses.replace(run.job("alone", id, 0, terms), round=0)
