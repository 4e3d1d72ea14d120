"""What a model folder's files say before any of them is loaded: the ordinary faults, each with its fix."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
DEEPEST = 10_000
FLOATS = ("F16", "BF16", "F32", "F64")
LONGEST = 100_000_000  # bytes of a header, as safetensors itself has it
_LFS = b"version https://git-lfs"


def check(folder: Path) -> None:
    """Raise ModelError for a folder that cannot be a base model, or whose other files would change it unasked."""
    regular(folder)
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
    _depth(folder, config)
    _codes(folder)
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


def regular(folder: Path) -> None:
    """Raise ModelError for a pipe, a socket or a device among the files: whoever reads one waits for ever."""
    for path in sorted(folder.iterdir()):
        if path.exists() and not path.is_file() and not path.is_dir():
            why = "it is a pipe, a socket or a device, and whoever reads it waits for ever"
            raise _fault(path, "is not a file", why, "put the file itself there, or remove it")


def _depth(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelError for a network that would be built until the memory is full."""
    for key in DEPTHS:
        if isinstance(n := config.get(key), int) and n > DEEPEST:
            why = f"{key}={n:,}, and no network has more than {DEEPEST:,} layers"
            raise _fault(
                folder / "config.json", "names a network that cannot be built", why, "restore the file"
            )


def _codes(folder: Path) -> None:
    """Raise ModelError for weights that are integers or eighths, and whose scales nobody has: they would be taken as they are."""
    for file in sorted(folder.glob("*.safetensors")):
        coded = sorted(
            name
            for name, told in header(file).items()
            if name.endswith("weight")
            and isinstance(told, dict)
            and str(told.get("dtype")) not in FLOATS
            and len(told.get("shape") or ()) > 1
        )
        if coded:
            raise _fault(
                file,
                f"holds weights that are codes of a quantiser ({len(coded)}, the first is {coded[0]})",
                "config.json has no quantization_config, and nobody says what scale they have",
                "name the original model, or restore its config.json",
            )


def header(file: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors, none of which is read; empty for a file that its loader will refuse."""
    try:
        with file.open("rb") as f:
            told = json.loads(f.read(min(int.from_bytes(f.read(8), "little"), LONGEST)))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


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
