"""The user's own modules that a run rests on: found, recorded, and imported again when the run goes on."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from fedfm.core.errors import ResumeError
from fedfm.files import path as meant

Modules = dict[str, dict[str, str]]  # name -> its file, and the SHA-256 of its content
_LIBRARIES = tuple(
    Path(p).resolve() for k, p in sysconfig.get_paths().items() if k in ("stdlib", "platstdlib", "purelib", "platlib")
)  # fmt: skip
_PACKAGE = Path(__file__).resolve().parents[2]


def modules(spec: Any) -> Modules:
    """The own modules of every class and function in a federation, and what they import of the user's own in turn."""
    found: Modules = {}
    todo = list(dict.fromkeys(str(getattr(p, "__module__", "")) for p in _parts(spec)))
    while todo:
        name = todo.pop(0)
        module = sys.modules.get(name)
        if name in found or module is None or not _own(module):
            continue
        found[name] = {"file": _file(module), "sha256": _digest(module)}
        if not found[name]["file"]:
            found[name] |= _told(module, sorted(set(_heard(spec, name))))
        todo += _imported(module)
    return found


def bring(recorded: Mapping[str, Mapping[str, str]], extra: Iterable[str], folder: Path) -> Modules:
    """Import the recorded modules, and the files named in `extra`; returns what their files hold now.

    Raises ResumeError that names what is missing. A module of this process stays what it is.
    """
    given = {Path(e).stem: meant(e) for e in extra}
    now: Modules = {}
    for name, was in recorded.items():
        if name in sys.modules and (name != "__main__" or not was["file"] or _is(name, was["file"])):
            if _own(sys.modules[name]):
                now[name] = {"file": _file(sys.modules[name]), "sha256": _digest(sys.modules[name])}
            if not was[
                "file"
            ]:  # a notebook's or a prompt's: what the run uses of it, where its source is kept
                now[name] = dict(was) | _told(sys.modules[name], was.get("uses", "").split())
            continue
        file = given.pop(Path(was["file"]).stem if name == "__main__" else name.rpartition(".")[2], None)
        if file is None and name == "__main__":
            raise ResumeError(
                f"{folder} rests on what {was['file'] or 'a notebook'} defines, which is a script of its own\n"
                f"    fix: call fedfm.resume('{folder}') in it, or put the definitions into a module that it imports"
                + (f"\n    or: fedfm resume {folder} --import {was['file']}" if was["file"] else "")
            )
        file = file or Path(was["file"])
        if not file.is_file():
            raise ResumeError(
                f"{folder} rests on the module '{name}', and {file} is not there\n"
                f"    fix: fedfm resume {folder} --import PATH/{file.name}, or restore it"
            )
        if folder.resolve() in file.resolve().parents:
            raise ResumeError(
                f"{folder} names {file} as its own code, and a run directory is data: code in it is never run\n"
                f"    fix: move the file out of the folder, look at it, and add --import {file.name}"
            )
        now[name] = {"file": str(file.resolve()), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    for file in given.values():
        if not file.is_file():
            raise ResumeError(f"--import {file}: there is no such file\n    fix: give the path of a .py file")
        now.setdefault(
            file.stem,
            {"file": str(file.resolve()), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()},
        )
    return now


def load(found: Mapping[str, Mapping[str, str]]) -> None:
    """Import the modules that are not there yet, each from its file, under the name that the run knows it by."""
    for name, module in found.items():
        if name in sys.modules or not module["file"]:
            continue
        file = Path(module["file"])
        root = str(file.parents[name.count(".") + (file.name == "__init__.py")])
        if root not in sys.path:
            sys.path.append(root)  # its own imports lie beside it
        name = file.stem if name == "__main__" else name
        try:
            with contextlib.suppress(ImportError):
                there = importlib.util.find_spec(name) if "." in name else None
                if there is not None and Path(there.origin or "").resolve() == file.resolve():
                    importlib.import_module(name)
                    continue
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None and spec.loader is not None
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        except (Exception, SystemExit) as e:
            sys.modules.pop(name, None)
            raise ResumeError(
                f"{file} cannot be imported: {type(e).__name__}: {e}\n    fix: mend it, or run where its imports are found"
            ) from e


# ---- finding --------------------------------------------------------------------------------------------------
def _parts(node: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Every object, class and function that a spec is made of; parents of classes too."""
    seen = set() if seen is None else seen
    if id(node) in seen or node is None or isinstance(node, str | bytes | int | float):
        return
    seen.add(id(node))
    if isinstance(node, Mapping):
        for value in node.values():
            yield from _parts(value, seen)
    elif isinstance(node, list | tuple | set | frozenset):
        for value in node:
            yield from _parts(value, seen)
    elif inspect.isroutine(node):
        yield node
    else:
        yield from (node if isinstance(node, type) else type(node)).__mro__
        if dataclasses.is_dataclass(node) and not isinstance(node, type):
            for f in dataclasses.fields(node):
                yield from _parts(getattr(node, f.name, None), seen)


def _own(module: ModuleType) -> bool:
    if module.__name__ == "__main__":
        return True
    if not (file := _file(module)) or not file.endswith(".py"):
        return False
    path = Path(file)
    return _PACKAGE not in path.parents and not any(library in path.parents for library in _LIBRARIES)


def _file(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return str(Path(file).resolve()) if file else ""


def _is(name: str, file: str) -> bool:
    return _file(sys.modules[name]) == str(Path(file).resolve())


def _digest(module: ModuleType) -> str:
    """Of the module's file."""
    if file := _file(module):
        with contextlib.suppress(OSError):
            return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return ""


def _heard(spec: Any, name: str) -> Iterator[str]:
    """What a spec takes from a module without a file: names of classes and functions, outermost first."""
    for of in _parts(spec):
        if getattr(of, "__module__", "") == name:
            yield of.__qualname__.partition(".")[0]


def _told(module: ModuleType, uses: list[str]) -> dict[str, str]:
    """Digest of the source of some definitions and of what they call in the same module; nothing if it cannot be had."""
    todo, sources = list(uses), dict[str, str]()
    while todo:
        of = getattr(module, name := todo.pop(), None)
        if name in sources or getattr(of, "__module__", "") != module.__name__:
            continue
        sources[name] = ""
        for key, value in sorted(vars(of).items()) if isinstance(of, type) else [("", of)]:
            inner: Any = getattr(value, "__func__", getattr(value, "fget", value))
            work = inspect.unwrap(inner)
            if not inspect.isfunction(work):
                plain = isinstance(value, str | int | float | None) and not key.startswith("__")
                sources[name] += f"{key} = {value!r}\n" if plain else ""
            elif work.__code__.co_filename != "<string>":  # which is a dataclass's own
                try:
                    sources[name] += inspect.getsource(work)
                except (OSError, TypeError):
                    return {}
                todo += work.__code__.co_names
    text = "\n".join(f"{n}\n{sources[n]}" for n in sorted(sources))
    return {"uses": " ".join(uses), "sha256": hashlib.sha256(text.encode()).hexdigest()} if sources else {}


def _imported(module: ModuleType) -> Iterator[str]:
    """Names that the module's source imports, anywhere in it."""
    try:
        tree = ast.parse(Path(_file(module)).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return
    package = module.__name__ if hasattr(module, "__path__") else module.__name__.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                with contextlib.suppress(ImportError):
                    base = importlib.util.resolve_name("." * node.level + base, package)
            yield base
            yield from (f"{base}.{a.name}" for a in node.names)
