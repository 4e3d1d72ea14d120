"""What people write and give in passing: streams, one class, variables in paths, yes and no."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm
from fedfm.core.errors import ConfigError, DataError
from fedfm.data.arrays import Arrays, as_source

datasets = pytest.importorskip("datasets")
ROWS = [{"text": f"word{i % 3} {i}", "label": "ab"[i % 2]} for i in range(30)]


def rows() -> Iterator[dict[str, str]]:
    yield from ROWS


def test_a_stream_whose_columns_nobody_has_named(tmp_path: Path) -> None:
    stream = datasets.IterableDataset.from_generator(rows)
    whole = as_source(ROWS).read(0, None)
    for data in (stream, stream.map(lambda row: row)):
        assert as_source(data).read(0, None).digest == whole.digest
    apart = Arrays({"a": stream, "b": ROWS}, test=stream).read(0, None)
    assert len(apart.train("a")) == len(apart.train("b")) == len(apart.test()) == 30


@pytest.mark.parametrize(
    "data", [iter(ROWS), map(dict, ROWS), (r for r in ROWS), zip("ab", "cd", strict=True)]
)
def test_what_can_be_read_once_only(data: Any) -> None:
    with pytest.raises(DataError, match=r"read once only(?s:.*)fix: list\(data\)"):
        fedfm.run("quickstart", data=data)


def test_rows_of_one_class() -> None:
    texts = [{"text": f"t {i}", "label": "a"} for i in range(8)]
    for data in ({"p": texts, "q": texts}, {"p": (torch.randn(8, 3), torch.zeros(8, dtype=torch.long))}):
        notes = as_source(data).read(0, None).notes
        assert any("every training row has the same target" in n for n in notes)
    assert not any("same target" in n for n in as_source(ROWS).read(0, None).notes)


def test_a_variable_in_a_path() -> None:
    with pytest.raises(DataError, match="variables are not expanded here"):
        as_source("$HOME/nowhere-*.csv").read(0, None)


@pytest.mark.parametrize(
    ("said", "meant"), [("yes", "true"), ("off", "false"), ("No", "false"), ("1", "true")]
)
def test_yes_and_no(said: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"fix: evaluate.keep_best={meant}"):
        fedfm.run("quickstart", settings={"evaluate.keep_best": said})


def test_nobody_counts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every party's factor is 0"):
        fedfm.run(
            "quickstart",
            settings=["aggregate.factors={party-*: 0}"],
            out=tmp_path / "run",
            model="tiny-encoder",
        )
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_loss_that_takes_the_module_and_is_one(tmp_path: Path) -> None:
    class Whole(torch.nn.Module):
        def forward(self, module: Any, batch: Any) -> Any:
            return torch.nn.functional.cross_entropy(module(batch[0]), batch[1], reduction="none")

    data = {"a": (torch.randn(20, 3), torch.arange(20) % 2)}
    with pytest.raises(ConfigError, match="it takes the module and a batch"):
        fedfm.run(fedfm.Federation(task=fedfm.Torch(torch.nn.Linear(3, 2), loss=Whole()), data=data))


@pytest.mark.parametrize(
    "code", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("word", ["plain", "größe"])
def test_a_table_in_any_unicode(code: str, word: str, tmp_path: Path) -> None:
    lines = "text,label\n" + "".join(f"{word} {i},{'ab'[i % 2]}\n" for i in range(10))
    (tmp_path / "f.csv").write_bytes(lines.encode(code))
    found = fedfm.Files(str(tmp_path / "f.csv"), test_fraction=0.0).read(0, None).train("f").rows
    assert len(found) == 10 and found[3] == {"text": f"{word} 3", "label": "b"}


def test_a_table_in_another_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes("text,label\ngröße,a\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"f.csv:2: the file is not UTF-8(?s:.*)save it as UTF-8"):
        fedfm.Files(str(tmp_path / "f.csv")).read(0, None)
