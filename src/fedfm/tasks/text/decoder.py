"""What the tasks on a causal language model share: fields, opening, and the folder of the tuned model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fedfm.cards.registry import knob, load
from fedfm.core.errors import Problem
from fedfm.core.protocols import Task
from fedfm.models.identity import Base
from fedfm.tasks.beginning.adapter import begun, tuned
from fedfm.tasks.bound import BoundModule
from fedfm.tasks.export import in_dtype, source
from fedfm.tasks.network import load_base, load_tokenizer
from fedfm.tasks.text.dialogue import Dialogue
from fedfm.tasks.tuning import Tuning


@dataclass(frozen=True)
class LanguageTask(Task):
    """A causal language model, what of it is trained, and how rows become its text."""

    model: str = knob(
        "smollm2",
        "a packaged model, a folder in Hugging Face layout, or a hub id (org/name@revision)",
        place="folder",
    )
    start: str | None = knob(
        None, "a folder with an adapter to go on from: rank and targets are taken from it", place="folder"
    )
    tuning: Tuning = knob(factory=lambda: load("lora")(), doc="what of the network is trained")
    max_tokens: int = knob(
        256, "longer prompt-and-answer pairs are cut; one with no answer left is dropped", low=4, stays="told"
    )
    template: str = knob(
        "chat",
        "chat: the tokenizer's own template, plain where it has none; plain: Instruction:, the text, Answer: on lines of "
        "their own. `fedfm inspect` names the form and shows a row in it",
        choices=("chat", "plain"),
        stays="refused",
    )
    score_by: str = knob(
        "exact", "the primary score; with loss nothing is generated", choices=("exact", "loss")
    )
    max_new_tokens: int = knob(16, "length of a generated answer", low=1)
    score_batch: int = knob(32, "examples scored at once", low=1)
    dropout: float = knob(0.0, "every dropout rate of the network, in training", low=0.0, high=1.0)
    dtype: str = knob(
        "float32", "of the frozen network; what is added is float32", choices=("float32", "bfloat16")
    )
    gradient_checkpointing: bool = knob(False, "compute activations twice instead of keeping them")

    def objective(self, tokenizer: Any, module: nn.Module | None = None) -> Any:
        """What is done with the module."""
        raise NotImplementedError

    def open(self, data: Any, device: str = "cpu") -> BoundModule:
        """Raises ModelError when the model cannot be used. `data` is not looked at."""
        task = begun(self)
        bound: BoundModule = task.objective(load_tokenizer(self.model)).bind(device)
        return bound

    def probe(self, bound: Any, rows: Any) -> list[Problem]:
        from fedfm.tasks.text.probes import dialogues

        return dialogues(bound, rows)

    def restore(self, folder: Path, labels: None) -> tuple[nn.Module, Any]:
        """The module and the objective that `save` wrote to `folder`."""
        where = str(folder) if (folder / "config.json").exists() else self.model
        module = self.tuning.reload(network(self, where), folder)
        return module, self.objective(load_tokenizer(where), module)

    def readme(self, folder: Path, labels: None, base: Base) -> str:
        """How to use the folder without fedfm's classes."""
        adapter = (folder / "adapter_config.json").exists()
        line, place, revision = source(base, folder)
        loaded = f"AutoModelForCausalLM.from_pretrained(base{revision}{in_dtype(self.dtype)})"
        return _README.format(
            peft="from peft import PeftModel\n" if adapter else "",
            torch="import torch\n" if in_dtype(self.dtype) else "",
            extra=line,
            base=place,
            revision=revision,
            form=Dialogue(load_tokenizer(self.model), self.template, self.model).form,
            network=f"PeftModel.from_pretrained({loaded}, folder)" if adapter else loaded,
        )


def network(task: LanguageTask, model: str) -> Any:
    """The network as its checkpoint has it."""
    return load_base(
        "AutoModelForCausalLM",
        model,
        dtype=task.dtype,
        dropout=task.dropout,
        checkpointing=task.gradient_checkpointing,
    )


def build(task: LanguageTask) -> nn.Module:
    """The network that is trained, as training begins."""
    made: nn.Module = tuned(task, network(task, task.model))
    return made


_README = """# A tuned language model

```python
{torch}{extra}{peft}from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."
base = {base}
tokenizer = AutoTokenizer.from_pretrained(base{revision})
model = {network}.eval()
```

Prompts were written with {form}.

With fedfm: `fedfm.tasks.load_tuned(folder).predict(instructions)`.
"""
