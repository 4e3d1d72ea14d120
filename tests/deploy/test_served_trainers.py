"""One script, three ways: by itself, in a simulation, and at a site that joins; the last two give the same bits."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm
import hosted
from fedfm.core.errors import ModelError, ResumeError
from fedfm.deploy.authority import Authority
from fedfm.deploy.server import Service, serve
from fedfm.deploy.site.policy import Policy
from fedfm.tasks.hosted.rows import Trainers
from loopback import Fate, Loopback, played

torch.set_num_threads(1)
ADAM = {"optim": "adamw_torch", "lr_scheduler_type": "linear", "learning_rate": 0.01, "dropout": 0.1}
SCRIPT = f"""
import fedfm
import hosted

trainer = hosted.trainer(fedfm.party() or "alone-0", max_steps=4, **{ADAM})
fedfm.patch(trainer)
trainer.train()
done = trainer.state.global_step
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return str(path)


def test_by_itself_a_patched_script_trains_as_ever(script: str) -> None:
    found = runpy.run_path(script)
    assert found["done"] == 4 and fedfm.party() == ""


@pytest.mark.slow
def test_a_script_and_a_function_are_one_simulation(script: str, tmp_path: Path) -> None:
    said: dict[str, Any] = {"parties": 2, "steps": 2, "rounds": 2}
    one = fedfm.run(fedfm.patch(script, **said), out=tmp_path / "one")
    make = fedfm.patch(lambda party: hosted.trainer(party, max_steps=4, **ADAM), **said)
    two = fedfm.run(make, out=tmp_path / "two")
    assert one.summary["model_digest"] == two.summary["model_digest"]
    again = fedfm.run(one.folder / "config.yaml", out=tmp_path / "again")  # a script can be said in a config
    assert again.summary["model_digest"] == one.summary["model_digest"]
    Path(script).write_text(SCRIPT + "# changed\n", encoding="utf-8")
    with pytest.raises(ResumeError, match=r"data.script .*train.py"):
        fedfm.resume(one.folder, rounds=3)


def test_scripts_that_give_no_trainer_say_what_is_missing(tmp_path: Path) -> None:
    for text, said in (
        ("x = 1", "patches 0 trainers"),
        ("raise SystemExit(2)", "has ended by itself"),
        (
            "import fedfm, hosted\nfor k in range(2):\n    fedfm.patch(hosted.trainer('p-0'))",
            "patches 2 trainers",
        ),
    ):
        (tmp_path / "odd.py").write_text(text, encoding="utf-8")
        with pytest.raises(ModelError, match=said):
            fedfm.probe(fedfm.patch(str(tmp_path / "odd.py"), parties=2, rounds=1))


def test_a_rehearsal_has_the_bits_of_the_simulation(script: str, tmp_path: Path) -> None:
    fed = fedfm.patch(script, parties=2, steps=2, rounds=2)
    alone = fedfm.run(fed, out=tmp_path / "alone").summary
    apart = played(fed, tmp_path / "apart").summary
    keys = ("status", "model_digest", "ledger_digest")
    assert [apart[k] for k in keys] == [alone[k] for k in keys]


@pytest.mark.slow
def test_a_party_that_died_goes_on_from_its_folder(script: str, tmp_path: Path) -> None:
    fed = fedfm.patch(script, parties=2, steps=2, rounds=4)
    fates = [Fate(3, cut=0.05, kill=0.1, most=3) for _ in range(2)]
    one, two = (played(fed, tmp_path / str(k), f).summary for k, f in enumerate(fates))
    assert any(what.startswith("kill") for what in fates[0].told) and fates[0].told == fates[1].told
    assert one["status"].startswith("finished") and one["model_digest"] == two["model_digest"]


def served(folder: Path, script: str, scripts: dict[str, str], **policies: Policy) -> tuple[Any, Loopback]:
    ca = Authority.create(folder / "ca", "acme")
    for name in scripts:
        ca.invite(name, "loopback:1")
    sources = {name: Trainers(path, (name,)) for name, path in scripts.items()}
    carrier = Loopback(folder / "run", sources=sources, policies=policies)
    fed = fedfm.patch(script, parties=["server-9"], steps=2, rounds=2)
    service = Service(authority=folder / "ca", listen=carrier.listen, clock=carrier.clock, wait_s=30.0)
    return serve(fed, folder / "run", service), carrier


def test_sites_bring_trainers_of_their_own(script: str, tmp_path: Path) -> None:
    """The server tests on its own script's rows; each site's stay in its trainer, and are only counted."""
    result, carrier = served(tmp_path, script, {"site-0": script, "site-1": script})
    assert result.status == "finished"
    assert {i: p["rows"] for i, p in result.summary["parties"].items()} == {"site-0": 10, "site-1": 12}
    same = fedfm.patch(script, parties=["site-0", "site-1"], steps=2, rounds=2)
    there = fedfm.run(same, out=tmp_path / "simulated").summary
    assert result.summary["model_digest"] == there["model_digest"]
    assert not any("input_ids" in str(head) or "'of'" in str(head) for _, head in carrier.said)


def test_a_site_with_another_base_is_told_so(script: str, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    frozen = "trainer.model.bert.requires_grad_(False)\nfedfm.patch(trainer)"
    Path(script).write_text(SCRIPT.replace("fedfm.patch(trainer)", frozen), encoding="utf-8")
    moved = "trainer.model.bert.pooler.dense.bias.data += 1.0\n" + frozen
    other.write_text(SCRIPT.replace("fedfm.patch(trainer)", moved), encoding="utf-8")
    with pytest.raises(Exception, match="frozen weights of the trainers"):
        served(tmp_path, script, {"site-0": script, "site-1": str(other)})
