"""The core's parts: vectors, messages, streams, states, configs, compatibility, folds, and known fixed points."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as safetensors_load

from fedfm.core import config, ledger
from fedfm.core.check import check
from fedfm.core.combine import ByPath, Pipe
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import ConfigError, MessageRefused, ResumeError, nearest
from fedfm.core.federation import Federation, replace
from fedfm.core.fold import Fold
from fedfm.core.loop import merge
from fedfm.core.message import DTYPES, Message, nothing, pack, unpack
from fedfm.core.protocols import Lift
from fedfm.core.registry import cards, find, methods, recipes
from fedfm.core.state import Store, freeze, lasting, thaw
from fedfm.core.tree import ALIGN, Layout, cut
from fedfm.efficiency.communication.error_feedback import ErrorFeedback
from fedfm.efficiency.communication.heterofl import HeteroFL
from fedfm.efficiency.communication.qsgd import QSGD
from fedfm.efficiency.communication.topk import TopK
from fedfm.efficiency.computation.splitfed import SplitFed, SplitFedServer
from fedfm.efficiency.training.fedbuff import FedBuff
from fedfm.efficiency.training.fedprox import FedProx
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.lora_exact import FedExLoRA
from fedfm.efficiency.training.mean import Mean
from fedfm.efficiency.training.scaffold import Scaffold, ScaffoldServer
from fedfm.efficiency.training.servers import Apply, FedAdam
from fedfm.engines.pace import Buffered, Quorum
from fedfm.engines.processes import Processes
from fedfm.incentives.budget_split import BudgetSplit
from fedfm.incentives.power_of_choice import PowerOfChoice
from fedfm.incentives.proportional_share import ProportionalShare
from fedfm.incentives.shapley_exact import ShapleyExact
from fedfm.incentives.uniform import Uniform
from fedfm.laws.compare import near, normal, same
from fedfm.laws.homes import pictures, quadratics
from fedfm.running.cards import describe, record
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.trust.privacy.gaussian import ClipNoise
from fedfm.trust.privacy.secagg import SecAgg
from fedfm.trust.robustness.krum import Krum

few = settings(max_examples=60, deadline=None)
names = st.text("abcdef./_0123456789", min_size=1, max_size=12)
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
layouts = st.dictionaries(names, shapes, max_size=6).map(Layout.of)


# ---- vectors ------------------------------------------------------------------------------------------------------
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
        assert both.part("left") == slice(0, a.size) and both.part("right") == slice(a.size, both.size)
        x = normal(both.size)
        for name, view in both.views(x).items():
            side, _, rest = name.partition("/")
            assert torch.equal(view, (a if side == "left" else b).views(x[both.part(side)])[rest])
    with pytest.raises(KeyError):
        both.part("middle")


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
    layout = Layout.of({"in": (h, i), "mid": (h, h), "bias": (h,), "out": (o, h), "A": (r, i), "k": (3,)}, axes=AXES)
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


# ---- messages -----------------------------------------------------------------------------------------------------
def tensor(dtype: torch.dtype, n: int, seed: int = 0) -> torch.Tensor:
    raw = torch.randint(0, 256, (n * torch.empty(0, dtype=dtype).element_size(),), dtype=torch.uint8,
                        generator=torch.Generator().manual_seed(seed))
    return raw.view(dtype) if dtype != torch.bool else raw > 127


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
@pytest.mark.parametrize("n", [0, 1, 3, 1000])
def test_every_type_survives_the_wire(dtype: torch.dtype, n: int) -> None:
    m = Message(
        tensor(dtype, n),
        "delta",
        2.5,
        "party-é",
        7,
        {"0/a": tensor(torch.uint8, 3), "s": torch.tensor(1.5), "e": torch.zeros(2, 0, 3)},
        {"loss": 0.1, "list": [1, None, "x"]},
    )
    data = pack(m)
    assert len(data) == m.nbytes and same(unpack(data), m)
    assert same(unpack(memoryview(bytearray(data))), m)
    theirs = safetensors_load(data)  # the library reads it
    assert set(theirs) == {"x", "side/0/a", "side/s", "side/e"} and same(theirs["x"], m.x)


@few
@given(st.floats(allow_nan=False), st.text(max_size=9), st.integers(0, 10**12), st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)))
def test_what_is_not_a_tensor_survives_too(mass: float, sender: str, version: int, info: dict[str, Any]) -> None:
    m = Message(torch.zeros(2), "info", mass, sender, version, {}, info)
    assert same(unpack(pack(m)), m) and len(pack(m)) == m.nbytes
    assert nothing(a=1).x.numel() == 0


WHOLE = pack(Message(normal(40), "delta", 3.0, "party-0", 2, {"0/index": torch.arange(6)}, {"loss": 1.0}))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_bytes_are_refused_or_harmless(data: st.DataObject) -> None:
    """Cut short: refused. Bits changed: refused, or a message whose tensors have the size that they claim."""
    if data.draw(st.booleans()):
        broken = WHOLE[:data.draw(st.integers(0, len(WHOLE) - 1))]
        with pytest.raises(MessageRefused):
            unpack(broken)
        return
    raw = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(WHOLE) - 1))] = data.draw(st.integers(0, 255))
    try:
        m = unpack(bytes(raw))
    except MessageRefused:
        return
    assert m.x.numel() * m.x.element_size() <= len(WHOLE)


def header(head: Any, body: bytes = b"") -> bytes:
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + body


META = {"message": json.dumps({"kind": "delta", "mass": 1.0, "sender": "a", "version": 0, "info": {}})}


@pytest.mark.parametrize("data", [
    b"", b"\0" * 8, b"\xff" * 40, header({}), header([]), header({"__metadata__": META}),
    header({"__metadata__": META, "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 16]}}, b"\0" * 16),
    header({"__metadata__": META, "x": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 16),
    header({"__metadata__": META, "x": {"dtype": "F32", "shape": [4], "data_offsets": [-4, 12]}}, b"\0" * 16),
    header({"__metadata__": META, "x": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}, b"\0" * 16),
])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(MessageRefused):
        unpack(data)


@pytest.mark.parametrize("data", [
    header(5), header({"__metadata__": {"message": "{}"}, "x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
    header({"__metadata__": {"message": "[]"}, "x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
    header({"__metadata__": META, "x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 0]}}),
    header({"__metadata__": META, "x": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}, b"\0" * 16),
])
def test_what_looks_like_a_message_is_refused(data: bytes) -> None:
    with pytest.raises(MessageRefused):
        unpack(data)


# ---- streams ------------------------------------------------------------------------------------------------------
def draw(g: torch.Generator) -> list[float]:
    return torch.rand(4, generator=g).tolist()


def test_streams_are_stable_and_independent() -> None:
    base = Ctx(1, 2, client="a")
    kinds = {"rng": base.rng("p"), "pair": base.pair("p"), "shared": base.shared("p"), "noise": base.noise("p")}
    others = {
        "purpose": base.rng("q"),
        "seed": Ctx(2, 2, client="a").rng("p"),
        "round": base.at(round=3).rng("p"),
        "client": base.at(client="b").rng("p"),
        "path": base.within(0).rng("p"),
        "deeper": base.within(0).within(1).rng("p"),
    }
    drawn = [tuple(draw(g)) for g in {**kinds, **others}.values()]
    assert len(set(drawn)) == len(drawn)
    assert (
        draw(base.rng("p"))
        == draw(Ctx(1, 2, client="a").rng("p"))
        == draw(base.at(attempt=5, terms=Terms(width=0.5)).rng("p"))
    )
    assert draw(base.shared("p")) == draw(base.at(client="b").shared("p"))  # the cohort's
    assert draw(base.pair("p")) != draw(base.at(client="b").pair("p"))


def test_a_stream_is_the_same_on_every_machine() -> None:
    """The seed is the first 8 bytes of SHA-256 of what names the stream, halved to fit 63 bits."""
    import hashlib
    key = hashlib.sha256(b"1|own|2|a|/0|p").digest()[:8]
    expected = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
    assert draw(Ctx(1, 2, client="a").within(0).rng("p")) == draw(expected)


def test_secrets_are_fresh_and_noise_only_in_earnest() -> None:
    ctx = Ctx(1, 2, client="a")
    assert ctx.secret(16) != ctx.secret(16) and len(ctx.secret(5)) == 5
    assert draw(ctx.noise("p")) == draw(ctx.noise("p"))
    earnest = ctx.at(simulated=False)
    assert draw(earnest.noise("p")) != draw(earnest.noise("p"))


def test_ambient_seeds_the_global_generator_and_gives_it_back() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with Ctx(1, client="a").ambient():
        one = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with Ctx(1, client="a").ambient():
        assert torch.equal(torch.rand(3), one)


def test_notes_have_round_kind_and_client() -> None:
    ctx = Ctx(1, 2, client="a", events=[])
    ctx.note("bid", ask=3.0)
    ctx.within(1).note("more")
    ctx.muted().note("unheard")
    assert ctx.events == [
        {"round": 2, "kind": "bid", "client": "a", "ask": 3.0},
        {"round": 2, "kind": "more", "client": "a"},
    ]


# ---- states -------------------------------------------------------------------------------------------------------
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


# ---- ledger -------------------------------------------------------------------------------------------------------
def test_ledger_is_canonical_and_forgets_what_was_not_committed(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    events = [
        {"round": 0, "kind": k, "client": c}
        for k, c in itertools.product(("b", "a", "seconds"), ("p2", None, "p1"))
    ]
    log = ledger.Ledger(path)
    log.commit(events)
    assert [(e["client"], e["kind"]) for e in ledger.read(path)][:4] == [
        (None, "a"),
        (None, "b"),
        (None, "seconds"),
        ("p1", "a"),
    ]
    length, digest = log.length, ledger.digest(path)
    log.commit([{"round": 1, "kind": "x", "client": None}])
    with path.open("ab") as f:
        f.write(b'{"round": 2, "ki')  # the process died here
    again = ledger.Ledger(path, length)
    assert ledger.digest(path) == digest and again.length == length == path.stat().st_size
    other = ledger.Ledger(tmp_path / "o.jsonl")
    other.commit([{**e, "wall": 3.0} if e["kind"] == "seconds" else e for e in reversed(events)])
    assert ledger.digest(tmp_path / "o.jsonl") == digest  # neither order of arrival nor clocks count


# ---- configs ------------------------------------------------------------------------------------------------------
def plain(**slots: Any) -> dict[str, Any]:
    out: dict[str, Any] = config.to_config(quadratics(**slots))
    return out


def problems(c: dict[str, Any], *settings_: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as e:
        config.from_config(config.override(c, settings_))
    return [(p.where, f"{p.what}; {p.why}; {p.fix}") for p in e.value.problems]


def test_unknown_names_are_answered_with_the_nearest() -> None:
    assert nearest("topkk", ["topk", "randk"]) == "did you mean 'topk'?" and "known here: a, b" in nearest(
        "zzz", ["b", "a"]
    )
    (where, text), = problems(plain(), "clinet.lr=0.1")
    assert where == "clinet" and "did you mean 'client'" in text
    (where, text), = problems(plain(), "client.momentun=0.1")
    assert where == "client.momentun" and "did you mean 'momentum'" in text
    (where, text), = problems({**plain(), "client": {"name": "lokal"}})
    assert where == "client" and "did you mean 'local'" in text
    (where, text), = problems({**plain(), "aggregate": {"name": "topk"}})
    assert where == "aggregate" and "cannot fill this slot" in text and "mean" in text
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        find("quikstart", "recipe")


def test_all_problems_come_at_once() -> None:
    c = plain(uplink=Pipe(TopK(0.5), QSGD()))
    c["client"] |= {"lr": -1, "steps": "many", "optimizer": "sdg", "lrr": 0.1}
    c["uplink"][0]["fraction"] = 7
    c["rounds"] = -1
    del c["task"]
    found = problems(c)
    assert sorted(w for w, _ in found) == [
        "client.lr",
        "client.lrr",
        "client.optimizer",
        "client.steps",
        "rounds",
        "task",
        "uplink.0.fraction",
    ]
    assert "0 problems" in str(ConfigError(()))


def test_ranges_types_and_choices() -> None:
    for setting, words in (("client.lr=-0.1", "lowest allowed is 0"), ("client.momentum=1.5", "highest allowed is 1"),
                           ("client.optimizer=sdg", "did you mean 'sgd'"), ("client.steps=1.5", "int is expected"),
                           ("client.lr=fast", "float is expected"), ("fold=exact", "one of float, fixed")):
        (where, text), = problems(plain(), setting)
        assert where == setting.split("=")[0] and words in text, text
    assert config.from_config(config.override(plain(), ["client.lr=1"])).client.lr == 1.0  # type: ignore[attr-defined]


def test_what_a_spec_itself_refuses_is_a_problem_of_its_slot() -> None:
    (where, text), = problems({**plain(), "pace": {"name": "buffered", "size": 5, "concurrency": 2}})
    assert where == "pace" and "concurrency must be at least size" in text


def test_overrides_reach_into_slots_lists_and_mappings() -> None:
    c = plain(uplink=Pipe(TopK(0.5), QSGD()), pace=Quorum(drop={"party-0": ""}))
    c = config.override(c, ["uplink.0.fraction=0.25", "uplink.1.levels=7", "pace.drop.party-1=upload", "client=fedprox",
                            "client.mu=0.5", "select={name: uniform, count: 2}"])
    fed = config.from_config(c)
    assert fed.uplink == Pipe(TopK(0.25), QSGD(levels=7)) and fed.pace == Quorum(
        drop={"party-0": "", "party-1": "upload"}
    )
    assert fed.client == FedProx(mu=0.5) and fed.select.count == 2  # type: ignore[attr-defined]
    for setting, words in (
        ("uplink.2.levels=1", "2 stages"),
        ("uplink.x.levels=1", "2 stages"),
        ("rounds", "slot.field=value"),
        ("rounds.deep=1", "has no keys"),
        ("client.lr=[", "no YAML value"),
    ):
        with pytest.raises(ConfigError, match="1 problem in") as e:
            config.override(plain(uplink=Pipe(TopK(), QSGD())), [setting])
        assert words in str(e.value), e.value


def test_overrides_reach_into_what_was_left_to_its_default() -> None:
    fed = config.from_config(config.override(plain(), ["client=fedprox", "client.local.steps=2"]))
    assert fed.client == FedProx(local=Local(steps=2))


@pytest.mark.parametrize(
    ("slot", "value", "where"),
    [
        ("uplink", "topkk", "uplink"),
        ("uplink", 5, "uplink"),
        ("uplink", ["topk", 3], "uplink.1"),
        ("client", {"lr": 0.5}, "client"),
        ("aggregate", [{"name": "mean"}], "aggregate"),
        ("task", None, "task"),
        ("client", {"name": "local", "lr": None}, "client.lr"),
        ("client", {"name": "fedprox", "local": 5}, "client.local"),
        ("rounds", None, "rounds"),
        ("client", {"name": "fedprox", "local": {"name": "topk"}}, "client.local"),
        ("select", {"name": "heterofl", "inner": {"name": "topk"}}, "select.inner"),
    ],
    ids=str,
)
def test_what_is_no_method_cannot_fill_a_slot(slot: str, value: Any, where: str) -> None:
    assert [w for w, _ in problems({**plain(), slot: value})] == [where]


def test_names_alone_will_do_anywhere() -> None:
    c = {**plain(), "uplink": {"name": "by-path", "rules": {"a*": "topk", "*": ["topk", "qsgd"]}},
         "select": {"name": "heterofl", "inner": "uniform"}}
    fed = config.from_config(c)
    assert fed.uplink == ByPath({"a*": TopK(), "*": Pipe(TopK(), QSGD())}) and fed.select == HeteroFL(inner=Uniform())


def test_equal_federations_are_equal_and_print_as_expressions() -> None:
    assert quadratics() == quadratics() and config.from_config(plain()) == quadratics()
    assert " object at " not in repr(quadratics())


def test_a_list_is_a_pipe_and_null_the_identity() -> None:
    c = plain()
    assert c["uplink"] is None
    c["uplink"] = ["topk", {"name": "qsgd", "levels": 3}]
    assert config.from_config(c).uplink == Pipe(TopK(), QSGD(levels=3))
    assert Pipe(TopK(), Pipe(QSGD(), Pipe())) == Pipe(TopK(), QSGD())
    c["uplink"] = {"name": "by-path", "rules": {"a*": "topk", "*": {"name": "qsgd"}}}
    c["uplink"]["rules"]["a*"] = {"name": "topk"}
    assert config.from_config(c).uplink == ByPath({"a*": TopK(), "*": QSGD()})


def test_a_recipe_with_nested_settings() -> None:
    base = config.resolve({"recipe": "quickstart"})
    c = config.resolve(
        {
            "recipe": "quickstart",
            "client": {"lr": 0.5},
            "task": {"tuning": {"r": 2}},
            "rounds": 3,
            "data.partition.parties": 4,
        }
    )
    assert c["client"] == base["client"] | {"lr": 0.5} and c["task"]["tuning"] == base["task"]["tuning"] | {"r": 2}
    assert (c["rounds"], c["data"]["partition"]["parties"], c["recipe"]) == (3, 4, "quickstart")
    other = config.resolve({"recipe": "quickstart", "client": {"name": "fedprox", "mu": 0.1}})
    assert other["client"] == {"name": "fedprox", "mu": 0.1}  # another method: nothing of the old one is left
    assert config.from_config(other).client == FedProx(mu=0.1)
    with pytest.raises(ConfigError):
        config.parse("a: [", "x.yaml")
    with pytest.raises(ConfigError, match="a config is a mapping"):
        config.parse("- a", "x.yaml")


def test_digest_is_of_what_determines_the_result() -> None:
    c = plain()
    assert config.digest(c) == config.digest({**c, "engine": {"name": "processes", "workers": 7}})
    assert config.digest(c) == config.digest(dict(reversed(list(c.items()))))
    for slot in ("seed", "threads", "fold", "rounds"):
        assert config.digest(c) != config.digest({**c, slot: "other"})


def test_digest_does_not_tell_2_from_2_0() -> None:
    one, two = (config.to_config(config.from_config(plain(pace=Quorum(deadline_s=d)))) for d in (2, 2.0))
    assert config.digest(one) == config.digest(two)


def test_cards_are_read_without_import() -> None:
    assert len({(c.name, c.kind) for c in cards()}) == len(cards())
    assert set(methods()["proportional-share"].slots) == {"select", "reward"} and recipes()["fedavg"].slot == "recipe"
    rows = {r["name"]: r for r in describe(Local)}
    assert (
        rows["lr"]["default"] == 0.01
        and rows["lr"]["low"] == 0.0
        and rows["send"]["choices"] == ("delta", "weights")
    )
    assert set(record(methods()["topk"])) == {"name", "kind", "slot", "section", "survey", "paper", "summary"}


# ---- compatibility ------------------------------------------------------------------------------------------------
NOISE = {"uplink": ClipNoise(), "aggregate": Mean(weights="equal")}
SECRET = {"uplink": SecAgg()}
WEIGHTS = {"client": Local(send="weights"), "server": Apply(takes="weights")}


@pytest.mark.parametrize(("slots", "where", "words"), [
    (SECRET | {"aggregate": Krum()}, "aggregate", "krum reads single messages, which secagg hides"),
    (SECRET | {"value": ShapleyExact()}, "value", "shapley-exact reads single messages"),
    (SECRET | {"pace": Buffered(2, 4)}, "pace", "part of a cohort"),
    (SECRET | {"pace": Quorum(eager=True)}, "pace", "part of a cohort"),
    (SECRET | {"aggregate": FedBuff()}, "aggregate", "cannot be computed on the client"),
    ({"uplink": Pipe(TopK(), SecAgg())}, "uplink.0", "is not linear"),
    ({"uplink": Pipe(SecAgg(), QSGD())}, "uplink.1", "loses bits"),
    ({"uplink": Pipe(SecAgg(), SecAgg())}, "uplink.1", "keep one"),
    (NOISE | {"aggregate": Krum()}, "aggregate", "krum reads single messages under gaussian"),
    (NOISE | {"value": ShapleyExact()}, "value", "no accountant knows"),
    (NOISE | {"aggregate": Mean(weights="examples")}, "aggregate.weights", "aggregate.weights=equal"),
    (NOISE | WEIGHTS, "client.send", "clip the model itself"),
    (NOISE | {"uplink": Pipe(ClipNoise(), TopK())}, "uplink.1", "put it before gaussian"),
    (NOISE | {"pace": Buffered(2, 4)}, "pace", "mixes rounds"),
    (NOISE | {"select": PowerOfChoice(1, 2)}, "select", "publishes"),
    ({"client": Scaffold()}, "client", "belong together"),
    ({"server": ScaffoldServer()}, "client", "belong together"),
    ({"client": Local(send="weights")}, "server.takes", "doubles the model"),
    ({"select": HeteroFL(), "aggregate": Krum()}, "aggregate", "sub-models differ in size"),
    ({"select": HeteroFL(), "value": ShapleyExact()}, "value", "sub-models differ in size"),
    ({"aggregate": FedExLoRA()}, "client.send", "fedex-lora needs weights"),
    (WEIGHTS | {"aggregate": FedBuff()}, "client.send", "fedbuff needs delta"),
    ({"fold": "fixed", "aggregate": Krum()}, "fold", "no effect"),
    ({"reward": BudgetSplit()}, "reward", "nobody values"),
    ({"reward": ProportionalShare()}, "reward", "same auction"),
    ({"device": "cuda"}, "device", "no CUDA device"),
])
def test_what_cannot_work_is_refused_with_the_reason_and_the_fix(slots: dict[str, Any], where: str, words: str) -> None:
    if "device" in slots and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    found = [p for p in check(quadratics(**slots)) if p.where == where and words in f"{p.what}; {p.why}; {p.fix}"]
    assert len(found) == 1 and found[0].what and found[0].why and found[0].fix, check(quadratics(**slots))


def test_all_incompatibilities_come_at_once() -> None:
    fed = quadratics(
        uplink=Pipe(TopK(), ClipNoise(), SecAgg()),
        aggregate=Krum(),
        value=ShapleyExact(),
        pace=Buffered(2, 4),
        client=Scaffold(),
    )
    assert {p.where for p in check(fed)} >= {"client", "aggregate", "value", "pace", "uplink.0"} and len(
        check(fed)
    ) >= 7


@pytest.mark.parametrize("slots", [
    SECRET, NOISE, {"uplink": Pipe(ClipNoise(), SecAgg()), "aggregate": Mean(weights="equal")}, WEIGHTS,
    {"uplink": ErrorFeedback(TopK()), "aggregate": Krum(), "value": ShapleyExact(), "client": FedProx()},
    {"client": Scaffold(), "server": ScaffoldServer()}, {"select": HeteroFL()}, {"fold": "fixed", "uplink": SecAgg()},
    {"pace": Buffered(2, 4), "aggregate": FedBuff()}, {"select": ProportionalShare(), "reward": ProportionalShare()},
])
def test_what_works_together_passes(slots: dict[str, Any]) -> None:
    assert check(quadratics(**slots)) == []


@pytest.mark.parametrize("slots", [
    {"uplink": ByPath({"*": ClipNoise()})}, {"uplink": ByPath({"*": SecAgg()})}, {"downlink": ClipNoise()},
    {"talk": ClipNoise()}, {"downlink": SecAgg()},
], ids=["noise by path", "masks by path", "noise downlink", "noise talk", "masks downlink"])
def test_protection_where_it_cannot_work_is_refused(slots: dict[str, Any]) -> None:
    """None of these ever adds its noise or masks: each must be an error, never run to the end."""
    assert check(quadratics(aggregate=Mean(weights="equal"), **slots))


# ---- the fold -----------------------------------------------------------------------------------------------------
values = st.floats(-1000, 1000, width=32)
lifts = st.lists(st.tuples(st.lists(values, min_size=6, max_size=6), st.integers(1, 500)), min_size=1, max_size=6)


def folded(rows: list[tuple[list[float], float]], kind: str) -> Fold:
    fold = Fold(kind)
    for k, (x, mass) in enumerate(rows):
        fold.add(Lift(torch.tensor(x), mass, mass), f"p{k}")
    return fold


@few
@given(lifts, st.randoms())
def test_fixed_is_exact_in_any_order_and_float_to_a_tolerance(rows: list[Any], random: Any) -> None:
    other = random.sample(rows, len(rows))
    a, b = folded(rows, "fixed"), folded(other, "fixed")
    assert same(a.total(), b.total()) and a.mass == b.mass
    # fp32: each partial sum is off by 2^-24 of the largest in sight, so n of them by n 2^-24 sum |alpha x|.
    size = sum(abs(m) * max(map(abs, x)) for x, m in rows)
    error = float((folded(rows, "float").total().double() - a.total().double()).abs().max())
    assert error <= (len(rows) + 1) * 2.0 ** -23 * size + len(rows) * 2.0 ** -33  # and fixed point by half a unit


def test_fixed_refuses_what_lies_beyond_its_range() -> None:
    with pytest.raises(MessageRefused, match="declared range"):
        folded([([2.0 ** 21] * 6, 1.0)], "fixed")
    assert folded([([2.0 ** 20] * 6, 1.0)], "fixed").total().tolist() == [2.0 ** 20] * 6


def test_fixed_is_exact_in_the_weights_too() -> None:
    rows = [([1.0] * 6, m) for m in (0.1, 0.2, 0.3, 0.7)]
    assert len({folded(list(p), "fixed").mass for p in itertools.permutations(rows)}) == 1


def test_scores_merge_by_sums_and_counts() -> None:
    assert merge([{"a": (3.0, 4)}, {"a": (1.0, 1), "b": (0.0, 0)}]) == {"a": 0.8}


# ---- known numbers ------------------------------------------------------------------------------------------------
def quad(**slots: Any) -> Federation:
    base: dict[str, Any] = {"client": Local(lr=0.05, steps=10, batch=0), "rounds": 60}
    return Federation(Quadratic(), Quadratics(), **base | slots)


def test_fedavg_reaches_its_biased_fixed_point(drive: Any) -> None:
    """Each side maps x to (1 - 0.05 a)^10 (x - b) + b; their mean stays at sum w b / sum w, w = 1 - (1 - 0.05 a)^10:
    w = (0.4012631, 0.9990234), so 0.9990234 / 1.4002865 = 0.713442."""
    w1, w2 = 1 - 0.95 ** 10, 1 - 0.5 ** 10
    assert w2 / (w1 + w2) == pytest.approx(0.713442, abs=1e-6)
    assert float(drive(quad()).model[0]) == pytest.approx(0.713442, abs=1e-5)


def test_scaffold_reaches_the_optimum(drive: Any) -> None:
    """sum a b / sum a = 10 / 11 = 0.909091."""
    fed = quad(client=Scaffold(Local(lr=0.05, steps=10, batch=0)), server=ScaffoldServer(), rounds=120)
    assert float(drive(fed).model[0]) == pytest.approx(10 / 11, abs=1e-5)


def test_fedprox_without_a_pull_is_local(drive: Any) -> None:
    local = Local(lr=0.05, steps=7, batch=3, momentum=0.5)
    one, two = drive(pictures(client=FedProx(mu=0.0, local=local))), drive(pictures(client=local))
    assert torch.equal(one.model, two.model) and one.digest == two.digest
    assert not torch.equal(drive(pictures(client=FedProx(mu=1.0, local=local))).model, two.model)


def test_fedadam_by_hand() -> None:
    """lr 0.1, betas 0.9 and 0.99, tau 0.001; updates 1, 0.5, -0.25:
    m 0.1, 0.14, 0.101; v 0.01, 0.0124, 0.012901; steps 0.1 m / (sqrt v + 0.001) = 0.0990099, 0.1246046, 0.0881461."""
    server, w = FedAdam(lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3), [0.0990099, 0.2236145, 0.3117606]
    state = {"w": torch.zeros(1), "m": torch.zeros(1), "v": torch.zeros(1)}
    from fedfm.core.protocols import Aggregate
    for update, expected in zip((1.0, 0.5, -0.25), w, strict=True):
        state = server.step(state, Aggregate(torch.tensor([update]), 1, ("a",), 1), Ctx(0))
        assert float(server.model(state)) == pytest.approx(expected, abs=2e-7)


def test_fedsgd_is_one_step_on_all_data(drive: Any) -> None:
    """One full-batch step a party, weighted by examples, is one step of the pooled data, however they are dealt."""
    fed = pictures(client=Local(lr=0.3, steps=1, batch=0), rounds=1)
    played = drive(fed)
    bound, parties = fed.task.open(data := fed.data.open(fed.seed)), data
    gradients = {}
    for id, rows in [("pooled", parties.pooled()), *((i, parties.train(i)) for i in parties.ids)]:
        encoded = bound.encode(rows)
        bound.load(bound.init)
        bound.gradient(bound.batch(encoded, torch.arange(len(encoded))))
        gradients[id] = bound.grads.clone()
    assert near(played.model, bound.init - 0.3 * gradients.pop("pooled"), rtol=1e-6)
    equal = drive(replace(fed, aggregate=Mean(weights="equal")))
    assert near(equal.model, bound.init - 0.3 * torch.stack(list(gradients.values())).mean(0), rtol=1e-6)
    assert not near(equal.model, played.model, rtol=1e-6)


@few
@given(st.lists(st.tuples(st.floats(0.1, 5), st.floats(-3, 3)), min_size=1, max_size=4))
def test_fedsgd_on_quadratics_in_closed_form(sides: list[tuple[float, float]]) -> None:
    """From 0 with rate 0.1: x = 0.1 mean(a b)."""
    from fedfm.laws import play
    fed = Federation(Quadratic(), Quadratics(tuple(a for a, _ in sides), tuple(b for _, b in sides)),
                     client=Local(lr=0.1, steps=1, batch=0), rounds=1)
    expected = 0.1 * sum(a * b for a, b in sides) / len(sides)
    assert float(play(fed).model[0]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_split_learning_is_learning_on_the_whole_model(drive: Any) -> None:
    """With a server copy for each party and plain SGD, cutting the network changes where it is computed only."""
    local = Local(lr=0.1, steps=4, batch=3)
    whole, split = drive(pictures(client=local)), drive(pictures(client=SplitFed(local), server=SplitFedServer(lr=0.1)))
    assert float((whole.model - split.model).abs().max()) <= 1e-6
    assert float((whole.model - whole.run.bound.init).abs().max()) > 1e-3
    assert sum(r["bytes"]["talk"] for r in split.records) > 0 == sum(r["bytes"]["talk"] for r in whole.records)


def test_sub_models_of_full_width_are_the_model(drive: Any) -> None:
    one, two = drive(pictures(select=HeteroFL(widths=(1.0,)))), drive(pictures())
    assert torch.equal(one.model, two.model) and one.digest == two.digest


def test_coordinates_outside_every_slice_stay(drive: Any) -> None:
    played = drive(pictures(select=HeteroFL(widths=(0.5,))))
    sub = cut(played.run.bound.layout, 0.5)
    assert sub is not None
    outside, moved = sub.coverage() == 0, played.model != played.run.bound.init
    assert bool(outside.any()) and not bool(moved[outside].any()) and bool(moved[~outside].any())


def test_fedbuff_without_staleness_is_the_plain_mean(drive: Any) -> None:
    one, two = drive(pictures(aggregate=FedBuff())), drive(pictures(aggregate=Mean(weights="equal")))
    assert torch.equal(one.model, two.model)


def test_replace_fills_slots_and_leaves_the_original() -> None:
    fed = quadratics()
    other = replace(fed, engine=Processes(2), rounds=9)
    assert (fed.rounds, other.rounds) == (2, 9) and dataclasses.replace(other, rounds=2, engine=fed.engine) is not fed
    with pytest.raises(TypeError):
        replace(fed, uplnk=TopK())
