"""The loop that a researcher would write without fedfm: transformers, peft, torch's AdamW on plain parameters.

It takes the same local steps from the same weights on the same batches, and nothing else: no messages, no mean, no
ledger. What it needs of fedfm is read once, before the clock starts: token ids, labels, batch order, weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

Rows = Sequence[tuple[Tensor, int]]  # token ids (tokens,) and label of each text


class Network(nn.Module):
    """The quickstart's classifier: mean-pooled, normalised and scaled features, a linear head."""

    def __init__(self, folder: str, labels: int, rank: int, alpha: float, scale: float):
        from peft import LoraConfig, get_peft_model
        from transformers import AutoConfig, AutoModel

        super().__init__()
        config = AutoConfig.from_pretrained(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        encoder = AutoModel.from_pretrained(folder, config=config, add_pooling_layer=False)
        lora: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": ["query", "value"]}
        self.encoder: Any = get_peft_model(encoder, LoraConfig(task_type="FEATURE_EXTRACTION", **lora))
        self.head = nn.Linear(config.hidden_size, labels)
        self.scale = scale

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (n, labels)."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        out: Tensor = self.head(functional.normalize(pooled, dim=-1) * self.scale)
        return out


def parameters(network: Network) -> dict[str, nn.Parameter]:
    """What is trained, by name."""
    return {n: p for n, p in network.named_parameters() if p.requires_grad}


def train(
    network: Network,
    start: Mapping[str, Tensor],
    rows: Rows,
    order: Sequence[Sequence[int]],
    lr: float,
    pad: int,
) -> float:
    """One party's steps from `start` (by parameter name) on batches of its row numbers; returns the last loss."""
    mine, last = parameters(network.train()), 0.0
    device = next(iter(mine.values())).device
    with torch.no_grad():
        for name, p in mine.items():
            p.copy_(start[name])
    optimizer = torch.optim.AdamW(mine.values(), lr=lr, weight_decay=0.0)
    for index in order:
        texts, labels = zip(*(rows[i] for i in index), strict=True)
        ids = pad_sequence(list(texts), batch_first=True, padding_value=pad)
        mask = pad_sequence([torch.ones_like(t) for t in texts], batch_first=True)
        optimizer.zero_grad()
        loss = functional.cross_entropy(
            network(ids.to(device), mask.to(device)), torch.tensor(labels).to(device)
        )
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        last = loss.item()
    return last
