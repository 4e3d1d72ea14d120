"""A hub id without a network: one quick attempt to reach the hub, then its cache alone, without retries."""

from __future__ import annotations

import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from fedfm.core.errors import ModelError
from fedfm.models.folder import code

SECONDS = 4.0  # for the one attempt; the hub's own client would try six times a file
_KEPT = 60.0  # seconds for which a hub that did not answer is not asked again
_answers: dict[str, tuple[bool, float]] = {}


def reachable() -> bool:
    """Does the hub answer, whatever it says? False as well where HF_HUB_OFFLINE forbids to ask."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    answered, when = _answers.get(constants.ENDPOINT, (False, -_KEPT))
    if answered or time.monotonic() - when < _KEPT:
        return answered
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
        answered = True
    except Exception:  # noqa: BLE001 - the client raises a dozen types here, all of which mean "no answer"
        answered = False
    _answers[constants.ENDPOINT] = answered, time.monotonic()
    return answered


def _chain(e: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it: older libraries say in the innermost what newer ones say at once."""
    while e is not None:
        yield e
        e = e.__cause__ or e.__context__


def refusal(model: str, where: str, what: str, e: Exception, own_fix: str = "") -> ModelError:
    """The error for a model that a foreign library could not use; its own advice is not passed on."""
    why, other = _told(e), "take one of `fedfm models`"
    folder, fix = Path(where), own_fix
    if fix:
        pass
    elif folder.is_dir():
        fix = f"give a folder in Hugging Face layout (config.json, tokenizer, *.safetensors), or {other}"
        pickles = ", ".join(sorted(p.name for p in folder.glob("*.bin"))) or "a file"
        if brought := code(folder):
            why = f"this folder brings code of its own ({', '.join(brought)}), and fedfm does not run it"
            fix = f"take a model that the installed transformers knows by itself, or {other}"
        elif any("unpickl" in f"{type(x).__name__} {x}".lower() for x in _chain(e)):
            why = f"{pickles} holds other objects than tensors, and nothing is ever unpickled"
            fix = f"ask its author for safetensors, or {other}"
        elif cut := [p.name for p in folder.glob("*.bin") if not zipfile.is_zipfile(p)]:
            why, fix = f"{', '.join(sorted(cut))} is damaged or was cut off", "download it again"
        elif isinstance(e, ImportError):
            why, fix = f"a library that it needs is missing: {why}", "install it, or take another model"
    elif isinstance(e, OSError) and not reachable():
        from huggingface_hub import constants

        off = (
            "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
        )
        why = f"{off}, and its files are not in the cache of the hub"
        fix = (
            f"where there is a network, `hf download {where} --local-dir folder`; "
            f"then task.model=./folder; or {other}"
        )
    else:
        fix = f"check its name on the hub (a gated one needs `hf auth login`), or {other}"
    return ModelError(f"{model}: {what}\n    why: {why}\n    fix: {fix}")


def _told(e: Exception) -> str:
    """What a library said, shortened, without the switches that it would have the user turn."""
    sentences = re.split(r"(?<=[.!?])\s+", " ".join(str(e).split()))
    kept = [s for s in sentences if not re.search("trust_remote_code|weights_only|ignore_mismatched", s)]
    text = " ".join(kept) or type(e).__name__
    text = text if len(text) <= 300 else text[:297] + "..."
    return text if isinstance(e, OSError | ValueError) else f"{type(e).__name__}: {text}"
