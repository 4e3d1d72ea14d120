"""What a person types at a site: what is wrong is told before anything is dialled or written, and one process has the folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fedfm.core.errors import ConfigError, DataError, FedfmError, MachineFault
from fedfm.deploy.authority import Authority
from fedfm.deploy.commands import _held, _rows, join
from fedfm.deploy.letters import Letter
from fedfm.deploy.site.journal import durable
from fedfm.deploy.site.party import Party
from fedfm.deploy.site.policy import Policy
from fedfm.deploy.site.receipts import FILE, Receipts, mend
from fedfm.deploy.transport import SERVER, Frame


@pytest.fixture
def invitation(tmp_path: Path) -> Path:
    """A rehearsal's: nothing but the folder is needed to take part."""
    path = tmp_path / "a.json"
    Authority.create(tmp_path / "ca", "acme").rehearse("a", "127.0.0.1:1").write(path)
    return path


@pytest.mark.parametrize("columns", ["{text: body", "body", "[text]", "{text: body, text: note}", "3"])
def test_columns_that_are_no_map_are_told_before_anything_is_dialled(columns: str, invitation: Path) -> None:
    with pytest.raises(FedfmError, match=r"(?s)is no map.*fix: --columns '\{text: body"):
        join(invitation, data="x.jsonl", columns=columns)
    assert not invitation.with_suffix("").exists()
    assert _rows("x.jsonl", None).columns == {} and _rows("x", "{text: b}").columns == {"text": "b"}


@pytest.mark.parametrize("option", ["data", "script"])
def test_files_that_are_not_there_are_told_before_anything_is_dialled(option: str, invitation: Path) -> None:
    with pytest.raises(DataError, match=rf"--{option}: no file matches 'nowhere/x'"):
        join(invitation, **{option: "nowhere/x"})  # type: ignore[arg-type]
    assert not invitation.with_suffix("").exists()


@pytest.mark.parametrize(
    ("why", "asks"),
    [
        ("Ssl handshake failed: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED", True),
        ("last error: tls: WRONG_VERSION_NUMBER: Ssl handshake failed", True),
        ("Connection refused", False),
    ],
)
def test_a_link_that_dialling_does_not_mend_names_the_doctor(why: str, asks: bool, tmp_path: Path) -> None:
    told: list[str] = []
    party = Party("a", tmp_path / "a", tell=told.append)
    party.hear(Frame(SERVER, 1, "lost", Letter({"do": "lost", "why": why})))
    assert "dialled again" in told[-1] and ("`fedfm doctor JOINFILE`" in told[-1]) is asks


def test_an_address_that_is_none_is_told_before_anything_is_dialled(invitation: Path) -> None:
    invitation.write_text(json.dumps(json.loads(invitation.read_text()) | {"address": "nowhere"}))
    with pytest.raises(FedfmError, match="is no address"):
        join(invitation)


def test_one_process_has_the_folder_of_a_party(invitation: Path, tmp_path: Path) -> None:
    home = invitation.with_suffix("")
    with _held(home), pytest.raises(FedfmError, match=f"(?s){os.getpid()} on .*--folder"):
        join(invitation)
    with _held(home):  # and gives it back
        pass
    (file := tmp_path / "file").write_text("")
    with pytest.raises(FedfmError, match="(?s)cannot be made.*--folder"), _held(file / "x"):
        pass


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("most_round: 3", "most_round: there is no such key.*did you mean 'most_rounds'"),
        ("needs: {clip: 1}", "needs.clip: there is no such key.*clip_norm"),
        ("jobs: [tain]", "jobs: there is no 'tain'.*did you mean 'train'"),
        ("most_steps: 0", "most_steps: 0 cannot stand here.*a whole number above 0"),
        ("hours: [22, 6]", "two times of day"),
        ("jobs: [train]\njobs: [alone]", "stands here twice"),
        ("needs: {clip_norm: 1}\nneeds: {secure_aggregation: 3}", "stands here twice"),
        ("a: " + "[" * 5000, "nested deeper"),
        ("most_byte: 1\nmost_step: 1", "(most_byte: there).*(most_step: there)"),
    ],
)
def test_a_policy_that_says_something_else_is_told_where_and_what_was_meant(
    text: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(FedfmError, match=f"(?s)site.yaml.*{told}") as e:
        Policy.read(path)
    assert isinstance(e.value, ConfigError) or "cannot be read" in str(e.value)
    path.write_text("hours: [22:00, 06:00]\njobs: [train, own]")
    assert Policy.read(path).hours == ("22:00", "06:00")


@pytest.mark.parametrize("models", [("minilm",), ("a", "b")])
def test_a_policy_on_models_asks_for_what_is_named_and_refuses_what_names_none(models: Any) -> None:
    import golden
    from federations import digits
    from fedfm.config.record import to_config

    fed, policy = digits(**golden.ALL["fedavg"]), Policy(models=models)
    config = to_config(fed)
    assert "names none" in policy.refuses(fed, config, 3, 10)[0]
    for task in ({"model": models[0]}, {"inner": {"model": models[-1], "start": None}}):
        assert policy.refuses(fed, config | {"task": task}, 3, 10) == []
    for task in ({"model": "x"}, {"model": models[0], "start": "/etc"}):
        assert "is not among" in policy.refuses(fed, config | {"task": task}, 3, 10)[0]


@pytest.mark.parametrize("rest", ["", '{"n": 1', "{}"])
def test_half_a_receipt_of_a_killed_party_is_cut_off_and_a_whole_one_never(rest: str, tmp_path: Path) -> None:
    from fedfm.core.job import Job, Said

    made = Receipts(tmp_path)
    made.add("r", Job("train", "a", 1), Said("a", 1, "upload"), 1.0, None)
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole + rest.encode())
    mend(path)
    assert path.read_bytes() == whole and Receipts(tmp_path).last == made.last
    path.write_bytes(whole + b"{}\n")
    mend(path)
    with pytest.raises(FedfmError, match="no receipt"):
        Receipts(tmp_path)


@pytest.mark.parametrize("broken", [OSError(28, "No space left on device"), MachineFault("disk")])
def test_a_disk_that_is_full_ends_the_party_before_anything_leaves(broken: Exception, tmp_path: Path) -> None:
    with (
        pytest.raises(FedfmError, match="(?s)cannot be written to.*nothing leaves.*fix: make room"),
        durable(tmp_path),
    ):
        raise broken
