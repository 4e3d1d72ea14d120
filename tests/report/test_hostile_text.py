"""Text of strangers on every surface where it is shown: page, comparison, terminal, notebook, Markdown, errors."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_outline import PageOutline, page
from rich.table import Table
from typer.testing import CliRunner

from fedfm.cli import app, main
from fedfm.report.console import Terminal, said
from fedfm.running.printed import table, verdict
from fedfm.running.progress import round_line
from fedfm.running.verdict import Result
from fedfm.text import clean, line, markdown
from recorded import edited, lines, rewrite

Recorded = Callable[[str], Path]
SCRIPT = '<script>alert("x")</script>'
HOSTILE = [
    SCRIPT,
    "</script><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "[bold red]party[/bold red] [/] :skull:",
    "x\u202ey\ud800\x00\x1b[2J\x1b]0;title\x07",
    "p|q\n# heading\n```\n[link](javascript:alert(1)) {{ 7 * 7 }} {% raw %}",
]
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture
def hostile(recorded: Recorded, tmp_path: Path) -> Path:
    """A run whose parties, labels, metrics, reasons and methods have such names."""
    source = recorded("attack")
    names = {f"party-{i}": name for i, name in enumerate(HOSTILE)}
    told = json.loads((source / "summary.json").read_text())
    place = edited(
        source,
        tmp_path / SCRIPT.replace("/", "_"),
        names=names,
        metrics=lambda row: dict.fromkeys(HOSTILE, 0.5) | {f"accuracy/{n}": 0.4 for n in HOSTILE[:3]},
        summary={
            "recipe": SCRIPT,
            "engine": SCRIPT,
            "config_digest": SCRIPT,
            "status": "finished with findings",
            "reasons": HOSTILE,
            "adversaries": HOSTILE[:1],
            "versions": {SCRIPT: SCRIPT},
            "citations": [{"name": SCRIPT, "paper": n, "survey": [SCRIPT]} for n in HOSTILE],
            "dropped": dict.fromkeys(HOSTILE, 3),
            "server_rows": {"rows": 18, "of": dict.fromkeys(HOSTILE, 3)},
            "parties": {n: {"rows": 5, "distribution": dict.fromkeys(HOSTILE, 1)} for n in HOSTILE},
            "metric": told["metric"] | {"local_parties": dict.fromkeys(HOSTILE, 0.3), "local": 0.3},
            "privacy": {
                "epsilon": 1.0,
                "delta": 1e-5,
                "mechanism": SCRIPT,
                "sentence": HOSTILE[3],
                "note": SCRIPT,
            },
        },
    )
    events = lines(place / "events.jsonl")
    for kind in (SCRIPT, "dropout", "refused", "failed", "round_failed", "bytes", "privacy", "value", "pay"):
        for who in HOSTILE:
            fields = dict.fromkeys(("reason", "by", "error", "phase", "direction", "mechanism"), who)
            stages = {who: 5, "</g>": 3}
            events.append(
                {
                    "round": 2,
                    "kind": kind,
                    "client": who,
                    **fields,
                    "stages": stages,
                    "value": 1.0,
                    "amount": 2.0,
                }
                | {"sampling": {who: who}}
            )
    rewrite(place / "events.jsonl", events)
    (place / "config.yaml").write_text("recipe: x\nname: '" + SCRIPT + "'\n")
    return place


def shown(*things: Any) -> str:
    """What a terminal gets of these, in 300 columns and without colours."""
    stream = io.StringIO()
    terminal = Terminal(file=stream, width=300)
    for thing in things:
        terminal.print(thing)
    return stream.getvalue()


def test_a_page_of_one_run_and_of_two(hostile: Path, tmp_path: Path) -> None:
    for dirs in ([hostile], [hostile, hostile]):
        text = page(*dirs, out=tmp_path / "page.html")
        found = PageOutline(text)
        assert found.scripts.count("code") == 1
        assert all(address.startswith("#") for address in found.links)
        assert "<script>alert" not in text and "<img" not in text
        assert not STEERING.search(text) and "Valued on 18 rows" in text
        assert "&lt;script&gt;" in text and "{{ 7 * 7 }}" in text and "[bold red]party[/bold red]" in text


def test_the_terminal_after_a_run(hostile: Path) -> None:
    told = json.loads((hostile / "summary.json").read_text())
    told["metric"]["name"] = HOSTILE[3]
    told["failures"] = dict.fromkeys(HOSTILE, 2)
    text = shown(verdict(told), table(told, HOSTILE[3]))
    assert text.count("[bold red]party[/bold red] [/] :skull:") >= 5
    assert not STEERING.search(text) and "\n# heading" not in text


def test_the_terminal_during_a_run() -> None:
    for name in HOSTILE:
        record = {"round": 1, "metrics": {name: 0.5}, "clients": 1, "planned": 2, "bytes": {"up": 1}}
        text = shown(round_line(record | {"failed": name, "train_loss": 0.1}, name, 3.0))
        assert text.count("\n") == 1 and not STEERING.search(text)
        assert text.count(line(name)) == 2


def test_whatever_is_printed_on_a_terminal_is_text() -> None:
    for name in HOSTILE:
        grid = Table()
        grid.add_column(name)
        grid.add_row(name)
        text = shown(name, grid, said((name, "bold")), said("a", (name, "red")))
        assert not STEERING.search(text) and text.count(clean(name).split("\n")[0].rstrip()) >= 5


def test_inspect_and_list_show_brackets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFM_CACHE", str(tmp_path / "cache"))
    rows = [
        {"text": f"[/bold] see [1] and [red]{i}", "label": "[a]\x1b[31m" if i % 2 else "b"} for i in range(8)
    ]
    path = tmp_path / "[party].jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    ours = ["data=files", f"data.path={tmp_path}/*.jsonl", "task.model=tiny-encoder"]
    found = CliRunner().invoke(app, ["inspect", "quickstart", *ours])
    assert "[party], example 0" in found.output and "[/bold] see [1] and [red]" in found.output, found.output
    assert not STEERING.search(found.output)
    assert "[25]" in CliRunner().invoke(app, ["show", "local"]).output


@contextlib.contextmanager
def standard_error() -> Iterator[io.StringIO]:
    with contextlib.redirect_stderr(stream := io.StringIO()):
        yield stream


def test_errors_name_strangers_safely(tmp_path: Path) -> None:
    place = tmp_path / "\x1b[31m[red]x\u202e"
    place.mkdir()
    (place / "[bold]cat\x1b[2J.png").touch()
    with standard_error() as said_, pytest.raises(SystemExit):
        main(["report", str(place)])
    text = said_.getvalue()
    assert "is no run directory" in text and "[bold]cat" in text and not STEERING.search(text)


def test_a_result_in_a_notebook_and_at_the_prompt(hostile: Path) -> None:
    told = json.loads((hostile / "summary.json").read_text())
    told["metric"]["name"] = SCRIPT
    result = Result(hostile, told)
    assert "<script" not in result._repr_html_() and not STEERING.search(result._repr_html_())
    assert "\n" not in repr(result) and not STEERING.search(repr(result))


def test_the_readme_of_a_tuned_model(tmp_path: Path) -> None:
    from fedfm.models.identity import Base
    from fedfm.tasks.text.classify import SequenceClassification

    text = SequenceClassification(model="m").readme(tmp_path, tuple(HOSTILE), Base("m", "m", None, "", ""))
    head = text.split("```python")[0]
    assert "<script" not in head and not re.search(r"(?<!\\)\]\(", head) and not STEERING.search(head)
    assert text.count("```") == 2 and "\n# heading" not in text


@given(st.text(max_size=60))
def test_markdown_of_any_text_is_one_line_without_markup(text: str) -> None:
    found = markdown(text)
    assert "\n" not in found and not STEERING.search(found)
    assert not re.search(r"(?<!\\)[<>|`*_\[\]]", re.sub(r"\\\\", "", found))
    assert not re.match(r"#|[-+=]|\d+[.)]", found)


@given(st.text(max_size=60))
def test_clean_text_keeps_what_can_be_read(text: str) -> None:
    assert not STEERING.search(clean(text)) and len(clean(text)) == len(text)
    assert all(a == b for a, b in zip(text, clean(text), strict=True) if a.isprintable())
