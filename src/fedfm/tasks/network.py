"""Pre-trained networks and tokenizers, loaded without noise and without a draw from a global generator."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from fedfm.models.reach import cached_at_least, refusal

SEED = 20_240_917  # of every fresh tensor (heads, LoRA's A), so that all workers start from the same bits
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@contextlib.contextmanager
def fresh() -> Iterator[None]:
    """Torch's CPU generator at a fixed seed for the initialisation inside, and as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)  # torch.manual_seed would reseed the accelerators as well
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, reports or notices of the libraries' own deprecations from what is inside."""
    import logging as levels

    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    level, bar, retries = logging.get_verbosity(), logging.is_progress_bar_enabled(), hub.get_verbosity()
    logging.set_verbosity(levels.ERROR)
    hub.set_verbosity(levels.ERROR)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        hub.set_verbosity(retries)
        if bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def folder(model: str) -> str:
    """What `from_pretrained` takes for a packaged name, a folder or a hub id."""
    from fedfm import models

    return models.path(model)


def load_base(
    auto: str, model: str, *, dtype: str = "float32", dropout: float = 0.0, checkpointing: bool = False
) -> Any:
    """The network that `transformers.<auto>` makes of `model`, on the CPU.

    Every dropout rate of its config becomes `dropout`. Raises ModelError.
    """
    import transformers

    where = folder(model)
    try:
        with fresh(), quiet(), cached_at_least(where):
            config = transformers.AutoConfig.from_pretrained(where)
            for key, value in vars(config).items():
                if (
                    re.search("dropout|pdrop", key)
                    and isinstance(value, int | float)
                    and not isinstance(value, bool)
                ):
                    setattr(config, key, dropout)
            network = getattr(transformers, auto).from_pretrained(where, config=config, dtype=DTYPES[dtype])
    except (OSError, ValueError, KeyError, SafetensorError) as e:
        raise refusal(model, where, f"{auto} cannot load it", e) from e
    if checkpointing:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return network


def load_tokenizer(model: str) -> Any:
    """The fast tokenizer of `model`, with a pad token. Raises ModelError."""
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its thread pool does not survive a fork
    where = folder(model)
    try:
        with quiet(), cached_at_least(where):
            tokenizer = transformers.AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError, KeyError) as e:
        raise refusal(model, where, "its tokenizer cannot be loaded", e) from e
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def longest(network: Any, tokenizer: Any, wanted: int) -> int:
    """The most tokens of one text: `wanted`, or what the network's positions and the tokenizer allow."""
    positions = getattr(network.config, "max_position_embeddings", None) or wanted
    return min(wanted, int(positions), int(tokenizer.model_max_length))


def share(module: nn.Module, whole: nn.Module, own: tuple[str, ...]) -> None:
    """Let the frozen parameters of `module` lie in the storage of `whole` (a prefix copy where a shape is cut)."""
    theirs = dict(whole.named_parameters())
    for name, mine in module.named_parameters():
        if mine.requires_grad or name in own:
            continue
        source = theirs[name].data
        mine.data = (
            source if source.shape == mine.shape else source[tuple(slice(n) for n in mine.shape)].clone()
        )
