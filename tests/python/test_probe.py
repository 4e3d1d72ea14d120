"""`fedfm.probe`: in Python what the command `fedfm check` says, before any work and without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fedfm
from fedfm.core.errors import ConfigError, DataError

ROWS = [{"text": f"{'good' if i % 2 else 'bad'} {i}", "label": "np"[i % 2]} for i in range(20)]


def test_rows_that_are_left_out_and_texts_that_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gap = [{"text": "no label", "label": None}, {"text": "word " * 900, "label": "n"}]
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    found = fedfm.probe("quickstart", data={"a": ROWS, "b": [*ROWS, *gap]}, model="tiny-encoder")
    assert sum(found.rows.values()) + found.test_rows == 41 and found.estimate["total_bytes"] > 0
    assert "b, train: 1 rows are left out (no label)" in str(found)
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    assert not list(tmp_path.iterdir())


def test_a_module_that_does_not_fit_its_rows() -> None:
    rows = {"a": ([[0.0, 1.0]] * 10, [0, 1] * 5)}
    fed = fedfm.Federation(task=fedfm.Torch(torch.nn.Linear(3, 2)), data=rows)
    with pytest.raises(ConfigError, match="the model fails on a few real rows"):
        fedfm.probe(fed)
    assert fedfm.check(fed) == []  # settings alone


def test_what_is_not_there_is_named_as_run_names_it(tmp_path: Path) -> None:
    for call in (fedfm.probe, fedfm.run):
        with pytest.raises(DataError, match="no file matches"):
            call("quickstart", data=str(tmp_path / "none.csv"))
        with pytest.raises(ConfigError, match=r"(probe|run)\(dta=\.\.\.\).*\n.*did you mean 'data'"):
            call("quickstart", dta="x.csv")
