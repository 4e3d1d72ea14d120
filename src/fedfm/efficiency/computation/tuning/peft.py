"""The base of the tunings that the library PEFT knows, and any of its other kinds by name."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from fedfm.cards.registry import knob, method
from fedfm.core.errors import ModelError
from fedfm.models.folder import read
from fedfm.models.identity import Base
from fedfm.tasks.export import to_whole, write_weights
from fedfm.tasks.network import finite, fresh, guarded, quiet
from fedfm.tasks.tuning import Tuning
from fedfm.text import nearest

ADAPTER = "default"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
RESIDUAL = "lora_R"  # of the tuning lora, beside what PEFT knows
WARM = "fix: stages of the tunings sparse, full and lora, the last one full or lora"
UNFIT = {
    "ADALORA": "its ranks change by a call after each step, which no client makes",
    "XLORA": "it mixes adapters that must exist already",
    "POLY": "it needs the number of a task with each example",
    "MULTITASK_PROMPT_TUNING": "it needs the number of a task with each example",
}
DRAWN = (True, False, "gaussian", "orthogonal", "eva")  # beginnings that leave the base network as it is


class Peft(Tuning):
    """A tuning of PEFT: `config(base)` is all that one must write; it is saved in PEFT's own layout."""

    settings: ClassVar[Mapping[str, str]] = {}  # field -> its key in adapter_config.json
    free: ClassVar[frozenset[str]] = (
        frozenset()
    )  # those of how it is trained, which one who goes on sets anew

    def config(self, base: Any) -> Any:
        """The PeftConfig for this base network."""
        raise NotImplementedError

    def apply(self, base: Any) -> Any:
        """The PEFT model. Raises ModelError when the network cannot be tuned so."""
        from peft import get_peft_model

        what, fix = (
            f"the tuning '{self.name}' does not fit this network",
            "other settings, or the tuning full",
        )
        with guarded(type(base).__name__, what, fix=fix), quiet():
            config = self.config(base)
            fit(str(getattr(config.peft_type, "value", config.peft_type)))
            config.task_type = kind(base)
            with fresh():
                network = get_peft_model(base, config)
        return network

    def save(self, network: Any, base: Base, folder: Path) -> None:
        """A plain PEFT adapter."""
        write(network, trained(network), base, folder)

    def reload(self, base: Any, folder: Path) -> Any:
        """The adapter in `folder` over the base, every tensor of it and no other. Raises ModelError."""
        from peft import PeftConfig, get_peft_model

        settings = read(folder / CONFIG)
        fit(str(settings.get("peft_type")))
        with guarded(str(folder), "the adapter cannot be loaded"), quiet(), fresh():
            config = PeftConfig.from_pretrained(str(folder))
            config.inference_mode, config.task_type = True, kind(base)
            network = get_peft_model(base, config)
        self.resume(network, folder)
        return network

    def merged(self, network: Any) -> Any:
        return network.merge_and_unload() if self.exact_merge else network

    def like(self, folder: Path) -> Self:
        saved = read(folder / CONFIG)
        if saved.get("peft_type") != self.peft_type:
            raise ModelError(
                f"task.start={folder}: an adapter of the kind {saved.get('peft_type')}\n"
                f"    why: task.tuning={self.name} trains the kind {self.peft_type}\n    fix: set task.tuning to that kind"
            )
        usual = self._usual()
        odd = [
            k
            for k, v in saved.items()
            if k not in self.settings.values()
            and v
            and not _alike(v, usual.get(k, v))
            and not _silent(k, saved)
        ]
        if odd or saved.get("modules_to_save"):
            raise ModelError(
                f"task.start={folder}: this adapter has settings that task.tuning={self.name} does not have\n"
                f"    why: {', '.join(f'{k}={saved[k]!r}' for k in odd) or 'modules_to_save'}\n"
                f"    fix: {to_whole(folder)}"
            )
        given = {
            f: _tuple(saved[k])
            for f, k in self.settings.items()
            if saved.get(k) is not None and f not in self.free
        }
        if unlike := [f for f in given if self._written(f) and not self._says(f, given[f])]:
            raise ModelError(
                f"task.start={folder}: was made with other settings than task.tuning says\n    why: it goes on as it is: "
                f"{', '.join(f'{f}={getattr(self, f)!r} was written' for f in unlike)}\n    fix: "
                + " ".join(f"'task.tuning.{f}={_line(given[f])}'" for f in unlike)
            )
        taken = [f for f in given if getattr(self, f) and not self._says(f, given[f])]
        if taken:
            warnings.warn(
                "fedfm: what nobody has written of task.tuning is taken from task.start: "
                + ", ".join(f"{f}={_line(given[f])} (config.yaml: {getattr(self, f)})" for f in taken),
                UserWarning,
                stacklevel=2,
            )
        return dataclasses.replace(self, **given)  # type: ignore[type-var]

    def _written(self, field: str) -> bool:
        """Has somebody written this setting? One that has its default says nothing."""
        return any(f.name == field and f.default != getattr(self, field) for f in dataclasses.fields(self))  # type: ignore[arg-type]

    def _says(self, field: str, saved: Any) -> bool:
        """Does this setting say what a saved one says?"""
        return _alike(getattr(self, field), saved)

    def resume(self, network: Any, folder: Path) -> None:
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        if not (folder / WEIGHTS).is_file():
            pickled = " (adapter_model.bin is not read: nothing is ever unpickled)"
            raise ModelError(
                f"{folder}: no {WEIGHTS} here{pickled if (folder / 'adapter_model.bin').exists() else ''}\n"
                "    why: an adapter is its adapter_config.json and this file\n    fix: save it again as safetensors"
            )
        with guarded(str(folder), "the adapter's tensors cannot be read"):
            tensors = load_file(folder / WEIGHTS)
        mine = trained(network)
        odd = [
            n
            for n in {*tensors, *mine}
            if n not in tensors or n not in mine or tensors[n].shape != mine[n].shape
        ]
        if odd:
            raise ModelError(
                f"{folder}: the adapter does not fit the model\n    why: {len(odd)} of {len(mine)} tensors are missing, "
                f"unknown or of another shape ({sorted(odd)[0]})\n    fix: take the base model that it was trained over"
            )
        finite(str(folder), tensors.items())
        with quiet(), torch.no_grad():
            set_peft_model_state_dict(network, tensors)

    def moved(
        self, network: Any, start: Mapping[str, torch.Tensor], end: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        raise ModelError(f"the tuning '{self.name}' does not say by how much it moves the base\n    {WARM}")

    def begin(
        self, network: Any, start: Mapping[str, torch.Tensor], before: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        raise ModelError(f"the tuning '{self.name}' cannot go on from a base that has moved\n    {WARM}")

    @property
    def peft_type(self) -> str:
        return {"lora": "LORA", "ia3": "IA3"}.get(self.name, self.name.replace("-", "_").upper())

    def _usual(self) -> dict[str, Any]:
        """What the kind's config says where nothing else is set."""
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

        found: dict[str, Any] = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(self.peft_type)]().to_dict()
        return {k: getattr(v, "value", v) for k, v in found.items()}


@method(
    "peft",
    slot="tuning",
    section="IV.B",
    survey=(63,),
    paper="Mangrulkar et al., PEFT, 2022",
    also=("loha", "lokr", "vera", "oft", "dora"),
)
@dataclass(frozen=True)
class AnyPeft(Peft):
    """Any other kind of the library PEFT, by its name and the fields of its config (LOHA, VERA, OFT, ...)."""

    type: str = knob("LN_TUNING", "PEFT's name of the kind")
    options: Mapping[str, Any] = knob(factory=dict, doc="fields of its config, as PEFT calls them")

    @property
    def peft_type(self) -> str:
        return self.type

    def like(self, folder: Path) -> Self:
        """Raises ModelError for an adapter of another kind, or with other settings than `options`."""
        saved, usual = read(folder / CONFIG), super()._usual()
        if unlike := [
            k
            for k in self.options
            if k in usual and not _silent(k, saved) and not _alike(saved.get(k, usual[k]), self.options[k])
        ]:
            raise ModelError(
                f"task.start={folder}: was made with other settings than task.tuning says\n    why: it goes on as it is: "
                f"{', '.join(f'{k}={self.options[k]!r} was written' for k in unlike)}\n    fix: "
                + " ".join(
                    f"'task.tuning.options.{k}={_line(_tuple(saved.get(k, usual[k])))}'" for k in unlike
                )
            )
        return super().like(folder)

    def _usual(self) -> dict[str, Any]:
        return super()._usual() | {k: list(v) if isinstance(v, tuple) else v for k, v in self.options.items()}

    @property
    def exact_merge(self) -> bool:  # type: ignore[override]
        """Adapters of LoRA's kind; that the merged network is the same function is looked at when it is made."""
        return self.type == "LORA"

    def merged(self, network: Any) -> Any:
        """Raises ModelError where the merged network gives something else (a tied embedding among the targets)."""
        ids, fix = torch.arange(1, 9)[None], "export it as it is, without --merged"
        with guarded(type(network).__name__, "the adapter cannot be folded in", fix=fix), torch.no_grad():
            before = network(input_ids=ids)[0]
            made = super().merged(network)
            after = made(input_ids=ids)[0]
        if not torch.allclose(before, after, rtol=1e-2, atol=1e-2 * float(before.abs().max())):
            raise ModelError(
                f"{type(made).__name__}: with the adapter folded in it is another function\n    why: a tensor that it changes is "
                f"used elsewhere too (a tied embedding?)\n    fix: {fix}"
            )
        return made

    def config(self, base: Any) -> Any:
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

        fit(self.type)
        given = {k: list(v) if isinstance(v, tuple) else v for k, v in self.options.items()}
        make: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(self.type)]
        return make(**given)


def fit(peft_type: str) -> None:
    """Raise ModelError for a kind that PEFT does not know, or that local steps alone cannot train."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {k.value for k in PEFT_TYPE_TO_CONFIG_MAPPING} - set(UNFIT)
    if peft_type in known:
        return
    why = UNFIT.get(peft_type) or f"the installed peft knows no such kind; {nearest(peft_type, known)}"
    raise ModelError(f"the PEFT kind {peft_type} cannot be used\n    why: {why}\n    fix: use lora")


def kind(base: Any) -> str:
    """PEFT's name for what the network gives: logits of the next token, or features."""
    return "FEATURE_EXTRACTION" if base.get_output_embeddings() is None else "CAUSAL_LM"


def trained(network: Any) -> dict[str, torch.Tensor]:
    """The adapter's tensors by the names in PEFT's files, copied to the CPU; those have no residual, which is folded in."""
    from peft import get_peft_model_state_dict

    with quiet():
        state = get_peft_model_state_dict(network, save_embedding_layers=False)
    return {
        n: t.detach().to("cpu", copy=True).contiguous()
        for n, t in state.items()
        if not n.endswith(f".{RESIDUAL}")
    }


def write(network: Any, tensors: dict[str, torch.Tensor], base: Base, folder: Path, **changed: Any) -> None:
    """An adapter in PEFT's layout, which names the exact base."""
    write_weights(tensors, folder / WEIGHTS)
    config = network.peft_config[ADAPTER]
    record = config.to_dict() | {
        "inference_mode": True,
        "base_model_name_or_path": base.source,
        "revision": base.revision,
    }
    if record.get("task_type") == "FEATURE_EXTRACTION" and not config.is_prompt_learning:
        # PEFT's generic class reads this: AutoPeftModel.from_pretrained(folder) builds the very base
        inner = type(network.get_base_model())
        record["task_type"] = None
        record["auto_mapping"] = {"base_model_class": inner.__name__, "parent_library": inner.__module__}
    for key in ("target_modules", "feedforward_modules"):
        if isinstance(record.get(key), set | list):
            record[key] = sorted(record[key])
    text = json.dumps(record | changed, indent=2, sort_keys=True, default=_plain)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _silent(key: str, saved: Mapping[str, Any]) -> bool:
    """Does a key of adapter_config.json say nothing about the function, but where the adapter is from or how it began?

    What every kind has says where it is from; what prompts have beside, the shape of the network. A beginning is told
    by its name; one that changes the base network too (PiSSA, OLoRA, LoftQ, CorDA) is a setting.
    """
    from peft import PeftConfig, PromptLearningConfig

    if key in {f.name for kind in (PeftConfig, PromptLearningConfig) for f in dataclasses.fields(kind)}:
        return True
    if key == "fan_in_fan_out":  # how the base stores its matrices, which peft sees itself
        return True
    begun = saved.get("init_lora_weights")
    if key == "init_lora_weights":
        return begun in DRAWN
    return bool({"init", "tokenizer"} & set(key.split("_"))) or key == f"{begun}_config"


def _alike(one: Any, other: Any) -> bool:
    """The same setting, whatever holds it and in whatever order."""
    many = (list, tuple, set)
    return set(one) == set(other) if isinstance(one, many) and isinstance(other, many) else bool(one == other)


def _line(value: Any) -> str:
    """As one writes it on the command line."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else getattr(value, "value", str(value))


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
