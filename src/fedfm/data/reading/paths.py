"""From globs and folders to files, and from a file's name to whose rows it holds and for what."""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfm.data.cleaning.faults import Faults
from fedfm.data.reading import folders as folders_
from fedfm.text import natural

READ = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".xlsx")
PACKED = (".gz", ".zst", ".bz2", ".xz")
_UNREAD = (  # data for certain, in a folder that stands for a federation
    *(".txt", ".xls", ".ods", ".arrow", ".feather", ".orc", ".avro", ".xml", ".zip", ".7z", ".tar", ".tgz"),
    *(".pkl", ".pickle", ".npy", ".npz", ".pt", ".sqlite", ".db", ".h5", ".dat", ".tab", ".psv", ".log"),
)
_ABOUT = ("readme", "license", "licence", "notice", "requirements", "dataset_info")  # a folder's own papers
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
}
_SPLIT_NAME = re.compile(
    rf"(?:(?P<who>.+)[-_.])?(?P<split>{'|'.join(SPLITS)})(?:[-_.]\d+(?:-of-\d+)?)?", re.IGNORECASE
)
_BEGINS = re.compile(rf"(?P<split>{'|'.join(SPLITS)})(?:[-_. ].*)?", re.IGNORECASE | re.DOTALL)


def parted(names: Iterable[str], *, sure: bool = False) -> dict[str, str]:
    """The split of each name, "" of none, where the names are those of splits; else empty.

    They are where one says training rows and another others: `train` beside `test_matched`. `sure`: also where they are
    `train` and names of no split, of which the rows are tested on.
    """
    found = {n: SPLITS[m["split"].lower()] if (m := _BEGINS.fullmatch(n)) else "" for n in names}
    said = {*found.values()}
    if "train" in said and said & {"test", "validation"}:
        return found
    return {n: split or "test" for n, split in found.items()} if sure and lone(found) else {}


def lone(names: Iterable[str]) -> str:
    """The name that is just `train` among others of no split, whose rows are learnt from too; empty: none."""
    train = next((n for n in names if SPLITS.get(n.lower()) == "train"), "")
    return train if train and not all(map(_BEGINS.fullmatch, names)) else ""


def unlucky(names: Iterable[str]) -> Iterator[str]:
    """A sentence on a party that is called just `train`, and may be a split."""
    names = list(names)
    if not parted(names) and (train := lone(names)):
        others = [n for n in names if n != train]
        yield (
            f"'{train}' and {', '.join(others[:3])}{', ...' * (len(others) > 3)} are parties, and all of them learn: if they are "
            "splits, give the held-out rows as such (data.test_path; in Python test=)"
        )


def families(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Of each whose name stands before a split's (`berlin-train`, `berlin-test`), the names by split."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if (m := _SPLIT_NAME.fullmatch(name)) and m["who"]:
            found.setdefault(m["who"], {}).setdefault(SPLITS[m["split"].lower()], name)
    return {who: mine for who, mine in found.items() if "train" in mine and len(mine) > 1}


@dataclass(frozen=True)
class Place:
    """A file, and the party and split ("train", "test", "validation") that its name gives it."""

    path: Path
    party: str
    split: str = "train"
    shared: bool = False  # others may give the same party's rows


def ending(path: Path) -> tuple[str, str]:
    """A file's format and how it is packed, by its name: (".jsonl", ".gz")."""
    packed = path.suffix.lower() if path.suffix.lower() in PACKED else ""
    return Path(path.stem if packed else path.name).suffix.lower(), packed


def stem(path: Path) -> str:
    """The name without its endings: hospital-c.jsonl.gz is hospital-c."""
    found = path.stem if ending(path)[1] else path.name
    return Path(found).stem if Path(found).suffix.lower() in READ else found


def expand(patterns: Sequence[str], where: str, faults: Faults) -> list[Path]:
    """The files that globs, names and folders stand for, in natural order; no match is a fault."""
    found: list[Path] = []
    for pattern in patterns:
        full = os.path.expanduser(pattern)
        if os.path.isdir(full):
            here = _folder(Path(full), pattern, where, faults)
        else:
            # a name that is there is meant, not a pattern: rows[1].csv is no rows1.csv
            named = [full] if os.path.lexists(full) else glob.glob(full, recursive=True)
            hits = [Path(p) for p in named]
            here = [p for p in hits if os.path.isfile(p)]
            for folder in sorted(p for p in hits if p not in here and os.path.isdir(p)):
                here += _folder(folder, str(folder), where, faults)
            if not hits:
                fix = "paths are relative to the current folder; give an absolute path or another pattern"
                if "$" in pattern:
                    fix = "variables are not expanded here: let the shell do it (double quotes), or write the path out"
                faults.add(where, f"no file matches '{pattern}'", _around(full), fix)
            for lost in hits:
                if not os.path.isfile(lost) and not os.path.isdir(lost):
                    _no_file(lost, faults)
        found += sorted(here, key=lambda p: natural(str(p)))
    return list(dict.fromkeys(found))


def _folder(folder: Path, pattern: str, where: str, faults: Faults) -> list[Path]:
    """The data files of a folder, or of its sub-folders where it has none; what looks like data and is not read is a fault."""
    files, folders = _listing(folder, faults)
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        fix = f"data=hub data.dataset={pattern} (in Python: fedfm.Hub({pattern!r}))"
        faults.add(where, f"'{pattern}' was written by save_to_disk", "it is a saved data set", fix)
        return []
    here = [p for p in files if ending(p)[0] in READ]
    unheard = Faults("what is not looked for")
    below = {p: _listing(p, unheard if here else faults) for p in folders}
    inner = {p: [q for q in inside if ending(q)[0] in READ] for p, (inside, _) in below.items()}
    inner = {p: found for p, found in inner.items() if found}
    unread = [p.name for p in files if p not in here and _looks_like_data(p)]
    if here and inner:
        unread += [f"{p.name}/ ({len(found)} files)" for p, found in inner.items()]
    elif inner:
        unread += [f"{p.name}/{q.name}" for p in folders for q in below[p][0] if _looks_like_data(q)]
        deep = ((p, q, _listing(q, unheard)[0]) for p in folders for q in below[p][1])
        unread += [f"{p.name}/{q.name}/" for p, q, last in deep if any(ending(r)[0] in READ for r in last)]
    if unread and (here or inner):
        faults.add(
            where,
            f"{len(unread)} of what '{pattern}' holds is not read: {', '.join(unread[:6])}",
            f"read are {', '.join('*' + s for s in READ)}, packed or not" + ", of one level" * bool(inner),
            "convert or remove them, or name the wanted ones by a glob",
        )
    if not here and not inner and (pictured := folders_.holders(folder, SPLITS)):
        return pictured
    if not here and not inner:
        faults.add(
            where,
            f"the folder '{pattern}' holds no data files",
            f"looked for {', '.join('*' + s for s in READ)} in {os.path.abspath(folder)}"
            + (f"; it holds {', '.join(unread[:6])}" if unread else ""),
            "put one file per party there, or give a glob; pictures are read from a folder for each class",
        )
    return here or [q for found in inner.values() for q in found]


def _listing(folder: Path, faults: Faults) -> tuple[list[Path], list[Path]]:
    """Its files and its folders; what is called like data and is neither, or a folder that cannot be read, is a fault."""
    try:
        names = sorted(p for p in folder.iterdir() if not p.name.startswith((".", "_")))
    except OSError as e:
        faults.add(str(folder), "the folder cannot be read", e.strerror or str(e), "check it and its rights")
        return [], []
    files, folders = [p for p in names if os.path.isfile(p)], [p for p in names if os.path.isdir(p)]
    for p in names:
        if p not in files and p not in folders and (ending(p)[0] in READ or _looks_like_data(p)):
            _no_file(p, faults)
    return files, folders


def _no_file(path: Path, faults: Faults) -> None:
    """What stands in a file's place: its rows would be missed in silence."""
    if not os.path.exists(path):
        faults.add(str(path), "a link that leads nowhere", "or round in a circle", "remove or mend it")
    else:
        fix = "write its rows to a file, or remove it"
        faults.add(str(path), "not a file", "it is a pipe, a socket or a device, which is never read", fix)


def _looks_like_data(path: Path) -> bool:
    kind, packed = ending(path)
    return (kind in _UNREAD or bool(packed)) and not stem(path).lower().startswith(_ABOUT)


def places(paths: Sequence[Path], *, by_name: bool, grouped: bool = False) -> list[Place]:
    """Whose rows each file holds. `by_name`: train, validation and test beside each other are splits of one party.

    A party is a file, by its stem; a folder, where its files are splits or `grouped` (only sub-folders were given);
    equal stems of two folders take the folder's name before them.
    """
    found: dict[Path, Place] = {}
    if by_name:
        families: dict[tuple[Path, str], list[tuple[Path, str]]] = {}
        for p in paths:
            if match := _SPLIT_NAME.fullmatch(stem(p)):
                key = (p.parent, match["who"] or "")
                families.setdefault(key, []).append((p, SPLITS[match["split"].lower()]))
        for (folder, who), family in families.items():
            splits, stems_ = {split for _, split in family}, {stem(p) for p, _ in family}
            if "train" in splits and len(stems_) == len(family) > 1:
                party = who or Path(os.path.realpath(folder)).name
                found |= {p: Place(p, party, split, True) for p, split in family}
    stems = Counter(stem(p) for p in paths if p not in found)
    for p in paths:
        if p not in found:
            place = Path(os.path.realpath(p.parent)).name
            alone = stems[stem(p)] == 1
            name = place if grouped else stem(p) if alone else f"{place}-{stem(p)}"
            found[p] = Place(p, name, shared=grouped)
    return [found[p] for p in paths]


def split_folders(paths: Sequence[Path], faults: Faults) -> None:
    """Note files that lie in folders called as splits: their test rows would be parties' rows to learn from."""
    folders = {str(p.parent): Path(os.path.realpath(p.parent)).name for p in paths}
    _as_parties("folders", folders, faults)
    faults.notes += unlucky(folders.values())


def split_files(found: Sequence[Place], faults: Faults) -> None:
    """Note files that are called as splits and are none of a party's: the rows of each would be learnt from."""
    by_folder: dict[Path, list[Place]] = {}
    for at in found:
        by_folder.setdefault(at.path.parent, []).append(at)
    for mine in by_folder.values():
        stems_ = {str(at.path): stem(at.path) for at in mine}
        splits = parted(stems_.values())
        if any(splits.get(stem(at.path), "train") != "train" and at.split == "train" for at in mine):
            _as_parties("files", stems_, faults)
        else:
            faults.notes += unlucky(stems_.values())


def _as_parties(what: str, names: Mapping[str, str], faults: Faults) -> None:
    """A fault where the names of these paths are those of splits."""
    splits = parted(names.values())
    if not splits:
        return
    by: dict[str, list[str]] = {}
    for path, name in names.items():
        by.setdefault(splits[name], []).append(path)
    tests = "test" if "test" in by else "validation"
    left = [Path(path).name for split, mine in by.items() if split not in ("train", tests) for path in mine]
    fix = f"{_paths('path', by['train'])} {_paths('test_path', by[tests])}"
    why = "the test rows would be learnt from (parties are called otherwise)"
    why += f"; without {', '.join(left)}, which would be learnt from too" * bool(left)
    shown = ", ".join(Path(path).name for path in list(names)[:8]) + ", ..." * (len(names) > 8)
    faults.add("path", f"the {what} {shown} are splits, and would be parties", why, fix)


def _paths(knob: str, folders: Sequence[str]) -> str:
    value = folders[0] if len(folders) == 1 else f"[{', '.join(json.dumps(f) for f in folders)}]"
    return shlex.quote(f"data.{knob}={value}")


def by_folder(patterns: Sequence[str], paths: Sequence[Path]) -> bool:
    """Do the patterns name folders whose files all lie one level below, so that a sub-folder is a party?"""
    tops = [os.path.realpath(os.path.expanduser(p)) for p in patterns if os.path.isdir(os.path.expanduser(p))]
    return bool(tops) and not any({os.path.realpath(p), os.path.realpath(p.parent)} & {*tops} for p in paths)


def _around(full: str) -> str:
    """Where a pattern was looked for, and what is there instead."""
    folder = os.path.dirname(full) or "."
    while glob.has_magic(folder):
        folder = os.path.dirname(folder) or "."
    text = f"the current folder is {os.getcwd()}"
    if not os.path.isdir(folder):
        return f"{text}; there is no folder '{folder}'"
    names = sorted(os.listdir(folder), key=natural)
    more = ", ..." if len(names) > 8 else ""
    return f"{text}; '{folder}' holds: {', '.join(names[:8]) + more if names else 'nothing'}"
