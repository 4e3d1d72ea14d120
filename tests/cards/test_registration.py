"""A method is registered when its decorator runs, wherever that is; source is read only to list what is not imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm.cards import listing, registry
from fedfm.cards.registry import cards, find, load, method, methods, name_of, problems, recipes
from fedfm.config.building import from_config
from fedfm.config.configure import configure
from fedfm.config.record import to_config
from fedfm.core import protocols
from fedfm.core.errors import ConfigError
from fedfm.core.federation import Federation
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.servers import Apply
from fedfm.engines.inprocess import InProcess
from fedfm.tasks.quadratic import Quadratic, Quadratics

CELL = '''
from dataclasses import dataclass
import fedfm, tempfile
from fedfm.cards import registry
{before}
@{decorator}("gentle", slot="client")
@dataclass(frozen=True)
class Gentle(fedfm.Local):
    """An own client, defined in a cell."""

    def work(self, brief, data, state, ctx, bound):
        global CALLED
        CALLED = True
        return super().work(brief, data, state, ctx, bound)

fed = fedfm.Federation(task=fedfm.Quadratic(), data=fedfm.Quadratics(), client=Gentle(lr=0.05), rounds=1,
                       engine=fedfm.InProcess())
run = fedfm.run(fed, out=tempfile.mkdtemp() + "/run", settings="client.steps=2")
again = fedfm.run(run.folder / "config.yaml", out=tempfile.mkdtemp() + "/run")
assert CALLED and "name: gentle" in (run.folder / "config.yaml").read_text()
assert again.summary["model_digest"] == run.summary["model_digest"]
print("ran", fedfm.Gentle is Gentle)
'''


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("decorator", "before"),
    [("fedfm.method", ""), ("registry.method", ""), ("m", "from fedfm import method as m")],
)
def test_what_a_cell_defines_runs(decorator: str, before: str, tmp_path: Path) -> None:
    """Code on standard input lies in no file, as a cell's."""
    code = CELL.format(decorator=decorator, before=before)
    said = subprocess.run(
        [sys.executable], input=code, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert said.stdout.strip().endswith("ran True"), said.stderr


def fed(**slots: Any) -> Federation:
    base: dict[str, Any] = {"task": Quadratic(), "data": Quadratics(), "engine": InProcess(), "rounds": 1}
    return Federation(**base | slots)


def variant(name: str, rate: float) -> Any:
    @method(name, slot="client")
    @dataclass(frozen=True)
    class Variant(Local):
        """A client made by a function."""

        lr: float = rate

    return Variant


def test_variants_that_a_function_makes_stand_side_by_side() -> None:
    one, two = variant("variant-1", 0.5), variant("variant-2", 0.25)
    for cls, name in ((one, "variant-1"), (two, "variant-2")):
        assert load(name) is cls and to_config(fed(client=cls()))["client"]["name"] == name
        assert from_config(to_config(fed(client=cls()))).client == cls()
    again = variant("variant-1", 0.125)
    assert load("variant-1") is again
    assert "object" in to_config(fed(client=one()))["client"]  # the name is another class's by now
    assert type(configure(fed(client=one())).fed.client) is one


def test_a_class_in_a_class_and_a_recipe_are_found_too() -> None:
    class Outer:
        @fedfm.method("inner-client", slot="client", section="own")
        @dataclass(frozen=True)
        class Inner(Local):
            """Inside."""

    @fedfm.recipe("my-recipe")
    def mine() -> Federation:
        """My own."""
        return fed(client=Outer.Inner())

    assert load("inner-client") is Outer.Inner and "my-recipe" in recipes()
    assert type(configure("my-recipe").fed.client) is Outer.Inner
    assert configure("my-recipe", ["client.lr=0.5"]).fed.client == Outer.Inner(lr=0.5)
    card = find("inner-client")
    assert (card.summary, card.section, card.slots) == ("Inside.", "own", ("client",))


def defined(name: str, cls: str, home: str = "a_module_of_mine", **more: Any) -> Any:
    """A class at the top level of a module of the user's own."""
    made = dataclass(frozen=True)(
        type(cls, (Local,), {"__doc__": "Mine.", "__module__": home, "__qualname__": cls})
    )
    return method(name, slot=more.pop("slot", "client"), **more)(made)


def test_written_again_is_defined_again() -> None:
    first, second = defined("mine", "Mine"), defined("mine", "Mine")
    assert load("mine") is second is not first
    renamed = defined("mine-2", "Mine")  # the cell is corrected: the old name is gone
    assert load("mine-2") is renamed and "mine" not in methods()


@pytest.mark.parametrize(
    ("name", "cls", "more", "words"),
    [
        ("topk", "Mine", {}, "the name 'topk' is taken"),
        ("mine", "TopK", {}, "a class named TopK is registered"),
        ("theirs", "Mine", {}, "the name 'theirs' is taken"),
        ("mine", "Theirs", {}, "a class named Theirs is registered"),
        ("My_Codec", "Mine", {}, "kebab-case"),
        ("mine", "Mine", {"section": "4.2"}, "'4.2' is no section"),
        ("mine", "Mine", {"survey": ("25",)}, "survey is no tuple of numbers"),
        ("mine", "Mine", {"paper": 3}, "paper is no text"),
        ("mine", "Mine", {"slot": "clinet"}, "did you mean 'client'"),
    ],
)
def test_a_wrong_card_is_a_problem_at_once(name: str, cls: str, more: dict[str, Any], words: str) -> None:
    defined("theirs", "Theirs", "another_module")
    before = methods()
    with pytest.raises(ConfigError, match=words):
        defined(name, cls, **more)
    assert methods() == before and load("theirs").__name__ == "Theirs"  # nothing else is touched
    defined("mine", "Mine")  # corrected


def test_uplink_is_a_name_of_the_slot_wire() -> None:
    assert find(name_of(defined("mine", "Mine", slot="uplink")())).slots == ("wire",)
    with pytest.raises(ConfigError, match="is no dataclass"):
        method("plain", slot="client")(type("Plain", (), {}))


def test_every_card_reads_from_source_as_it_is_registered() -> None:
    assert not problems()
    for card in listing.packaged()[0]:
        if card.kind == "method":
            load(card.name)
            assert registry._live[card.name, "method"].card == card


PUBLISHED = '''
from dataclasses import dataclass
import fedfm
from fedfm.efficiency.training.local import Local
WHAT = "of-a-package"

@fedfm.method({name}, slot="client", section="IV.A")
@dataclass(frozen=True)
class OfAPackage(Local):
    """Published."""
'''


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Modules that entry points of other packages name."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries)
    entries: list[Any] = []

    def go(**sources: str) -> None:
        for module, text in sources.items():
            (tmp_path / f"{module}.py").write_text(text)
            entries.append(types.SimpleNamespace(module=module))
        forget()

    def forget() -> None:
        for cached in (listing.published, cards, methods, recipes):
            cached.cache_clear()

    yield go
    monkeypatch.undo()
    forget()


def test_what_a_package_publishes_is_listed_without_import(publish: Any) -> None:
    publish(a_published_one=PUBLISHED.format(name='"of-a-package"'))
    assert find("of-a-package").module == "a_published_one" and "a_published_one" not in sys.modules
    assert fedfm.run  # the registry works
    assert load("of-a-package").__name__ == "OfAPackage"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (PUBLISHED.format(name="WHAT"), "broken.py:7.*literals"),
        (PUBLISHED.format(name='"topk"'), "the name 'topk' is taken"),
        ("def broken(:\n    method(", "cannot be read"),
        (PUBLISHED.format(name='"x", nonsense=1'), "cannot be read"),
    ],
    ids=["no literal", "taken", "no Python", "no such argument"],
)
def test_a_broken_package_is_named_and_breaks_nothing_else(publish: Any, source: str, words: str) -> None:
    publish(broken=source, sound=PUBLISHED.format(name='"sound"').replace("OfAPackage", "Sound"))
    assert load("sound").__name__ == "Sound" and load("local") is Local
    (problem,) = problems()
    import re

    assert "broken" in problem.where
    assert re.search(words, str(problem), re.S), problem
    with pytest.raises(ConfigError, match="broken"):
        find("no-such-method")
    with pytest.raises(ConfigError, match=r"uplink: there is no [\s\S]*\d\. \S*broken"):
        from_config({"recipe": "fedavg", "uplink": "no-such-method"})
    if "taken" in words:
        with pytest.raises(ConfigError, match="is taken"):
            find("topk")


@pytest.mark.parametrize("end", ["1 / 0", "raise SystemExit(3)", "import no_such_module_at_all"])
def test_a_package_that_cannot_be_imported_is_a_problem(publish: Any, end: str) -> None:
    publish(falls_over=PUBLISHED.format(name='"falls-over"') + f"\n{end}\n")
    with pytest.raises(
        ConfigError, match=r"falls_over cannot be imported[\s\S]*falls_over.py:\d+, in <module>"
    ):
        load("falls-over")
    assert load("apply") is Apply


# ---- what an editor sees --------------------------------------------------------------------------------------
def test_the_stub_is_current() -> None:
    path = Path(__file__).resolve().parents[2] / "scripts" / "make_stubs.py"
    spec = importlib.util.spec_from_file_location("make_stubs", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.STUB.read_text(encoding="utf-8") == script.render(), "run python scripts/make_stubs.py"


def test_dir_shows_every_method_and_every_name_is_there() -> None:
    shown = dir(fedfm)
    assert {c.qualname for c in methods().values()} | {"run", "resume", "laws", "Federation"} <= set(shown)
    for name in shown:
        assert name.startswith("__") or getattr(fedfm, name) is not None
    bases = {n for n, c in vars(protocols).items() if isinstance(c, type) and issubclass(c, protocols.Slot)}
    assert bases - {"Slot"} <= set(fedfm.NAMES), "a new slot's base class belongs into fedfm.NAMES"
    defined("mine", "MyOwn")
    assert "MyOwn" in dir(fedfm) and fedfm.MyOwn(lr=0.5).lr == 0.5  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="dir"):
        _ = fedfm.NoSuchThing  # type: ignore[attr-defined]


@pytest.mark.slow  # a type checker over the whole package
@pytest.mark.timeout(3600)
def test_types_are_known(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "use.py").write_text(
        "import fedfm\nreveal_type(fedfm.TopK(0.1))\nreveal_type(fedfm.run)\nfedfm.TopK(fractoin=0.1)\n"
    )
    src = str(Path(__file__).resolve().parents[2] / "src")
    said = subprocess.run(
        [sys.executable, "-m", "mypy", "--ignore-missing-imports", "--follow-imports=silent", "use.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"MYPYPATH": src, "PATH": "", "MYPY_CACHE_DIR": str(tmp_path)},
        check=False,
    ).stdout
    assert "topk.TopK" in said and "Result" in said and 'Unexpected keyword argument "fractoin"' in said, said
