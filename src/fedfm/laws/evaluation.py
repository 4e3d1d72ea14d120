"""Laws of those who look at models: evaluators and audits."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from fedfm.core.context import Ctx
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Audit, Evaluator
from fedfm.laws.compare import kept, same
from fedfm.laws.homes import Home, opened, pictures
from fedfm.laws.law import hold, law
from fedfm.vectors.layout import Layout


def _home(e: Evaluator, within: Federation | None) -> Home:
    with tempfile.TemporaryDirectory() as folder:
        home = opened(e, within, Path(folder))
    home.bound.load(home.bound.init)
    return home


def _metrics(e: Evaluator, home: Home, parts: int) -> dict[str, float]:
    """The metrics of the initial model, every case measured in so many parts."""
    found: dict[str, list[Any]] = {}
    for case in e.cases(home.parties):
        rows = e.rows(case, home.parties)
        pieces = [replace(rows, rows=rows.rows[k::parts]) for k in range(parts)]
        found[case] = [e.measure(home.bound.encode(piece), home.bound) for piece in pieces]
    return e.finish(found)


def _finite(values: Any) -> bool:
    """Are all numbers in there, however deep, finite?"""
    if isinstance(values, dict | list | tuple):
        return all(_finite(v) for v in (values.values() if isinstance(values, dict) else values))
    return not isinstance(values, float) or math.isfinite(values)


@law(Evaluator)
def a_score_is_pure(e: Evaluator, within: Federation | None) -> None:
    """The same cases, rows and sums each time; the model, the data and torch's global stream are left as they were."""
    home = _home(e, within)
    model, stream, data = home.bound.read(), torch.get_rng_state(), home.parties.test().digest
    hold(list(e.cases(home.parties)) == list(e.cases(home.parties)), "other cases the second time")
    for case in e.cases(home.parties):
        one, two = e.rows(case, home.parties), e.rows(case, home.parties)
        hold(one.digest == two.digest, f"the rows of case '{case}' differ the second time")
        encoded = home.bound.encode(one)
        hold(
            same(e.measure(encoded, home.bound), e.measure(encoded, home.bound)),
            f"case '{case}' is measured differently the second time",
        )
    hold(same(home.bound.read(), model), "it changed the model")
    hold(torch.equal(torch.get_rng_state(), stream), "it drew from torch's global stream")
    hold(
        replace(home.parties.test(), party="test").digest == data,
        "it changed the test rows in place",
    )


@law(Evaluator)
def metrics_are_the_same_in_any_number_of_parts(e: Evaluator, within: Federation | None) -> None:
    """The sums of the parts, one of them empty too, make the metrics of the whole."""
    home = _home(e, within)
    whole = _metrics(e, home, 1)
    for parts in (2, 3, 50):
        found = _metrics(e, home, parts)
        hold(whole.keys() == found.keys(), f"other metrics in {parts} parts: {set(whole) ^ set(found)}")
        far = [n for n, v in whole.items() if not math.isclose(v, found[n], rel_tol=1e-5, abs_tol=1e-6)]
        hold(not far, f"{far and far[0]} is another number in {parts} parts than in one")


@law(Evaluator)
def metrics_are_finite_and_have_the_tasks_own(e: Evaluator, within: Federation | None) -> None:
    """All are finite numbers; the task's primary one is among them, for the common test set."""
    home = _home(e, within)
    found = _metrics(e, home, 1)
    hold(all(type(v) is float for v in found.values()) and _finite(found), f"not all are numbers: {found}")
    hold(
        home.bound.objective.primary in found, f"'{home.bound.objective.primary}' is not among {list(found)}"
    )


@law(Evaluator)
def of_nothing_there_are_no_metrics(e: Evaluator, within: Federation | None) -> None:
    """No case, a case without parts, and a case of empty parts end in no number that means nothing."""
    nothing: list[dict[str, Any]] = [{}, {"": []}, {"": [{}, {}]}, {"": [{"accuracy": (0.0, 0)}]}]
    for scores in nothing:
        hold(e.finish(scores) == {}, f"metrics of nothing: {e.finish(scores)} from {scores}")


class _Watched:
    """Parties whose own rows tell when somebody reads them."""

    def __init__(self, parties: Any):
        self._parties = parties
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name in ("own", "train", "shards"):
            self.read.add(f"parties.{name}")
        return getattr(self._parties, name)

    def test(self, party: str | None = None) -> Any:
        if party:
            self.read.add("parties.test(PARTY)")
        return self._parties.test(party)


@law(Evaluator)
def whoever_reads_rows_of_parties_says_so(e: Evaluator, within: Federation | None) -> None:
    """Cases and rows come from the common test set, unless `collects` is declared; training rows are no test rows."""
    parties = _Watched(_home(e, within).parties)
    for case in e.cases(parties):
        e.rows(case, parties)
    trained = parties.read & {"parties.train", "parties.shards"}
    hold(not trained, f"it scores on training rows ({', '.join(sorted(trained))})")
    hold(
        e.collects or not parties.read,
        f"it reads rows of parties ({', '.join(sorted(parties.read))}) and does not say so: declare `collects = True`",
    )


# ---- audits -------------------------------------------------------------------------------------------------------
def _run(within: Federation | None, folder: Path) -> Any:
    """A finished run as an audit sees it (`fedfm.running.audits.Opened`)."""
    home = Home(within or pictures(), folder / "states")
    files = {"config.yaml": b"rounds: 1\n", "model/model.safetensors": b"weights", "events.jsonl": b"{}\n"}
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    model, there = home.bound.init, dict.fromkeys((0, 1), folder / "events.jsonl")

    def messages(round: int) -> dict[str, Message]:
        hold(
            round - 1 in there and round <= 1,
            f"it asks for the messages of round {round}: there are those of the rounds k + 1, k in `kept`, up to `round`",
        )
        return {i: _update(home.bound.layout, i, round) for i in home.ids}

    return SimpleNamespace(
        folder=folder,
        fed=home.fed,
        parties=home.parties,
        bound=home.bound,
        model=model,
        contributors=home.ids,
        round=1,
        kept=there,
        at=lambda round: model,
        messages=messages,
    )


def _update(layout: Layout, party: str, round: int) -> Message:
    """A small update of a party, the same each time."""
    x = torch.randn(layout.size, generator=Ctx(7, round, client=party).rng("an update")) / 100
    return Message(layout.blank(x), "delta", 4.0, party)


def _files(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
        for p in sorted(folder.rglob("*"))
    }


@law(Audit)
def an_audit_is_pure(a: Audit, within: Federation | None) -> None:
    """The same findings each time; the run's folder, model, rows and torch's global stream are left as they were."""
    with tempfile.TemporaryDirectory() as folder:
        run = _run(within, Path(folder))
        files, model, stream = _files(Path(folder)), kept(run.model), torch.get_rng_state()
        rows = {i: replace(run.parties.train(i), party=i).digest for i in run.parties.ids}
        one, two = a.run(run, Ctx(7, 1, events=[])), a.run(run, Ctx(7, 1, events=[]))
        hold(same(one, two), "other findings the second time")
        hold(_files(Path(folder)) == files, "it changed the run's folder; what is found is returned")
        hold(same(run.model, model), "it changed the model in place")
        hold(torch.equal(torch.get_rng_state(), stream), "it drew from torch's global stream")
        hold(
            rows == {i: replace(run.parties.train(i), party=i).digest for i in run.parties.ids},
            "it changed the rows in place",
        )


@law(Audit)
def findings_are_plain_and_say_what_they_mean(a: Audit, within: Federation | None) -> None:
    """JSON without infinities; `meaning` is a sentence; `cases` (if any) hold numbers, nulls or bounds by name."""
    with tempfile.TemporaryDirectory() as folder:
        found = a.run(_run(within, Path(folder)), Ctx(7, 1, events=[]))
    hold(_finite(found), f"not all numbers are finite: {found}")
    hold(json.loads(json.dumps(found)) == found, "the findings are not plain JSON")
    said = found.get("meaning", "")
    hold(isinstance(said, str) and said.rstrip().endswith("."), "`meaning` is no sentence")
    for name, case in found.get("cases", {}).items():
        odd = [k for k, v in case.items() if not isinstance(v, int | float | list | None)]
        hold(not odd, f"{name}: {odd} are no numbers")
