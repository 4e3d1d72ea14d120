"""What the documents say is what the code does: the method table, the snippets, the examples, the scaffold."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm import laws
from fedfm.cards.registry import cards, methods
from fedfm.checks.rules import check
from fedfm.core.errors import ConfigError
from fedfm.models import tiny
from fedfm.scaffold import BODIES, hint, new

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def module_of(path: Path) -> types.ModuleType:
    """A file, imported under its own name."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look there for their annotations
    spec.loader.exec_module(module)
    return module


def snippet(name: str) -> str:
    """The code under `<!-- name -->` in README.md."""
    found = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", README, re.S)
    assert found is not None, f"README.md has no snippet '{name}'"
    return found[1]


@pytest.fixture(scope="module")
def index() -> types.ModuleType:
    return module_of(ROOT / "scripts" / "make_index.py")


def test_the_readme_has_the_table_that_the_cards_give(index: Any) -> None:
    assert index.render(README, index.table(index.rows(), cards())) == README, (
        "run python scripts/make_index.py"
    )


def test_cards_name_rows_that_are_on_the_map(index: Any) -> None:
    assert index.strangers(index.rows(), cards()) == []


def test_the_table_has_every_row_and_every_method(index: Any) -> None:
    atlas, text = index.rows(), index.table(index.rows(), cards())
    assert len(atlas) == len({row["id"] for row in atlas}) >= 140
    assert all(f"| {row['name']} |" in text for row in atlas)
    assert all(f"`{name}`" in text for name in methods())


def test_the_readme_combines_methods_that_go_together() -> None:
    scope: dict[str, Any] = {}
    exec(snippet("combine"), scope)  # noqa: S102 - our own README
    assert check(scope["fed"]) == []
    assert scope["fed"] == module_of(ROOT / "examples" / "combine.py").combined(), (
        "README.md and the example differ"
    )
    problems = check(fedfm.replace(scope["fed"], uplink=fedfm.SecAgg()))  # type: ignore[attr-defined]
    assert str(ConfigError(problems)).strip() == snippet("refused").strip()


def test_the_method_of_the_readme_keeps_its_laws(tmp_path: Path) -> None:
    path = tmp_path / "sign_scale.py"
    path.write_text(snippet("method"))
    cls = module_of(path).SignScale
    assert cls.__name__ in {c.qualname for c in cards()}  # imported is registered
    laws.check(cls())
    laws.check(cls(scale=2.0))


def test_any_module_on_any_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "any_module.py"
    path.write_text(snippet("torch"))
    metric = module_of(path).result.metric
    assert metric["federated"] > metric["base"] + 0.1


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_example_combine_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = fedfm.FashionMnist(train_rows=200, test_rows=40, server_rows=20)  # type: ignore[attr-defined]
    value = fedfm.ShapleyPermutation(permutations=1)  # type: ignore[attr-defined]
    engine = fedfm.InProcess()  # type: ignore[attr-defined]
    combine = module_of(ROOT / "examples" / "combine.py")
    result = combine.main(1, tmp_path / "run", data=data, value=value, engine=engine)
    assert result.metric["federated"] is not None
    assert " pay " in (said := capsys.readouterr().out) and " value " in said


def test_the_example_own_data_runs_and_plain_peft_loads_its_adapter(tmp_path: Path) -> None:
    model = str(tiny("encoder", tmp_path / "model"))
    result = module_of(ROOT / "examples" / "own_data.py").main(model, rounds=1, folder=tmp_path)
    assert result.metric["federated"] is not None
    scope: dict[str, Any] = {}
    code = (
        snippet("peft")
        .replace("./folder", model)
        .replace("runs/quickstart-1/model", str(result.folder / "model"))
    )
    exec(code, scope)  # noqa: S102 - our own README
    assert any("lora" in name for name, _ in scope["encoder"].named_parameters())


# ---- fedfm new ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("slot", sorted(BODIES))
def test_a_new_method_keeps_the_laws(slot: str, tmp_path: Path) -> None:
    method, test = new(slot, f"fresh-{slot}-one", tmp_path)
    module_of(method)
    module_of(test).test_it_keeps_the_laws()
    assert max(map(len, method.read_text().splitlines())) <= 120
    assert f"fresh-{slot}-one" in hint(slot, f"fresh-{slot}-one", [method, test])


def test_the_aggregators_other_form_keeps_the_laws_too(tmp_path: Path) -> None:
    method, test = new("aggregate", "fresh-all-one", tmp_path)
    text = method.read_text()
    kept, rest = text.split('    form = "sum"')
    stub = rest.split("# form = ")[1]
    lines = [
        line.replace("    # ", "    ", 1)
        for line in f"    # form = {stub}".splitlines()
        if line.strip() != "#"
    ]
    code = kept.replace("from torch import", "import torch\nfrom torch import") + "\n".join(lines) + "\n"
    method.write_text(code.replace("fresh-all-one", "fresh-all-two"))
    module = module_of(method)
    spec = module.FreshAllOne()
    assert spec.form == "all" and spec.least == 3
    fedfm.laws.check(spec)


def test_a_new_wire_says_where_chance_comes_from(tmp_path: Path) -> None:
    assert 'ctx.rng("purpose")' in new("wire", "fresh-chance", tmp_path)[0].read_text()


def test_every_slot_has_a_template() -> None:
    assert {s for c in methods().values() for s in c.slots} <= set(BODIES), "add a template"


@pytest.mark.parametrize(
    ("slot", "name", "says"),
    [
        ("wires", "half", "did you mean 'wire'"),
        ("wire", "Half", "kebab-case"),
        ("wire", "half_way", "kebab-case"),
        ("wire", "random", "Python's own"),
        ("wire", "topk", "taken"),
        ("wire", "wire", "imports another"),
    ],
)
def test_what_new_refuses(slot: str, name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        new(slot, name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_inside_the_package_the_test_goes_to_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src" / "fedfm"
    (package / "trust").mkdir(parents=True)
    (tmp_path / "tests" / "trust").mkdir(parents=True)
    monkeypatch.setattr("fedfm.scaffold.PACKAGE", package)
    paths = new("detect", "odd-one", package / "trust")
    assert paths == [package / "trust" / "odd_one.py", tmp_path / "tests" / "trust" / "test_odd_one.py"]
    assert "from fedfm.trust.odd_one import OddOne\n" in paths[1].read_text()
    assert "entry-points" not in hint("detect", "odd-one", paths)


def test_new_overwrites_nothing(tmp_path: Path) -> None:
    first = [p.read_text() for p in new("wire", "half", tmp_path)]
    with pytest.raises(ConfigError, match="half.py is there already"):
        new("value", "half", tmp_path)
    assert [(tmp_path / n).read_text() for n in ("half.py", "test_half.py")] == first
