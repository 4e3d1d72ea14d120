"""Pictures as people keep them: a folder a class, a table that names files, turned by a camera, 16 bits deep."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fedfm
from fedfm.core.errors import DataError
from fedfm.data.kinds import Wrong
from fedfm.data.reading.pictures import tensor
from fedfm.tasks.vision.image import ImageClassification

CLASSES = ("1", "10", "2")
COLUMNS = ImageClassification.columns


def put(file: Path, value: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 6), value, "uint8")).save(file)


def fill(folder: Path, n: int, classes: tuple[str, ...] = CLASSES) -> None:
    for c in classes:
        for i in range(n):
            put(folder / c / f"{i}.png", int(c) * 10 + i)


def read(path: Any, **knobs: Any) -> Any:
    return fedfm.Files(str(path), **knobs).read(0, COLUMNS)


def held(shard: Any) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row in shard.rows:
        found.setdefault(row["label"], []).append(int(row["image"].flatten()[0]))
    return found


def test_a_folder_of_classes_a_party_and_its_splits(tmp_path: Path) -> None:
    for party, n in (("b", 4), ("a", 5)):
        fill(tmp_path / party / "train", n)
        fill(tmp_path / party / "test", 2, CLASSES[:2])  # a class that the tests lack
    put(tmp_path / "a" / "train" / ".ipynb_checkpoints" / "x.png", 3)
    (tmp_path / "a" / "train" / "1" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "a" / "train" / "1" / "._0.png").write_bytes(b"x")
    found = read(tmp_path)
    assert found.ids == ("a", "b") and found.labels == CLASSES
    assert held(found.train("a")) == {c: [int(c) * 10 + i for i in range(5)] for c in CLASSES}
    assert held(found.test()) == {c: [int(c) * 10 + i // 2 for i in range(4)] for c in CLASSES[:2]}


def test_classes_alone_are_one_pool_and_parties_of_classes_are_parties(tmp_path: Path) -> None:
    fill(tmp_path / "flat", 6)
    pool = read(tmp_path / "flat", partition=fedfm.Iid(parties=2))
    assert len(pool.ids) == 2 and pool.labels == CLASSES
    assert sum(len(pool.train(i)) for i in pool.ids) + len(pool.test()) == 18
    assert read(tmp_path / "flat").ids == ("flat",)
    fill(tmp_path / "two" / "x", 5)
    fill(tmp_path / "two" / "y", 5)
    assert read(tmp_path / "two").ids == ("x", "y")
    assert read(tmp_path / "two" / "*").ids == ("x", "y")


def test_train_and_test_of_one_party(tmp_path: Path) -> None:
    fill(tmp_path / "ours" / "train", 4)
    fill(tmp_path / "ours" / "val", 2)
    found = read(tmp_path / "ours")
    assert found.ids == ("ours",) and len(found.test()) == 6


def test_a_table_names_its_pictures(tmp_path: Path) -> None:
    fill(tmp_path, 6, ("1", "2"))
    rows = "".join(f"{c}/{i}.png,{c}\n" for c in ("1", "2") for i in range(6))
    (tmp_path / "metadata.csv").write_text("file_name,label\n" + rows)
    for knobs in ({"columns": {"image": "file_name"}}, {"columns": {"metadata": {"image": "file_name"}}}):
        found = read(tmp_path / "metadata.csv", test_fraction=0.25, **knobs)
        assert sum(map(len, held(found.train("metadata")).values())) + len(found.test()) == 12
    (tmp_path / "2" / "3.png").unlink()
    with pytest.raises(DataError, match=r"'file_name' is no picture but the text '2/3.png'"):
        read(tmp_path / "metadata.csv", columns={"image": "file_name"})


def test_it_runs(tmp_path: Path) -> None:
    for party in "ab":
        fill(tmp_path / "data" / party, 6)
    fed = fedfm.recipe_of("fedavg-vision")
    run = fedfm.run(fed, data=tmp_path / "data", rounds=1, out=tmp_path / "run")
    assert run.status in ("finished", "finished with findings")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([f"{c}/{i}.png" for c in "ab" for i in range(5)], None),  # classes a and b
        (["train/1.png", "test/2.png"], "a folder for each class"),
        (["c/1.png", "c/notes.txt"], r"c/notes.txt"),
        (["c/1.png", "c/more/2.png"], r"c/more/"),
        (["c/1.png", "beside.png"], r"beside.png"),
    ],
)
def test_what_is_not_read_is_named(files: list[str], words: str | None, tmp_path: Path) -> None:
    for k, name in enumerate(files):
        put(tmp_path / name, k) if name.endswith("png") else (tmp_path / name).write_text("x")
    if words is None:
        assert read(tmp_path, test_fraction=0.5).labels == ("a", "b")
        return
    with pytest.raises(DataError, match=words):
        read(tmp_path)


def test_a_broken_picture_is_named_and_a_glob_of_pictures_is_answered(tmp_path: Path) -> None:
    fill(tmp_path, 4)
    (tmp_path / "10" / "2.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"no picture that can be read \(UnidentifiedImageError\): 10/2.png"):
        read(tmp_path)
    with pytest.raises(DataError, match="name the folder that holds a folder of pictures for each class"):
        read(tmp_path / "**" / "*.png")


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_is_read_as_it_is_shown(turn: int) -> None:
    upright = np.arange(48, dtype="uint8").reshape(6, 8) * 5
    back = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.T,
            6: np.rot90, 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, 3)}  # fmt: skip
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = turn
    Image.fromarray(np.ascontiguousarray(back[turn](upright))).save(file, "PNG", exif=exif)
    assert torch.equal(tensor(file.getvalue()), torch.from_numpy(upright)[None])


def png(array: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def test_depths_are_read_or_refused() -> None:
    grey = np.arange(256, dtype="uint16").reshape(16, 16)
    want = torch.from_numpy(grey.astype("uint8"))[None]
    for deep in (png(grey * 257), grey * 257, (grey * 257).astype("int32"), Image.fromarray(grey * 257)):
        assert torch.equal(tensor(deep), want)
    for plain in (grey.astype("int32"), grey.astype("int64"), grey.tolist()):  # numbers of 0..255
        assert torch.equal(tensor(plain), want)
    assert not bool(tensor(png(grey * 0)).any())
    dark = [png(grey), png(grey * 16), grey, grey * 16, (grey * 16).astype("int32")]
    for deep in (*dark, Image.fromarray(grey.astype("int32"))):
        with pytest.raises(Wrong, match="a picture of 16 bits whose values end at"):
            tensor(deep)


def test_pixels_in_one_list_are_a_picture_of_the_size_that_is_asked_for(tmp_path: Path) -> None:
    """As LEAF has them."""
    users = {u: {"x": [[(i + j) / 40 for j in range(16)] for i in range(8)], "y": [0, 1] * 4} for u in "uv"}
    told = {"users": ["u", "v"], "num_samples": [8, 8], "user_data": users}
    (tmp_path / "all.json").write_text(json.dumps(told))
    columns = {"image": "x", "label": "y"}
    with pytest.raises(DataError, match=r"a list of 16 numbers(?s:.*)data.image_size=4"):
        read(tmp_path / "all.json", columns=columns)
    found = read(tmp_path / "all.json", columns=columns, image_size=4)
    first = found.train("u").rows[0]["image"]
    assert found.ids == ("u", "v") and first.shape == (1, 4, 4)
    (tmp_path / "all.json").write_text(json.dumps(told | {"num_samples": [8, 9], "users": ["u", "v"]}))
    with pytest.raises(DataError, match="v has 8 for 9"):
        read(tmp_path / "all.json", columns=columns, image_size=4)
    (tmp_path / "all.json").write_text(
        json.dumps(told | {"num_samples": [8, 8, 3], "users": ["u", "v", "w"]})
    )
    with pytest.raises(DataError, match="1 of its users have no rows: w"):
        read(tmp_path / "all.json", columns=columns, image_size=4)
