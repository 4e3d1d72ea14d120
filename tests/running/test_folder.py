"""A run directory has one owner, is never overwritten, and survives whatever ends a run."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fedfm
from fedfm.cli import app
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, ConfigError, DataError, MachineFault, ResumeError
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, State
from fedfm.data.files import Files
from fedfm.data.source import Parties, Shard
from fedfm.efficiency.training.local import Local
from fedfm.engines.inprocess import InProcess
from fedfm.running import drive
from fedfm.running.commands.sweep import sweep
from fedfm.running.record import folder as folders
from fedfm.running.verdict import Result
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.tasks.vision.image import ImageClassification
from stopping import interrupted, killed, killed_in


def quadratics(**slots: Any) -> Federation:
    base: dict[str, Any] = {
        "client": Local(lr=0.02, steps=2, batch=0),
        "rounds": 4,
        "engine": InProcess(),
    }
    data = slots.pop("data", Quadratics(a=(1.0, 2.0, 5.0), b=(0.0, 1.0, -1.0)))
    return Federation(Quadratic(dim=3), data, **base | slots)


@dataclass(frozen=True)
class Called(Quadratics):
    """The same rows at parties of other names."""

    names: tuple[str, ...] = ()

    def read(self, seed: int, columns: Any) -> Parties:
        rows = [{"a": 1.0 + k, "b": float(k)} for k in range(len(self.names))]
        shards = [Shard(name, (row,)) for name, row in zip(self.names, rows, strict=True)]
        return Parties(tuple(shards), (Shard("", tuple(rows)),))


def lines(folder: Path) -> list[int]:
    return [json.loads(line)["round"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ---- one owner ------------------------------------------------------------------------------------------------
def test_a_second_process_is_refused_while_the_first_one_runs(tmp_path: Path) -> None:
    said = []

    def meanwhile(record: dict[str, Any]) -> None:
        if record["round"] == 2:
            for again in (
                lambda: fedfm.run(quadratics(), out=tmp_path / "run"),
                lambda: fedfm.resume(tmp_path / "run"),
            ):
                with pytest.raises(ResumeError) as e:
                    again()
                said.append(str(e.value))

    fedfm.run(quadratics(), out=tmp_path / "run", callbacks=meanwhile)
    assert len(said) == 2 and all(f"is being written by process {os.getpid()}" in s for s in said)
    assert lines(tmp_path / "run") == [0, 1, 2, 3, 4]
    assert not (tmp_path / "run" / ".owner").exists()


def test_two_that_start_at_once_are_one_run_and_one_refusal(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    outcomes = fork.Queue()

    def start(seed: int) -> None:
        try:
            fedfm.run(quadratics(seed=seed, rounds=20), out=tmp_path / "run")
            outcomes.put("ran")
        except (ResumeError, ConfigError) as e:
            outcomes.put(type(e).__name__)

    both = [fork.Process(target=start, args=(seed,)) for seed in (1, 2)]
    for process in both:
        process.start()
    found = sorted(outcomes.get(timeout=60) for _ in both)
    for process in both:
        process.join()
    assert found[1] == "ran" and found[0] in ("ResumeError", "ConfigError")
    assert lines(tmp_path / "run") == list(range(21))


def test_the_lock_of_a_process_that_died_is_no_lock(tmp_path: Path) -> None:
    killed(quadratics(), tmp_path / "run", after=2)
    assert (tmp_path / "run" / ".owner").exists()  # it could not take its name away
    assert fedfm.resume(tmp_path / "run").status == "finished"


def test_workers_of_a_dead_process_hold_no_lock(tmp_path: Path) -> None:
    killed(quadratics(), tmp_path / "run", after=2, engine="processes")
    assert fedfm.resume(tmp_path / "run").status == "finished"


def test_an_owner_on_another_host_counts_as_alive() -> None:
    assert folders._lives(1, "another-host") and not folders._lives(0, "")
    assert folders._lives(os.getpid(), socket.gethostname())


def test_default_folders_are_never_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "run-1").mkdir(parents=True)
    assert fedfm.run(quadratics()).folder.name == "run-2"
    assert fedfm.run(quadratics()).folder.name == "run-3"


# ---- nothing is overwritten -----------------------------------------------------------------------------------
def test_a_config_in_the_folder_stays_and_so_does_the_folder(tmp_path: Path) -> None:
    """`fedfm run exp/config.yaml --out exp`, also with data that are not there."""
    exp = tmp_path / "exp"
    exp.mkdir()
    text = f"recipe: quickstart\ndata: {{name: files, path: '{tmp_path}/nothing-*.jsonl'}}\n"
    (exp / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config.yaml would be overwritten(?s:.)*--out"):
        fedfm.run(str(exp / "config.yaml"), out=exp)
    assert (exp / "config.yaml").read_text() == text and os.listdir(exp) == ["config.yaml"]


@pytest.mark.parametrize(
    ("name", "words"), [("notes.txt", "it holds notes.txt"), ("checkpoints", "never overwrites another")]
)
def test_a_folder_that_holds_anything_is_refused_and_left_alone(
    name: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).mkdir()
    with pytest.raises(ConfigError, match=words):
        fedfm.run(quadratics(), out=tmp_path / "run")
    assert os.listdir(tmp_path / "run") == [name]


def test_what_never_began_leaves_nothing_but_what_was_there(tmp_path: Path) -> None:
    bad = Federation(ImageClassification(), Files(str(tmp_path / "*.jsonl")), engine=InProcess())
    (tmp_path / "mine").mkdir()
    for name in ("mine", "new"):
        with pytest.raises(DataError):
            fedfm.run(bad, out=tmp_path / name)
    assert os.listdir(tmp_path) == ["mine"] and os.listdir(tmp_path / "mine") == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="it is a file"):
        fedfm.run(quadratics(), out=tmp_path / "file")
    with pytest.raises(MachineFault, match="Not a directory"):
        fedfm.run(quadratics(), out=tmp_path / "file" / "run")


# ---- whatever ends a run --------------------------------------------------------------------------------------
@pytest.mark.parametrize("step", ["_leave", "summarise"])
def test_killed_at_the_very_end_a_resume_completes_it(step: str, tmp_path: Path) -> None:
    """After the last round; between summary.json and model/."""
    killed_in(quadratics(), tmp_path / "run", drive, step)
    assert not (tmp_path / "run" / "report.html").exists()
    whole = fedfm.run(quadratics(), out=tmp_path / "whole")
    result = fedfm.resume(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").exists() and result.model.is_dir()
    assert result.summary["model_digest"] == whole.summary["model_digest"]


@pytest.mark.parametrize("part", ["model", "report.html", "summary.json"])
def test_a_finished_run_whose_part_was_removed_is_completed(part: str, tmp_path: Path) -> None:
    result = fedfm.run(quadratics(), out=tmp_path / "run")
    gone = tmp_path / "run" / part
    gone.rename(tmp_path / "gone")
    assert fedfm.resume(tmp_path / "run").summary["model_digest"] == result.summary["model_digest"]
    assert gone.exists()


@pytest.mark.parametrize("content", [b"", b'{"status": "fin', b"null\n", b"[1]\n", b"{}\n", b"\xff\xfe"])
def test_a_finished_run_whose_summary_was_damaged_writes_it_again(content: bytes, tmp_path: Path) -> None:
    result = fedfm.run(quadratics(), out=tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_bytes(content)
    with pytest.raises(ResumeError, match=r"summary.json cannot be read: (?s:.*)fix: fedfm resume"):
        Result.read(tmp_path / "run")
    again = fedfm.resume(tmp_path / "run")
    assert again.summary["ledger_digest"] == result.summary["ledger_digest"]
    assert Result.read(tmp_path / "run").status == "finished"


@pytest.mark.parametrize("step", ["open_site", "_identify"])
def test_killed_before_its_first_round_a_run_starts_anew(step: str, tmp_path: Path) -> None:
    killed_in(quadratics(), tmp_path / "run", drive, step)
    result = fedfm.resume(tmp_path / "run")
    whole = fedfm.run(quadratics(), out=tmp_path / "whole")
    assert result.summary["ledger_digest"] == whole.summary["ledger_digest"]


def test_killed_before_its_record_a_run_starts_anew(tmp_path: Path) -> None:
    killed_in(quadratics(), tmp_path / "run", drive, "record")
    assert not (tmp_path / "run" / "run.json").exists()
    assert fedfm.resume(tmp_path / "run").status == "finished"


def test_killed_within_its_first_file_the_same_command_starts_anew(tmp_path: Path) -> None:
    run = tmp_path / "run"
    killed_in(quadratics(), run, os, "replace")
    assert [p.name for p in run.iterdir() if p.suffix == ".part"] and not (run / "config.yaml").exists()
    assert fedfm.run(quadratics(), out=run).status == "finished"
    assert not list(run.rglob(".*.part"))


def test_a_sweep_killed_within_the_first_file_of_a_run_goes_on(tmp_path: Path) -> None:
    point = tmp_path / "seed=1"
    killed_in(quadratics(), point, os, "replace")
    done = sweep(quadratics(), ["seed=1,2"], out=tmp_path)
    assert [p.result is not None and p.result.status for p in done] == ["finished"] * 2


def test_half_written_files_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    killed(quadratics(), tmp_path / "run", after=2)
    left = [
        tmp_path / "run" / "checkpoints" / ".round-000003.safetensors.4711",
        tmp_path / "run" / "clients" / "party-0" / ".00000007.safetensors.4711",
        tmp_path / "run" / ".model.0",
        tmp_path
        / "run"
        / f".summary.json.{os.getpid()}-0badcafe.part",  # its number is another process's now
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    (tmp_path / "run" / ".gitignore").write_text("*")  # not ours
    fedfm.resume(tmp_path / "run")
    assert not any(path.exists() for path in left) and (tmp_path / "run" / ".gitignore").exists()


@pytest.mark.parametrize("name", [".v1.2", ".model.0", ".a.1-b.part"])
def test_what_a_party_is_called_loses_it_nothing(name: str, tmp_path: Path) -> None:
    data = Called(names=(name, "b"))
    fed = quadratics(data=data, client=Local(lr=0.02, steps=2, batch=0, momentum=0.5, keep_optimizer=True))
    killed(fed, tmp_path / "run", after=2)
    whole = fedfm.run(fed, out=tmp_path / "whole")
    assert fedfm.resume(tmp_path / "run", fed).summary["model_digest"] == whole.summary["model_digest"]
    more = fedfm.resume(tmp_path / "run", fed, rounds=5)  # a finished one too
    assert more.status == "finished" and (tmp_path / "run" / "clients" / name).is_dir()


def test_a_round_that_is_half_kept_is_swept(tmp_path: Path) -> None:
    killed(quadratics(), tmp_path / "run", after=2, keep_rounds=1)
    half = tmp_path / "run" / "rounds" / ".000003.0"
    half.mkdir()
    fedfm.resume(tmp_path / "run")
    assert not half.exists() and (half.parent / "000003").is_dir()


class Cut(Local):
    """It quotes what it could not read."""

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> Any:
        if ctx.client == "party-0":
            raise ClientFailed("it cannot read h\udcf4pital.csv: \ud83d")
        return super().work(brief, data, state, ctx, bound)


def test_half_a_character_in_what_failed_is_written_down(tmp_path: Path) -> None:
    result = fedfm.run(quadratics(client=Cut(lr=0.02, steps=2, batch=0)), out=tmp_path / "run")
    assert result.status == "finished with findings"
    assert Result.read(result.folder).reasons == result.reasons
    assert any("\ud83d" in reason for reason in result.reasons)


def test_an_interruption_says_what_is_kept_and_how_to_go_on(tmp_path: Path) -> None:
    said = interrupted(quadratics(), tmp_path / "run", after=3)
    assert said == f"3 of 4 rounds are kept in {tmp_path / 'run'}; `fedfm resume {tmp_path / 'run'}` goes on"
    told = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert told["status"] == "interrupted" and told["rounds"] == 3
    assert fedfm.resume(tmp_path / "run").status == "finished"


def test_the_terminal_says_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "q.yaml").write_text(
        "task: {name: quadratic}\ndata: {name: quadratics}\nengine: {name: inprocess}\nrounds: 3\n"
    )

    def stop(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr("fedfm.running.progress.round_line", stop)
        said = CliRunner().invoke(
            app, ["run", str(tmp_path / "q.yaml"), "--baselines", "none", "--out", str(tmp_path / "run")]
        )
    assert said.exit_code == 130
    words = " ".join(said.output.split())
    assert "interrupted: 0 of 3 rounds are kept in" in words and "fedfm resume" in words
    assert CliRunner().invoke(app, ["resume", str(tmp_path / "run")]).exit_code == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_stops_the_run_and_says_so(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedfm.ledger.file import Ledger

    commit = Ledger.commit

    def refuse(self: Ledger, events: Any) -> None:
        if self.length and len(lines(tmp_path / "run")) > 2:
            raise OSError(code, os.strerror(code))
        commit(self, events)

    with monkeypatch.context() as m:
        m.setattr(Ledger, "commit", refuse)
        with pytest.raises(MachineFault, match=rf"{os.strerror(code)}(?s:.)*rounds are kept"):
            fedfm.run(quadratics(), out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    whole = fedfm.run(quadratics(), out=tmp_path / "whole")
    result = fedfm.resume(tmp_path / "run")
    assert result.summary["ledger_digest"] == whole.summary["ledger_digest"]


def test_a_callback_that_fails_stops_the_run_which_can_go_on(tmp_path: Path) -> None:
    def fail(record: dict[str, Any]) -> None:
        if record["round"] == 2:
            raise FileNotFoundError("my own file")

    with pytest.raises(FileNotFoundError, match="my own file"):
        fedfm.run(quadratics(), out=tmp_path / "run", callbacks=fail)
    assert fedfm.resume(tmp_path / "run").status == "finished"


def test_a_disk_that_is_full_at_the_report_loses_no_run(tmp_path: Path) -> None:
    out = tmp_path / "run"

    def full(line: dict[str, Any]) -> None:
        (out / "report.html.part").mkdir(exist_ok=True)

    with pytest.raises(
        MachineFault, match=r"(?s)make room on the disk.*2 of 2 rounds are kept in .*resume .* goes on"
    ):
        fedfm.run(quadratics(rounds=2), out=out, callbacks=full)
    (out / "report.html.part").rmdir()
    assert fedfm.resume(out).status == "finished" and (out / "report.html").exists()
