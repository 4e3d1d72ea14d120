"""A real Jupyter kernel: an own method in a cell, a run, its history, a cell that is run again, tab completion."""

from __future__ import annotations

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

METHOD = '''
from dataclasses import dataclass
import fedfm

@fedfm.method("halved", slot="wire")
@dataclass(frozen=True)
class Halved(fedfm.Wire):
    """Sends half of the update."""

    factor: float = fedfm.knob(FACTOR, "share of the update that travels", above=0.0)

    def decode(self, x, side, state, ctx):
        return x * self.factor, state
'''
RUN = """
task, data = fedfm.Quadratic(), fedfm.Quadratics()
fed = fedfm.Federation(task=task, data=data, uplink=Halved(), rounds=3, engine=ENGINE)
seen = []
run = fedfm.run(fed, out="OUT", callbacks=lambda record: seen.append(record["round"]))
assert seen[-1] == 3, seen
len(run.history), run.metric["federated"]
"""
MODULE = """
from torch import nn
net = nn.Linear(2, 1)
try:
    fedfm.run(fed, task=net)
except fedfm.ConfigError as e:
    said = str(e)
said
"""


def test_a_notebook_defines_runs_and_reads(tmp_path: Path) -> None:
    def run(engine: str, out: str) -> str:
        return RUN.replace("ENGINE", engine).replace("OUT", out)

    cells = [
        METHOD.replace("FACTOR", "0.5"),
        run("fedfm.InProcess()", "one"),
        METHOD.replace("FACTOR", "1.0"),  # the cell is corrected and run again
        run("fedfm.Processes(2)", "two"),
        "again = fedfm.run('two/config.yaml', out='three'); again.summary['model_digest'] == run.summary['model_digest']",
        "get_ipython().Completer.use_jedi = False; get_ipython().complete('fedfm.Halv')[1] + get_ipython().complete('fedfm.Top')[1]",
        MODULE,
        "run",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    def shown(k: int) -> str:
        return str(notebook.cells[k].outputs[-1].data["text/plain"])

    one, two = (float(shown(k).split(", ")[1].rstrip(")")) for k in (1, 3))
    assert shown(1).startswith("(4,") and one > two  # half of the way in the same rounds
    assert shown(4) == "True"
    assert ".Halved" in shown(5) and ".TopK" in shown(5)
    assert "fedfm.Torch" in shown(6)
    assert "name: halved" in (tmp_path / "two" / "config.yaml").read_text()
