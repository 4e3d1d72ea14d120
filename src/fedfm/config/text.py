"""Configs as text: YAML files, and `slot.field=value` on a command line."""

from __future__ import annotations

import codecs
import json
import shlex
from collections.abc import Iterable
from pathlib import Path

from yaml import YAMLError

from fedfm.config.compose import Composition, Config, twice
from fedfm.config.yaml import read, write
from fedfm.core.errors import ConfigError, Problem
from fedfm.files import path as meant

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def dump(config: Config) -> str:
    return write(config)


def load(path: str | Path) -> Config:
    """A config from a YAML file in UTF-8, or in whatever its byte order mark says."""
    try:
        raw = meant(path).read_bytes()
    except OSError as e:
        why = f"{e.strerror or e}; looked in {Path.cwd()}"
        raise ConfigError(
            [Problem(str(path), "cannot be read", why, "give the path of a YAML config")]
        ) from e
    encoding = next((name for mark, name in _MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        return parse(raw.decode(encoding), str(path))
    except UnicodeDecodeError as e:
        why = f"byte {e.start} is no {encoding}"
        raise ConfigError([Problem(str(path), "this is no text", why, "save it as UTF-8")]) from e


def parse(text: str, where: str) -> Config:
    """A config from YAML text."""
    try:
        config = read(text)
    except YAMLError as e:
        raise ConfigError([Problem(where, "this is no YAML", _says(e), "mend the line it names")]) from e
    if not isinstance(config, dict):
        why = f"this is {type(config).__name__}"
        raise ConfigError([Problem(where, "a config is a mapping", why, "start with `recipe: NAME`")])
    if problems := list(twice(config, deep=True)):
        raise ConfigError(problems)
    return config


def override(config: Config, settings: Iterable[str]) -> Config:
    """Apply `slot.field=value` settings (values are YAML) to a complete config."""
    made = Composition(config)
    apply(made, settings)
    done: Config = made.done()
    return done


def apply(made: Composition, settings: Iterable[str]) -> None:
    before: dict[str, str] = {}
    settings = list(settings)
    if (torn := _torn(settings)) is not None:
        made.problems.append(torn)
        return
    for setting in sorted(
        settings, key=_depth
    ):  # a slot is filled before its fields are set, in whatever order
        path, eq, text = setting.partition("=")
        if not eq or not path.strip():
            what = "a setting reads slot.field=value"
            made.problems.append(
                Problem(setting[:80] or "''", "not a setting", what, f"{setting[:80] or 'rounds'}=VALUE")
            )
            continue
        if (was := before.get(path.strip(), text)) != text:
            made.notes.append(f"{path.strip()}={was} gives way to {path.strip()}={text}")
        before[path.strip()] = text
        try:
            value = read(text)
            made.put(path.strip(), value)
            before |= (
                {f"{path.strip()}.{k}": str(v) for k, v in value.items()} if isinstance(value, dict) else {}
            )
        except YAMLError as e:
            what = f"'{text[:80]}' is no YAML value"
            made.problems.append(Problem(path[:80], what, _says(e), _mended(path, text)))


def _depth(setting: str) -> int:
    return setting.partition("=")[0].count(".")


def _torn(settings: list[str]) -> Problem | None:
    """A setting that a shell has cut at its blanks."""
    for i, setting in enumerate(settings):
        path, eq, value = setting.partition("=")
        rest = settings[i + 1 :]
        lone = not eq and path.strip() and rest and rest[0].startswith("=")
        opened = sum(map(value.count, "[{")) > sum(map(value.count, "]}"))
        cut = eq and rest and "=" not in rest[0] and (not value or opened or "/" in value or "\\" in value)
        if lone or cut:
            stop = next((k for k, s in enumerate(rest[1:], i + 2) if "=" in s), len(settings))
            whole = " ".join(settings[i:stop])
            name, _, said = whole.partition("=")
            meant = shlex.quote(f"{name.strip()}={said.strip()}")
            return Problem(
                whole[:80],
                "a setting with blanks",
                "the shell cuts it there",
                f"{meant} (in quotes, without blanks around =)",
            )
    return None


def _says(e: YAMLError) -> str:
    """What YAML complains about, in one line."""
    told = [str(t) for t in (getattr(e, "context", None), getattr(e, "problem", None)) if t]
    mark = getattr(e, "problem_mark", None)
    at = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return " ".join((", ".join(told) or str(e)).split()).replace("<stream end>", "the end") + at


def _mended(path: str, text: str) -> str:
    """How to write a value that YAML cannot read: with its closing brackets, else as a string in quotes."""
    open_, strange = [], False
    for c in text:
        if c in "{[":
            open_.append("}" if c == "{" else "]")
        elif c in "}]":
            strange = strange or not open_ or open_.pop() != c
    if strange:
        return "every } and ] closes a { or [ before it: drop or correct the one that does not"
    if open_:
        missing = "".join(reversed(open_))
        return f"close what is open: {missing} is missing at the end"
    if text.lstrip()[:1] in ("'", '"'):
        return "end the quotation mark that it starts with"
    if text.lstrip()[:1] in ("{", "["):
        return "a mapping reads {key: value, ...} and a list [a, b, ...]; put odd words in quotation marks"
    return "if it is text, quote it: " + shlex.quote(f"{path}={json.dumps(text, ensure_ascii=False)}")
