"""Models that cannot be had: a hub that does not answer, its cache, and folders that are no model."""

from __future__ import annotations

from pathlib import Path

import pytest

import model_cache
from fedfm import models
from fedfm.core.errors import ModelError
from fedfm.models import reach
from fedfm.tasks.network import load_base, load_tokenizer

cache = model_cache.cache  # autouse: every test here has it


@pytest.fixture
def silent_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty cache of a hub at which nobody listens."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(reach, "_answers", {})
    return tmp_path / "hub"


def test_a_hub_that_does_not_answer_is_asked_once_and_says_what_to_do(
    silent_hub: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from huggingface_hub import constants

    for load in (load_tokenizer, lambda name: load_base("AutoModel", name)):
        with pytest.raises(
            ModelError, match=r"(?s)http://127\.0\.0\.1:9 cannot be reached.*fix: .*task\.model=\./folder"
        ) as e:
            load("org/never-seen")
        assert "hf download org/never-seen" in str(e.value) and "`fedfm models`" in str(e.value)
        assert [line.split(":")[0].strip() for line in str(e.value).splitlines()] == [
            "org/never-seen",
            "why",
            "fix",
        ]
    assert capfd.readouterr().err == "" and not caplog.records
    assert not constants.HF_HUB_OFFLINE and list(reach._answers) == ["http://127.0.0.1:9"]


def test_what_the_hub_gave_before_is_loaded_without_it(silent_hub: Path) -> None:
    place = silent_hub / "models--org--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots").mkdir()
    (place / "snapshots" / ("0" * 40)).symlink_to(models.path("tiny-encoder"))
    assert load_tokenizer("org/tiny")("a word")["input_ids"]
    assert sum(p.numel() for p in load_base("AutoModel", "org/tiny").parameters()) > 20_000


def test_every_folder_that_is_no_model_comes_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"(?s)no config\.json.*fix: name a folder that does, or one of `fedfm models`"
    ):
        load_tokenizer(str(tmp_path))
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="fix: did you mean .*inner"):
        load_tokenizer(str(tmp_path))
    for load in (load_tokenizer, lambda name: load_base("AutoModel", name)):
        with pytest.raises(ModelError, match="(?s)why: .*fix: give a folder in Hugging Face layout"):
            load(str(tmp_path / "inner"))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="fix: name its base model"):
        load_tokenizer(str(tmp_path))


def test_half_a_snapshot_is_not_here_and_check_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "a" * 40
    place = tmp_path / "models--org--name" / "snapshots" / commit
    place.mkdir(parents=True)
    (place.parent.parent / "refs").mkdir()
    (place.parent.parent / "refs/main").write_text(commit)
    (place / "config.json").write_text("{}")
    assert models.here("org/name") is None  # its tokenizer was looked at once, its weights were never fetched
    with models.only_here(), pytest.raises(ModelError, match="is not here"):
        models.local("org/name")
    (place / "model.safetensors").write_bytes(b"x" * 2000)
    with models.only_here():
        assert models.local("org/name") == place and models.base("org/name").revision == commit
