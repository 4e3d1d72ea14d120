"""Names that may be spellings of one: apart in case, blanks, leading zeros, a decimal point or their characters only."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

_SHOWN = 2  # groups of names that look like one, written out
_NAMES = 4  # names of a group, and owners of a name
_NUMERAL = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)")
_ZEROS = re.compile(r"(?<![\d.,])0+(?=\d)")  # 0211 and a01, not 1.05


def core(name: str) -> str:
    """What is left of a name without the marks that people set differently."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = "".join(c for c in text if not c.isspace() and unicodedata.category(c) != "Cf")
    if _NUMERAL.fullmatch(text):
        whole, _, part = text.replace(",", ".").removeprefix("+").partition(".")
        text = f"{whole or '0'}.{part.rstrip('0')}"
    return _ZEROS.sub("", text).strip(".") or name


def look_alike(what: str, names: Sequence[str], of: Mapping[str, set[str]]) -> Iterator[str]:
    """A sentence on names that look like one; `of`: whose they are. The first of them with their owners, the rest counted."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[core(name)].append(name)
    same = [group for group in groups.values() if len(group) > 1]
    if not same:
        return
    told = "; ".join(_told(group, of) for group in same[:_SHOWN])
    more = f" (and {len(same) - _SHOWN} more such)" if len(same) > _SHOWN else ""
    yield f"the {what} {told} look like one{more}: if they are, give them one spelling"


def _told(group: Sequence[str], of: Mapping[str, set[str]]) -> str:
    said = []
    for name in group[:_NAMES]:
        who = [owner for owner, theirs in of.items() if name in theirs]
        owners = ", ".join(who[:_NAMES]) + (f" and {len(who) - _NAMES} more" if len(who) > _NAMES else "")
        said.append(f"{_quoted(name)}{f' ({owners})' if owners else ''}")
    rest = f" and {len(group) - _NAMES} more" if len(group) > _NAMES else ""
    return ", ".join(said[:-1]) + (" and " if not rest else ", ") + said[-1] + rest


def _quoted(name: str) -> str:
    """The name in quotation marks; escaped where it has characters that nobody sees."""
    hidden = any(unicodedata.category(c) in ("Cf", "Zs") and c != " " for c in name)
    shown = unicodedata.normalize("NFKC", name) != name
    return ascii(name) if hidden or shown else f"'{name}'"
