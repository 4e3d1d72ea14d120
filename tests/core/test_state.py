"""States on disk: read back as they were, versions side by side, secrets never."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedfm.core.errors import ResumeError
from fedfm.core.state import Store, freeze, lasting, thaw
from fedfm.laws.compare import normal, same

STATE = {
    "w": normal(5),
    "half": normal(3).bfloat16(),
    "empty": torch.zeros(0),
    "scalar": torch.tensor(2),
    "n": 1,
    "f": 0.1,
    "none": None,
    "yes": True,
    "text": "é",
    "deep": {"": {}, "list": [1, normal(2), {"x": "y"}]},
    "$tensor": "0",
}


def test_states_survive_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(freeze(STATE))
    assert same(thaw(path), STATE)
    flat = normal(1000)
    assert len(freeze({"view": flat[:4]})) < 1000  # a view does not drag its buffer along
    with pytest.raises(TypeError, match="not set"):
        freeze({"a": {1, 2}})
    for damage in (b"", b"{}", path.read_bytes()[:-1]):
        path.write_bytes(damage)
        with pytest.raises(ResumeError, match="damaged"):
            thaw(path)


def test_store_versions_nothing_is_overwritten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.load("a/b", 0) == {} and store.save("a/b", 3, {"client": {}, "wire": {"0": {}}}) == 0
    assert store.save("a/b", 3, {"client": {"c": torch.ones(2)}}) == 3 and store.save("a/b", 5, {"n": 1}) == 5
    assert same(store.load("a/b", 3), {"client": {"c": torch.ones(2)}}) and store.load("a/b", 5) == {"n": 1}
    store.keep("a/b", {5})
    with pytest.raises(ResumeError):
        store.load("a/b", 3)
    store.keep("nobody", {1})


def test_secrets_are_never_stored(tmp_path: Path) -> None:
    assert lasting({"_s": 1, "a": {"_t": 2, "b": 3}}) == {"a": {"b": 3}}
    assert Store(tmp_path).save("a", 1, {"wire": {"0": {"_session": object()}}}) == 0
