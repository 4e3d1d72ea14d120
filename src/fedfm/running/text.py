"""Configs as text: YAML files, and `slot.field=value` on a command line."""

from __future__ import annotations

from collections.abc import Iterable

import yaml

from fedfm.core.config import Config, put
from fedfm.core.errors import ConfigError, Problem


def dump(config: Config) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=110)


def parse(text: str, where: str) -> Config:
    """A config from YAML text."""
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError([Problem(where, "this is no YAML", str(e).replace("\n", " "), "mend the line it names")]) from e
    if not isinstance(config, dict):
        raise ConfigError([Problem(where, "a config is a mapping", f"this is {type(config).__name__}", "start with `recipe: NAME`")])
    return config


def override(config: Config, settings: Iterable[str]) -> Config:
    """Apply `slot.field=value` settings (values are YAML) to a complete config."""
    problems: list[Problem] = []
    for setting in settings:
        path, eq, text = setting.partition("=")
        problem: Problem | None = Problem(setting, "not a setting", "a setting reads slot.field=value", f"{setting}=VALUE")
        try:
            problem = put(config, path, yaml.safe_load(text)) if eq else problem
        except yaml.YAMLError as e:
            problem = Problem(path, f"'{text}' is no YAML value", str(e).split("\n")[0], "quote it")
        problems += [problem] if problem else []
    if problems:
        raise ConfigError(problems)
    return config
