"""Federated instruction tuning of a small language model (section IV.B)."""

from __future__ import annotations

from fedfm.cards.registry import recipe
from fedfm.core.federation import Federation, replace
from fedfm.data.chatterbot import Chatterbot
from fedfm.data.reasoning_gym import ReasoningGym
from fedfm.efficiency.computation.tuning.lora import LoRA
from fedfm.efficiency.training.local import Local
from fedfm.engines.processes import Processes
from fedfm.tasks.text.causal import CausalLM


@recipe(
    "fedit",
    section="IV.B",
    survey=(46, 199),
    atlas=("fedit",),
    paper="Zhang et al., Towards Building the Federated GPT: Federated Instruction Tuning, 2024",
    departs="A 135M model instead of LLaMA-7B, in fp32; every party takes part in every round.",
)
def fedit() -> Federation:
    """Tune SmolLM2-135M-Instruct with LoRA on reasoning tasks: a party is a task family, scores are exact.

    Loss on the answer only, the tokenizer's chat template, FedAvg of A and B by examples. Four families by default;
    `data.tasks` takes any of reasoning-gym's.
    """
    tasks = ("chain_sum", "gcd", "letter_counting", "leg_counting")
    return Federation(
        task=CausalLM(model="smollm2", tuning=LoRA(r=8, alpha=16)),
        data=ReasoningGym(tasks=tasks, test_rows=16),
        client=Local(optimizer="adamw", lr=2e-3, steps=4, batch=8),
        engine=Processes(),
        rounds=3,
    )


@recipe(
    "fedit-chat",
    section="IV.B",
    survey=(46, 199),
    atlas=("fedit",),
    paper="Zhang et al., Towards Building the Federated GPT: Federated Instruction Tuning, 2024",
    departs="A 135M model and a small corpus of conversations; scored by the loss on held-out answers.",
)
def fedit_chat() -> Federation:
    """The same on the chatterbot corpus: a party is a topic of conversation."""
    return replace(
        fedit(),
        data=Chatterbot(min_rows=80, test_rows=6),
        task=CausalLM(model="smollm2", tuning=LoRA(r=8, alpha=16), score_by="loss"),
        client=Local(optimizer="adamw", lr=5e-4, steps=4, batch=2),
    )
