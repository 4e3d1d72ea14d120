"""Make the bundled slice wordnet-topics.jsonl.gz from the `dict` folder of WordNet 3.0.

    python scripts/make_wordnet_topics.py DICT_FOLDER [OUT_FOLDER]

The folder must hold `data.noun` (Debian package wordnet-base: usr/share/wordnet). The same input gives the
same bytes: rows are ordered by hash, and nothing depends on the clock or on a random generator.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

# Numbers of the lexicographer files, from the manual page lexnames(5WN).
NOUN_FILES = {
    4: "act",
    5: "animal",
    6: "artifact",
    7: "attribute",
    8: "body",
    9: "cognition",
    10: "communication",
    11: "event",
    12: "feeling",
    13: "food",
    14: "group",
    15: "location",
    16: "motive",
    17: "object",
    18: "person",
    19: "phenomenon",
    20: "plant",
    21: "possession",
    22: "process",
    23: "quantity",
    24: "relation",
    25: "shape",
    26: "state",
    27: "substance",
    28: "time",
}
TOPICS, TRAIN, TEST, LEAST_WORDS = 10, 500, 100, 3


def definition(gloss: str) -> str:
    """The gloss without its usage examples, which stand in double quotes after a semicolon."""
    return re.split(r';\s*"', gloss.strip())[0].strip().rstrip(";").strip()


def synsets(path: Path) -> list[tuple[str, str]]:
    """(topic, definition) of every noun synset."""
    found = []
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith(" "):  # the licence at the head of the file
            continue
        number = int(line.split(" ", 2)[1])
        if number in NOUN_FILES:
            found.append((NOUN_FILES[number], definition(line.split(" | ", 1)[1])))
    return found


def order(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main(source: Path, out: Path) -> None:
    pairs = synsets(source / "data.noun")
    topics = [t for t, _ in Counter(t for t, _ in pairs).most_common(TOPICS)]
    # A gloss under two topics has no right answer, and one that stands twice could leak into the test.
    seen: dict[str, set[str]] = defaultdict(set)
    for topic, text in pairs:
        seen[text.casefold()].add(topic)
    pool: dict[str, dict[str, str]] = {t: {} for t in topics}
    for topic, text in pairs:
        if topic in pool and len(seen[text.casefold()]) == 1 and len(text.split()) >= LEAST_WORDS:
            pool[topic].setdefault(text.casefold(), text)
    ranked = {t: sorted(pool[t].values(), key=order) for t in sorted(topics)}
    rows = []
    for split, start, count in (("train", 0, TRAIN), ("test", TRAIN, TEST)):
        for k in range(start, start + count):
            rows += [{"split": split, "text": texts[k], "label": t} for t, texts in ranked.items()]
    raw = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=9) as f:
        for row in rows:
            f.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    out.mkdir(parents=True, exist_ok=True)
    (out / "wordnet-topics.jsonl.gz").write_bytes(raw.getvalue())
    print(
        f"{len(rows)} rows, {len(raw.getvalue())} bytes, sha256 {hashlib.sha256(raw.getvalue()).hexdigest()}"
    )


if __name__ == "__main__":
    default = Path(__file__).resolve().parents[1] / "src" / "fedfm" / "data" / "bundled"
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else default)
