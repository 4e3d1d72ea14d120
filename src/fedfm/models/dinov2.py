"""DINOv2 out of an ONNX graph: the exporter kept the names of the parameters, except where it folded them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfm.core.errors import ModelError

if TYPE_CHECKING:
    import torch

_ROOT = "backbone."
_POSITIONS = "/backbone/embeddings/"


def dinov2(file: Path, folder: Path) -> None:
    """Write the backbone of the graph in `file` as a Hugging Face `Dinov2Model` (ViT-S/14) to `folder`.

    The graph lacks only the mask token, which pre-training alone reads; it is zero here. Raises ModelError when
    the graph holds other parameters than the model. Source: DINOv2, Oquab et al. 2023 (arXiv 2304.07193).
    """
    import torch
    from safetensors.torch import save_file
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        num_hidden_layers=12,
        image_size=518,
        patch_size=14,
        architectures=["Dinov2Model"],
    )
    weights = _weights(file)
    weights["embeddings.mask_token"] = torch.zeros(1, config.hidden_size)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_diff_dict()), encoding="utf-8")
    # the loader knows the names of its own version; these are the names that every version reads
    loaded: Any = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    told = loaded[1]
    if wrong := [*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"]]:
        raise ModelError(
            f"{file.name}: not a DINOv2 ViT-S/14: {len(wrong)} parameters differ, such as {wrong[0]}"
        )
    pixels = {
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "image_processor_type": "BitImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels, indent=2) + "\n", encoding="utf-8")


def _weights(file: Path) -> dict[str, torch.Tensor]:
    import torch

    onnx: Any = importlib.import_module("onnx")
    graph = onnx.load(str(file)).graph
    tensors = {
        tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in graph.initializer
    }
    weights = {name.removeprefix(_ROOT): value for name, value in tensors.items() if name.startswith(_ROOT)}
    positions: dict[str, torch.Tensor] = {}
    for node in graph.node:
        held = next((name for name in node.input if name in tensors), "")
        if not held.startswith("onnx::") or not node.name.startswith("/" + _ROOT[:-1]):
            continue
        if node.op_type == "MatMul":  # x @ W here, x @ W.T in a linear layer
            name = node.name.removesuffix("/MatMul").replace("/", ".").removeprefix("." + _ROOT)
            weights[f"{name}.weight"] = tensors[held].T.contiguous()
        elif node.name.startswith(_POSITIONS):
            # the exporter cut the table in two: the class token's row, and the patches' rows to be resized
            positions[node.op_type] = tensors[held]
    if {"Concat", "Reshape"} <= positions.keys():
        table = torch.cat([positions["Concat"], positions["Reshape"]], dim=1)
        weights["embeddings.position_embeddings"] = table
    return weights
