"""One turn of a chat as people write it: role and content under several names, and whatever it says besides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedfm.data.kinds import Wrong, empty, kept_whole, plain, whole

ROLES = {  # of ShareGPT and its relatives, to those that chat templates know
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model", "function_call"), "assistant"),
    **dict.fromkeys(("function", "observation"), "tool"),
    "developer": "system",
}
BESIDE = "beside"  # of a row: what the turns of its question and its answer say besides their content
_ROLE, _CONTENT, _WEIGHT = ("role", "from"), ("content", "value"), ("weight", "train", "training")
_CHAT = 'a chat is a list of {"role": ..., "content": ...} or {"from": ..., "value": ...}'


def read(turn: Any) -> dict[str, Any]:
    """{role, content [, weight: 0], and every other key that has a value}; raises Wrong."""
    if not isinstance(turn, Mapping):
        raise Wrong(f"a turn that is {type(turn).__name__}, not role and content", _CHAT)
    role, content = _first(turn, _ROLE), _first(turn, _CONTENT)
    if not isinstance(role, str) or not role.strip():
        raise Wrong(f"a turn without a role (it has {', '.join(map(str, turn))})", _CHAT)
    also = {str(k): _told(v) for k, v in turn.items() if k not in (*_ROLE, *_CONTENT, *_WEIGHT)}
    if isinstance(content, Sequence) and not isinstance(content, str):
        content, parts = _joined(content)
        also |= parts
    also = {k: v for k, v in also.items() if v not in ([], {}) and not empty(v)}
    content = "" if content is None and "tool_calls" in also else content
    if not isinstance(content, str):
        raise Wrong(f"a turn whose content is {type(content).__name__}, not text", _CHAT)
    weight = _first(turn, _WEIGHT)
    if weight not in (None, 0, 1):
        raise Wrong(f"a turn of weight {str(weight)[:20]}", "weight 0 (not trained on) or 1")
    role = role.strip().casefold()
    kept: dict[str, Any] = {"role": ROLES.get(role, role), "content": whole(content)}
    return kept | ({"weight": 0} if weight in (0, False) else {}) | also


def beside(asked: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """What the turns of a question and of its answer say besides, as a column of the row; nothing where they do not."""
    turns = (("instruction", asked), ("answer", said))
    found = {column: also for column, turn in turns if (also := also_of(turn))}
    return {BESIDE: found} if found else {}


def also_of(turn: Mapping[str, Any]) -> dict[str, Any]:
    """What a turn says besides its content."""
    return {k: v for k, v in turn.items() if k not in ("role", "content", "weight")}


def texts(value: Any) -> Iterator[str]:
    """Every text in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for v in value.values() if isinstance(value, Mapping) else value:
            yield from texts(v)


def _first(turn: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((turn[n] for n in names if n in turn), None)


def _told(value: Any) -> Any:
    """Plain data; what is neither text nor number, such as a date, as its text."""
    value = plain(value)
    if value is None or isinstance(value, str | bool | int | float | Mapping | list | tuple):
        return kept_whole(value)
    return str(value)


def _joined(parts: Sequence[Any]) -> tuple[str, dict[str, str]]:
    """The text of a content in parts, as multimodal exports have it; parts of another type (thinking) under its name."""
    texts, also = list[str](), dict[str, str]()
    for part in parts:
        kind = str(part.get("type", "text")) if isinstance(part, Mapping) else "text"
        said = (part.get("text"), part.get(kind)) if isinstance(part, Mapping) else (part, part)
        if isinstance(said[0], str):
            texts.append(said[0])
        elif isinstance(said[1], str):
            also[kind] = also.get(kind, "") + said[1]
        else:
            raise Wrong("a turn with a part that is no text", "leave pictures and sounds out of the chats")
    return "".join(texts), also
