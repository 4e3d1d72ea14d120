"""Losses and scores that a person brings: what is wrong with one, found on a few rows before the work."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedfm.core.blame import place
from fedfm.core.errors import DataError, ModelError, Problem, words_of

CROSSED = (None, functional.cross_entropy)
TAKEN = frozenset(
    ["loss", "kind", "round", "clients", "planned", "clock", "failed", "train_loss", "best", "stopped"]
)  # columns of a run's history
HEADS = frozenset(["bytes", "seconds", "cpu", "own", "parties", "validation"])  # of others of its columns
BINARY = "for two classes loss=torch.nn.BCEWithLogitsLoss(), or two outputs"
LOG_READ = (functional.nll_loss, functional.kl_div)


def cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of each row (n,). Raises DataError for a class that the module has no output for, ModelError for
    outputs without an axis of classes."""
    if outputs.dim() == 1 and y.dim() == 1 and len(outputs) == len(y):
        raise ModelError(
            "task.module: it gives one number a row\n    why: without a loss the task is the cross-entropy, which reads an output "
            f"for each class\n    fix: {BINARY}; torch.nn.functional.mse_loss for numbers to predict"
        )
    try:
        return functional.cross_entropy(outputs, y, reduction="none")
    except IndexError:
        most = outputs.shape[1] if outputs.dim() > 1 else 1
        fix = "a module with an output for every class"
        if most == 1:
            fix = BINARY.replace("loss=", "outputs of shape (n,), .squeeze(-1), with loss=")
        raise DataError(
            f"a row is of class {int(y.max())}, and the module has {most} outputs\n    why: classes are numbered from 0 to "
            f"{most - 1}, in training rows and test rows alike\n    fix: {fix}, or leave "
            "out rows of classes that nobody trains"
        ) from None


def alike(loss: Any, given: Tensor, wanted: Tensor) -> bool:
    """Are targets numbers like the outputs, and no class numbers? Some losses of torch take no integers for them."""
    classes = loss in (*CROSSED, functional.nll_loss) or isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss)
    return not classes and given.shape == wanted.shape and not wanted.is_floating_point()


def switchable(module: nn.Module) -> None:
    """Leave a module in training mode. Raises ModelError for one whose `train` is no switch."""
    own = type(module).train
    named = list(inspect.signature(own).parameters)[1:2]
    try:
        if own is not nn.Module.train and named not in (["mode"], ["args"]):
            raise TypeError(f"it takes {', '.join(named) or 'nothing'} where torch gives the mode")
        module.eval()
        module.train()
        if not module.training:
            raise TypeError("after train() it is not in training mode")
    except Exception as e:
        raise ModelError(
            f"task.module: its `train` is no switch of modes: {words_of(e)[:200]}\n    why: torch calls train(mode) and eval() "
            "around every step and score\n    fix: another name for a method of your own that trains"
        ) from e


def tensor(out: Any) -> Tensor:
    """What a module gives, for a loss of torch. Raises ModelError where it is no tensor."""
    if isinstance(out, Tensor):
        return out
    inside = "logits" if hasattr(out, "logits") else "..."
    raise ModelError(
        f"task.module: it gives {type(out).__name__}\n    why: a loss of torch reads one tensor\n    fix: loss=lambda module, "
        f"batch: torch.nn.functional.cross_entropy(module(batch[0]).{inside}, batch[1], reduction='none'), and scores that "
        "read it likewise; or a module that returns the tensor"
    )


def unreached(bound: Any, batch: Any) -> None:
    """Warn of trained parameters that the gradient of a few rows does not reach: they stay what they are at the start."""
    held = {e.name for e in bound.layout.entries if e.trainable}
    named = {n: p for n, p in bound.module.named_parameters() if n in held}
    value = bound.objective.loss(bound.module, batch)
    asked = [n for n, p in named.items() if p.requires_grad]  # one may be frozen in the middle of a call
    found = dict(
        zip(asked, torch.autograd.grad(value, [named[n] for n in asked], allow_unused=True), strict=True)
    )
    if lost := [n for n in named if found.get(n) is None]:
        warnings.warn(
            f"fedfm: no gradient reaches {', '.join(lost[:3])}{', ...' * (len(lost) > 3)} ({len(lost)} of {len(named)} tensors) on "
            "the rows that were tried: they are counted as trained, travel, and stay as they are, weight decay aside (detached, "
            "under no_grad, unused, or frozen in a call); requires_grad_(False) from the start says that it is meant",
            UserWarning,
            stacklevel=2,
        )


def trained_by_nobody(loss: Any, module: nn.Module, batch: Any) -> Iterator[Problem]:
    """Parameters that a loss holds, or names, and that its gradient reaches: they are neither trained nor saved."""
    mine = {id(p) for p in module.parameters()}
    theirs = {n: p for n, p in _held(loss) if p.requires_grad and id(p) not in mine}
    if not theirs:
        return
    value = loss(module(batch[0]), batch[1]) if of_torch(loss) else loss(module, batch)
    found = torch.autograd.grad(value.mean(), list(theirs.values()), allow_unused=True)
    if names := [n for n, g in zip(theirs, found, strict=True) if g is not None]:
        yield Problem(
            "task.loss",
            f"learns parameters of its own: {', '.join(names[:3])}{', ...' * (len(names) > 3)}",
            "the parameters of the module are trained, travel and are saved, and no others",
            "make them a part of the module, and read them there: loss=lambda module, batch: ...; or detach them",
        )


def _held(loss: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of modules that a loss is, closes over, names or has as attributes."""
    if isinstance(loss, nn.Module):
        yield from loss.named_parameters()
        return
    while isinstance(loss, functools.partial):
        yield from (q for v in (*loss.args, *loss.keywords.values()) for q in _of(v, "argument"))
        loss = loss.func
    held = dict(getattr(getattr(loss, "__self__", loss), "__dict__", {}))
    if inspect.isfunction(inspect.unwrap(loss)):
        named = inspect.getclosurevars(inspect.unwrap(loss))
        held |= {**named.globals, **named.nonlocals}
    for name, value in held.items():
        yield from _of(value, name)


def _of(value: Any, name: str) -> Iterator[tuple[str, nn.Parameter]]:
    if isinstance(value, nn.Module):
        yield from ((f"{name}.{n}", p) for n, p in value.named_parameters())
    elif isinstance(value, nn.Parameter):
        yield name, value


def own(loss: Callable[..., Any], module: nn.Module, batch: Any) -> Tensor:
    """A loss of the user's own. Raises ModelError for one that takes outputs and targets, as those of torch do."""
    try:
        found = loss(module, batch)
    except Exception as e:  # what a function of outputs does with a module, nobody can list
        if not (isinstance(batch, tuple) and _takes_outputs(loss, module, batch)):
            raise
        raise ModelError(
            "task.loss: it takes outputs and targets\n    why: a loss of one's own is called with the module and a batch\n"
            "    fix: loss=lambda module, batch: measure(module(batch[0]), batch[1])"
        ) from e
    if isinstance(found, Tensor) and (found.requires_grad or not torch.is_grad_enabled()):
        return found
    raise ModelError(
        f"task.loss: it gives {'a tensor without a gradient' if isinstance(found, Tensor) else type(found).__name__}\n"
        "    why: the module learns along the gradient of its loss; .item(), .detach(), float() and numpy lose it\n"
        "    fix: return a tensor that torch computed from module(x): one value a row (n,), or their mean"
    )


def of_outputs(loss: Callable[..., Any], module: nn.Module, batch: Any, given: Any) -> Tensor:
    """A loss of outputs and targets. Raises ModelError for one that takes the module and a batch."""
    try:
        found: Tensor = loss(given, batch[1])
    except Exception as e:
        try:
            loss(module, batch)
        except Exception:  # neither fits
            raise e from None
        raise ModelError(
            "task.loss: it takes the module and a batch\n    why: a loss that is an nn.Module is called with outputs and "
            "targets, as those of torch are\n    fix: loss=lambda module, batch: LOSS(module, batch)"
        ) from e
    return found


def _takes_outputs(loss: Callable[..., Any], module: nn.Module, batch: Any) -> bool:
    try:
        return isinstance(loss(module(batch[0]), batch[1]), Tensor)
    except Exception:  # neither fits
        return False


def off_scale(loss: Any, out: Any) -> Iterator[Problem]:
    """Outputs on another scale than the loss of torch reads: it is computed all the same, and means nothing."""
    if not isinstance(out, Tensor) or out.dim() < 2 or out.shape[1] < 2:
        return
    found = out.detach().double()
    unit = torch.ones((), dtype=found.dtype, device=found.device)
    own = "; if it is meant: loss=lambda module, batch: ..."
    logs = loss in LOG_READ or isinstance(loss, nn.NLLLoss | nn.KLDivLoss)
    crossed = loss in CROSSED or isinstance(loss, nn.CrossEntropyLoss)
    if logs and not torch.allclose(found.exp().sum(1), unit, atol=1e-3):
        why = "of other numbers it falls without end, whatever is learnt"
        fix = "end the module in torch.log_softmax(..., 1), or take the cross-entropy (loss=None)"
        yield Problem("task.loss", "reads log-probabilities, and the module gives none", why, fix + own)
    if crossed and bool((found >= 0).all()) and torch.allclose(found.sum(1), unit, atol=1e-4):
        why = "it takes the softmax itself; after two of them its gradient is small, and it cannot reach 0"
        fix = "let the module give scores, without a softmax" + own
        yield Problem("task.loss", "reads scores, and the module gives probabilities", why, fix)


def numberless(scores: Mapping[str, Any], module: nn.Module, batch: Any) -> Iterator[Problem]:
    """A score that is neither a number nor one a row; one that cannot do with a few rows is left to the run."""
    rows = len(batch[0]) if isinstance(batch, tuple) else len(next(iter(batch.values())))
    for name, measure in scores.items():
        try:
            found = measure(module, batch)
        except (AttributeError, NameError, TypeError, ImportError) as e:  # no fault of the few rows
            fix = "scores={...: lambda module, batch: measure(module(batch[0]), batch[1])}"
            why = f"it is called with the module and a batch; raised at {place(e)}"
            yield Problem(f"task.scores[{name!r}]", f"fails: {words_of(e)[:200]}", why, fix)
            continue
        except Exception:  # noqa: BLE001, S112 - nobody can list what scores of strangers raise on a few rows
            continue
        where = f"task.scores[{name!r}]"
        try:
            value = torch.as_tensor(found).double()
        except (TypeError, ValueError, RuntimeError):
            what, why = f"gives {type(found).__name__}", "a score is a number, or a number for each row"
            yield Problem(where, what, why, "return a float, or a tensor (n,)")
            continue
        if value.dim() and value.numel() != rows:
            what, *rest = shapeless(where, tuple(value.shape), rows).split("\n")
            why, fix = (text.split(": ", 1)[1] for text in rest)
            yield Problem(where, what.split(": ", 1)[1], why, fix)


def shapeless(where: str, shape: tuple[int, ...], rows: int) -> str:
    """What is wrong with a measure that gives neither one number nor one a row."""
    return (
        f"{where}: gives {shape} for {rows} rows\n    why: it is a number, the mean of a batch, or a number for each row; "
        "other numbers would be added up and divided by the rows\n    fix: .mean() of it, or one value a row (n,); a value "
        "for each class is a score of its own"
    )


def own_measures(task: Any) -> dict[str, Any]:
    """Place in the task -> loss or score that a person wrote."""
    named = task.scores if isinstance(task.scores, Mapping) else {}
    asked = {f"task.scores[{n!r}]": f for n, f in named.items()}
    if task.loss is not None and not (callable(task.loss) and of_torch(task.loss)):
        asked["task.loss"] = task.loss
    return asked


def _is_name(name: Any, beside: Mapping[Any, Any]) -> bool:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        return False
    head, slash, rest = name.partition("/")
    parted = head in HEADS or head in beside or not head.strip() or not rest.strip()
    return head not in TAKEN and not (slash and parted)


def unmeasured(task: Any) -> Iterator[Problem]:
    """A loss or a score that cannot be taken of (module, batch)."""
    if task.scores is not None and not isinstance(task.scores, Mapping):
        what = f"is a {type(task.scores).__name__}, not a mapping of names to functions"
        why, fix = "a score is reported under its name", 'scores={"error": lambda module, batch: ...}'
        yield Problem("task.scores", what, why, fix)
    for name in task.scores if isinstance(task.scores, Mapping) else ():
        if not _is_name(name, task.scores):
            what, why = (
                "is no name of a score",
                "it is a number of the round's own, or a part of another score, which follows a slash",
            )
            yield Problem(
                f"task.scores[{name!r}]", what, why, f"another name, not one of {', '.join(sorted(TAKEN))}"
            )
    for where, measure in own_measures(task).items():
        fix = "def measure(module, batch): x, y = batch; return ...  # of module(x) and y, (n,) or their mean"
        why = "it is called with the module and a batch, not with outputs and targets"
        if not callable(measure):
            yield Problem(where, f"is a {type(measure).__name__}, not a function", why, fix)
        elif not _takes(measure, 2):
            yield Problem(where, "does not take two arguments", why, fix)
    if getattr(task.loss, "reduction", "mean") == "sum":
        why = "the loss of a row would be told as that of its whole batch, and the rate depend on the batch"
        yield Problem(
            "task.loss",
            "adds up the rows of a batch",
            why,
            "reduction='mean', and client.lr times client.batch",
        )


def paired(given: Any, wanted: Tensor) -> None:
    """Torch pairs every output of a batch with every target where (n, 1) meets (n,), and no more than warns."""
    shape = tuple(getattr(given, "shape", wanted.shape))
    column = shape == (*wanted.shape, 1)
    if shape == tuple(wanted.shape) or not (
        wanted.is_floating_point() or column
    ):  # (n, classes) beside (n,) is right
        return
    fix = "a module whose outputs have the shape of the targets; integer targets, if they are class numbers"
    if column:
        fix = "a module that ends in .squeeze(-1), or targets with a last axis of 1"
    raise ModelError(
        f"task.loss: the module gives {shape} where the targets are {tuple(wanted.shape)}\n    why: torch would pair "
        f"outputs of one row with targets of another, and the model would learn their mean\n    fix: {fix}"
    )


def _takes(measure: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(measure).bind(*[None] * count)
    except ValueError:  # written in C: no signature to read
        return True
    except TypeError:
        return False
    return True


def of_torch(loss: Callable[..., Any]) -> bool:
    return isinstance(loss, nn.Module) or str(getattr(loss, "__module__", "")).startswith("torch.")
