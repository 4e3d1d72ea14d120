"""Probes: what a task needs of its model is tried on a handful of real rows, before any work."""

from __future__ import annotations

import itertools
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, replace
from typing import Any

import torch

from fedfm.checks.place import INEXACT, forked
from fedfm.core.blame import machine, place
from fedfm.core.errors import FedfmError, MachineFault, Problem, words_of
from fedfm.core.protocols import Bound, Task
from fedfm.core.schema import Account, Lost
from fedfm.tasks.bound import BoundModule
from fedfm.tasks.steadiness import unsteady

ROWS = 4  # of each party that is looked at
PARTIES = 8
STEPPED = (
    2  # parties whose rows a step is taken on: it costs much, and what a network keeps it keeps of any rows
)
SPLITS = (  # what a split's rows are called, and what those that are left out cannot be
    ("train", "training rows", "learnt from"),
    ("test", "test rows", "scored"),
    ("validation", "validation rows", "used"),
    ("server", "rows of the server's own", "used"),
)
MUCH = 0.5  # the share of rows, or of tokens, from which on a fault is refused
FORKED = "autograd's threading"  # of torch's words for a fork that cannot compute gradients


def open_task(task: Task, data: Any, device: str = "cpu") -> Bound:
    """The opened task, with torch's global generator and thread count as they were."""
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]):
            return task.open(data, device)
    finally:
        torch.set_num_threads(threads)


def probe(task: Task, bound: Bound, parties: Any) -> list[Problem]:
    """Everything that is wrong with the opened task on a few rows of some parties; [] when nothing is.

    The model's parameters and modes, and torch's generators, are afterwards what they were.
    """
    some = _sample(parties, parties.ids)
    if not len(some):
        return []
    each = task.each(bound, parties.ids)
    before = {name: own.read() for name, (_, own, _) in each.items()}
    modes = [(m, m.training) for m in bound.module.modules()]
    try:
        with torch.random.fork_rng(devices=[]):
            problems = [
                p for _, own, ids in each.values() for p in unsteady(own, _sample(parties, ids[:STEPPED]))
            ]
            problems += task.probe(bound, some)
            problems = problems or [p for _, own, ids in each.values() for p in _all(own, parties, ids)]
    except FedfmError as e:
        text = str(e).split("\n")
        found = {
            key: next((t.strip()[5:] for t in text if t.strip().startswith(f"{key}: ")), "")
            for key in ("why", "fix")
        }
        problems = [
            Problem(
                "task", text[0], found["why"] or "a few real rows were tried", found["fix"] or "see above"
            )
        ]
    except (Exception, SystemExit) as e:  # noqa: BLE001 - nobody can list what networks of strangers raise
        if machine(e):
            raise MachineFault(
                f"the memory is full at a step on {len(some)} rows: {words_of(e)[:300]}\n    why: raised at {place(e)}\n"
                "    fix: a smaller model, batch or task.max_tokens, task.gradient_checkpointing=true, or a larger machine"
            ) from e
        if INEXACT in str(e):
            raise  # no fault of the network's: `tried` goes on without
        problems = [_unknown(e, some) or _broken(e, bound.module)]
    finally:
        for name, (_, own, _) in each.items():
            own.load(before[name])
        for module, training in modes:
            module.training = training
    return problems


def left_out(site: Any) -> Account:
    """Rows that the task leaves out when it encodes them, of each party and of the test set; all are encoded for it."""
    return Account() + Account(
        tuple(
            Lost(who, split, why, n)
            for who, split, rows in encoded(site)
            for why, n in getattr(rows, "dropped", {}).items()
        )
    )


def lean(site: Any) -> list[Problem]:
    """Most rows left out in encoding, or all of a party: what is learnt, or scored, would be of those that happen to fit."""
    problems, found = [], [e for e in encoded(site) if hasattr(e[2], "dropped")]
    for split, kind, cannot in SPLITS:
        kept, gone = Counter[str](), dict[str, Counter[str]]()
        for who, _, rows in (e for e in found if e[1] == split):
            kept[who] += len(rows)
            gone.setdefault(who, Counter()).update(rows.dropped)
        lost = sum(gone.values(), Counter[str]())
        if lost.total() > MUCH * (n := kept.total() + lost.total()):
            what = f"{lost.total():,} of {n:,} {kind} cannot be {cannot}"
        elif empty := [who for who in gone if gone[who] and not kept[who]]:
            lost = sum((gone[who] for who in empty), Counter[str]())
            what = f"none of the {kind} of {', '.join(empty[:5])}{', ...' * (len(empty) > 5)} can be {cannot}"
        else:
            continue
        why = "; ".join(f"{n:,}: {why}" for why, n in lost.items())
        fix = "another value of the setting that is named (if the model can), or mend, shorten or leave out the rows"
        problems.append(Problem("data", what, why, fix))
    return problems


def encoded(site: Any) -> Iterator[tuple[str, str, Any]]:
    """Everybody's rows to learn from, all that are scored (the common ones, or those of each party), the server's own."""
    fed, parts = site.fed, site.fed.evaluate.parts
    yield from ((i, "train", site.data(i)) for i in site.parties.ids)
    if not fed.serving.whole or fed.evaluate.where == "parties":
        yield from ((i, "test", site.guard.tests(i)) for i in site.parties.ids)
        if fed.evaluate.validates and not fed.serving.whole:
            yield from ((i, "validation", site.guard.checks(i)) for i in site.parties.ids)
    elif fed.task.whole:
        cases = site.home.cases
        for case in ("",) if "" in cases else cases:  # the common test rows hold those of the other cases
            yield from ((case, "test", site.home.test(case, k, parts)) for k in range(parts))
    own = any("server rows" in m.needs for m in fed.methods().values()) or fed.evaluate.validates
    if own and fed.serving.whole and fed.task.whole:
        yield "server", "server", site.home.rows()


def _unknown(e: BaseException, rows: Any) -> Problem | None:
    """Rows of other columns than x and y are a mapping of tensors, which whoever asks for another key has not met."""
    has = [{"image": "x", "label": "y"}.get(c, c) for c in rows.columns if c != "group"]
    if (
        not isinstance(e, KeyError | TypeError | AttributeError)
        or set(has) == {"x", "y"}
        or not any(hasattr(v, "shape") for v in rows.rows[0].values())
    ):
        return None
    return Problem(
        "task",
        f"the model fails on a few real rows: {' '.join(words_of(e).split())[:200]}",
        f"these rows make a batch that is a mapping of tensors ({', '.join(has)}); raised at {place(e)}",
        f"Torch(..., loss=f) with f(module, batch) that takes batch['{has[0]}']{' and the others' * (len(has) > 1)} "
        "(scores too); or (x, y) as rows",
    )


def _broken(e: BaseException, module: Any) -> Problem:
    """What a network raised on a few real rows, and where: of the user's own code, if there is any on the way."""
    said = " ".join(words_of(e).split())[:300]
    fix = "mend the module if it is yours; else take another model, or settings that it can work with"
    low = {p.dtype for p in module.parameters() if p.dtype in (torch.float16, torch.bfloat16)}
    if low and "dtype" in said:
        kind = str(low.pop())
        fix = f"Torch(lambda: net.float()): it holds {kind}, rows are float32; or x.to({kind}) in its forward"
    elif isinstance(e, TypeError) and "tuple indices" in said:
        fix = (
            "x, y = batch: it is a pair; where rows have more columns, call the targets `label` (not `y`), and it is a "
            "mapping of all of them, with the targets as batch['y']"
        )
    return Problem("task", f"the model fails on a few real rows: {said}", f"raised at {place(e)}", fix)


def apart(look: Callable[[], list[Problem]]) -> list[Problem]:
    """What is found in a process of its own, for a process that is to be forked where CUDA is.

    There torch starts a thread per device at the first backward pass, and its forks cannot take another. Raises
    FedfmError when this process has taken one already, and MachineFault when the other dies.
    """
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)

    def work() -> None:
        forked()
        try:
            told: dict[str, Any] = {"problems": [astuple(p) for p in look()]}
        except Exception as e:  # noqa: BLE001 - whatever it is, it is told
            told = {"error": words_of(e)}
        theirs.send_bytes(json.dumps(told).encode())

    process = fork.Process(target=work, daemon=True)
    process.start()
    theirs.close()
    try:
        told = json.loads(ours.recv_bytes())
    except EOFError:
        process.join()
        raise MachineFault(
            f"the process that tried model and methods died (exit code {process.exitcode})\n    why: something in them ends its "
            "process (os._exit, a crash of a library; -9: out of memory)\n    fix: take that out; engine=inprocess has one "
            "process for all"
        ) from None
    process.join()
    problems = [Problem(*p) for p in told.get("problems", ())]
    if any(FORKED in p.what for p in problems):
        raise FedfmError(
            "worker processes cannot train here\n    why: this process has computed gradients already, and a fork of it "
            "cannot where there is a CUDA device\n    fix: engine=inprocess, a fresh process, or CUDA_VISIBLE_DEVICES= "
            "in its environment"
        )
    if "error" not in told:
        return problems
    raise FedfmError(
        f"the model cannot be tried on a few rows\n    why: {told['error']}\n    fix: engine=inprocess shows where"
    )


def _sample(parties: Any, ids: Sequence[str]) -> Any:
    """A few rows of some of these parties, spread evenly through theirs, as one shard."""
    shards = [parties.train(i) for i in itertools.islice(ids, PARTIES)]
    rows = tuple(row for s in shards for row in s.rows[:: len(s.rows) // ROWS or 1][:ROWS])
    return replace(shards[0], rows=rows) if shards else ()


def _all(own: Bound, parties: Any, ids: Sequence[str]) -> Iterator[Problem]:
    """What every row of these parties, and every test row, has to be for a module of one's own."""
    if isinstance(own, BoundModule):
        shards = itertools.chain(((i, parties.train(i)) for i in ids), [("the test rows", parties.test())])
        yield from own.objective.unfit(own.module, own.encode(_sample(parties, ids)), shards)
