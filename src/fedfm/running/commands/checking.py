"""`fedfm check`, beyond the facts: the data, the rows that are left out, and the model, if it is on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fedfm import models
from fedfm.config.setup import Setup
from fedfm.core.errors import ConfigError, ModelError
from fedfm.core.schema import Account, Lost
from fedfm.data.splits import opened
from fedfm.running.commands.estimate import estimate
from fedfm.running.feasible import caveats, feasible, promise
from fedfm.running.record.identity import models_of

NAMED = 8  # parties that are told of one by one


@dataclass(frozen=True)
class Checked:
    """What was found. `absent`: models that are not here, so that nothing was probed; `estimate`: what a run takes."""

    rows: dict[str, int]
    test_rows: int
    lost: Account
    notes: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    estimate: dict[str, Any] = field(default_factory=dict)
    privacy: str = ""  # what the plan's epsilon is, and whom it protects

    def __str__(self) -> str:
        """The remarks, a line each."""
        return "\n".join([*self.remarks, *(f"not probed: {name} is not here" for name in self.absent)])

    @property
    def remarks(self) -> list[str]:
        """Whatever a person must know before the run, in full sentences; empty: no problems."""
        said = list(_left_out(self.lost))
        said += [f"{i} has no training row left" for i, n in self.rows.items() if not n]
        if not self.test_rows:
            said.append("there is no test row: the model will never be scored")
        said += self.notes
        said += self.estimate.get("remarks", ())
        return said


def _left_out(lost: Account) -> Iterator[str]:
    """A line for each party, split and reason; one for many parties of the same split and reason."""
    alike: dict[tuple[str, str], list[Lost]] = {}
    for e in lost.entries:
        alike.setdefault((e.split, e.reason), []).append(e)
    for (split, reason), entries in alike.items():
        if len(entries) > NAMED:
            most = sorted(entries, key=lambda e: -e.rows)[:3]
            some = ", ".join(f"{e.party} {e.rows:,}" for e in most)
            rows = sum(e.rows for e in entries)
            yield f"{len(entries):,} parties, {split}: {rows:,} rows are left out ({reason}); most of {some}"
            continue
        for e in entries:
            who = "" if e.party == split else f"{e.party or 'all parties'}, "
            yield f"{who}{split}: {e.rows:,} rows are left out ({reason})"


def probe(setup: Setup) -> Checked:
    """Open the data; take a few local steps if every model is here. Weights are never fetched. Raises ConfigError."""
    fed = setup.fed
    parties = opened(fed.data, fed.seed, fed.task)
    rows = {i: len(parties.train(i)) for i in parties.ids}
    if problems := feasible(fed, rows):
        raise ConfigError(problems)
    tasks = [setup.config.get("task"), *(s.get("task") for s in setup.config.get("stages", ()))]
    absent = tuple(name for name in dict.fromkeys(models_of(tasks)) if not here(name))
    with models.only_here():
        taken = {} if absent else estimate(setup)
    unfit = taken.get("lost", Account())  # to this task, of rows that were read
    rows, test_rows = taken.get("rows", rows), len(parties.test()) - unfit.rows(split="test")
    lost = parties.account + unfit
    notes = (*parties.notes, *caveats(fed, len(rows)))
    return Checked(rows, test_rows, lost, notes, absent, taken, promise(fed, len(rows)))


def here(name: str) -> bool:
    """Are its weights on this machine? (A model that is made on the spot always is.) Asks no network."""
    try:
        return models.here(name) is not None
    except ModelError:
        return True  # what is wrong with it is for the loader to say
