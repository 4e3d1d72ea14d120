"""What is installed, what this machine has, and what would run here. Asks no network and loads no model."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator

from fedfm.report.numbers import size


def facts() -> dict[str, list[tuple[str, str]]]:
    """Rows of (what, how it is) by topic."""
    return {
        "versions": list(_versions()),
        "extras": list(_extras()),
        "machine": list(_machine()),
        "models": list(_models()),
        "recipes": list(_recipes()),
    }


def _requirements() -> Iterator[tuple[str, str, str]]:
    """Library, range and extra ("" for the core) of everything that the package asks for."""
    try:
        lines = importlib.metadata.requires("fedfm") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path
        lines = []
    for line in lines:
        what, _, marker = line.partition(";")
        name = re.match(r"[\w.-]+", what)
        extra = re.search(r"extra\s*==\s*['\"]([\w.-]+)", marker)
        if name and name[0] != "fedfm":
            yield name[0], what[name.end() :].strip(), extra[1] if extra else ""


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    yield "fedfm", _installed("fedfm") or "not installed as a package"
    core = {name: wanted for name, wanted, extra in _requirements() if not extra}
    for name, wanted in (core or dict.fromkeys(("torch", "transformers", "peft"), "any")).items():
        yield name, _installed(name) or f"missing (needs {wanted or 'any'})"


def _extras() -> Iterator[tuple[str, str]]:
    extras: dict[str, list[str]] = {}
    for name, _, extra in _requirements():
        if extra and extra != "test":
            extras.setdefault(extra, []).append(name)
    for extra, names in sorted(extras.items()):
        missing = [n for n in names if not _installed(n)]
        yield extra, f"pip install 'fedfm[{extra}]'  ({', '.join(missing)})" if missing else "installed"


def _machine() -> Iterator[tuple[str, str]]:
    from fedfm.machine import cores
    from fedfm.models.store import cache

    yield "system", f"{platform.system()} {platform.machine()}"
    yield "cores", f"{cores()} (engine=processes would use as many workers)"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        page = os.sysconf("SC_PAGE_SIZE")
        yield "memory", f"{size(page * os.sysconf('SC_PHYS_PAGES'))}"
    import torch

    cuda = torch.cuda.is_available()
    yield (
        "device",
        f"{torch.cuda.get_device_name()} (engine=inprocess; worker processes stay on the CPU)"
        if cuda
        else "cpu (no CUDA device)",
    )
    where = cache()
    held = sum(f.stat().st_size for f in where.rglob("*") if f.is_file()) if where.is_dir() else 0
    yield "cache", f"{where} ({size(held)})"
    free = os.statvfs(where if where.is_dir() else where.anchor or ".") if hasattr(os, "statvfs") else None
    if free:
        yield "free on its disk", size(free.f_bavail * free.f_frsize)


def _models() -> Iterator[tuple[str, str]]:
    from fedfm import models

    for row in models.status():
        yield row.name, "here" if row.cached else f"not here (fedfm models {row.name}, {row.package})"


def _recipes() -> Iterator[tuple[str, str]]:
    """Which recipes would run now: their models are here."""
    from fedfm.cards.registry import load, recipes
    from fedfm.config.record import to_config
    from fedfm.core.errors import FedfmError
    from fedfm.running.commands.checking import here
    from fedfm.running.record.identity import models_of

    for name in recipes():
        try:
            wanted = set(models_of(to_config(load(name, "recipe")().task)))
        except (FedfmError, ImportError) as e:
            yield name, str(e).split("\n")[0]
            continue
        absent = sorted(m for m in wanted if not here(m))
        yield name, f"would fetch {', '.join(absent)} first" if absent else "would run"
