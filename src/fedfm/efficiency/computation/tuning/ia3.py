"""(IA)^3: learnt vectors that rescale keys, values and feed-forward activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedfm.cards.registry import knob, method
from fedfm.core.errors import ModelError
from fedfm.efficiency.computation.tuning.peft import Peft
from fedfm.efficiency.computation.tuning.targets import linear

# keys and values, and the layer that leads out of the feed-forward block, in the usual names
USUAL = (
    (("k_proj", "v_proj"), ("down_proj",)),
    (("k_proj", "v_proj"), ("fc2",)),
    (("key", "value"), ("output.dense",)),
    (("k_lin", "v_lin"), ("lin2",)),
    (("c_attn",), ("mlp.c_proj",)),
    (("query_key_value",), ("dense_4h_to_h",)),
    (("qkv_proj",), ("down_proj",)),
    (("key_proj", "value_proj"), ("output.dense",)),
    (("Wqkv",), ("Wo",)),
    (("k", "v"), ("wo",)),
)


@method(
    "ia3",
    slot="tuning",
    section="IV.B",
    survey=(63,),
    paper="Liu et al., Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning, "
    "NeurIPS 2022",
)
@dataclass(frozen=True)
class IA3(Peft):
    """Multiply keys, values and feed-forward activations by learnt vectors, which begin as ones.

    Of a layer (out, in) it trains `out` values, or `in` where the layer leads out of a feed-forward block.
    """

    targets: tuple[str, ...] | None = knob(
        None, "keys and values, or any linear layers; null: the usual ones"
    )
    feedforward: tuple[str, ...] = knob(
        (), "those among further targets whose input is scaled, not their output"
    )

    exact_merge = True
    settings = {"targets": "target_modules", "feedforward": "feedforward_modules"}

    def _says(self, field: str, saved: Any) -> bool:
        """Saved targets hold the layers of the feed-forward blocks too."""
        if field == "targets":
            return {*(self.targets or ()), *self.feedforward} == set(saved)
        return super()._says(field, saved)

    def config(self, base: Any) -> Any:
        from peft import IA3Config

        values, inner = (self.targets, self.feedforward) if self.targets is not None else usual(base)
        every = [*dict.fromkeys((*values, *inner))]
        return IA3Config(target_modules=every, feedforward_modules=list(inner))


def usual(base: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The first usual pair that the network has. Raises ModelError when it has none."""
    names = linear(base)
    for values, inner in USUAL:
        if names.issuperset(values) and names.issuperset(n.rpartition(".")[2] for n in inner):
            return values, inner
    raise ModelError(
        f"{type(base).__name__}: its key, value and feed-forward layers have unusual names\n"
        f"    fix: set task.tuning.targets and task.tuning.feedforward to some of {', '.join(sorted(names))}"
    )
