"""The commands of real parties, from the authority to the receipts."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from fedfm.commands.runs import interruptible, show
from fedfm.commands.terminal import Rounds, Seed, Settings, What, err, out
from fedfm.core.errors import FedfmError, MachineFault, ResumeError
from fedfm.deploy.transport import checked
from fedfm.files import path
from fedfm.running.record.folder import owned
from fedfm.text import clean

Ca = Annotated[Path, typer.Option("--ca", help="folder of the federation's authority", parser=path)]
SiteName = Annotated[str, typer.Argument(metavar="SITE", help="the party's name")]

ca = typer.Typer(help="The federation's authority: who may take part.", rich_markup_mode="rich")


@ca.command()
def init(
    name: Annotated[str, typer.Argument(help="the federation's name")], folder: Ca = Path("authority")
) -> None:
    """Make an authority: a key that stays in its folder, and a certificate.

    fedfm ca init acme
    """
    from fedfm.deploy.authority import Authority, fingerprint

    made = Authority.create(folder, name)
    out.print(f"{folder} is the authority of {name}", markup=False)
    out.print(f"fingerprint {fingerprint(made.certificate)}", markup=False)


@ca.command()
def sign(
    request: Annotated[Path, typer.Argument(help="what `fedfm join` wrote at the party", parser=path)],
    folder: Ca = Path("authority"),
) -> None:
    """Answer a party's request with its certificate, once for each invitation.

    fedfm ca sign request.json
    """
    from fedfm.deploy.authority import Authority, answer
    from fedfm.files import write

    try:
        asked = json.loads(request.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        fix = "the request.json that `fedfm join` wrote at the party"
        raise FedfmError(f"{request} cannot be read: {e}\n    fix: {fix}") from e
    site, certificate = Authority(folder).sign(asked)
    answered = request.with_name(answer(site))
    write(answered, certificate)
    _tell(
        f"{answered}: send it to {site}, which gives it to fedfm join --certificate, or puts it into its folder"
    )


def invite(
    site: SiteName,
    address: Annotated[str, typer.Option(help="HOST:PORT of the server, as the party dials it")],
    folder: Ca = Path("authority"),
) -> None:
    """Invite a party: writes SITE.json, which it needs to join. It holds a one-time secret: send it as one.

    fedfm invite hospital-a --address federation.example.org:7443
    """
    from fedfm.deploy.authority import Authority

    joinfile = Path(f"{site}.json")
    Authority(folder).invite(site, checked(address)).write(joinfile)
    out.print(f"{joinfile}: send it to {site}, on a way that nobody else reads", markup=False)


def revoke(site: SiteName, folder: Ca = Path("authority")) -> None:
    """Take no link of a party any more; it may be invited anew."""
    from fedfm.deploy.authority import Authority

    Authority(folder).revoke(site)
    out.print(f"{site} is revoked", markup=False)


def serve(
    what: What,
    settings: Settings = None,
    folder: Annotated[
        Path | None,
        typer.Option("--ca", help="the authority; without: a rehearsal on this machine", parser=path),
    ] = None,
    address: Annotated[str, typer.Option(help="HOST:PORT to listen on; port 0: a free one")] = "127.0.0.1:0",
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="run directory (default: runs/NAME-K)", parser=path)
    ] = None,
    rounds: Rounds = None,
    seed: Seed = None,
    wait_s: Annotated[
        float | None, typer.Option(help="seconds to wait for the parties; none: for ever")
    ] = None,
    quorum: Annotated[
        int | None,
        typer.Option(help="parties to begin with, who comes later joins the next round; none: all"),
    ] = None,
    grace_s: Annotated[
        float, typer.Option(help="seconds a party that is gone may take to come back into its round", min=0.0)
    ] = 15.0,
    answer_s: Annotated[
        float | None,
        typer.Option(
            help="seconds a party may take over its next word, before it is out of the round", min=0.1
        ),
    ] = None,
) -> None:
    """Serve a federation to parties that dial in. Without --ca it is a rehearsal: it prints what to type in other terminals.

    fedfm serve quickstart data.partition.parties=2
    fedfm serve fedit.yaml --ca authority --address 0.0.0.0:7443
    """
    from fedfm.deploy.server import Service
    from fedfm.deploy.server import serve as served
    from fedfm.running.execute import configure
    from fedfm.running.progress import Live

    setup = configure(what, settings or (), rounds=rounds, seed=seed)
    limits: dict[str, Any] = {"wait_s": wait_s, "grace_s": grace_s, "answer_s": answer_s, "quorum": quorum}
    service = Service(folder, checked(address), **limits, progress=Live(err), tell=_tell)
    with interruptible():
        result = served(setup, out_dir, service)
    show(result, False)


def cancel(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="the run's folder, on the server", parser=path)],
) -> None:
    """End a run that is served: at once, resumable, and its parties are told that it has ended.

    fedfm cancel runs/fedit-1
    """
    from fedfm.deploy.server import cancel as cancelled

    cancelled(run)
    out.print(f"{run}: its server was asked to end it; fedfm status {run}", markup=False)


def _tell(text: str) -> None:
    out.print(clean(text), markup=False, highlight=False, soft_wrap=True)


def join(
    invitation: Annotated[
        Path, typer.Argument(metavar="JOINFILE", help="what `fedfm invite` wrote", parser=path)
    ],
    data: Annotated[str | None, typer.Option(help="this party's rows: a file, a folder, a pattern")] = None,
    columns: Annotated[str | None, typer.Option(help="as data.columns: '{text: body, label: topic}'")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="this site's copy of the task's model, where it is not where the config says"),
    ] = None,
    script: Annotated[
        str | None,
        typer.Option(help="a script that makes this party's trainer and calls fedfm.patch(trainer)"),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="the authority's answer, the first time", parser=path)
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="what this party keeps (default: beside JOINFILE)", parser=path),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            help="site.yaml: what may be asked here, and what may leave (docs/deploy.md)", parser=path
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="threads of torch; the same at all, for the same bits")] = 1,
) -> None:
    """Take part in a federation with rows that stay here. It dials out; nothing listens.

    fedfm join hospital-a.json --data 'visits/*.jsonl' --policy site.yaml
    """
    from fedfm.config.limits import held
    from fedfm.core.federation import Federation
    from fedfm.deploy.authority import Credentials, Invitation, accept, credentials, fingerprint
    from fedfm.deploy.grpc import GrpcParty
    from fedfm.deploy.site.party import Party
    from fedfm.deploy.site.party import join as joined
    from fedfm.deploy.site.policy import Policy

    held(Federation, "threads", threads, "--threads")
    asked, rules = Invitation.read(invitation), Policy.read(policy) if policy else Policy()
    home, spec = folder or invitation.with_suffix(""), _held_by(asked.site, data, columns, script)
    checked(asked.address)
    if rules.authority is not None and (found := fingerprint(asked.authority)) != rules.authority:
        raise FedfmError(
            f"the site's policy takes the authority {rules.authority}, and {invitation} is of {found}"
        )
    with _held(home):
        if certificate is not None:
            accept(certificate, asked, home)
        own = credentials(asked, home)
        if isinstance(own, Credentials):
            party = Party(asked.site, home, spec, _tell, rules, bool(asked.key), model)
            status = joined(GrpcParty(asked.address, own, MOST), party, threads)
            _tell(f"the run has ended: {status}")
            return
    out.print(
        f"{own}: send it to the authority of {asked.federation}, which answers with a certificate",
        markup=False,
    )
    out.print(f"then: fedfm join {invitation} --certificate FILE", markup=False)


@contextlib.contextmanager
def _held(home: Path) -> Iterator[None]:
    """Be the only process of a party that writes to its folder: two would break its receipts, and answer a round each."""
    with contextlib.ExitStack() as stack:
        try:
            home.mkdir(parents=True, exist_ok=True)
            stack.enter_context(owned(home))
        except OSError as e:
            raise FedfmError(
                f"{home} cannot be made: {e.strerror}\n    fix: a --folder that can be written to"
            ) from e
        except (MachineFault, ResumeError) as e:
            raise FedfmError(str(e).replace("--out", "--folder")) from e
        yield


def receipts(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="what the party keeps (beside its JOINFILE)", parser=path)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="records for machines")] = False,
) -> None:
    """What has left this site, word by word; every line is verified first.

    fedfm receipts hospital-a
    """
    from fedfm.deploy.site.receipts import FILE, Receipts

    if not (folder / FILE).is_file():
        raise FedfmError(
            f"{folder} holds no receipts\n    fix: the folder beside the JOINFILE of a party that has taken part"
        )
    made = Receipts(folder)
    if as_json:
        for line in made.lines():
            print(json.dumps(line))
        return
    table = Table("line", "at", "run", "round", "what", "bytes", "norm", "sha256", box=None)
    for line in made.lines():
        norm = "" if line["norm"] is None else f"{line['norm']:.3g}"
        row = (
            line["n"],
            line["at"],
            line["run"],
            line["round"],
            f"{line['kind']} {line['phase']}",
            line["bytes"],
            norm,
        )
        table.add_row(*map(str, row), line["sha256"][:12])
    out.print(table)
    _tell(f"{made.count} receipts hold; the last is {made.last}; key {made.public}")


MOST = 1 << 34  # bytes of a message that a party takes


def _held_by(site: str, data: str | None, columns: str | None, script: str | None) -> Any:
    """What a party brings, as a data spec: rows, or a trainer that has them. Raises FedfmError for both."""
    if script is None:
        return None if data is None else _there(data, _rows(data, columns))
    if data is not None or columns is not None:
        raise FedfmError(
            "--script and --data\n    why: the script's trainer has its own rows\n    fix: leave --data and --columns out"
        )
    from fedfm.tasks.hosted.rows import Trainers

    return _there(script, Trainers(script, (site,)), "--script")


def _there(given: str, spec: Any, option: str = "--data") -> Any:
    """The spec, of files that are there before anybody is dialled. Raises DataError where there are none."""
    from fedfm.data.cleaning.faults import Faults
    from fedfm.data.reading.paths import expand

    faults = Faults(option)
    expand((given,), option, faults)
    faults.settle()
    return spec


def _rows(data: str, columns: str | None) -> Any:
    """A party's rows as a data spec. Raises FedfmError for columns that are no map."""
    import yaml

    from fedfm.config.yaml import read
    from fedfm.data.files import Files

    try:
        found = read(columns or "{}")
    except yaml.YAMLError as e:
        found = e
    if not isinstance(found, dict):
        why = f"\n    why: {found}" if isinstance(found, Exception) else ""
        raise FedfmError(
            f"--columns {columns!r} is no map{why}\n    fix: --columns '{{text: body, label: topic}}'"
        )
    return Files(data, columns=found)


COMMANDS = (invite, serve, join, receipts, revoke, cancel)
