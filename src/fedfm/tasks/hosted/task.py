"""The task of a federation of trainers: what its parties' trainers train, by their loss, scored by their `evaluate`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedfm.cards.registry import method
from fedfm.core.context import Terms
from fedfm.core.errors import ModelError
from fedfm.core.job import POOLED
from fedfm.core.message import raw
from fedfm.core.protocols import Scores, Task
from fedfm.data.source import Shard
from fedfm.direction import rises
from fedfm.tasks.bound import BoundModule, Objective, running_statistics
from fedfm.tasks.hosted.host import CLOCKED, Host, without_bars
from fedfm.tasks.hosted.rows import Picked, picked
from fedfm.tasks.hosted.streams import aside

IGNORED = -100  # a label without a loss
DRAWN = 0  # what scoring and collating draw from: the same each time


@method("hosted", slot="task", section="VII", also=("trainer", "hf-trainer", "sft", "dpo"))
@dataclass(frozen=True)
class Hosted(Task):
    """Train what the parties' own trainers train (data=trainers): every parameter that requires a gradient, nothing else.

    With an adapter (peft) that is the adapter. The frozen part must be the same at every party, and is held once. Scores
    are those of `Trainer.evaluate` on test rows: its loss, and what `compute_metrics` gives; the primary one is
    `metric_for_best_model`, else the loss.
    """

    def open(self, data: Any, device: str = "cpu") -> HostedBound:
        """Raises ModelError when the parties have no trainers, or unlike ones."""
        hosts: Mapping[str, Host] = getattr(data, "hosts", {})
        if not hosts:
            raise ModelError(
                f"task=hosted: {type(data).__name__} holds rows and no trainers\n    why: the parties' own trainers are trained\n"
                "    fix: data=trainers (fedfm.Trainers(make, parties=...)), or a task that reads rows"
            )
        there = {p: h.trainer.args.device.type for p, h in hosts.items()}
        if wrong := [p for p, d in there.items() if d != torch.device(device).type]:
            raise ModelError(
                f"the trainer of {wrong[0]} is on {there[wrong[0]]}, the run on {device}\n    why: a model lies where its "
                f"trainer has put it\n    fix: device={there[wrong[0]]}, or TrainingArguments(use_cpu=True)"
            )
        bounds: dict[str, HostedBound] = {}
        for name, host in hosts.items():
            bounds[name] = HostedBound(host, hosts, bounds)
            _alike(bounds[name], next(iter(bounds.values())))
        first = next(iter(bounds.values()))
        first.again = getattr(data, "again", None)
        return first


class HostedBound(BoundModule):
    """The model of one party's trainer; `at` gives those of the others."""

    def __init__(self, host: Host, hosts: Mapping[str, Host], bounds: dict[str, HostedBound]):
        model = host.trainer.model
        if wrong := [n for n, p in model.named_parameters() if p.requires_grad and p.dtype != torch.float32]:
            raise ModelError(
                f"the trainer of {host.party} trains {wrong[0]} in {dict(model.named_parameters())[wrong[0]].dtype} "
                f"({len(wrong)} such tensors)\n    why: small steps are lost in it, and what travels is float32\n    fix: load what "
                "is trained in float32 (dtype=torch.float32); bf16=True computes in bfloat16 all the same, and frozen "
                "weights may have any type"
            )
        if not any(p.requires_grad for p in model.parameters()):
            raise ModelError(
                f"the trainer of {host.party} trains nothing\n    why: no parameter of its model requires a gradient\n"
                "    fix: requires_grad_(True) for what learns, or an adapter (peft.get_peft_model)"
            )
        statistics = running_statistics(model.train())
        super().__init__(
            model, _Objective(host, hosts), buffers=statistics, device=next(model.parameters()).device
        )
        self.host, self.hosts, self.bounds = host, hosts, bounds
        self.between: Callable[[], None] = lambda: None
        self.again: Callable[[str], Host] | None = None

    def check(self) -> None:
        """The tensors alone: its trainer is nobody else's, and may hook the model as it likes (checkpointing, callbacks)."""
        self._in_place()

    def frozen(self) -> dict[str, str]:
        """The digest of all that is not trained, which must be the same at every party and in a resumed run."""
        total, trained = hashlib.sha256(), {e.name for e in self.layout.entries}
        learns = {p.data_ptr() for n, p in self.module.named_parameters() if n in trained}
        still = {
            n: t
            for n, t in self.module.state_dict().items()
            if n not in trained and t.data_ptr() not in learns  # tied, it is trained under another name
        }
        for name, t in still.items():
            total.update(f"{name} {t.dtype} {tuple(t.shape)}".encode() + b"\0")
            total.update(raw(t))
        return {"frozen weights of the trainers": total.hexdigest()} if still else {}

    def at(self, client: str, terms: Terms) -> BoundModule:
        if client == POOLED and POOLED not in self.bounds:
            self.bounds[POOLED] = self._pooled()
        mine = self.bounds.get(client, self)
        mine.between = self.between
        return super(HostedBound, mine).at(client, terms)

    def _pooled(self) -> HostedBound:
        """One owner of everything: a trainer like the first party's, in batches as large as all parties' together."""
        first: HostedBound = next(iter(self.bounds.values()))
        if first.again is None:
            raise ModelError("the trainer of one owner of all rows cannot be made here; baselines=local")
        hosts: Mapping[str, Host] = first.hosts
        host = first.again(first.host.party)
        host.trainer.args.per_device_train_batch_size *= len(hosts)
        host.trainer._train_batch_size = host.trainer.args.train_batch_size
        found = HostedBound(host, hosts, self.bounds)
        _alike(found, first)
        return found


def _alike(one: HostedBound, first: HostedBound) -> None:
    """Let `one` share the frozen weights of the first. Raises ModelError where they are other ones, or other shapes."""
    a, b = ({e.name: tuple(e.shape) for e in x.layout.entries} for x in (first, one))
    if a != b:
        name = next(n for n in (*a, *b) if a.get(n) != b.get(n))
        raise ModelError(
            f"{first.host.party} trains {name} of shape {a.get(name, 'none')}, {one.host.party} of shape {b.get(name, 'none')}\n"
            "    why: one model is everybody's, and its updates are averaged\n    fix: the same model and adapter in every trainer"
        )
    theirs = dict(first.module.named_parameters())
    for name, p in one.module.named_parameters():
        if name in a or p is theirs[name]:
            continue
        if p.shape != theirs[name].shape or not torch.equal(p, theirs[name]):
            raise ModelError(
                f"the frozen weights {name} of {one.host.party} are others than those of {first.host.party}\n    why: an "
                "update means something only beside the weights that it was made for, and these do not travel\n"
                "    fix: the same base in every trainer; a part that is drawn anew: transformers.set_seed(0) before it is made"
            )
        p.data = theirs[name].data


class _Objective(Objective):
    """The trainer's loss and scores. What collating and scoring draw is the same each time."""

    pieces = False  # compute_metrics is of all that it is given, and a loss may be by token

    def __init__(self, host: Host, hosts: Mapping[str, Host]):
        self.host, self.hosts = host, hosts
        args = host.trainer.args
        self.primary = (args.metric_for_best_model or "loss").removeprefix("eval_")
        told = args.greater_is_better if args.metric_for_best_model else None
        self.higher_is_better = bool(rises(self.primary)) if told is None else bool(told)

    def encode(self, rows: Shard) -> Picked:
        return picked(self.hosts, rows)

    def batch(self, encoded: Picked, index: Tensor, device: torch.device) -> tuple[Any, ...]:
        with aside(DRAWN):
            return tuple(encoded[k] for k in index.tolist())

    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        trainer = self.host.trainer
        with aside(DRAWN):
            collate = trainer._get_collator_with_removed_columns(trainer.data_collator)
            inputs = trainer._prepare_inputs(collate(list(batch)))
        found: Tensor = trainer.compute_loss(module, inputs)
        return found

    def losses(self, module: nn.Module, batch: Any) -> Tensor:
        return torch.stack([self.loss(module, (row,)) for row in batch])

    def score(self, module: nn.Module, encoded: Picked, device: torch.device) -> Scores:
        """What `Trainer.evaluate` says of these rows, each number for all of them."""
        n = len(encoded)
        if not n:
            return {}
        with aside(DRAWN), self.host.unheard() as trainer:
            found = trainer.evaluate(eval_dataset=encoded.whole())
            told = {**trainer.state.log_history[-1], **found} if trainer.state.log_history else found
        scores = {
            k.removeprefix("eval_"): (float(v) * n, float(n))
            for k, v in told.items()
            if k.startswith("eval_") and isinstance(v, int | float) and not k.endswith(CLOCKED)
        }
        if self.primary not in scores:
            raise ModelError(
                f"Trainer.evaluate gives no '{self.primary}' on test rows, but {', '.join(scores) or 'nothing'}\n    why: it is "
                "what the federation is judged by\n    fix: metric_for_best_model names what compute_metrics gives; a loss "
                "needs labels in the rows (label_names)"
            )
        return scores

    def explain(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What the model is given of a row: its words and tokens, where the trainer has a tokenizer, and where loss is."""
        item = picked(self.hosts, Shard("", (dict(row),)))[0]
        words: Any = getattr(self.host.trainer.processing_class, "decode", None)
        if not isinstance(item, Mapping) or words is None or "input_ids" not in item:
            return {"text": str(item)}
        ids, labels = list(item["input_ids"]), item.get("labels")
        told: dict[str, Any] = {"text": words(ids), "tokens": [words([k]) for k in ids]}
        if isinstance(labels, list | tuple) and len(labels) == len(ids):
            told["loss_mask"] = [k != IGNORED for k in labels]
        return told

    def save(self, module: nn.Module, folder: str) -> None:
        """As `save_pretrained` does: an adapter in PEFT's layout, a model in Hugging Face's, the tokenizer beside it."""
        from fedfm.tasks.state import write_state

        state = {n: t.detach().to("cpu", copy=True).contiguous() for n, t in module.state_dict().items()}
        saved: Any = getattr(module, "save_pretrained", None)
        if saved is None:
            kind = f"{type(module).__module__}.{type(module).__qualname__}"
            write_state(state, folder, f"net = ...  # {kind}, made as for the trainer", takes="**batch")
            return
        with without_bars():
            saved(folder, state_dict=state)
        words: Any = getattr(self.host.trainer.processing_class, "save_pretrained", None)
        if words is not None:
            words(folder)
