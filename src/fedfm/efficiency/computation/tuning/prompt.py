"""Prompt tuning and its kin: virtual tokens before every text are learnt, the network stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedfm.cards.registry import knob, method
from fedfm.efficiency.computation.tuning.peft import Peft


@method(
    "prompt-tuning",
    slot="tuning",
    section="IV.B",
    survey=(63,),
    paper="Lester et al., The power of scale for parameter-efficient prompt tuning, EMNLP 2021",
    also=("prompt",),
)
@dataclass(frozen=True)
class PromptTuning(Peft):
    """Learn the embeddings of `tokens` virtual tokens before every text; nothing else is trained or sent."""

    tokens: int = knob(8, "virtual tokens", low=1, high=65536)

    settings = {"tokens": "num_virtual_tokens"}

    def prepends(self) -> int:
        return self.tokens

    def config(self, base: Any) -> Any:
        from peft import PromptTuningConfig

        return PromptTuningConfig(num_virtual_tokens=self.tokens, prompt_tuning_init="RANDOM")


@method(
    "p-tuning",
    slot="tuning",
    section="IV.B",
    survey=(63,),
    paper="Liu et al., GPT understands, too, 2021",
)
@dataclass(frozen=True)
class PTuning(Peft):
    """Learn virtual tokens through a small network that makes their embeddings; the embeddings are exported."""

    tokens: int = knob(8, "virtual tokens", low=1, high=65536)
    hidden: int = knob(32, "width of the network that makes them", low=1, high=65536)

    settings = {"tokens": "num_virtual_tokens", "hidden": "encoder_hidden_size"}

    def prepends(self) -> int:
        return self.tokens

    def config(self, base: Any) -> Any:
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(num_virtual_tokens=self.tokens, encoder_hidden_size=self.hidden)
