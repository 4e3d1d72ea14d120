"""A torch module bound to one flat buffer: every trainable tensor is a view on it, every gradient a view on another.

Changing client is one copy into the buffer. Some ordinary calls break the views without a word
(`zero_grad(set_to_none=True)`, `.to(dtype)`, `load_state_dict(assign=True)`, embedding resizes), so `load`
asserts the storage pointers at each job.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedfm.core.context import Terms
from fedfm.core.errors import FedfmError, ModelError, Problem
from fedfm.core.protocols import Bound, Loss, Scores
from fedfm.direction import rises
from fedfm.tasks.beginning.unchanged import changed, layers
from fedfm.text import nearest
from fedfm.vectors.cut import Cut, cut
from fedfm.vectors.layout import Layout

CHUNK = 256  # examples scored at once


class Objective:
    """What a task does with its module: encode rows once, make a batch, a loss, a score. Identity defaults."""

    primary: str = "accuracy"
    higher_is_better: bool = True
    classes: int = 0  # that a row is one of; 0: no classification
    pieces: bool = True  # scores of pieces of the rows, averaged, are those of all rows

    def mass(self, batch: Any, rows: int) -> float:
        """What the mean loss of a batch divides by: its rows, or what they weigh."""
        return rows

    def rises(self, name: str) -> bool:
        """Is more of this metric better? Of the primary score it is declared; of others their names tell."""
        return self.higher_is_better if name == self.primary else rises(name)

    def encode(self, rows: Any) -> Any:
        """Rows (a Shard) to whatever `batch` indexes; tokenise here, once."""
        return rows

    def unfit(self, module: nn.Module, tried: Any, shards: Iterable[tuple[str, Any]]) -> Iterator[Problem]:
        """What is wrong with rows of these (place, shard) that the few that were tried do not show."""
        yield from ()

    def batch(self, encoded: Any, index: Tensor, device: torch.device) -> Any:
        raise NotImplementedError

    def losses(self, module: nn.Module, batch: Any) -> Tensor:
        """The loss of each example of a batch (n,)."""
        raise NotImplementedError

    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        """What a batch's gradient is taken of: here the mean of `losses`."""
        return self.losses(module, batch).mean()

    def risk(self, module: nn.Module, encoded: Any, device: torch.device) -> tuple[float, float]:
        """The sum of all examples' losses, and their number; where a loss weighs them, what they weigh."""
        chunks = self.chunks(encoded)
        found = [self.losses(module, self.batch(encoded, index, device)).double().cpu() for index in chunks]
        return math.fsum(x for part in found for x in part.tolist()), len(encoded)

    def logits(self, module: nn.Module, batch: Any) -> Tensor:
        """Class scores before the softmax (n, classes), where the task has classes."""
        raise FedfmError("this task has no classes")

    def classify(self, module: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Class numbers (n,) of a batch, where the task has classes: the most likely ones, and the true ones."""
        raise FedfmError("this task has no classes")

    def chunks(self, encoded: Any) -> Iterator[Tensor]:
        """Indices of all examples, as many at once as are scored at once."""
        for at in range(0, len(encoded), CHUNK):
            yield torch.arange(at, min(at + CHUNK, len(encoded)))

    def score(self, module: nn.Module, encoded: Any, device: torch.device) -> Scores:
        """Sums and counts by metric name; `name/group` for a group's own."""
        raise NotImplementedError

    parts: Mapping[str, tuple[str, ...]] = {}  # of a split model: name -> patterns of its tensors' names

    def part(self, module: nn.Module, name: str, params: Mapping[str, Tensor], *inputs: Any) -> Tensor:
        """The output of one part on its inputs, from tensors of the caller's own."""
        raise NotImplementedError

    def target(self, batch: Any) -> Tensor:
        """What the last part needs besides the activations (the labels)."""
        raise FedfmError("this task has no parts; split learning needs a task that has")

    def narrow(self, terms: Terms) -> nn.Module:
        """A module of the sub-model's shape."""
        raise FedfmError("this task has no sub-models; a width below 1 needs a task that can be narrowed")

    def tuned(self, module: nn.Module) -> tuple[Any, Any, str] | None:
        """The tuning, the network that it made, and that network's prefix in `module`; None: all is trained."""
        return None

    def save(self, module: nn.Module, folder: str) -> None:
        """Write the tuned model for its own ecosystem (PEFT adapter, Hugging Face layout)."""
        raise FedfmError("this task does not export a model")


def groups_of(rows: Any) -> tuple[str | None, ...]:
    """The test group of each row, where it has one (`data.test_group`)."""
    return tuple(None if (g := r.get("group")) is None else str(g) for r in rows.rows)


def members(groups: Sequence[str | None]) -> Iterator[tuple[str, Tensor]]:
    """Each test group and the indices of its rows, by name."""
    for name in sorted({g for g in groups if g is not None}):
        yield name, torch.tensor([k for k, g in enumerate(groups) if g == name])


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; every layer's own mode afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for m, training in modes:
            m.training = training


def running_statistics(module: nn.Module) -> tuple[str, ...]:
    """Names of the buffers that normalisation layers change in training (a batch norm's mean, variance, count).

    Layers that a module in training keeps in evaluation mode (its own `train` does that) change none.
    """
    found = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats and layer.training:
            found += [f"{name}.{key}".lstrip(".") for key, b in layer.named_buffers(recurse=False)]
    return tuple(found)


def undeclared(names: Sequence[str]) -> str:
    """The refusal of a module whose forward pass changes what the vector does not hold."""
    some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
    those = repr(tuple(names)) if not names[3:] else "(those names)"
    return (
        f"the module's forward pass changes {some}, which the parameter vector does not hold: "
        "parties would share it in one process, and lose it in another\n"
        f"    fix: declare it in your own module's task (Torch or BoundModule), buffers={those}, or freeze it "
        "(track_running_stats=False); else take another model"
    )


def _moved(t: Tensor, owner: nn.Module, key: str, version: int) -> bool:
    return getattr(owner, key, None) is not t or t._version != version


class BoundModule(Bound):
    """The module's trainable tensors on the flat buffer, and the objective's loss and score over them."""

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        *,
        axes: Mapping[str, tuple[str, ...]] | None = None,
        buffers: tuple[str, ...] = (),
        device: str | torch.device = "cpu",
        cutting: Cut | None = None,
    ):
        """Bind the tensors of `module` that require gradients, and the named `buffers`, in the module's order."""
        self.module, self.objective, self.device, self.cutting = (
            module.to(device),
            objective,
            torch.device(device),
            cutting,
        )
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                "the module was compiled by torch.jit: its tensors cannot be laid on one vector\n    fix: give the module "
                "as it was before torch.jit.script or torch.jit.trace, and compile what the run leaves"
            )
        params = {n: p for n, p in module.named_parameters() if p.requires_grad}
        stats = {n: b for n, b in module.named_buffers() if n in buffers}
        still = {n: p for n, p in module.named_parameters() if n in buffers}
        if missing := set(buffers) - set(stats) - set(still):
            raise FedfmError(f"declared buffers that the model does not have: {sorted(missing)}")
        tensors: dict[str, Tensor] = {**params, **still, **stats}
        if wrong := [n for n, t in tensors.items() if t.is_complex()]:
            raise ModelError(
                f"{wrong[0]} holds complex numbers ({len(wrong)} such tensors)\n    why: what is trained or travels lies in "
                "one vector of float32, which would lose their imaginary parts\n    fix: a tensor with a last axis of 2, and "
                "torch.view_as_complex in forward; or freeze it (requires_grad_(False)), if it is not trained"
            )
        self.layout = Layout.of({n: t.shape for n, t in tensors.items()}, axes=axes, buffers=[*still, *stats])
        self.params = torch.zeros(self.layout.size, device=self.device)
        self.grads = torch.zeros_like(self.params)
        self._cast: list[
            tuple[Tensor, Tensor, Tensor]
        ] = []  # tensors that live in another dtype than the fp32 masters
        self._pointers: list[tuple[str, nn.Parameter | Tensor, int, int]] = []
        self._owners = [
            (name, t, module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
            for name, t in tensors.items()
        ]
        views, grads = self.layout.views(self.params), self.layout.views(self.grads)
        for name, t in tensors.items():
            views[name].copy_(t.detach())
            if t.dtype != torch.float32:
                self._cast.append((t, views[name], grads[name]))
                continue
            t.data = views[name]
            if name in params:
                t.grad = grads[name]
            self._pointers.append((name, t, t.data_ptr(), t.grad.data_ptr() if t.grad is not None else 0))
        if stray := [n for n in running_statistics(module) if n not in tensors]:
            raise FedfmError(undeclared(stray))
        self._state = [
            (name, b, module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], b._version)
            for name, b in (*module.named_buffers(), *module.named_parameters())
            if name not in tensors and name in module.state_dict(keep_vars=True)
        ]
        self.init = self.params.detach().to("cpu", copy=True)
        self._frozen = [p for n, p in module.named_parameters() if n not in params]
        self.total = sum(p.numel() for p in module.parameters())
        self._narrow: dict[tuple[float, int | None], BoundModule] = {}
        self._layers, self._trained = layers(module), list(params.items())

    # ---- state of the module -----------------------------------------------------------------------------------
    def _carry(self) -> None:
        """What a forward pass left in buffers: declared ones go to the masters, another's change is refused."""
        with torch.no_grad():
            for t, view, _ in self._cast:
                if not t.requires_grad:
                    view.copy_(t)
        if stray := [n for n, t, owner, key, version in self._state if _moved(t, owner, key, version)]:
            raise FedfmError(undeclared(stray))

    # ---- the buffer -------------------------------------------------------------------------------------------
    def load(self, flat: Tensor) -> None:
        """Make `flat` (size,) the current parameters: one copy."""
        self._in_place()
        with torch.no_grad():
            self.params.copy_(flat)
            for t, view, _ in self._cast:
                t.copy_(view)

    def read(self) -> Tensor:
        """A copy of the current parameters, on the CPU."""
        with torch.no_grad():
            for t, view, _ in self._cast:
                if not t.requires_grad:
                    view.copy_(t)
        return self.params.detach().to("cpu", copy=True)

    def check(self) -> None:
        """Raise if a work that has ended broke a view, or left the module changed beside its tensors."""
        if did := changed(self._layers, self._trained):
            raise FedfmError(
                f"the module was changed: it {did}\n    why: that lies outside the parameter vector: the next party in this "
                "process would train with it, and one in another process without\n    fix: give it to the task "
                "(the module as it is to be, tuning, dropout), or let the client undo it before it ends"
            )
        self._in_place()

    def _in_place(self) -> None:
        """Raise if something broke a view since the last job. What can be laid back is: the next job is no part of it."""
        gone = [name for name, t, owner, key in self._owners if getattr(owner, key, None) is not t]
        gone += [name for name, t, data, _ in self._pointers if t.data_ptr() != data]
        still = [e.name for e in self.layout.entries if not e.trainable]
        if gone and gone[0] in still:
            raise FedfmError(
                f"the module's forward pass puts another tensor in the place of its buffer '{gone[0]}'\n"
                "    why: the buffer lies in the parameter vector, which the other tensor does not\n"
                f"    fix: write it in place: self.{gone[0].rpartition('.')[2]}.copy_(...)"
            )
        lost = [n for n, t, _, g in self._pointers if g and (t.grad is None or t.grad.data_ptr() != g)]
        if gone or lost:
            views, grads = self.layout.views(self.params), self.layout.views(self.grads)
            for name, t, _, grad in self._pointers:
                t.data, t.grad = views[name], grads[name] if grad else None
        if gone:
            raise FedfmError(
                f"tensor '{gone[0]}' no longer lies in the flat buffer\n    why: `.data = ...`, .to(dtype), "
                "load_state_dict(assign=True), a resize or a layer that makes itself at the first call put another in its "
                "place, which is in no message\n    fix: write into it: with torch.no_grad(): p.copy_(...); what a module "
                "makes late belongs into its __init__"
            )
        if lost:
            raise FedfmError(
                f"the gradient of '{lost[0]}' no longer lies in the flat buffer\n    why: zero_grad() drops it as torch does "
                "it by itself, and the next one who reads the gradients reads others\n    fix: "
                "zero_grad(set_to_none=False), or bound.gradient(batch), which fills them anew and returns the loss"
            )

    def gradient(self, batch: Any, loss: Loss | None = None) -> float:
        """Fill `grads` with the gradient at `params` of the objective's loss, or of `loss(module, batch)`."""
        for t, view, _ in self._cast:
            t.data.copy_(view)
            t.grad = None
        self.grads.zero_()
        for p in self._frozen:  # switching an adapter off and on again thaws all of it
            if p.requires_grad:
                p.requires_grad_(False)
        value = (loss or self.objective.loss)(self.module, batch)
        value.backward()  # type: ignore[no-untyped-call]
        for t, _, grad in self._cast:
            if t.grad is not None:
                grad.copy_(t.grad)
        self._carry()
        return float(value.detach())

    # ---- the objective ----------------------------------------------------------------------------------------
    def encode(self, rows: Any) -> Any:
        return self.objective.encode(rows)

    def batch(self, encoded: Any, index: Tensor) -> Any:
        return self.objective.batch(encoded, index, self.device)

    def loss(self, batch: Any) -> float:
        """The loss at `params`, without a gradient."""
        with torch.no_grad():
            return float(self.objective.loss(self.module, batch))

    def losses(self, batch: Any) -> Tensor:
        """The loss of each example (n,) at `params`, without a gradient."""
        with torch.no_grad():
            found: Tensor = self.objective.losses(self.module, batch)
        return found

    def score(self, encoded: Any) -> Scores:
        """Scores at `params`, in evaluation mode."""
        with evaluating(self.module):
            return self.objective.score(self.module, encoded, self.device)

    def risk(self, encoded: Any) -> tuple[float, float]:
        """The sum of the losses of all examples at `params`, in evaluation mode, and how many there are (or what they weigh)."""
        with evaluating(self.module):
            return self.objective.risk(self.module, encoded, self.device)

    def part(self, name: str, params: Mapping[str, Tensor], *inputs: Any) -> Tensor:
        """The output of one part of a split model, as a function of tensors of one's own.

        A live graph needs its own buffer, hence `params`. The last part gives the loss. Raises FedfmError.
        """
        known = self.objective.parts
        if name not in known:
            what = nearest(name, known) if known else "this task's model is not cut into parts"
            raise FedfmError(f"the task's model has no part '{name}': {what}")
        return self.objective.part(self.module, name, params, *inputs)

    # ---- sub-models -------------------------------------------------------------------------------------------
    def at(self, client: str, terms: Terms) -> BoundModule:
        """The bound sub-model for these terms (itself when they cut nothing); made once per shape."""
        if terms.shape not in self._narrow:
            cutting = cut(self.layout, *terms.shape)
            if cutting is None:
                return self
            still = tuple(e.name for e in cutting.layout.entries if not e.trainable)
            sub = BoundModule(
                self.objective.narrow(terms),
                self.objective,
                axes={e.name: e.axes for e in self.layout.entries},
                device=self.device,
                cutting=cutting,
                buffers=still,
            )
            if [(e.name, e.shape) for e in sub.layout.entries] != [
                (e.name, e.shape) for e in cutting.layout.entries
            ]:
                raise FedfmError("the task's narrow module has other shapes than the layout's cut")
            self._narrow[terms.shape] = sub
        return self._narrow[terms.shape]
