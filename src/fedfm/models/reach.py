"""A hub id without a network: one quick attempt to reach the hub, then its cache alone, without retries."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from fedfm.core.errors import ModelError

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


@contextlib.contextmanager
def cached_at_least(where: str) -> Iterator[None]:
    """Inside, `from_pretrained` of a hub id reads the hub's cache alone when the hub does not answer."""
    from huggingface_hub import constants

    if os.path.isdir(where) or reachable():
        yield
        return
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def refusal(model: str, where: str, what: str, e: Exception) -> ModelError:
    """The error for a model that `from_pretrained` could not load from `where`."""
    why, other = " ".join(str(e).split()), "take one of `fedfm models`"
    if os.path.isdir(where):
        fix = f"give a folder in Hugging Face layout (config.json, tokenizer, *.safetensors), or {other}"
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
