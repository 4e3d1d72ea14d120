"""Rows that are in memory already: DataFrames, `datasets`, lists of rows, columns, arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from fedfm.core.errors import DataError
from fedfm.data.cleaning.columns import Lines
from fedfm.data.cleaning.faults import Faults
from fedfm.data.cleaning.layouts import KNOWN, owning
from fedfm.data.cleaning.numbering import counting

FORMS = (
    "a list of mappings or of pairs, a DataFrame, a datasets.Dataset, a mapping of columns, a pair of arrays (x, y), "
    "or a mapping party -> such rows"
)


def is_frame(data: Any) -> bool:
    """A pandas DataFrame, asked without importing pandas."""
    return any(c.__name__ == "DataFrame" and c.__module__.startswith("pandas") for c in type(data).__mro__)


def is_dataset(data: Any) -> bool:
    """A `datasets.Dataset`."""
    return hasattr(data, "column_names") and hasattr(data, "features")


def foreign(data: Any) -> tuple[str, str]:
    """What holds rows in another library's way, and the expression of {} that takes them out; empty: something else."""
    if hasattr(data, "toarray") and hasattr(data, "nnz"):
        return "a sparse matrix", "{}.toarray()"
    if str(getattr(data, "layout", "")).startswith("torch.sparse"):
        return "a sparse tensor", "{}.to_dense()"
    if hasattr(data, "to_dicts"):
        return "a table of polars", "{}.to_dicts()"
    if hasattr(data, "collect") and hasattr(data, "lazy"):
        return "a query of polars", "{}.collect().to_dicts()"
    if hasattr(data, "to_pylist") and hasattr(data, "column_names"):
        return "a table of pyarrow", "{}.to_pylist()"
    if hasattr(data, "ngroups") and hasattr(data, "get_group"):
        return "a table in groups", "dict(list({}))"
    return "", ""


def is_array(data: Any) -> bool:
    """A numpy array or a torch tensor with rows."""
    return hasattr(data, "shape") and hasattr(data, "dtype") and len(data.shape) > 0 and not foreign(data)[0]


def is_pair(data: Any) -> bool:
    """(x, y): two arrays, an array or table and a list, or two lists, of one length; a table and the name of its y."""
    if not isinstance(data, tuple) or len(data) != 2 or not hasattr(data[1], "__len__"):
        return False
    if isinstance(data[0], list | tuple) and isinstance(data[1], list | tuple):
        return all(d and not isinstance(d[0], Mapping) for d in data) and not all(map(_is_batch, data))
    if is_frame(data[0]):
        return not isinstance(data[1], str | Mapping) or (
            isinstance(data[1], str) and data[1] in data[0].columns
        )
    return is_array(data[0])


def _is_batch(data: Any) -> bool:
    """Inputs and one target each, so that nothing but a pair can be made of the two."""
    arrays = len(data) == 2 and all(map(is_array, data))
    return arrays and len(data[0].shape) > len(data[1].shape) and len(data[0]) == len(data[1])


def is_rows(data: Any) -> bool:
    """Can `lines` read it: is it the rows of one owner?"""
    if is_frame(data) or is_dataset(data) or is_pair(data):
        return True
    if isinstance(data, Mapping):
        values = [*data.values()]
        listed = all(isinstance(v, tuple) and isinstance(v[0], list | tuple) for v in values if is_pair(v))
        parties = all(map(is_pair, values)) and not (listed and KNOWN.keys() & data.keys())
        return bool(data) and not parties and all(is_pair(v) or _is_column(v) for v in values)
    return (
        isinstance(data, Sequence) and not isinstance(data, str) and all(isinstance(r, Mapping) for r in data)
    )


def _is_column(value: Any) -> bool:
    if is_array(value):
        return True
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return (
        listed
        and not any(foreign(v)[0] for v in value[:1])
        and not (is_rows(value) or is_pair(value) or (value and _is_row(value[0])))
    )


def _is_row(value: Any) -> bool:
    """A list of things that no cell of a column holds together: arrays, or a mapping and something else."""
    if not isinstance(value, list | tuple) or not value:
        return False
    return any(map(is_array, value)) or len({isinstance(v, Mapping) for v in value}) > 1


def lines(data: Any, place: str, faults: Faults) -> Lines:
    """(row number from 1, row) of any of them; what it is not is a `DataError`, what is odd about it a fault."""
    if is_frame(data):
        rows = data.to_dict("split")["data"] if data.columns.is_unique else []
        return _named(list(data.columns), rows, place, faults)
    if is_dataset(data):
        return _dataset(data)
    if is_pair(data):
        return _pair(data[0], data[1], place, faults)
    if isinstance(data, Mapping) and is_rows(data):
        lengths = {str(k): len(v) for k, v in data.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{k} has {n}" for k, n in lengths.items())
            faults.add(place, "columns of different lengths", told, "give every column a value for every row")
            return []
        return _named(list(data), [list(r) for r in zip(*data.values(), strict=True)], place, faults)
    if not is_rows(data):
        raise DataError(f"{place}: {type(data).__name__} holds no rows that can be read; give {FORMS}")
    return [(i, {str(k): v for k, v in row.items()}) for i, row in enumerate(data, 1)]


def _named(columns: list[Any], rows: Sequence[Sequence[Any]], place: str, faults: Faults) -> Lines:
    names = [str(c) for c in columns]
    if twice := [n for n, k in Counter(names).items() if k > 1]:
        fix = "rename one of the two: nobody can tell which is meant"
        faults.add(place, f"two columns are called '{twice[0]}'", f"it has {', '.join(names)}", fix)
        return []
    return [(i, dict(zip(names, row, strict=True))) for i, row in enumerate(rows, 1)]


def _pair(x: Any, y: Any, place: str, faults: Faults) -> Lines:
    """Inputs and what belongs to each: texts with labels, pictures with labels, or arrays as they are."""
    if is_frame(x) and isinstance(y, str):
        x, y = x.drop(columns=[y]), x[y]
    if is_frame(x):
        if hasattr(y, "index") and not callable(y.index) and not x.index.equals(y.index):
            fix = (
                "the rows of one table for both; reset_index(drop=True) on both where their order is the same"
            )
            faults.add(place, "x and y have other indexes", "nobody can tell which y belongs to which x", fix)
            return []
        _features(x, faults)
        if text := [str(c) for k, c in enumerate(x.columns) if not _numeric(x.iloc[:, k])]:
            fix = "numbers for it (codes, or pandas.get_dummies), or x without it"
            faults.add(place, f"the column '{text[0]}' of x holds no numbers", "x is read as one array", fix)
            return []
        mixed = any(
            t.kind not in "iuf"
            for t in map(np.dtype, (x.iloc[:, k].to_numpy().dtype for k in range(x.shape[1])))
        )
        x = x.to_numpy("float64" if mixed else None)
    y = y.to_numpy() if is_frame(y) else y
    shown = len(x) and (isinstance(x[0], bytes) or hasattr(x[0], "getbands"))
    if isinstance(x, list | tuple) and not isinstance(x[0], str) and not shown:
        try:
            x = np.asarray(x)
        except ValueError:
            fix = "rows of one shape, or a mapping of columns"
            faults.add(place, "the rows of x are lists of different lengths", "x is read as one array", fix)
            return []
    if len(x) != len(y):
        fix = "give one y for each x"
        faults.add(place, f"{len(x)} rows of x and {len(y)} of y", "they belong together", fix)
        return []
    if shown:
        names = ("image", "label")
    else:
        names = ("text", "label") if isinstance(x, list | tuple) else ("x", "y")
    return [(i, dict(zip(names, row, strict=True))) for i, row in enumerate(zip(x, y, strict=True), 1)]


def _features(x: Any, faults: Faults) -> None:
    """Notes of columns that count rows, or say whose they are: a module of a fixed width reads all of the table."""
    for k, name in enumerate(map(str, x.columns)):
        cells = partial(_cells, x, k)
        if counting(name, cells):
            said = "counts the rows (another number in each), and is a feature of x: it would be learnt from"
        elif owning(name, cells):
            said = "says whose a row is, and is a feature of x: rows of one may be learnt from and tested on"
        else:
            continue
        note = f"'{name}' {said}; leave it out (x.drop(columns={name!r}))"
        faults.notes += [note] if note not in faults.notes else []


def _cells(x: Any, k: int) -> list[Any]:
    """A column by its place: names may be doubled."""
    cells: list[Any] = x.iloc[:, k].tolist()
    return cells


def _numeric(column: Any) -> bool:
    try:
        column.to_numpy("float64")
    except (TypeError, ValueError):
        return False
    return not any(isinstance(v, str) for v in column)


def same_columns(tables: Sequence[tuple[str, Any]], faults: Faults) -> None:
    """Note tables of pairs (x, y) whose columns are others, or stand in another order, than those of the first."""
    named = [(place, [str(c) for c in rows[0].columns]) for place, rows in tables if _is_tabled(rows)]
    for place, names in named[1:]:
        if names != named[0][1]:
            faults.add(
                place,
                f"the columns of x are {', '.join(names)[:80]}, those of {named[0][0]} {', '.join(named[0][1])[:80]}",
                "x is read as one array, so a column must stand at one place everywhere",
                "the same columns in the same order: x[list(other.columns)]",
            )


def _is_tabled(rows: Any) -> bool:
    return is_pair(rows) and is_frame(rows[0])


def _dataset(data: Any) -> Lines:
    """Plain rows: class numbers become names (-1, the mark of "no label", becomes None)."""
    names = {
        c: f.names for c, f in (data.features or {}).items() if hasattr(f, "names") and hasattr(f, "int2str")
    }
    out = []
    if not isinstance(
        next(iter(data), {}), Mapping
    ):  # with_format("pandas"), ("arrow"): a table for each row
        data = data.with_format(None)
    for i, row in enumerate(data, 1):
        for column, known in names.items():
            if row[column] is not None:
                row[column] = known[row[column]] if row[column] >= 0 else None
        out.append((i, row))
    return out
