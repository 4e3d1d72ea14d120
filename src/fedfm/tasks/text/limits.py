"""What a network's tables can hold: token ids up to the embedding's rows, texts up to the positions'."""

from __future__ import annotations

import re
import sys
from typing import Any

from torch import nn

from fedfm.core.errors import ModelError


def positions(network: Any) -> int:
    """The most tokens that the learned position tables can number; a very large number where there are none.

    RoBERTa, MPNet, ESM and others number from their padding index + 1, OPT and BART from an offset.
    """
    found = [sys.maxsize]
    for name, layer in network.named_modules():
        leaf = name.rpartition(".")[2]
        if isinstance(layer, nn.Embedding) and re.search("position|wpe", leaf) and "rel" not in leaf:
            first = int(getattr(layer, "offset", 0)) + (
                0 if layer.padding_idx is None else layer.padding_idx + 1
            )
            found.append(layer.num_embeddings - first)
    return min(found)


def longest(network: Any, tokenizer: Any, wanted: int) -> int:
    """The most tokens of one text: `wanted`, or what positions, config and tokenizer allow."""
    said = getattr(network.config, "max_position_embeddings", None)
    told = said if isinstance(said, int) and said > 0 else sys.maxsize  # XLNet says -1: no limit
    return min(wanted, told, positions(network), int(tokenizer.model_max_length))


def rows(network: Any) -> int:
    """Rows of the input embedding: ids must lie below."""
    table = network.get_input_embeddings()
    return int(table.weight.shape[0]) if hasattr(table, "weight") else sys.maxsize


def same_vocabulary(model: str, network: Any, tokenizer: Any) -> None:
    """Raise ModelError when a token that every text gets (padding, start, end) has no row in the embedding."""
    have = rows(network)
    usual = {"pad": tokenizer.pad_token_id, "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    usual |= {"cls": tokenizer.cls_token_id, "sep": tokenizer.sep_token_id}
    beyond = {name: i for name, i in usual.items() if i is not None and i >= have}
    if beyond:
        name, i = next(iter(beyond.items()))
        raise ModelError(too_many(model, len(tokenizer), have, f"the {name} token is number {i}"))


def too_many(model: str, tokens: int, have: int, why: str) -> str:
    """The refusal of a tokenizer that knows more tokens than the network."""
    return (
        f"{model}: the tokenizer has {tokens} tokens, the model's embedding {have} rows\n    why: {why}\n"
        "    fix: resize the embedding (resize_token_embeddings) and save the model, or take its own tokenizer"
    )
