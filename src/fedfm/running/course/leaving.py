"""What a finished run leaves: the model in `model/`, or each party's own in `models/PARTY/` where there is no one model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from fedfm.core.errors import ModelError
from fedfm.core.loop import Run
from fedfm.core.protocols import Bound
from fedfm.core.session import Site
from fedfm.files import write
from fedfm.models.folder import read
from fedfm.text import nearest

MODEL, MODELS, NAMES = "model", "models", "parties.json"


def place(run: Run) -> str:
    """The folder of a run directory that holds what it has trained."""
    return MODEL if run.fed.serving.whole else MODELS


def leave(run: Run, site: Site, told: str) -> None:
    """Write the tuned model, or all of them, all at once; `told` is what each README says of privacy besides."""
    name = place(run)
    part, to = run.folder / f".{name}.0", run.folder / name
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    names = {}
    for party, bound in _models(run, site):
        folder = part / quote(party, safe="")
        folder.mkdir(exist_ok=True)
        bound.objective.save(bound.module, str(folder))
        if told:
            with (folder / "README.md").open("a", encoding="utf-8") as f:
                f.write(told)
        names[party] = folder.name
    if name == MODELS:
        write(part / NAMES, json.dumps(names, indent=1, ensure_ascii=False).encode())
    shutil.rmtree(to, ignore_errors=True)
    part.replace(to)


def _models(run: Run, site: Site) -> Iterator[tuple[str, Bound]]:
    """Party (empty: everybody) and its model, loaded."""
    if run.fed.serving.whole:
        run.bound.load(run.final())
        yield "", run.bound
        return
    for k, party in enumerate(run.parties):  # in a simulation; real parties keep theirs
        job = run.job("own", party, k)
        yield party, site.guard.own(job, run.briefs.of(job), site.guard.context(job))


def model_of(folder: Path, party: str | None = None) -> Path:
    """The folder of the model of a finished run, or of one party's. Raises ModelError that names the parties."""
    if (folder / MODELS / NAMES).is_file():
        names = read(folder / MODELS / NAMES)
        if party in names:
            return folder / MODELS / str(names[party])
        what = "there is one model for each party" if party is None else f"there is no party '{party}'"
        raise ModelError(
            f"{folder}: {what}\n    why: {nearest(party or '', names)}\n    fix: --party {next(iter(names))}"
        )
    if party is not None and (folder / MODEL).is_dir():
        raise ModelError(f"{folder}: all parties use one model\n    fix: leave --party out")
    return folder / MODEL
