"""Configs as text: YAML files, and `slot.field=value` on a command line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable

import yaml

from fedfm.config.plain import Config, put
from fedfm.core.errors import ConfigError, Problem


def dump(config: Config) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=110)


def parse(text: str, where: str) -> Config:
    """A config from YAML text."""
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError([Problem(where, "this is no YAML", _says(e), "mend the line it names")]) from e
    if not isinstance(config, dict):
        raise ConfigError(
            [
                Problem(
                    where,
                    "a config is a mapping",
                    f"this is {type(config).__name__}",
                    "start with `recipe: NAME`",
                )
            ]
        )
    return config


def override(config: Config, settings: Iterable[str]) -> Config:
    """Apply `slot.field=value` settings (values are YAML) to a complete config."""
    problems: list[Problem] = []
    for setting in settings:
        path, eq, text = setting.partition("=")
        problem: Problem | None = Problem(
            setting, "not a setting", "a setting reads slot.field=value", f"{setting}=VALUE"
        )
        try:
            problem = put(config, path, yaml.safe_load(text)) if eq else problem
        except yaml.YAMLError as e:
            problem = Problem(path, f"'{text}' is no YAML value", _says(e), _mended(path, text))
        problems += [problem] if problem else []
    if problems:
        raise ConfigError(problems)
    return config


def _says(e: yaml.YAMLError) -> str:
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
