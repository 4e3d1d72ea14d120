"""Pictures that lie in a folder for each class are the rows of a table; and pictures that a table names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfm.data.cleaning.faults import Faults
from fedfm.text import natural

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
_DEPTH = 2  # parties, and their splits, above the classes
_LEFT = ("thumbs.db", "desktop.ini")  # by file managers

Lines = list[tuple[int, dict[str, Any]]]


def holders(folder: Path, splits: Mapping[str, str], depth: int = _DEPTH) -> list[Path]:
    """The folders below (or this one) whose sub-folders are classes of pictures."""
    inner = _inner(folder)
    classes = [p for p in inner if any(_is_picture(q) for q in _files(p))]
    if classes and not all(p.name.lower() in splits for p in classes):
        return [folder]
    return [found for p in inner if depth for found in holders(p, splits, depth - 1)]


def rows(folder: Path, faults: Faults) -> Lines:
    """A row for each picture: its bytes, and its folder's name as its label."""
    found: list[dict[str, Any]] = []
    strange = [p.name for p in _files(folder)]
    for kind in _inner(folder):
        files = _files(kind)
        strange += [f"{kind.name}/{p.name}" for p in files if not _is_picture(p)]
        strange += [f"{kind.name}/{p.name}/" for p in _inner(kind)]
        found += [{"image": _held(p, folder), "label": kind.name} for p in files if _is_picture(p)]
    if strange:
        faults.add(
            str(folder),
            f"{len(strange)} of what its class folders hold is not read: {', '.join(strange[:6])}",
            f"pictures are {', '.join('*' + s for s in PICTURES)}, in a folder for each class",
            "convert, move or remove them",
        )
    return list(enumerate(found, 1))


def named(table: Path, lines: Lines, columns: set[str]) -> Lines:
    """The rows of a table with the pictures that these columns name, relative to the table's folder, in their places."""
    for _, row in lines:
        for c in columns & row.keys():
            value = row[c]
            if (
                isinstance(value, str)
                and value.lower().endswith(PICTURES)
                and (at := table.parent / value).is_file()
            ):
                row[c] = _held(at, table.parent)
    return lines


def _held(file: Path, folder: Path) -> dict[str, Any]:
    """As `datasets` keeps a picture in a table."""
    return {
        "bytes": file.read_bytes(),
        "path": str(file.relative_to(folder) if file.is_relative_to(folder) else file),
    }


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURES


def _files(folder: Path) -> list[Path]:
    return [p for p in _visible(folder) if p.is_file() and p.name.lower() not in _LEFT]


def _inner(folder: Path) -> list[Path]:
    return [p for p in _visible(folder) if p.is_dir()]


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(
            (p for p in folder.iterdir() if not p.name.startswith((".", "_"))), key=lambda p: natural(p.name)
        )
    except OSError:  # said by whoever lists the folder
        return []
