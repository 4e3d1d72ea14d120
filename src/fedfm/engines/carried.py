"""Code of the user's own on its way to another machine: its source is sent, and imported there as here."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from fedfm.core.blame import whose

Sources = dict[str, tuple[str, str]]  # name -> its file, and what that holds
OWN = 2  # of `blame.whose`


def sources() -> Sources:
    """Every module of this process that is neither fedfm's nor a library's, and the packages that they lie in."""
    found: Sources = {}
    for name, file in _own():
        try:
            found[name] = file, Path(file).read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue  # whoever needs it is told that it is not there
    for name in list(found):
        while name := name.rpartition(".")[0]:
            found.setdefault(name, ("", ""))
    return found


def _own() -> Iterator[tuple[str, str]]:
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name != "__main__" and isinstance(file, str) and file.endswith(".py") and whose(file) == OWN:
            yield name, file


class Carried(MetaPathFinder, InspectLoader):
    """Finds modules among sources that were sent; a failure in them names the file that they came from."""

    def __init__(self, given: Mapping[str, tuple[str, str]]):
        self.given = given

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self.given:
            return None
        return spec_from_loader(
            name, self, origin=self.given[name][0] or None, is_package=self.is_package(name)
        )

    def is_package(self, fullname: str) -> bool:
        file = self.given[fullname][0]
        return not file or Path(file).name == "__init__.py"

    def get_source(self, fullname: str) -> str:
        return self.given[fullname][1]

    def get_filename(self, fullname: str) -> str:
        return self.given[fullname][0]

    def exec_module(self, module: ModuleType) -> None:
        file, text = self.given[module.__name__]
        if file:
            module.__file__ = file
        if self.is_package(module.__name__):
            module.__path__ = [str(Path(file).parent)] if file else []
        exec(compile(text, file or module.__name__, "exec"), module.__dict__)


def carry(given: Mapping[str, tuple[str, str]]) -> None:
    """From now on these modules are imported from what was sent, whatever lies on this machine."""
    sys.meta_path.insert(0, Carried(given))
