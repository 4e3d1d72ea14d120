"""A torch module bound to one flat buffer: every trainable tensor is a view on it, every gradient a view on another.

Changing client is one copy into the buffer. Some ordinary calls break the views without a word
(`zero_grad(set_to_none=True)`, `.to(dtype)`, `load_state_dict(assign=True)`, embedding resizes), so `load`
asserts the storage pointers at each job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedfm.core.context import Terms
from fedfm.core.errors import FedfmError
from fedfm.core.protocols import Bound, Scores
from fedfm.core.tree import Cut, Layout, cut


class Objective:
    """What a task does with its module: encode rows once, make a batch, a loss, a score. Identity defaults."""

    primary: str = "accuracy"
    higher_is_better: bool = True

    def encode(self, rows: Any) -> Any:
        """Rows (a Shard) to whatever `batch` indexes; tokenise here, once."""
        return rows

    def batch(self, encoded: Any, index: Tensor, device: torch.device) -> Any:
        raise NotImplementedError

    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        """Mean loss of a batch."""
        raise NotImplementedError

    def score(self, module: nn.Module, encoded: Any, device: torch.device) -> Scores:
        """Sums and counts by metric name; `name/group` for a group's own."""
        raise NotImplementedError

    def front(self, module: nn.Module, params: Mapping[str, Tensor], batch: Any) -> Tensor:
        """The client's half of a split model: activations."""
        raise FedfmError("this task has no cut point; split learning needs a task with `front` and `back`")

    def back(self, module: nn.Module, params: Mapping[str, Tensor], acts: Tensor, target: Tensor) -> Tensor:
        """The server's half: the loss from activations."""
        raise FedfmError("this task has no cut point; split learning needs a task with `front` and `back`")

    def target(self, batch: Any) -> Tensor:
        """What the server's half needs besides the activations (the labels)."""
        raise FedfmError("this task has no cut point; split learning needs a task with `front` and `back`")

    def narrow(self, terms: Terms) -> nn.Module:
        """A module of the sub-model's shape."""
        raise FedfmError("this task has no sub-models; a width below 1 needs a task that can be narrowed")

    def save(self, module: nn.Module, folder: str) -> None:
        """Write the tuned model for its own ecosystem (PEFT adapter, Hugging Face layout)."""
        raise FedfmError("this task does not export a model")


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
        params = {n: p for n, p in module.named_parameters() if p.requires_grad}
        stats = {n: b for n, b in module.named_buffers() if n in buffers}
        still = {n: p for n, p in module.named_parameters() if n in buffers}
        if missing := set(buffers) - set(stats) - set(still):
            raise FedfmError(f"declared buffers that the model does not have: {sorted(missing)}")
        tensors: dict[str, Tensor] = {**params, **still, **stats}
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
        self.init = self.params.detach().to("cpu", copy=True)
        self.total = sum(p.numel() for p in module.parameters())
        self._narrow: dict[tuple[float, int | None], BoundModule] = {}

    # ---- the buffer -------------------------------------------------------------------------------------------
    def load(self, flat: Tensor) -> None:
        """Make `flat` (size,) the current parameters: one copy."""
        self.check()
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
        """Raise if something broke a view since the last job."""
        gone = [name for name, t, owner, key in self._owners if getattr(owner, key, None) is not t]
        gone += [
            name
            for name, t, data, grad in self._pointers
            if t.data_ptr() != data or (grad and (t.grad is None or t.grad.data_ptr() != grad))
        ]
        if gone:
            raise FedfmError(
                f"tensor '{gone[0]}' no longer lies in the flat buffer: something called zero_grad(set_to_none"
                "=True), .to(dtype), load_state_dict(assign=True) or resized it; do not"
            )

    def gradient(self, batch: Any) -> float:
        """Fill `grads` with the gradient of the mean loss at `params`; returns the loss."""
        for t, view, _ in self._cast:
            t.data.copy_(view)
            t.grad = None
        self.grads.zero_()
        loss = self.objective.loss(self.module, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        for t, _, grad in self._cast:
            if t.grad is not None:
                grad.copy_(t.grad)
        return float(loss.detach())

    # ---- the objective ----------------------------------------------------------------------------------------
    def encode(self, rows: Any) -> Any:
        return self.objective.encode(rows)

    def batch(self, encoded: Any, index: Tensor) -> Any:
        return self.objective.batch(encoded, index, self.device)

    def loss(self, batch: Any) -> float:
        """The loss at `params`, without a gradient."""
        with torch.no_grad():
            return float(self.objective.loss(self.module, batch))

    def score(self, encoded: Any) -> Scores:
        """Scores at `params`, in evaluation mode."""
        training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                return self.objective.score(self.module, encoded, self.device)
        finally:
            self.module.train(training)

    def front(self, params: Mapping[str, Tensor], batch: Any) -> Tensor:
        """Activations at the cut, as a function of tensors of one's own (a live graph needs its own buffer)."""
        return self.objective.front(self.module, params, batch)

    def back(self, params: Mapping[str, Tensor], acts: Tensor, target: Tensor) -> Tensor:
        """The loss from activations, as a function of the server's own tensors."""
        return self.objective.back(self.module, params, acts, target)

    # ---- sub-models -------------------------------------------------------------------------------------------
    def narrow(self, terms: Terms) -> BoundModule:
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
