"""The files for operators: they parse, they are as strict as they say, and every command in them is one of fedfm's."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from fedfm.cli import app
from fedfm.config.setup import Setup
from fedfm.config.text import load
from fedfm.deploy.server import unfit

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "deployment"
UNITS = sorted((HERE / "systemd").glob("*.service"))
SCRIPT = HERE / "serve-or-resume"
STRICT = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ReadWritePaths": "/var/lib/fedfm",
    "User": "fedfm",
    "PrivateTmp": "yes",
    "CapabilityBoundingSet": "",
    "UMask": "0077",
}
HARDENED = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}


def parsed(words: list[str]) -> str:
    """The command that these words are, by fedfm's own parser; nothing is run. Raises click's errors."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "resolve_command")
    names: list[str] = []
    with click.Context(group, info_name="fedfm") as outer:  # type: ignore[arg-type]
        context: Any = outer
        command: Any = group
        while hasattr(command, "resolve_command"):
            name, command, words = command.resolve_command(context, words)
            names.append(name)
            if hasattr(command, "resolve_command"):
                context = click.Context(command, parent=context, info_name=name)
        command.make_context(names[-1], list(words), parent=context)
    return " ".join(names)


def served(words: list[str]) -> list[list[str]]:
    """What serve-or-resume makes of its words."""
    config, run, *more = words
    return [["resume", run], ["serve", config, "--out", run, *more]]


def settings(unit: Path) -> dict[str, list[str]]:
    found = defaultdict(list)
    for row in unit.read_text().splitlines():
        if "=" in row and not row.startswith(("#", "[")):
            key, _, value = row.partition("=")
            found[key].append(value)
    return found


def of_units() -> list[list[str]]:
    found = []
    for unit in UNITS:
        for key, rows in settings(unit).items():
            for row in rows if key.startswith("Exec") else ():
                program, *words = shlex.split(row.lstrip("-").replace("%i", "hospital-a"))
                found += [words] if program.endswith("/fedfm") else served(words)
    return found


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((HERE / "compose.yaml").read_text())
    return found


def of_compose() -> list[list[str]]:
    found = []
    for service in compose()["services"].values():
        program, *words = service.get("entrypoint", ["fedfm"])
        words += service.get("command", [])
        found += [words] if program == "fedfm" else served(words)
    return found


def typed() -> list[list[str]]:
    """Commands in the pages and in comments, as somebody types them."""
    found = []
    for page in (ROOT / "README.md", ROOT / "docs" / "deploy.md", *HERE.rglob("*")):
        if page.is_file():
            text = page.read_text()
            rows = re.findall(
                r"^(?:#\s*)?(?:.*[/ ])?fedfm ((?:ca|doctor|status|invite|serve|join) .*)$", text, re.M
            )
            found += [shlex.split(row.split("  #")[0]) for row in rows]
    return found


@pytest.mark.parametrize("words", [*of_units(), *of_compose(), *typed()], ids=" ".join)
def test_every_command_is_one(words: list[str]) -> None:
    assert parsed(words).split()[0] in {"serve", "resume", "join", "doctor", "status", "ca", "invite"}


def test_a_command_that_is_none_is_found() -> None:
    assert parsed(["ca", "init", "acme"]) == "ca init"
    for words in (["serv"], ["join"], ["serve", "x", "--adress", "y"], ["doctor", "a", "--timeout-s", "x"]):
        with pytest.raises((click.ClickException, click.exceptions.Exit, Exception)) as e:
            parsed(words)
        assert hasattr(e.value, "format_message"), e.value
    assert len(of_units()) >= 4 and len(of_compose()) == 4 and typed()


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_units_are_strict(unit: Path) -> None:
    found = settings(unit)
    assert {k: found[k][-1] for k in STRICT if k in found} == STRICT
    assert not {"AmbientCapabilities", "PermissionsStartOnly"} & set(found)


def test_units_are_those_of_systemd(tmp_path: Path) -> None:
    if (tool := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not on this machine")
    for name in ("fedfm", "serve-or-resume"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    copies = []
    for unit in UNITS:
        copies.append(tmp_path / unit.name)
        copies[-1].write_text(unit.read_text().replace("/opt/fedfm/bin/", f"{tmp_path}/"))
    done = subprocess.run([tool, "verify", "--man=no", *copies], capture_output=True, text=True)
    ours = [row for row in done.stderr.splitlines() if "fedfm" in row]
    assert not ours, done.stderr


def test_the_image_runs_as_nobody_and_copies_what_is_there() -> None:
    text = (HERE / "Dockerfile").read_text()
    rows = [r.split(maxsplit=1) for r in text.splitlines() if r and not r.startswith("#")]
    assert {words.split()[0] for what, words in rows if what == "FROM"} == {"python:3.11-slim"}
    last = {row[0]: row[1] for row in rows}
    assert last["USER"] == "10001:10001" and json.loads(last["ENTRYPOINT"]) == ["fedfm"]
    assert parsed_help(json.loads(last["CMD"]))
    sources = [
        w for what, words in rows if what == "COPY" and "--from" not in words for w in words.split()[:-1]
    ]
    copied = [s for s in sources if not s.startswith("--")]
    assert copied and all((ROOT / s).exists() for s in copied)
    assert set(re.findall(r"https?://([\w.-]+)", text)) <= {"download.pytorch.org", "pypi.org"}
    allowed = (HERE / "Dockerfile.dockerignore").read_text().splitlines()
    assert allowed[0] == "*" and {f"!{s}" for s in copied} <= set(allowed)


def parsed_help(words: list[str]) -> bool:
    from typer.testing import CliRunner

    return CliRunner().invoke(app, words).exit_code == 0


def test_compose_rehearses_one_server_and_two_parties() -> None:
    plan = compose()
    services = plan["services"]
    assert list(services) == ["server", "party-0", "party-1"]
    for name, service in services.items():
        assert {k: service[k] for k in HARDENED} == HARDENED and service["user"] == "10001:10001"
        assert "/" not in service["image"] and "ports" not in service and not service.get("privileged")
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert (HERE / source).is_file() if source.startswith(".") else source in plan["volumes"], name
        assert set(service["networks"]) <= set(plan["networks"])
    waited = services["server"]["healthcheck"]["test"][-1]
    run = services["server"]["entrypoint"][2]
    assert waited == f"{run}/join/party-1.json" and services["server"]["entrypoint"][-1].startswith("server:")
    for name in ("party-0", "party-1"):
        assert services[name]["command"][1].endswith(f"rehearsal/join/{name}.json")
        assert (
            f"{name}:/var/lib/fedfm" in services[name]["volumes"]
            and "server:/server:ro" in services[name]["volumes"]
        )
    setup = Setup.of(load(HERE / "rehearsal.yaml"))
    assert not unfit(setup.fed, rehearsal=True) and setup.fed.data.partition.parties == 2


def test_a_run_that_has_begun_is_gone_on_with(tmp_path: Path) -> None:
    said = tmp_path / "bin" / "fedfm"
    said.parent.mkdir()
    said.write_text('#!/bin/sh\necho "$@"\n')
    said.chmod(0o755)
    run = tmp_path / "run"
    words = ["/bin/sh", str(SCRIPT), "a b.yaml", str(run), "--address", "0.0.0.0:7443"]

    def told() -> str:
        env = {"PATH": f"{said.parent}:/usr/bin:/bin"}
        return subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout.strip()

    serve = served(words[2:])
    assert told() == " ".join(serve[1])
    run.mkdir()
    (run / "run.json").write_text("{}")
    assert told() == " ".join(serve[0])
    assert SCRIPT.stat().st_mode & 0o111
