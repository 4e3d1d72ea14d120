"""What holds no rows that can be read: what it is instead, and how its rows are taken out of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, ValuesView
from typing import Any

from fedfm.core.errors import DataError
from fedfm.data.reading.memory import FORMS, foreign, is_array, is_rows
from fedfm.data.reading.paths import SPLITS, families, parted

_AGAIN = "rows are read again at every resume, and must be the same"
Way = tuple[str, str]  # an expression that is read, and when it is meant; or words alone
Told = tuple[str, str, tuple[Way, ...]]  # what it is, why it is not read, what is
_ANY: tuple[Way, ...] = (("", FORMS),)


def is_split(data: Any) -> bool:
    """A `datasets.DatasetDict`, or a mapping with train and other splits and nothing else."""
    if not isinstance(data, Mapping) or not all(isinstance(k, str) for k in data):
        return False
    splits = [SPLITS.get(k.lower(), "") for k in data]
    return "train" in splits and "" not in splits and len(set(splits)) == len(splits) > 1


def are_splits(data: Any) -> bool:
    """A mapping whose names are those of splits, be they ones that are read or others (`test_matched`)."""
    if not isinstance(data, Mapping) or not all(isinstance(k, str) for k in data):
        return False
    return is_split(data) or bool(parted(data, sure=_is_dict_of_splits(data)) or families(data))


def _is_dict_of_splits(data: Any) -> bool:
    """A `DatasetDict`, asked without importing datasets: its names are those of splits."""
    return any(c.__name__.endswith("DatasetDict") for c in type(data).__mro__)


def is_torch(data: Any, kind: str) -> bool:
    """A `Dataset` or `DataLoader` of torch, asked without importing torch."""
    return any(c.__name__ == kind and c.__module__.startswith("torch.utils.data") for c in type(data).__mro__)


def no_rows(what: str, data: Any) -> DataError:
    """The error for something that is given as rows, or as a mapping of parties, and is neither."""
    said, why, ways = _told(data, "data")
    fix = ", ".join(" ".join(filter(None, way)) for way in ways)
    return DataError(f"{what}: {said} holds no rows that can be read\n    why: {why}\n    fix: {fix}")


def _told(data: Any, name: str) -> Told:
    if isinstance(data, ValuesView):
        return "values of a mapping", "parties have names", ((f"dict(enumerate({name}))", ""),)
    if isinstance(data, Iterator):
        return type(data).__name__, f"it can be read once only; {_AGAIN}", ((f"list({name})", ""),)
    if is_torch(data, "DataLoader"):
        why = f"it gives batches, in another order each time; {_AGAIN}"
        return "a DataLoader", why, ((f"[row for x, y in {name} for row in zip(x, y)]", ""),)
    if is_torch(data, "Dataset"):
        rows = f"[{name}[i] for i in range(len({name}))]" if hasattr(data, "__len__") else f"list({name})"
        why = f"it may give other rows each time; {_AGAIN}"
        return f"a Dataset of torch ({type(data).__name__})", why, ((rows, ""),)
    if isinstance(data, Mapping) and data:
        return _nested(data, name)
    said, way = foreign(data)
    if said:
        taken = way.format(name)
        return (
            said,
            "rows are taken out of it first",
            _beside("x", taken) if "sparse" in said else ((taken, ""),),
        )
    if isinstance(data, tuple) and len(data) == 2 and foreign(data[0])[0]:
        return _paired(data, name)
    if isinstance(data, list | tuple) and data:
        return _listed(data, name)
    if is_array(data):
        return "an array alone", "nothing says what it is", _beside("x", name)
    return type(data).__name__, "nothing says where a row is in it", _ANY


def _beside(column: str, name: str) -> tuple[Way, ...]:
    other = (
        "'label' beside it where there are classes"
        if column == "text"
        else "'y' beside it where there are targets"
    )
    return ((f"{{'{column}': {name}}}", f"(and {other})"),)


def _paired(data: Any, name: str) -> Told:
    """(x, y) of which x at least is another library's: as arrays."""
    said, way = foreign(data[0])
    array = way if "sparse" in said else "{}.to_numpy()" if hasattr(data[0], "to_numpy") else "{}.to_pandas()"
    other = foreign(data[1])[1] if "sparse" in foreign(data[1])[0] else ""
    other = other or ("{}" if is_array(data[1]) or isinstance(data[1], list) else "{}.to_numpy()")
    return (
        f"a pair with {said}",
        "x and y are arrays",
        ((f"({array.format(name + '[0]')}, {other.format(name + '[1]')})", ""),),
    )


def _nested(data: Mapping[Any, Any], name: str) -> Told:
    """A mapping, of which a value is no rows: of splits, of parties of splits, of parties of something else."""
    if are_splits(data):
        why = "test rows would be a party's rows to learn from (parties are called otherwise)"
        given = _given({k: f"{name}[{k!r}]" for k in data}, all(map(is_rows, data.values())))
        return "a mapping of splits", why, ((f"fedfm.Arrays({given})", ""),)
    inner = [v for v in data.values() if isinstance(v, Mapping) and v and not is_rows(v)]
    if len(inner) == len(data):
        keys = [k for k in inner[0] if all(k in d for d in inner)]
        if all(map(are_splits, inner)) and parted(keys):
            given = _given({k: f"{{p: d[{k!r}] for p, d in {name}.items()}}" for k in keys}, False)
            return (
                "a mapping of parties with splits",
                "a split is given by itself",
                ((f"fedfm.Arrays({given})", ""),),
            )
        flat = f"{{f'{{a}}-{{b}}': rows for a, d in {name}.items() for b, rows in d.items()}}"
        return "a mapping of mappings", "parties are one level of names", ((flat, ""),)
    odd = {k: v for k, v in data.items() if not is_rows(v)}
    party, value = next(iter(odd.items()))
    if len(odd) == len(data):
        said, why, ways = _told(value, "d")
        each = ((e and f"{{p: {e} for p, d in {name}.items()}}", when) for e, when in ways)
        return f"a mapping to {said}", why, tuple(each)
    said, why, ways = _told(value, f"{name}[{party!r}]")
    one = ((e and f"{{**{name}, {party!r}: {e}}}", when) for e, when in ways)
    return f"a mapping with {said} ({party!r})", why, tuple(one)


def _listed(data: Any, name: str) -> Told:
    """A list whose items are no rows: batches or parties, pairs with several targets, longer tuples, values."""
    first = data[0]
    if isinstance(first, tuple) and len(first) == 2 and all(map(is_array, first)):
        return _arrays(first, name)
    if all(map(is_rows, data)):
        return "a list of parties", "parties have names", ((f"dict(enumerate({name}))", ""),)
    if isinstance(first, str):
        return "a list of texts", "nothing says what they are", _beside("text", name)
    if is_array(first) or isinstance(first, int | float):
        return f"a list of {type(first).__name__}", "nothing says what they are", _beside("x", name)
    if not isinstance(first, list | tuple):
        return f"a list of {type(first).__name__}", "a row is a mapping or a pair", _ANY
    if len(first) != 2:
        names = ("text", "text_pair", "label") if isinstance(first[0], str) else ("x", "y")
        names = (*names, *(f"column_{i}" for i in range(len(names) + 1, len(first) + 1)))[: len(first)]
        why = "a row is a pair (x, y), or a mapping"
        return f"a list of rows of {len(first)}", why, ((f"[dict(zip({names}, row)) for row in {name}]", ""),)
    if isinstance(first[0], Mapping):
        one = f"[{{**x, 'y': y}} for x, y in {name}]"
        return "a list of pairs of a mapping and a target", "a row is one mapping", ((one, ""),)
    why = "the pairs are not all an input and one value"
    return "a list of pairs", why, ((f"{{'x': [x for x, _ in {name}], 'y': [y for _, y in {name}]}}", ""),)


def _arrays(first: Any, name: str) -> Told:
    """A list of pairs of arrays: a row each, a batch each, or (of everybody) a party each."""
    torch = type(first[0]).__module__.startswith("torch")
    stack, join = ("torch.stack", "torch.cat") if torch else ("numpy.stack", "numpy.concatenate")

    def both(call: str) -> str:
        return f"({call}([x for x, _ in {name}]), {call}([y for _, y in {name}]))"

    ways: list[Way] = [(both(stack), "if each is a row")]
    if len(first[0]) == len(first[1]):
        ways.append((both(join), "if each is a batch"))
        ways += [(f"dict(enumerate({name}))", "if each is a party")] * (name == "data")
    return "a list of pairs of arrays", "nothing says what each of them is", tuple(ways)


def _given(of: Mapping[str, str], everybody: bool) -> str:
    """The arguments of Arrays: train, test, and validation rows of everybody; test rows where there are no others.

    Several of one kind have their names: training rows as parties, test rows as test groups.
    """
    if not (splits := parted(of, sure=not families(of))):
        return _of_families(of)
    by: dict[str, dict[str, str]] = {}
    for name, split in splits.items():
        by.setdefault(split, {})[name] = of[name]
    tests = "test" if "test" in by else "validation"
    said = [_one(by["train"]), f"test={_one(by[tests])}"]
    if tests == "test" and everybody and len(by.get("validation", ())) == 1:
        said.append(f"validation={_one(by['validation'])}")
    return ", ".join(said)


def _of_families(of: Mapping[str, str]) -> str:
    """The same where a name says whose rows it has, before the split: berlin-train, berlin-test."""
    train, tests = dict[str, str](), dict[str, str]()
    for who, names in families(of).items():
        train[who] = of[names.pop("train")]
        tests[who] = of[names.get("test") or next(iter(names.values()))]
    apart = {name for names in families(of).values() for name in names.values()}
    train |= {name: expression for name, expression in of.items() if name not in apart}
    return f"{_mapping(train)}, test={_mapping(tests)}"


def _one(of: Mapping[str, str]) -> str:
    """The rows of one, or a mapping of those of several; where these are mappings of parties, of all of them."""
    if len(of) == 1:
        return next(iter(of.values()))
    if all(e.startswith("{p: d[") for e in of.values()):
        return f"{{**{', **'.join(e.replace('{p: ', f'{{f{chr(39)}{{p}}-{k}{chr(39)}: ', 1) for k, e in of.items())}}}"
    return _mapping(of)


def _mapping(of: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{name!r}: {expression}' for name, expression in of.items())}}}"
