"""Own code that raises, on the command line: what, and the line of the person's own file; no frames of libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

METHOD = '''
from dataclasses import dataclass
import torch, fedfm
from fedfm.efficiency.training.local import Local
from fedfm.core.protocols import Wire
{top}

@fedfm.method("of-mine", slot="client", section="IV.A")
@dataclass(frozen=True)
class OfMine(Local):
    """Own."""

    size: int = 3

    def __post_init__(self):
        {post}

    def work(self, brief, data, state, ctx, bound):
        {work}
        return super().work(brief, data, state, ctx, bound)


@fedfm.method("codec-of-mine", slot="wire", section="IV.A")
@dataclass(frozen=True)
class CodecOfMine(Wire):
    """Own."""

    def encode(self, x, state, ctx):
        {encode}
        return x, {{}}, state

    def gives(self, layout):
        {gives}
        return layout

    def decode(self, x, side, state, ctx):
        return x, state
'''
MOMENTS = {
    "import": {"top": "open('no-such-file')"},
    "post": {"post": "{}['a key of mine']"},
    "work": {"work": "torch.ones(2) @ torch.ones(3)"},
    "encode": {"encode": "x.view(-1, x.numel() + 1)"},
    "facts": {"gives": "raise RuntimeError('no layout of mine')"},
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_what_own_code_raises_is_told_by_its_line(moment: str, command: str, tmp_path: Path) -> None:
    parts = dict.fromkeys(("top", "post", "work", "encode", "gives"), "pass") | MOMENTS[moment]
    (tmp_path / "mine.py").write_text(METHOD.format(**parts))
    about = tmp_path / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[fedfm.methods]\nmine = mine\n")
    slots = (
        ["uplink=codec-of-mine"]
        if moment in ("encode", "facts")
        else ["client={name: of-mine, steps: 2, batch: 4}"]
    )
    source = Path(__file__).resolve().parents[2] / "src"
    said = subprocess.run(
        [
            sys.executable,
            "-m",
            "fedfm",
            command,
            "fedavg-vision",
            "data=digits",
            "rounds=1",
            "engine=inprocess",
        ]
        + (["--baselines", "none"] if command == "run" else [])
        + slots,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{source}:{tmp_path}", "PATH": "", "HOME": str(tmp_path)},
        check=False,
    )
    told = said.stdout + said.stderr
    if moment in ("work", "encode", "facts") and command == "check":
        return  # nothing is encoded before a run; a client's work is its own
    line = next(
        n
        for n, text in enumerate((tmp_path / "mine.py").read_text().split("\n"), 1)
        if next(iter(MOMENTS[moment].values())) in text
    )
    assert said.returncode in (1, 2), told
    assert f"mine.py:{line}" in told, told
    for foreign in ("Traceback", "typer", "click", "site-packages", "src/fedfm", "report it"):
        assert foreign not in told, told
