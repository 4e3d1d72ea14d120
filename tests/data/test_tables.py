"""Tables of numbers for a module of one's own: a pair (x, y), or a mapping of tensors, each under its own name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import fedfm
from fedfm.core.errors import ConfigError, DataError
from fedfm.core.schema import Column
from fedfm.data.arrays import Arrays, as_source
from fedfm.data.kinds import Array
from said import said

pandas = pytest.importorskip("pandas")
XY = (Column("x", Array()), Column("y", Array()))
NAMES = list("abcd")


def table(seed: int, n: int = 24) -> Any:
    x = np.random.default_rng(seed).standard_normal((n, 4))
    return pandas.DataFrame(x, columns=NAMES).assign(income=(x[:, 0] > 0).astype(int))


def loss(module: Any, batch: Any) -> Any:
    return F.cross_entropy(module(torch.stack([batch[k] for k in NAMES], 1)), batch["income"])


def trained(folder: Path, make: Callable[[int], Any], task: Any = None, **more: Any) -> Any:
    data = Arrays({f"c{i}": make(i) for i in range(3)}, test=make(9), **more)
    task = task or fedfm.Torch(lambda: torch.nn.Linear(4, 2), loss=loss)
    fed = fedfm.Federation(task=task, data=data, client=fedfm.Local(lr=0.3), engine=fedfm.InProcess())
    return fedfm.run(fed, rounds=2, out=folder).summary


def test_columns_of_numbers_are_a_mapping_of_tensors(tmp_path: Path) -> None:
    forms: dict[str, Callable[[int], Any]] = {
        "frame": table,
        "columns": lambda seed: {k: v.to_numpy() for k, v in table(seed).items()},
        "rows": lambda seed: table(seed).to_dict("records"),
    }
    found = {trained(tmp_path / name, make)["model_digest"] for name, make in forms.items()}
    assert len(found) == 1


def test_arrays_as_columns_and_a_label(tmp_path: Path) -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = torch.nn.Linear(4, 2)

        def forward(self, a: Any, b: Any) -> Any:
            return self.l(torch.cat([a, b], 1))

    def make(seed: int) -> Any:
        x, y = table(seed)[NAMES].to_numpy(), table(seed)["income"].to_numpy()
        return {"a": x[:, :1], "b": x[:, 1:], "label": np.array(["no", "yes"])[y]}

    task = fedfm.Torch(Two, loss=lambda m, batch: F.cross_entropy(m(batch["a"], batch["b"]), batch["y"]))
    assert trained(tmp_path / "run", make, task)["status"] == "finished"
    wrong = fedfm.Torch(Two, loss=lambda m, batch: F.cross_entropy(m(batch["a"], batch["b"]), batch["label"]))
    with pytest.raises(ConfigError) as e:
        trained(tmp_path / "wrong", make, wrong)
    told = str(e.value)
    assert "a mapping of tensors (a, b, y)" in told and "KeyError: 'label'" in told


def test_the_default_loss_needs_x_and_y_and_says_so(tmp_path: Path) -> None:
    task = fedfm.Torch(lambda: torch.nn.Linear(4, 2))
    with pytest.raises(ConfigError) as e:
        trained(tmp_path / "run", table, task)
    told = str(e.value)
    assert "a mapping of tensors (a, b, c, d, income)" in told and "or (x, y) as rows" in told


def test_a_table_with_text_is_told_what_a_module_reads() -> None:
    told = said(lambda: Arrays(table(0).assign(job="x")).open(0))
    assert "a module of your own reads (x, y)" in told and "numbers alone (without job)" in told


def test_gaps_and_columns_that_name_parties(tmp_path: Path) -> None:
    gap = table(0)
    gap.loc[3, "a"] = np.nan
    assert len(Arrays(gap, test_fraction=0.0).open(0).pooled()) == 23
    whole = pandas.concat([table(i).assign(site=f"s{i}") for i in range(3)])
    assert Arrays(whole, party_column="site").open(0).columns == (*NAMES, "income")


def test_a_table_and_a_column_are_x_and_y() -> None:
    frame = table(0).sample(frac=1.0, random_state=0)
    digest = Arrays((frame[NAMES].to_numpy(), frame["income"].to_numpy())).open(0, XY).digest
    assert Arrays((frame[NAMES], frame["income"])).open(0, XY).digest == digest
    assert Arrays((frame[NAMES], frame["income"].to_numpy())).open(0, XY).digest == digest
    back = frame[NAMES].to_numpy()[:, ::-1]  # a view that runs backwards
    assert len(Arrays((back, frame["income"]), test_fraction=0.0).open(0, XY).pooled()) == 24


def test_tables_that_do_not_belong_together_are_refused() -> None:
    one, two = table(0), table(1)
    pairs = {"a": (one[NAMES], one["income"]), "b": (two[NAMES[::-1]], two["income"])}
    told = said(lambda: Arrays(pairs).open(0, XY))
    assert "the columns of x are d, c, b, a" in told and "same order" in told
    told = said(lambda: Arrays((one[NAMES], one["income"][::-1])).open(0, XY))
    assert "x and y have other indexes" in told
    told = said(lambda: Arrays((one[NAMES].assign(job="x"), one["income"])).open(0, XY))
    assert "the column 'job' of x holds no numbers" in told


def test_csv_files_of_numbers_are_the_frames_they_were_written_from(tmp_path: Path) -> None:
    """Cells of a text file are texts: columns of nothing but numbers are numbers, whole ones for all parties alike."""
    for i in range(3):
        table(i).to_csv(tmp_path / f"c{i}.csv", index=False)
    table(9).to_csv(tmp_path / "test.csv", index=False)
    data = fedfm.Files(str(tmp_path / "c*.csv"), test_path=str(tmp_path / "test.csv"))
    task = fedfm.Torch(lambda: torch.nn.Linear(4, 2), loss=loss)
    fed = fedfm.Federation(task=task, data=data, client=fedfm.Local(lr=0.3), engine=fedfm.InProcess())
    run = fedfm.run(fed, rounds=2, out=tmp_path / "run").summary
    assert run["model_digest"] == trained(tmp_path / "frames", table)["model_digest"]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [(["1", "-2", "30"], torch.int64), (["1", "2.5", "3e-2"], torch.float32), (["1", "", "2"], torch.int64)],
)
def test_what_the_cells_of_a_column_are(tmp_path: Path, cells: list[str], kind: Any) -> None:
    (tmp_path / "a.csv").write_text("u,v\n" + "".join(f"{c},{c or 0}\n" for c in cells))
    rows = fedfm.Files(str(tmp_path / "a.csv"), test_fraction=0.0).read(0, ()).train("a").rows
    assert {r["u"].dtype for r in rows} == {kind} and len(rows) == sum(map(bool, cells))


@pytest.mark.parametrize("cell", ["007", "12 m", "1,5", "ja"])
def test_cells_that_are_no_numbers_are_named(tmp_path: Path, cell: str) -> None:
    (tmp_path / "a.csv").write_text(f"u;v;w\n1;2;3\n4;{cell};5\n")
    with pytest.raises(DataError, match=rf"a.csv:3: 'v' is '{cell}', which is no number"):
        fedfm.Files(str(tmp_path / "a.csv"), test_fraction=0.0).read(0, ())


def test_pairs_of_lists(tmp_path: Path) -> None:
    """What no array is: the same rows; texts with labels; two rows of columns are no two parties."""
    x, y = np.random.default_rng(0).standard_normal((10, 3)).tolist(), [0, 1] * 5
    assert (
        as_source({"a": (x, y)}).read(0, None).digest
        == as_source({"a": (np.array(x), np.array(y))}).read(0, None).digest
    )
    texts = as_source({"a": (["good", "bad"] * 5, ["p", "n"] * 5)}).read(0, None)
    assert texts.columns == ("text", "label") and texts.labels == ("n", "p")
    two = as_source({"x": [[1.0, 2.0], [3.0, 4.0]], "y": [[0.5], [0.7]]}).read(0, None)
    assert two.ids == ("party-0",) and two.columns == ("x", "y")
    assert as_source({"x": (np.array(x), np.array(y))}).read(0, None).ids == ("x",)
    for pair, what in [
        ((x, y[:3]), "10 rows of x and 3 of y"),
        (([[1], [1, 2]], [0, 1]), "different lengths"),
    ]:
        with pytest.raises(DataError, match=what):
            as_source({"a": pair}).read(0, None)


def test_a_column_beside_x_and_y_is_told(tmp_path: Path) -> None:
    rows = [{"x": [float(i), 1.0], "y": i % 2, "w": 0.5, "weight": 2} for i in range(10)]
    notes = Arrays({"a": rows, "b": rows}).read(0, ()).notes
    assert [n for n in notes if "not read" in n] == [
        f"the column '{name}' is not read: a batch is (x, y); call the targets `label`, and it is a mapping of all columns"
        for name in ("w", "weight")
    ]
