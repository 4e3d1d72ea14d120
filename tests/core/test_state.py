"""States on disk: read back as they were, versions side by side, secrets never."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from fedfm import files
from fedfm.core.errors import MachineFault, ResumeError
from fedfm.core.state import Store, freeze, lasting, thaw
from fedfm.files import write
from fedfm.laws.compare import normal, same

STATE = {
    "w": normal(5),
    "half": normal(3).bfloat16(),
    "empty": torch.zeros(0),
    "scalar": torch.tensor(2),
    "n": 1,
    "f": 0.1,
    "far": float("-inf"),
    "nan": float("nan"),
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


def test_a_bit_that_a_disk_has_turned_is_never_read_as_a_state(tmp_path: Path) -> None:
    path, sound = tmp_path / "s", freeze(STATE)
    for at in range(len(sound)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        try:
            read = thaw(path)
        except ResumeError as e:
            assert str(path) in str(e)
        else:  # a blank before the file's header, or the name of an entry that nobody asks for
            assert same(read, STATE), at
    path.write_bytes(sound.replace(b'\\"n\\", 1', b'\\"n\\", 2'))  # what is no tensor
    with pytest.raises(ResumeError, match="not those that were written"):
        thaw(path)


def test_a_state_without_a_digest_is_read(tmp_path: Path) -> None:
    """As earlier releases wrote it."""
    path = tmp_path / "s"
    path.write_bytes(
        save(
            {"0": torch.ones(2)}, {"state": '{"format": "1", "state": {"$dict": [["a", {"$tensor": "0"}]]}}'}
        )
    )
    assert same(thaw(path), {"a": torch.ones(2)})


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


def test_a_frozen_state_is_let_go() -> None:
    """A cycle through a closure once kept a model alive for every checkpoint, until the collector ran."""
    gc.collect()
    gc.disable()
    try:
        state: dict[str, Any] = {"deep": {"list": [torch.zeros(9)]}}
        alive = weakref.ref(state["deep"]["list"][0])
        freeze(state)
        del state
        assert alive() is None
    finally:
        gc.enable()


def test_equal_states_are_equal_bytes() -> None:
    assert len({freeze(STATE) for _ in range(20)}) == 1


def test_a_file_of_another_format_is_said(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for head, words in (('{"$dict": []}', "has the format 0"), ('{"format": "99"}', "has the format 99")):
        path.write_bytes(save({"": torch.zeros(0)}, metadata={"state": head}))
        with pytest.raises(ResumeError, match=words):
            thaw(path)
    with pytest.raises(ResumeError, match="is missing"):
        thaw(tmp_path / "nothing")


def test_the_same_state_again_is_no_second_write(tmp_path: Path) -> None:
    """A job that another worker does again, or that a resumed run repeats."""
    store = Store(tmp_path)
    store.save("a", 3, {"w": torch.ones(2)})
    (path,) = (tmp_path / "a").iterdir()
    before = path.stat().st_ino
    assert store.save("a", 3, {"w": torch.ones(2)}) == 3 and path.stat().st_ino == before
    store.save("a", 4, {"w": torch.zeros(2)})
    store.keep("a", {3}, upto=3)  # said late: what is newer stays
    assert same(store.load("a", 4), {"w": torch.zeros(2)})
    (tmp_path / "a" / "notes.safetensors").write_bytes(b"")
    store.keep("a", {4})
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["00000004.safetensors", "notes.safetensors"]


@pytest.mark.parametrize(
    "name", ["..", ".", "...", "", "/etc", "a" * 300, "\u00e9" * 200, "<everybody>", ".hidden", "a\nb"]
)
def test_a_partys_name_stays_inside_the_folder(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "clients")
    assert store.save(name, 1, {"n": 1}) == 1 and store.load(name, 1) == {"n": 1}
    (folder,) = (tmp_path / "clients").iterdir()
    assert [p.name for p in tmp_path.iterdir()] == ["clients"] and len(list(folder.iterdir())) == 1
    twin = name + "b"
    store.save(twin, 1, {"n": 2})
    assert store.load(name, 1) == {"n": 1} and store.load(twin, 1) == {"n": 2}


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=int)
    child.start()
    child.join()
    gone, mine = f".x.{child.pid}-00000000.part", f".x.{os.getpid()}-00000000.part"
    others = [f".x.{os.getppid()}-00000000.part", ".hidden", "x.part"]
    for name in (gone, mine, *others):  # a process of the same number may have been another one
        (tmp_path / name).write_bytes(b"half")
    write(tmp_path / "y", b"whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "y"])


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "may not write"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_disk_that_does_not_take_it_is_the_machines_fault(
    where: str, code: int, words: str, tmp_path: Path, monkeypatch: Any
) -> None:
    path = tmp_path / "a" / "state"
    write(path, b"old")

    def fails(*args: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, where, fails)
    with pytest.raises(MachineFault, match=words) as caught:
        write(path, b"new")
    assert (
        str(path) in str(caught.value) and "fix:" in str(caught.value) and "fedfm resume" in str(caught.value)
    )
    assert path.read_bytes() == b"old" and [p.name for p in path.parent.iterdir()] == ["state"]


def test_a_file_where_a_folder_should_be_is_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(MachineFault, match="cannot be written"):
        write(tmp_path / "a" / "state", b"new")
