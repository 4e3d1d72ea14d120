"""What a model folder's files say before any of them is loaded: the ordinary faults, each with its fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedfm.core.errors import ModelError

# what any of the libraries' tokenizers reads its vocabulary from
VOCABULARIES = (
    "tokenizer.json",
    "*.model",
    "vocab*",
    "*.tiktoken",
    "tekken.json",
    "*.spm",
    "*.bpe",
    "*.codes",
)
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_LFS = b"version https://git-lfs"


def check(folder: Path) -> None:
    """Raise ModelError for a folder that cannot be a base model, or whose other files would change it unasked."""
    if not (folder / "config.json").is_file():
        raise _fault(folder, "no config.json here", *_without_config(folder))
    if (folder / "adapter_config.json").exists():
        raise _fault(
            folder,
            "holds a checkpoint and an adapter",
            "adapter_config.json lies beside config.json, and it is not clear which of the two is meant",
            "move one of them to another folder; to go on from the adapter name it as task.start",
        )
    config = read(folder / "config.json")
    method = config.get("quantization_config")
    if isinstance(method, dict) and method:
        how = method.get("quant_method") or "a quantiser"
        raise _fault(
            folder,
            f"its weights are quantised with {how}",
            "fedfm tunes unquantised weights",
            "name the original model",
        )
    whole = (name for name in INDEXES if (folder / name).is_file() or (folder / _one(name)).exists())
    if (first := next(whole, None)) and not (folder / _one(first)).exists():
        _shards(folder, first)
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(_LFS):
            raise _fault(
                folder,
                f"{file.name} is a git-lfs pointer",
                "the file itself was not downloaded",
                "run `git lfs pull` in the folder it was cloned to",
            )


def _one(index: str) -> str:
    """The one file that is read instead of an index, where it is there."""
    return index.removesuffix(".index.json")


def _shards(folder: Path, index: str) -> None:
    """Raise ModelError for an index whose weights are not all beside it: what lies elsewhere is in no digest of the model."""
    named = read(folder / index).get("weight_map")
    files = sorted(set(map(str, named.values()))) if isinstance(named, dict) else []
    again = "copy the whole folder again, or save it again with save_pretrained"
    if not files:
        raise _fault(folder / index, "names no weights", "its `weight_map` says which file holds what", again)
    if away := [f for f in files if Path(f).name != f]:
        why = "a model's weights lie in its folder: others may change, or be somebody else's, and nobody would notice"
        raise _fault(folder / index, f"names weights outside of the folder ({away[0]})", why, again)
    if gone := [f for f in files if not (folder / f).is_file()]:
        why = f"{len(gone)} of the {len(files)} files that {index} names are not here"
        raise _fault(folder, f"{gone[0]} is missing", why, again)


def read(file: Path) -> dict[str, Any]:
    """A JSON object from a file of a model folder. Raises ModelError."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise _fault(file, "cannot be read", f"{type(e).__name__}: {e}", "restore the file") from e
    if not isinstance(record, dict):
        raise _fault(file, "is no JSON object", f"it holds {type(record).__name__}", "restore the file")
    return record


def code(folder: Path) -> list[str]:
    """The Python files that a folder's configurations ask to run."""
    asks = False
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        if (folder / name).is_file():
            asks |= "auto_map" in read(folder / name)
    return sorted(p.name for p in folder.glob("*.py")) or ["code of another repository"] if asks else []


def vocabulary(folder: Path) -> bool:
    """Is there a file that a tokenizer could read its vocabulary from?"""
    return any(next(folder.glob(pattern), None) is not None for pattern in VOCABULARIES)


def _without_config(folder: Path) -> tuple[str, str]:
    if (folder / "adapter_config.json").is_file():
        base = read(folder / "adapter_config.json").get("base_model_name_or_path") or "its base model"
        return (
            "it is an adapter",
            f"name its base model, and go on from it: task.model={base} task.start={folder}",
        )
    if files := sorted(folder.glob("*.gguf")):
        return f"{files[0].name} is a GGUF file", "convert it to Hugging Face layout (safetensors) first"
    inside = sorted(p.parent.name for p in folder.glob("*/config.json"))
    fix = (
        f"did you mean {folder / inside[0]}?"
        if inside
        else "name a folder that does, or one of `fedfm models`"
    )
    return "a model folder holds config.json, the tokenizer and the weights", fix


def _fault(where: Path, what: str, why: str, fix: str) -> ModelError:
    return ModelError(f"{where}: {what}\n    why: {why}\n    fix: {fix}")
