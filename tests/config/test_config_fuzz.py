"""Configs of strangers: whatever the text, a problem in our own words and in bounded time, and never a traceback."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedfm.config.building import from_config
from fedfm.config.compose import resolve
from fedfm.config.record import to_config
from fedfm.config.text import dump, load, override, parse
from fedfm.core.errors import ConfigError
from fedfm.laws.homes import quadratics

PLAIN = to_config(quadratics())
KEYS = [
    "client",
    "uplink",
    "task",
    "pace",
    "drop",
    "name",
    "lr",
    "steps",
    "seed",
    "rounds",
    "recipe",
    "select",
    "data",
]
BOMB = "a: &a [x, x]\n" + "".join(
    f"{c}: &{c} [*{b}, *{b}, *{b}, *{b}]\n" for b, c in zip("abcdefghi", "bcdefghij", strict=True)
)
TEXTS = {
    "a cycle": ("client: &a {name: *a}", "stands inside what it names"),
    "a cycle of lists": ("client: &a [*a]", "stands inside what it names"),
    "a bomb": (BOMB, "values"),
    "a bomb of merges": (
        "a: &a {x: 1}\nb: &b {<<: [*a, *a], y: *a}\n" + "c: {<<: [" + "*b, " * 40_000 + "*b]}",
        "values",
    ),
    "deep": ("client: " + "[" * 5_000 + "]" * 5_000, "nested deeper"),
    "deep blocks": ("\n".join(" " * k + f"k{k}:" for k in range(200)), "nested deeper"),
    "a key twice": ("client: {name: local, lr: 1, lr: 2}", "stands here twice"),
    "a slot twice": ("rounds: 1\nseed: 2\nrounds: 3", "stands here twice (first on line 1)"),
    "a number as key": ("pace: {name: quorum, drop: {1: upload}}", "put it in quotation marks"),
    "a truth as key": ("client: {true: 1}", "put it in quotation marks"),
    "a list as key": ("? [a, b]\n: 1", "put it in quotation marks"),
    "no int": ("seed: !!int abc", "is no value"),
    "a long number": ("seed: " + "9" * 5_000, "is no value"),
    "a tag": ("client: !!python/object:os.system {}", "tag"),
    "a tag of nobody's": ("client: !mine 3", "tag"),
    "a binary": ("client: !!binary x", "tag"),
    "a date": ("client: !!timestamp 2024-99-99", "tag"),
    "half an emoji": ('client: "\\ud83d"', "half a character"),
    "a bell": ("client: \x07", "special characters"),
    "too long": ("# " + "x" * 1_000_001, "characters"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_texts_that_no_yaml_reader_should_follow(case: str) -> None:
    text, words = TEXTS[case]
    with pytest.raises(ConfigError) as e:
        parse(text, "x.yaml")
    (problem,) = e.value.problems
    assert words in problem.why and "\n" not in problem.why and len(str(problem)) < 600, problem


def test_words_are_words_and_dates_are_words() -> None:
    read = parse(
        "a: no\nb: 1:30\nc: 2024-05-06\nd: 010\ne: 1e-3\nf: yes\ng: ~\nh: true\ni: 0x10\nj: .5\nk: 1_000", "x"
    )
    assert read == {
        "a": "no", "b": "1:30", "c": "2024-05-06", "d": 10, "e": 1e-3, "f": "yes", "g": None, "h": True, "i": 16,
        "j": 0.5, "k": "1_000",
    }  # fmt: skip
    assert parse("a: &x {k: 1}\nb: {<<: *x, l: 2}\nc: *x", "x")["b"] == {"k": 1, "l": 2}
    odd = {
        "no": "yes",
        "x": ["1:30", "1e3", "~", "", " ", "2024-05-06", "0o7", "a: b", "#", "\u2028", "1_000", "=", "<<"],
    }
    assert parse(dump(odd), "x") == odd and "&" not in dump({"a": odd, "b": odd})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_files_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    path.write_bytes(mark + "recipe: fedit\n# \u00e4\n".encode(encoding))
    if encoding == "latin-1":
        with pytest.raises(ConfigError, match="save it as UTF-8"):
            load(path)
    else:
        assert load(path) == {"recipe": "fedit"}
    for bad in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(bad)
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError):
        load(path)


# ---- fuzz -----------------------------------------------------------------------------------------------------
WORDS = st.sampled_from(
    [*KEYS, "topk", "local", "quorum", "object", "", "a.b", "0", "*", "null", "\ud800", "x" * 200]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    WORDS,
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(WORDS, v, max_size=3)), max_leaves=8
)
TOKENS = st.sampled_from(
    [
        "{",
        "}",
        "[",
        "]",
        ": ",
        ", ",
        "\n",
        "  ",
        "- ",
        "? ",
        "&a ",
        "*a",
        "!!int ",
        "!x ",
        "|",
        ">",
        "'",
        '"',
        "#",
        "%",
    ]
    + [
        "<<: ",
        "---\n",
        "...\n",
        "\t",
        "~",
        "1",
        "-1",
        "1e999",
        ".nan",
        "name",
        "topk",
        "\x00",
        "\ufeff",
        *KEYS,
    ]
)
TEXT = st.one_of(st.lists(TOKENS, max_size=25).map("".join), st.text(max_size=40))
PATHS = st.lists(
    st.one_of(st.sampled_from([*KEYS, "0", "1", "fraction", "rules", "local"]), st.text(max_size=4)),
    max_size=4,
)


def never_a_traceback(text: str, path: list[str], value: str, config: Any) -> None:
    for go in (
        lambda: from_config(resolve(parse(text, "x.yaml"))),
        lambda: from_config(override(dict(PLAIN), [".".join(path) + "=" + value])),
        lambda: from_config(override(dict(PLAIN), [text])),
        lambda: from_config(
            resolve({**PLAIN, **config}) if isinstance(config, dict) else {**PLAIN, "client": config}
        ),
        lambda: parse(dump(to_config(from_config({**PLAIN, "client": config}))), "again"),
        lambda: from_config(
            override(dict(PLAIN), ["uplink=[topk, qsgd]", "uplink." + ".".join(path) + "=" + value])
        ),
    ):
        try:
            go()
        except ConfigError as e:
            assert e.problems and all(p.where and p.what and p.why and p.fix for p in e.problems)
            str(e).encode("utf-8", "replace")


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(TEXT, PATHS, TEXT, VALUES)
def test_fuzzed_configs(text: str, path: list[str], value: str, config: Any) -> None:
    never_a_traceback(text, path, value, config)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(TEXT, PATHS, TEXT, VALUES)
def test_many_fuzzed_configs(text: str, path: list[str], value: str, config: Any) -> None:
    never_a_traceback(text, path, value, config)
