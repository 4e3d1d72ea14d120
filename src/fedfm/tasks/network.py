"""Pre-trained networks and tokenizers: loaded whole or not at all, without noise and without a global draw."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedfm.core.errors import FedfmError, ModelError
from fedfm.lent import PARALLEL
from fedfm.models.folder import code, vocabulary
from fedfm.models.reach import refusal
from fedfm.models.store import local

SEED = 20_240_917  # of every fresh tensor (heads, LoRA's A), so that all workers start from the same bits
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
HEADS = (
    "classifier",
    "score",
    "classification_head",
    "sequence_classification_head",
)  # of classifiers of texts


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
    logging.set_verbosity(levels.CRITICAL)
    hub.set_verbosity(levels.ERROR)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        logging.set_verbosity(level)
        hub.set_verbosity(retries)
        if bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def guarded(model: str, what: str, where: str = "", fix: str = "") -> Iterator[None]:
    """Whatever a foreign library raises inside, on files of the user, becomes a ModelError: what, why, fix."""
    try:
        yield
    except FedfmError:
        raise
    except Exception as e:  # noqa: BLE001 - nobody can list what loaders of strangers' files raise
        raise refusal(model, where or model, what, e, fix) from e


def load_base(
    auto: str,
    model: str,
    *,
    dtype: str = "float32",
    dropout: float = 0.0,
    checkpointing: bool = False,
    pictures: bool = False,
) -> Any:
    """The network that `transformers.<auto>` makes of `model`, on the CPU, every tensor from the checkpoint.

    Every dropout rate of its config becomes `dropout`. Code of a folder is never run. Raises ModelError for a model of
    another kind, and for a checkpoint that lacks tensors of the network, holds more than it has, or NaN.
    """
    import transformers

    where = str(local(model))
    with guarded(model, f"{auto} cannot load it", where), fresh(), quiet():
        config = transformers.AutoConfig.from_pretrained(
            where, trust_remote_code=False, local_files_only=True
        )
        (_sees if pictures else _reads)(auto, model, config)
        for key, value in vars(config).items():
            if (
                re.search("dropout|pdrop", key)
                and isinstance(value, int | float)
                and not isinstance(value, bool)
            ):
                setattr(config, key, dropout)
        network, told = getattr(transformers, auto).from_pretrained(
            where,
            config=config,
            dtype=DTYPES[dtype],
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, with their names
        )
    _whole(model, network, told)
    finite(model, network.named_parameters())
    learnt(model, network)
    if brought := code(Path(where)):
        warnings.warn(
            f"fedfm: {model} brings code of its own ({', '.join(brought)}), which is not run: what is tuned is "
            f"{type(network).__name__} of transformers, and whoever loads the result with that code has another model",
            stacklevel=2,
        )
    if checkpointing:
        off = "task.gradient_checkpointing=false"
        with guarded(model, "gradient checkpointing cannot be switched on", where, off):
            network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return network


def finite(where: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise ModelError for weights that are no numbers: what was saved after a divergence is no model to begin from."""
    sick = [n for n, t in tensors if t.numel() and t.is_floating_point() and not _ends(t).isfinite().all()]
    if sick:
        raise ModelError(
            f"{where}: holds weights that are not finite\n    why: {len(sick)} tensors have NaN or infinite values "
            f"({_some(sick)}), and whatever is computed with them is NaN\n    fix: take a checkpoint from before they were lost"
        )


def learnt(model: str, network: nn.Module) -> None:
    """Raise ModelError for a network whose matrices are all zero: nothing reaches its outputs, and nothing is learnt."""
    matrices = [p for p in network.parameters() if p.dim() > 1 and p.numel()]
    if matrices and not any(bool(p.detach().any()) for p in matrices):
        raise ModelError(
            f"{model}: its weights are zero\n    why: all {len(matrices)} matrices of the checkpoint hold nothing else, so that "
            "every input gives the same output\n    fix: copy or download the checkpoint again"
        )


def _ends(t: torch.Tensor) -> torch.Tensor:
    return torch.stack(torch.aminmax(t.detach().float()))  # both are NaN where one value is


def _sees(auto: str, model: str, config: Any) -> None:
    """Raise ModelError for a network that takes no pictures."""
    from transformers.models.auto import modeling_auto as known

    if type(config) not in known.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ModelError(
            f"{model}: is no vision model ({config.model_type})\n    why: this task shows pictures to an encoder\n"
            "    fix: take a vision encoder; for labels of texts use the task sequence-classification"
        )


def _reads(auto: str, model: str, config: Any) -> None:
    """Raise ModelError for a network that is not what the task reads text with."""
    from transformers.models.auto import modeling_auto as known

    kind, name = type(config), config.model_type
    if getattr(config, "is_encoder_decoder", False):
        is_a = "a sequence-to-sequence model"
    elif kind in known.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        is_a = "a vision model"
    elif auto == "AutoModelForCausalLM" and (
        kind not in known.MODEL_FOR_CAUSAL_LM_MAPPING
        or (kind in known.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False))
    ):
        masked = kind in known.MODEL_FOR_MASKED_LM_MAPPING
        is_a = "an encoder, which sees the words that it should predict" if masked else "no language model"
    else:
        return
    wants = (
        "a causal language model (a decoder)"
        if auto == "AutoModelForCausalLM"
        else "a text encoder or decoder"
    )
    raise ModelError(
        f"{model}: is {is_a} ({name})\n    why: this task tunes {wants}\n    fix: take a model of that kind"
        + ("; for labels of texts use the task sequence-classification" if "encoder," in is_a else "")
    )


def _whole(model: str, network: Any, told: dict[str, Any]) -> None:
    """Raise ModelError unless every tensor came from the checkpoint, and every tensor of its layers was used.

    A pooler that is thrown away may be missing; heads beside the network may be left over, a classifier not in silence.
    """
    if heads := sorted(k for k in told["unexpected_keys"] if k.split(".")[0] in HEADS):
        warnings.warn(
            f"fedfm: {model} brings a trained head ({_some(heads)}), which is not used: the task begins with a new one, and "
            "the base model's score is that of the new one (task.start=FOLDER goes on from a model that fedfm tuned)",
            UserWarning,
            stacklevel=3,
        )
    missing = sorted(k for k in told["missing_keys"] if "pooler" not in k)
    tops = {name for name, _ in network.named_children()}
    prefix = f"{network.base_model_prefix}."
    tops |= {name for name, _ in getattr(network, network.base_model_prefix, nn.Module()).named_children()}
    left = sorted(
        k
        for k in told["unexpected_keys"]
        if k.removeprefix(prefix).split(".")[0] in tops and "pooler" not in k and "inv_freq" not in k
    )
    shapes = sorted(
        f"{name} is {tuple(theirs)}, and {tuple(ours)} in the network"
        for name, theirs, ours in told["mismatched_keys"]
    )
    if not missing and not left and not shapes:
        return
    whys = []
    if missing:
        other = sorted(told["unexpected_keys"])
        whys.append(
            f"{len(missing)} tensors of the network are not in the checkpoint ({_some(missing)})"
            + (f", which holds {_some(other)} instead" if other else "")
        )
    if left:
        whys.append(f"{len(left)} tensors of the checkpoint have no place in the network ({_some(left)})")
    if shapes:
        whys.append(f"{len(shapes)} tensors have other shapes: {_some(shapes)}")
    raise ModelError(
        f"{model}: its weights do not fit its config.json\n    why: {'; '.join(whys)}\n"
        "    fix: save it again with save_pretrained of the network itself (no wrapper), or restore its config.json"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")


def load_tokenizer(model: str) -> Any:
    """The tokenizer of `model`, with a pad token. Raises ModelError; a folder without one gets none invented."""
    import transformers

    os.environ.setdefault(PARALLEL, "false")
    place = local(model)
    with quiet():
        try:
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                place, trust_remote_code=False, local_files_only=True
            )
        except Exception as e:  # noqa: BLE001 - nobody can list what loaders of strangers' files raise
            _config(model, place)
            raise refusal(model, str(place), "its tokenizer cannot be loaded", e) from e
        names = type(tokenizer).vocab_files_names
    if names and not vocabulary(place):
        raise ModelError(
            f"{model}: no tokenizer here\n    why: {place} holds no tokenizer.json, vocab.txt, *.model, ...\n"
            "    fix: copy the tokenizer's files from the model that it was trained from"
        )
    most = tokenizer.model_max_length
    if isinstance(most, bool) or not isinstance(most, int | float) or not most >= 1:
        raise ModelError(
            f"{model}: its tokenizer_config.json says that a text may have {str(most)[:80]!r} tokens\n"
            "    why: model_max_length is a number of tokens, 1 or more\n    fix: correct it, or remove that line"
        )
    if tokenizer.pad_token_id is None:  # padding is masked: any token will do
        tokens = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.convert_ids_to_tokens(0))
        tokenizer.pad_token = next(t for t in tokens if t is not None)
    return tokenizer


def _config(model: str, place: Any) -> None:
    """Raise ModelError where it is config.json, which a tokenizer's loader reads too, that cannot be read."""
    import transformers

    try:
        transformers.AutoConfig.from_pretrained(place, trust_remote_code=False, local_files_only=True)
    except Exception as e:  # noqa: BLE001 - as above
        fix = (
            ""
            if code(place) or "Unrecognized model" in str(e)
            else "correct that value in config.json, or restore the file"
        )
        raise refusal(model, str(place), "its config.json cannot be used", e, fix) from e


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
