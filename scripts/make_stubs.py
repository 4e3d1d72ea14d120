"""Write src/fedfm/__init__.pyi, what an editor and a type checker see of fedfm, from the cards.

python scripts/make_stubs.py            # write it
python scripts/make_stubs.py --check    # only say whether it is current
"""

from __future__ import annotations

import sys
from pathlib import Path

import fedfm
from fedfm.cards.registry import cards

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "fedfm"
STUB = PACKAGE / "__init__.pyi"


def render() -> str:
    """One line a name: parts of the package, what `fedfm.NAMES` lists, and the class of every method."""
    parts = sorted(p.parent.name if p.stem == "__init__" else p.stem for p in _modules())
    names = dict(fedfm.NAMES)
    names |= {c.qualname: c.module for c in cards() if c.kind == "method" and c.module.startswith("fedfm.")}
    lines = [f"from fedfm import {part} as {part}" for part in parts if part not in names]
    lines += [
        f"from {module} import {name} as {name}" for name, module in sorted(names.items(), key=_by_module)
    ]
    return (
        "# Written by scripts/make_stubs.py from the cards: do not edit.\n"
        + "\n".join(lines)
        + "\n\n__version__: str\n"
    )


def _modules() -> list[Path]:
    inner = list(PACKAGE.glob("*/__init__.py"))
    return [*inner, *(p for p in PACKAGE.glob("*.py") if not p.stem.startswith("_"))]


def _by_module(item: tuple[str, str]) -> tuple[str, int, str]:
    """In the order of ruff: modules, in each its names in capitals, classes, functions."""
    name, module = item
    return module, 0 if name.isupper() else 1 if name[0].isupper() else 2, name.casefold()


def main(check: bool) -> int:
    text = render()
    if check:
        return int(not STUB.exists() or STUB.read_text(encoding="utf-8") != text)
    STUB.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
