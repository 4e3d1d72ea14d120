"""Vectors with names: views, joins, parts and sub-models of a layout."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from effort import few
from fedfm.core.context import Terms
from fedfm.laws.compare import normal
from fedfm.tasks.quadratic import Quadratic
from fedfm.vectors.cut import cut
from fedfm.vectors.layout import ALIGN, Layout

names = st.text("abcdef./_0123456789", min_size=1, max_size=12)
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
layouts = st.dictionaries(names, shapes, max_size=6).map(Layout.of)


@few
@given(layouts)
def test_views_are_aligned_apart_and_write_through(layout: Layout) -> None:
    flat = torch.zeros(layout.size)
    for k, (name, view) in enumerate(layout.views(flat).items(), 1):
        entry = next(e for e in layout.entries if e.name == name)
        assert entry.offset % ALIGN == 0 and view.shape == entry.shape
        assert not view.any()  # no tensor wrote into this one
        view.fill_(float(k))
    assert float((flat != 0).sum()) == sum(e.size for e in layout.entries) == layout.trainable
    tensors = {n: v.clone() for n, v in layout.views(flat).items()}
    assert torch.equal(layout.pack(tensors), flat) and layout.size % ALIGN == 0
    with pytest.raises(ValueError, match="elements is needed"):
        layout.views(torch.zeros(layout.size + 1))


@few
@given(layouts, layouts)
def test_join_lays_vectors_behind_each_other(a: Layout, b: Layout) -> None:
    both = Layout.join(left=a, right=b)
    assert both.size == a.size + b.size and len(both.entries) == len(a.entries) + len(b.entries)
    if a.entries and b.entries:
        x = normal(both.size)
        for name, view in both.views(x).items():
            side, _, rest = name.partition("/")
            assert torch.equal(
                view, a.views(x[: a.size])[rest] if side == "left" else b.views(x[a.size :])[rest]
            )


@few
@given(layouts, st.sampled_from(["*", "a*", "*.*", "nothing-like-it"]))
def test_sub_and_rest_share_out_a_layout(layout: Layout, pattern: str) -> None:
    x = layout.pack({e.name: normal(e.size, k).view(e.shape) for k, e in enumerate(layout.entries)})
    (sub, here), (rest, there) = layout.sub(pattern), layout.sub(pattern, rest=True)
    assert sub.trainable + rest.trainable == layout.trainable and sub.size == here.numel()
    for part, where in ((sub, here), (rest, there)):
        views, whole = part.views(x[where]), layout.views(x)
        assert all(torch.equal(v, whole[n]) for n, v in views.items())
    assert sorted([*here.tolist(), *there.tolist()]) == list(range(layout.size))


AXES = {
    "in": ("width", ""),
    "mid": ("width", "width"),
    "bias": ("width",),
    "out": ("", "width"),
    "A": ("rank", ""),
    "k": (),
}
sizes = st.integers(1, 9)


@few
@given(st.tuples(sizes, sizes, sizes, sizes), st.floats(0.01, 1.0), st.floats(0.01, 1.0), st.integers(1, 9))
def test_cuts_are_nested_and_come_back(n: tuple[int, ...], narrow: float, wide: float, rank: int) -> None:
    i, h, o, r = n
    layout = Layout.of(
        {"in": (h, i), "mid": (h, h), "bias": (h,), "out": (o, h), "A": (r, i), "k": (3,)}, axes=AXES
    )
    narrow, wide = sorted((narrow, wide))
    small, large = cut(layout, narrow, rank), cut(layout, wide, min(rank + 1, 9))
    assert small is not None and large is not None
    assert bool((small.coverage() <= large.coverage()).all())  # nested
    w = layout.pack({e.name: normal(e.size, k).view(e.shape) for k, e in enumerate(layout.entries)})
    assert torch.equal(small.widen(small.narrow(w)), w * small.coverage())
    assert torch.equal(small.narrow(w), small.narrow(small.widen(small.narrow(w))))
    kept = {e.name: e.shape for e in small.layout.entries}
    width = max(1, math.ceil(narrow * h))
    assert kept == {
        "in": (width, i),
        "mid": (width, width),
        "bias": (width,),
        "out": (o, width),
        "A": (min(rank, r), i),
        "k": (3,),
    }
    assert float(small.coverage().sum()) == small.layout.trainable
    views = small.layout.views(small.narrow(w))
    assert torch.equal(views["mid"], layout.views(w)["mid"][:width, :width])  # the first units, hence nested
    assert cut(layout, 1.0, None) is None


def test_a_tree_is_a_vector_with_names() -> None:
    layout = Layout.of({"a": (2, 2), "b": ()}, buffers=("b",))
    tree = layout.views(torch.arange(float(layout.size)))
    assert tree["a"].tolist() == [[0, 1], [2, 3]] and float(tree["b"]) == 16
    assert layout.trainable == 4
    assert hash(layout) == hash(Layout.of({"a": (2, 2), "b": ()}, buffers=("b",)))
    assert layout.digest != Layout.of({"a": (2, 2), "b": ()}).digest


@pytest.mark.parametrize(
    ("width", "n", "kept"), [(0.28, 50, 14), (0.07, 100, 7), (0.55, 100, 55), (0.3, 5, 2)]
)
def test_a_share_of_the_width_is_not_rounded_up_by_floats(width: float, n: int, kept: int) -> None:
    """In the layout, in a network of images and in the quadratic alike."""
    layout = Layout.of({"x": (n, 3)}, axes={"x": ("width", "")})
    c = cut(layout, width)
    assert c is not None and c.layout.entries[0].shape == (kept, 3)
    quadratic = Quadratic(dim=n).open(None).at("", Terms(width=width))
    assert quadratic.layout.trainable == kept
