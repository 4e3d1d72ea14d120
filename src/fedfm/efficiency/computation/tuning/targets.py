"""Which linear layers an adapter goes to: by name, all of them, or the attention's usual ones."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from fedfm.core.errors import ModelError
from fedfm.text import nearest

ALL = "all-linear"
# What the attention's query and value projections are called; the first set that a network has is adapted.
USUAL = (
    ("query", "value"),
    ("q_proj", "v_proj"),
    ("q_lin", "v_lin"),
    ("c_attn",),
    ("query_key_value",),
    ("qkv",),
    ("Wqkv",),
    ("qkv_proj",),
    ("query_proj", "value_proj"),
    ("q_b_proj", "kv_b_proj"),  # low-rank query and key-value projections
    ("q_proj", "kv_b_proj"),
    ("q", "v"),
    ("in_proj", "x_proj"),  # state-space models
)
PATTERN = "\n    why: a name is the last part of a layer's own; patterns and paths are not read"
NEVER = {"mamba": {"out_proj"}, "mamba2": {"out_proj"}, "falcon_mamba": {"out_proj"}, "jamba": {"out_proj"}}


def targets(base: Any, wanted: tuple[str, ...] | str | None) -> tuple[str, ...]:
    """The layer names to adapt; null: the usual ones, or all where a network has none of these; a word is a list of one.

    Raises ModelError when the network lacks one, or when one is the output layer and tied to the input embedding.
    """
    kinds = linear(base)
    if wanted is None:
        wanted = next((usual for usual in USUAL if kinds.issuperset(usual)), ALL)
    wanted = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    out = _output(base)
    tied = {out} if out and _tied(base) else set[str]()
    fix = f"\n    fix: write [{', '.join(sorted(kinds - tied))}] or some of these, or {ALL}"
    if not wanted:
        raise ModelError("task.tuning.targets: it names no layer, so nothing would be trained" + fix)
    if ALL in wanted:
        refused = NEVER.get(str(getattr(getattr(base, "config", None), "model_type", "")), set())
        every = kinds - refused - ({out} if out else set())
        wanted = (*sorted(every), *(t for t in wanted if t not in {ALL, *every}))
        if not wanted:
            raise ModelError(
                f"{type(base).__name__}: it has no linear layers to adapt\n    fix: use the tuning full"
            )
    if unknown := [t for t in wanted if t not in kinds]:
        raise ModelError(
            f"task.tuning.targets: {type(base).__name__} has no linear layer called "
            + "; nor ".join(f"'{t}' ({nearest(t, {*kinds, ALL} - tied)})" for t in unknown)
            + (PATTERN if any(re.search(r"[^\w-]", t) for t in unknown) else "")
            + fix
        )
    if tied.intersection(wanted):
        raise ModelError(
            f"task.tuning.targets: '{out}' is tied to the input embedding\n    why: merged into the base, "
            "the update would change the embedding too\n    fix: leave it out"
        )
    return wanted


def linear(base: nn.Module) -> set[str]:
    """The last names of the linear layers."""
    return {
        name.rpartition(".")[2]
        for name, layer in base.named_modules()
        if isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"
    }


def _output(base: Any) -> str | None:
    out = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    return (
        next((n.rpartition(".")[2] for n, m in base.named_modules() if m is out), None)
        if out is not None
        else None
    )


def _tied(base: Any) -> bool:
    return base.get_output_embeddings().weight is base.get_input_embeddings().weight
