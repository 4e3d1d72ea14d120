"""Any torch module as a task: its class, a function that makes it, or the module itself, with a loss and scores."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedfm.cards.registry import knob, method
from fedfm.core.blame import place
from fedfm.core.errors import ConfigError, DataError, FedfmError, ModelError, Problem, words_of
from fedfm.core.protocols import Scores, Task
from fedfm.data.cleaning.alike import WHOLE
from fedfm.direction import of_score, rises
from fedfm.tasks.bound import BoundModule, Objective, evaluating, groups_of, members, running_statistics
from fedfm.tasks.network import finite
from fedfm.tasks.own.alone import alone, reads
from fedfm.tasks.own.hidden import compiled, seen, stored, unwrapped
from fedfm.tasks.own.making import made
from fedfm.tasks.own.measures import (
    CROSSED,
    alike,
    cross_entropy,
    numberless,
    of_outputs,
    of_torch,
    off_scale,
    own,
    own_measures,
    paired,
    shapeless,
    switchable,
    tensor,
    trained_by_nobody,
    unmeasured,
    unreached,
)
from fedfm.tasks.own.pieces import lumped, mixing, uneven
from fedfm.tasks.own.scales import misread
from fedfm.tasks.own.weighed import weighed, weights_of
from fedfm.tasks.state import write_state


@method("torch", slot="task", section="VII", also=("pytorch", "module"))
@dataclass(frozen=True)
class Torch(Task):
    """Train any torch module on rows of arrays: all its parameters, and its running statistics with them.

    A batch is a pair (x, y), or a mapping of tensors where the rows have other columns. `loss(module, batch)` gives the
    losses of the examples (n,) or their mean; a loss of torch (`F.mse_loss`, `nn.MSELoss()`) is taken of module(x) and
    y; null is the cross-entropy. `scores` maps names to functions of (module, batch) with values (n,) or their mean;
    the first is the primary score. Without, it is the loss, or accuracy where `loss` is null too. Arrays (x, y) are
    given as they are; classes that have names (a `label`) are numbered in the order of these, numbers in their own.
    """

    module: Any = knob(
        None, "a class or function that makes the module, or a module: its weights are the start"
    )
    loss: Any = knob(None, "of (module, batch), or a loss of torch; null: cross-entropy", fitted=True)
    scores: Any = knob(None, "a mapping of names to functions of (module, batch)")
    higher_is_better: bool | None = knob(
        None, "of the primary score; null: unless its name tells of a loss or an error"
    )
    buffers: tuple[str, ...] | None = knob(None, "module state that travels; null: running statistics")
    init_seed: int = knob(0, "seed of the initial weights, the same at every party", low=0)

    def open(self, data: Any, device: str = "cpu") -> BoundModule:
        """Raises ModelError when no module comes out of `module`."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.init_seed)
            net = self._called()
        if not isinstance(net, nn.Module):
            raise ModelError(
                f"task.module: gives {type(net).__name__}\n    why: a torch module is trained here\n"
                "    fix: Torch(Net), Torch(lambda: Net(...)) or Torch(net)"
            )
        if wrong := list(unmeasured(self)):
            raise ConfigError(wrong)
        finite("task.module", net.named_parameters())
        if any(p.dtype == torch.float64 and p.requires_grad for p in net.parameters()):
            warnings.warn(
                "fedfm: the module holds float64: it computes in it, and is trained, sent and saved in the precision of float32",
                UserWarning,
                stacklevel=2,
            )
        if any("quantized" in type(m).__module__.split(".") for m in net.modules()):
            raise ModelError(
                "task.module: holds quantized layers\n    why: their weights are integers, which no gradient moves\n    fix: the "
                "module as it was before quantize_dynamic or convert (in float32), and quantize what the run leaves"
            )
        if not any(p.requires_grad for p in net.parameters()):
            raise ModelError(
                "task.module: none of its parameters is to be trained\n    why: requires_grad is False for all of them, or it has "
                "none: there is nothing to learn, to send or to save\n    fix: requires_grad_(True) for the layers that learn"
            )
        switchable(net)
        seen(net)
        compiled(net)
        kept = running_statistics(net) if self.buffers is None else self.buffers
        labels = _in_order(getattr(data, "labels", None) or ())
        bound = BoundModule(net, _Objective(self, labels), buffers=kept, device=device)
        stored(net, (e.name for e in bound.layout.entries))
        return bound

    def probe(self, bound: Any, rows: Any) -> list[Problem]:
        encoded = bound.encode(rows)
        batch = bound.batch(encoded, torch.arange(len(encoded)))
        reads(bound, batch)
        alone(bound, encoded)
        bound.module.train()
        unreached(bound, batch)
        found = list(misread(self, bound, batch))
        return [*found, *trained_by_nobody(self.loss, bound.module, batch)] if self.loss else found

    def _called(self) -> Any:
        """The module, made here. Raises ModelError for whatever its class or function raises."""
        try:
            return made(self.module)
        except (FedfmError, MemoryError):
            raise
        except Exception as e:
            raise ModelError(
                f"task.module: it cannot be made: {words_of(e)[:300]}\n    why: raised at {place(e)}\n"
                "    fix: mend it, or install what it lacks: a class or function is called without arguments"
            ) from e


@dataclass(frozen=True, eq=False)
class Columns:
    """Encoded rows: a tensor a column, (n, ...) each."""

    tensors: Mapping[str, Tensor]
    n: int
    groups: tuple[str | None, ...] = ()  # test groups

    def __len__(self) -> int:
        return self.n

    @property
    def labels(self) -> Tensor | None:
        """Targets that are whole numbers, hence classes; None: they are none. Of no rows, none either (0,)."""
        y = self.tensors.get("y")
        if y is None:
            return None if self.n else torch.zeros(0, dtype=torch.long)
        return None if y.is_floating_point() or y.is_complex() else y

    def with_labels(self, labels: Tensor) -> Columns:
        """The same rows under other class numbers (n,)."""
        return Columns({**self.tensors, "y": labels}, self.n, self.groups)

    def only(self, index: Tensor) -> Columns:
        """The rows at `index`."""
        return Columns({name: t[index] for name, t in self.tensors.items()}, len(index))


class _Objective(Objective):
    def __init__(self, task: Torch, labels: tuple[str, ...]):
        self.task, self.labels = task, labels or None
        self.scores: dict[str, Any] = dict(task.scores or {})
        crossed = task.loss in CROSSED or isinstance(task.loss, nn.CrossEntropyLoss)
        self.classes = len(labels) if crossed else 0
        if not self.scores and task.loss is None:
            self.scores = {"accuracy": _right}
        self.primary = next(iter(self.scores), "loss")
        named = of_score(self.primary, self.scores[self.primary]) if self.scores else False
        told = named if task.higher_is_better is None else task.higher_is_better
        self.directed = told is not None
        self.higher_is_better = rises(self.primary) if told is None else told

    def encode(self, rows: Any) -> Columns:
        """Columns as tensors. Raises DataError for rows whose values do not make one."""
        names = {"image": "x", "label": "y"}
        found: dict[str, Tensor] = {}
        for column in (c for c in rows.columns if c != "group"):
            values = [r[column] for r in rows.rows if column in r]
            try:
                if len(values) < len(rows):
                    raise ValueError(f"{len(rows) - len(values)} rows have none")
                found[names.get(column, column)] = self._tensor(column, values)
            except (ValueError, TypeError, RuntimeError, KeyError) as e:
                raise DataError(
                    f"{rows.party}: the column '{column}' does not make a tensor\n    why: {e}\n"
                    "    fix: give every row an array of one shape, or a number"
                ) from e
        return Columns(found, len(rows), groups_of(rows))

    def _tensor(self, column: str, values: list[Any]) -> Tensor:
        if column == "label" and self.labels is not None:
            number = {label: i for i, label in enumerate(self.labels)}
            return torch.tensor([number[v] for v in values])
        if isinstance(values[0], Tensor):
            found = torch.stack(values)
        else:
            found = torch.as_tensor(np.stack([np.asarray(v) for v in values]))
        if column in ("label", "y") and self.task.loss is None:
            return self._numbered(found)
        if column == "image":
            return found.float().div_(127.5).sub_(1.0)
        return found.float() if found.is_floating_point() else found

    def _numbered(self, found: Tensor) -> Tensor:
        """Targets of the cross-entropy as class numbers (n,). Raises DataError for those that are none."""
        found = found.to(torch.uint8) if found.dtype == torch.bool else found
        wrong = found if found.dim() != 1 else found[(found != found.floor()) | (found < 0)]
        if not wrong.numel():
            return found.long()
        hot = found.dim() == 2 and found.shape[1] > 1 and bool(((found == 0) | (found == 1)).all())
        if hot and bool((found.sum(1) == 1).all()):
            raise DataError(
                f"the targets y are no class numbers: they have the shape {tuple(found.shape)}, a single 1 in each row\n"
                "    why: without a loss a row is of one class, given by its number\n    fix: one-hot rows as numbers, "
                "y.argmax(1); loss=torch.nn.BCEWithLogitsLoss() if they are the labels of several questions, "
                "torch.nn.functional.mse_loss for numbers to predict"
            )
        if found.dim() > 1 and found.shape[1] > 1 and not found.is_floating_point():
            raise DataError(
                f"the targets y have the shape {tuple(found.shape)}\n    why: without a loss a row is of one class\n    fix: for "
                "a class at each position loss=lambda module, batch: torch.nn.functional.cross_entropy(module(batch[0])"
                ".flatten(0, 1), batch[1].flatten()); for several labels a row torch.nn.BCEWithLogitsLoss()"
            )
        given = f"rows of {tuple(found.shape[1:])}" if found.dim() > 1 else f"{wrong[0]:g}"
        if found.dim() == 2 and found.shape[1] == 1:
            raise DataError(
                f"the targets y have the shape {tuple(found.shape)}\n    why: class numbers stand in one axis\n    fix: "
                "y of shape (n,): y[:, 0]; Torch(..., loss=torch.nn.functional.mse_loss) for numbers to predict"
            )
        raise DataError(
            f"the targets y are no class numbers: {given}\n    why: without a loss the task is the cross-entropy over "
            "classes, which are numbered from 0\n    fix: Torch(..., loss=torch.nn.functional.mse_loss) for "
            "numbers to predict, else integers from 0 (for -1 and 1: (y + 1) // 2)"
        )

    def unfit(
        self, module: nn.Module, tried: Columns, shards: Iterable[tuple[str, Any]]
    ) -> Iterator[Problem]:
        """Scores that are no numbers; under the cross-entropy, targets that are no class of the module."""
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        batch = self.batch(tried, torch.arange(len(tried)), device)
        with evaluating(module):
            yield from numberless(self.scores, module, batch)
            if not isinstance(batch, tuple):
                return
            out = module(batch[0])
            yield from off_scale(self.task.loss, out)
            mixed = list(mixing(own_measures(self.task), module, batch, out))
            yield from (*mixed, *lumped(self.scores, module, batch, out))
            if not mixed:
                uneven(self.task.loss, module, batch, out)
            if self.task.loss is not None:
                return
            shape: tuple[int, ...] = tuple(getattr(out, "shape", ()))
        if len(shape) < 2:
            return
        classes = shape[1]
        found = {
            who: [int(r["y"]) for r in rows.rows if np.ndim(r.get("y", ())) == 0] for who, rows in shards
        }
        strange = {
            who: wrong for who, ys in found.items() if (wrong := [y for y in ys if not 0 <= y < classes])
        }
        if strange:
            numbers = sorted({y for wrong in strange.values() for y in wrong})
            from_1 = min(y for ys in found.values() for y in ys) == 1 and numbers == [classes]
            below = "; a negative one is not left out" if numbers[0] < 0 else ""
            yield Problem(
                "data",
                f"{sum(map(len, strange.values()))} targets y are no class of the module ({_some(numbers)}): "
                + _some([f"{len(wrong)} of {len(found[who])} of {who}" for who, wrong in strange.items()]),
                f"it scores {classes} classes, numbered from 0 to {classes - 1}{below}",
                f"y - 1{' everywhere' * (len(found) > 1)}: they are counted from 1"
                if from_1
                else "correct or leave out these rows, or widen the module",
            )

    def batch(self, encoded: Columns, index: Tensor, device: torch.device) -> Any:
        some = {n: t[index].to(device) for n, t in encoded.tensors.items()}
        return (some["x"], some["y"]) if some.keys() == {"x", "y"} else some

    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        if (found := weighed(self.task.loss, module, batch)) is None:
            return super().loss(module, batch)
        return found[0].sum() / found[1].sum()

    def mass(self, batch: Any, rows: int) -> float:
        weights = weights_of(self.task.loss, batch)
        return float(rows) if weights is None else float(weights.double().sum())

    def risk(self, module: nn.Module, encoded: Any, device: torch.device) -> tuple[float, float]:
        batches = [self.batch(encoded, index, device) for index in self.chunks(encoded)]
        found = [weighed(self.task.loss, module, b) for b in batches]
        if not any(f is not None for f in found):
            return super().risk(module, encoded, device)
        total = weight = 0.0
        for batch, pair in zip(batches, found, strict=True):
            each = self.losses(module, batch) if pair is None else pair[0]
            total += float(each.double().sum())
            weight += len(each) if pair is None else float(pair[1].double().sum())
        return total, weight

    def losses(self, module: nn.Module, batch: Any) -> Tensor:
        """The loss of each example; where `loss` gives a mean alone, that for each."""
        found, loss = None, self.task.loss
        if loss is None:
            return cross_entropy(tensor(module(batch[0])), batch[1].long())
        if of_torch(loss):
            given, wanted = tensor(module(batch[0])), batch[1]
            paired(given, wanted)
            if alike(loss, given, wanted):
                wanted = wanted.to(given.dtype)
            if not isinstance(loss, nn.Module) and "reduction" in inspect.signature(loss).parameters:
                found = loss(given, wanted, reduction="none")
            else:
                found = of_outputs(loss, module, (batch[0], wanted), given)
        else:
            found = own(loss, module, batch)
        rows = _size(batch)
        if found.dim() and len(found) != rows:
            raise ModelError(shapeless("task.loss", tuple(found.shape), rows))
        each: Tensor = found.flatten(1).mean(1) if found.dim() > 1 else found
        return each if each.dim() else each.expand(rows)

    def score(self, module: nn.Module, encoded: Columns, device: torch.device) -> Scores:
        """`loss` and every score; of each test group the scores, or the loss where it is what the run is judged by."""
        if not len(encoded):
            return {}
        sums = dict.fromkeys(self.scores, 0.0)
        for index in self.chunks(encoded):
            for name, measure in self.scores.items():
                batch = self.batch(encoded, index, device)  # anew: a module may write into its rows
                value = torch.as_tensor(measure(module, batch)).detach()
                if value.dim() and value.numel() != len(index):
                    raise ModelError(shapeless(f"task.scores[{name!r}]", tuple(value.shape), len(index)))
                sums[name] += float(value.double().sum()) if value.dim() else float(value) * len(index)
        found = {n: (s, len(encoded)) for n, s in sums.items()} | {"loss": self.risk(module, encoded, device)}
        judged = {*self.scores, self.primary}
        for group, mine in members(encoded.groups):
            part = self.score(module, encoded.only(mine), device)
            found |= {f"{n}/{group}": v for n, v in part.items() if n in judged}
        return found

    def logits(self, module: nn.Module, batch: Any) -> Tensor:
        out: Tensor = module(batch[0])
        return out

    def classify(self, module: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        return module(batch[0]).argmax(-1), batch[1]

    def target(self, batch: Any) -> Tensor:
        labels: Tensor = batch[1]
        return labels

    def explain(self, row: Any) -> dict[str, Any]:
        return {c: getattr(v, "shape", v) for c, v in row.items()}

    def save(self, module: nn.Module, folder: str) -> None:
        """The state dict as safetensors, for `module.load_state_dict`: of the module itself, not of what torch wraps it
        in (torch.compile, DataParallel), whose names have a prefix that the class does not know."""
        module = unwrapped(module)
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        made = f"net = ...  # {kind}, made as task.module made it for the run"
        write_state(module.state_dict(), folder, made, labels=self.labels or ())
        record = {"architecture": kind, "labels": self.labels}
        Path(folder, "config.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _right(module: nn.Module, batch: Any) -> Tensor:
    right: Tensor = module(batch[0]).argmax(-1) == batch[1]
    return right


def _in_order(names: Sequence[str]) -> tuple[str, ...]:
    """The names of classes in the order of their numbers, where all are numbers: 2 before 10; else as they are."""
    return tuple(sorted(names, key=int) if all(map(WHOLE.fullmatch, names)) else names)


def _some(found: Sequence[object]) -> str:
    return ", ".join(map(str, found[:3])) + (", ..." if len(found) > 3 else "")


def _size(batch: Any) -> int:
    return len(batch[0]) if isinstance(batch, tuple) else len(next(iter(batch.values())))
