"""The plan of the house: who may import whom, how long a file may be, and what must not be there at all."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "src" / "fedfm"
FILES = sorted(ROOT.rglob("*.py"))
SECTIONS = {"efficiency", "trust", "incentives", "evaluation", "quantum"}  # of the survey: methods
BELOW = {
    "cards",
    "checks",
    "config",
    "data",
    "models",
    "tasks",
    "engines",
    "ledger",
    "files",
    "text",
    "lent",
    "vectors",
    "around",
    "pace",
    "machine",
    "direction",
}  # what methods and recipes stand on
ABOVE = {
    "recipes",
    "running",
    "report",
    "cli",
    "laws",
    "bench",
    "deploy",
    "scaffold",
    "commands",
}  # what combines methods
MOST_LINES = 400
CORE_LINES = 3000  # of code, after `ruff format` at 110 columns
MOST_FILES = 12  # of a folder; core/ is exempt: docs/design.md names its modules one by one
ALLOWED = {
    "core": {"core", "cards", "files", "ledger", "vectors"},
    **{s: {"core", s, *BELOW} for s in SECTIONS},
    **{b: {"core", *BELOW} for b in BELOW},
    "vectors": {"vectors"},
}


def part(module: str) -> str:
    """The package under fedfm that a module belongs to; empty for fedfm itself."""
    return (module.split(".") + [""])[1]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, types: bool = False) -> Iterator[tuple[int, str]]:
    """Line and name of every import, also inside functions; those for type checkers only on request."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(n)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for n in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only and not types:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{a.name}") for a in node.names)


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank lines, no comments, no docstrings."""
    text = path.read_text(encoding="utf-8")
    docs: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            docs |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    skip = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
        tokenize.ENCODING,
    }
    lines: set[int] = set()
    for t in tokenize.generate_tokens(io.StringIO(text).readline):
        if t.type not in skip:
            lines |= set(range(t.start[0], t.end[0] + 1))
    return len(lines - docs)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_below_it(path: Path) -> None:
    here = part(module_of(path))
    if here not in ALLOWED:
        assert here in ABOVE or path.parent == ROOT, f"{here} has no place in the plan: add it above"
        return
    for line, name in imports(path):
        if name.startswith("fedfm."):
            assert part(name) in ALLOWED[here] | {"__version__"}, (
                f"{path.name}:{line} imports {name}: {here} stands on {sorted(ALLOWED[here])}"
            )


def test_the_core_knows_no_method() -> None:
    for path in (ROOT / "core").glob("*.py"):
        assert all(
            name.startswith(tuple(f"fedfm.{p}" for p in ALLOWED["core"]))
            for _, name in imports(path, types=True)
            if name.startswith("fedfm")
        ), path.name


def test_nothing_below_imports_what_combines() -> None:
    """recipes know methods; running, report and the command line know recipes by name only."""
    for path in FILES:
        here = part(module_of(path))
        for line, name in imports(path):
            if name.startswith("fedfm.") and here == "recipes":
                assert part(name) not in ABOVE - {"recipes"}, f"{path.name}:{line}: a recipe imports {name}"
            if name.startswith("fedfm.recipes"):
                assert here == "recipes", (
                    f"{path.name}:{line} imports {name}; ask the registry for a recipe by its name"
                )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_short_and_named_after_an_idea(path: Path) -> None:
    n = path.read_text(encoding="utf-8").count("\n")
    assert n <= MOST_LINES, f"{path.name} has {n} lines: split it by idea"
    assert not {"utils", "util", "helpers", "helper", "common", "misc"} & {
        path.stem,
        *path.relative_to(ROOT).parts,
    }


def test_tests_and_scripts_are_short_too() -> None:
    checkout = ROOT.parents[1]
    files = [p for folder in ("tests", "scripts") for p in (checkout / folder).rglob("*.py")]
    long = {p.name: n for p in files if (n := p.read_text(encoding="utf-8").count("\n")) > MOST_LINES}
    assert files and not long, long


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_unpickled_and_nothing_is_drawn_from_global_streams(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for _, name in imports(path):
        assert name.split(".")[0] not in ("pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"), (
            f"{path.name}: {name}"
        )
        watches = path.name in (
            "steadiness.py",
            "streams.py",
            "lent.py",
        )  # whether others draw from it; where they stand
        assert watches or not (name == "random" or name.startswith("random.")), (
            f"{path.name}: the module random has a global state"
        )
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            call = f"{node.value.id}.{node.attr}"
            assert (
                call not in ("torch.load", "torch.save", "np.load", "numpy.load")
                or "allow_pickle=False" in path.read_text()
            ), f"{path.name}:{node.lineno}: {call}"


def test_no_test_asserts_a_time_of_the_wall() -> None:
    """Speed belongs in `fedfm bench`, as a ratio to a reference of the same run."""
    found = []
    for path in (ROOT.parents[1] / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            read = {c.attr for c in ast.walk(node) if isinstance(c, ast.Attribute)}
            if isinstance(node, ast.Assert) and read & {"perf_counter", "monotonic", "process_time"}:
                found.append(f"{path.name}:{node.lineno}")
    assert not found


def test_no_two_tests_share_a_name() -> None:
    """pytest imports them by their bare names."""
    names = [p.name for p in (ROOT.parents[1] / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(n for n in set(names) if names.count(n) > 1)


def test_the_core_fits_its_limit() -> None:
    count = {str(p.relative_to(ROOT)): code_lines(p) for p in (ROOT / "core").rglob("*.py")}
    assert sum(count.values()) <= CORE_LINES, sorted(count.items(), key=lambda kv: -kv[1])


def test_code_lines_are_counted_right(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    body = '"""Doc\n\nmore."""\n\n# comment\nx = 1  # why\n\n\ndef f(a,\n      b):\n    """Doc."""\n'
    path.write_text(body + '    s = """two\nlines"""\n    return s\n')
    assert code_lines(path) == 6


def test_folders_split_by_idea() -> None:
    for folder in {p.parent for p in FILES} - {ROOT / "core"}:
        files = [p for p in folder.glob("*.py") if p.name != "__init__.py"]
        assert len(files) <= MOST_FILES, f"{folder.relative_to(ROOT)} has {len(files)} files"


def test_the_tests_have_the_rooms_of_the_source() -> None:
    there = {p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()}
    rooms = {p.name for p in (ROOT.parents[1] / "tests").iterdir() if any(p.glob("test_*.py"))}
    assert rooms - there == {"install", "python", "soak"}, "a room of tests that is no room of the source"


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(p.relative_to(ROOT))
        for p in FILES
        if p.read_text().strip() and not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert not silent, silent
