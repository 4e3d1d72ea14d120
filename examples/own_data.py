"""Your own files, one a party: here two clinics and a library, with columns that fedfm has never heard of.

python examples/own_data.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import fedfm

NOTES = {
    "party-a": [("fever and a dry cough", "lung"), ("pain in the chest when breathing", "lung")] * 10,
    "party-b": [("swollen knee after a fall", "bone"), ("short of breath at night", "lung")] * 8,
    "party-c": [("a broken wrist", "bone"), ("stiff fingers in the morning", "bone")] * 6,
}


def main(model: str = "minilm", rounds: int = 2, folder: Path | None = None) -> Any:
    folder = folder or Path(tempfile.mkdtemp())
    for name, notes in NOTES.items():
        rows = (json.dumps({"body": body, "topic": topic}) for body, topic in notes)
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    result = fedfm.run(
        "quickstart",
        model=model,
        rounds=rounds,
        out=folder / "run",
        engine="inprocess",
        settings=(
            "data=files",
            f"data.path={folder}/party-*.jsonl",
            "data.columns={text: body, label: topic}",
        ),
    )
    print(fedfm.tasks.load_tuned(result.folder / "model").predict(["a cough", "a sprained ankle"]))
    return result


if __name__ == "__main__":
    main()
