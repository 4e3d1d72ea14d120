"""An empty cache of models for each test."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has an empty cache, except the slow ones, which reuse the user's."""
    if "slow" not in request.keywords:
        monkeypatch.setenv("FEDFM_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("FEDFM_WHEELS", raising=False)
    return tmp_path / "cache"
