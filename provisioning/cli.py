"""The commands that read a project.yml."""

from __future__ import annotations

import datetime
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cellnet.credentials import Identity
from cellnet.enrolment import Enrolment
from cellnet.errors import ConfigurationError
from cellnet.inspection import fingerprint
from provisioning import Lock, ProjectError, read_plan, update
from provisioning.analysis import analyze
from provisioning.authority import key_pem
from provisioning.entry import with_participant
from provisioning.files import replace_file, write_file
from provisioning.foreign import is_foreign, read_foreign
from provisioning.generator import Shape, project_text
from provisioning.lock import default_key_file
from provisioning.picture import as_mermaid, as_svg, as_text
from provisioning.plan import draw
from provisioning.reconstruction import project_text as project_text_of
from provisioning.records import compare
from provisioning.registry import FOLDER, Registry
from provisioning.revocation import DENIED, revoke
from provisioning.schema import json_schema
from provisioning.source import Source
from provisioning.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from provisioning.plan import Node, Plan
    from provisioning.problems import Problem
    from provisioning.records import Change

__all__ = ["DAYS", "KEY_FILE", "OUT", "PASSPHRASE", "lock_for", "main"]

_PROJECT = click.argument("project_file", metavar="PROJECT.YML", type=click.Path(path_type=Path))
OUT = click.option(
    "--out", metavar="DIR", type=click.Path(path_type=Path), required=True, help="The folder with the kits."
)
KEY_FILE = click.option(
    "--key-file", metavar="FILE", type=click.Path(path_type=Path), help="What opens the authority's keys."
)
DAYS = click.option(
    "--days", type=click.FloatRange(min=0.0001), default=90.0, show_default=True, help="How long certificates hold."
)
_PICTURES = {"text": as_text, "mermaid": as_mermaid, "svg": as_svg}
PASSPHRASE = click.option("--passphrase", is_flag=True, help="Ask for a passphrase, in place of a key file.")


class _Command(click.Command):
    """Show an error of ours as its text alone, which says file, line and column first."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            click.echo(str(error), err=True)
            sys.exit(1)


class _Commands(click.Group):
    command_class = _Command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Turn a project.yml into startup kits, and look after them."""


@main.command()
@_PROJECT
@click.option("--strict", is_flag=True, help="Fail for warnings too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def validate(project_file: Path, strict: bool, as_json: bool) -> None:
    """Say everything that is wrong with a project, each with its line and column; nothing is written.

    The exit code is 1 if there are errors. docs/project-file.md explains the codes.
    """
    plan: Plan | None = None
    errors: Sequence[Problem] = ()
    try:
        plan = read_plan(project_file)
        warnings: Sequence[Problem] = plan.warnings
    except ProjectError as error:
        errors, warnings = error.problems, error.warnings
    failed = bool(errors) or (strict and bool(warnings))
    if as_json:
        found = {
            name: [one.as_json() for one in problems] for name, problems in (("errors", errors), ("warnings", warnings))
        }
        click.echo(json.dumps({"ok": not failed, **found}, indent=1))
    else:
        _say(errors, "")
        _say(warnings, "warning: ")
        count = f"{counted(len(errors), 'error')}, {counted(len(warnings), 'warning')}"
        click.echo(f"{project_file}: {count}" + (f", {len(plan.nodes)} participants" if plan else ""))
    sys.exit(1 if failed else 0)


@main.command()
@_PROJECT
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Compare with the kits in DIR.")
@click.option("--picture", type=click.Choice([*_PICTURES]), help="Draw both hierarchies instead.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(project_file: Path, out: Path | None, picture: str | None, as_json: bool) -> None:
    """Show what every participant is called in both hierarchies, and how it is reached; nothing is written.

    With --out, show what a run into DIR would do: added, changed and why, unchanged, removed.
    """
    drawn = _read(project_file)
    if picture:
        click.echo(_PICTURES[picture](drawn), nl=False)
        return
    changes = _compare(drawn, out) if out else ()
    if as_json:
        shown = {"changes": [change._asdict() for change in changes]} if out else {}
        click.echo(json.dumps({**drawn.as_json(), **shown}, indent=1))
        return
    titles = ("NAME", "TYPE", "FQCN", "FQSN", "LISTENS AT", "CONNECTS TO")
    rows = [titles, *(_row(node) for node in drawn.nodes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if out:
        click.echo("")
        _show(changes, out)


@main.command("provision")
@_PROJECT
@OUT
@KEY_FILE
@PASSPHRASE
@DAYS
def provision_(project_file: Path, out: Path, key_file: Path | None, passphrase: bool, days: float) -> None:
    """Bring the startup kits of a project's participants in DIR up to date, beside the project's authority.

    Kits whose participants did not change stay as they are. The authority's keys are encrypted, with a key file in
    ~/.config/cellnet/keys unless you say otherwise: keep copies of both, in two places.
    """
    drawn = _read(project_file)
    life = datetime.timedelta(days=days)
    changes = update(drawn, out, lock_for(drawn.project, out, key_file, passphrase), life=life)
    _show(changes, out)
    roots = " and ".join(map(fingerprint, Registry.roots_in(out / FOLDER)))
    click.echo(f"kits of project {drawn.project}, whose root is {roots}")
    click.echo(f"{out / FOLDER} stays here")


@main.command()
@_PROJECT
@click.argument("name")
@click.option("--type", "role", type=click.Choice(["client", "relay"]), default="client", show_default=True)
@click.option("--org", required=True, help="Whose it is.")
@click.option("--connect-to", metavar="NAME", help="The relay that it connects to; the server, if left out.")
@click.option("--parent", metavar="NAME", help="The client that it is below, if it is a client.")
@click.option("--host", help="Where it listens, if it is a relay.")
@click.option("--port", type=int, help="And at which port.")
@OUT
@KEY_FILE
@PASSPHRASE
def add(project_file: Path, name: str, out: Path, key_file: Path | None, passphrase: bool, **given: Any) -> None:
    """Add a client or relay NAME to the project, and make its kit; no other kit changes but for the server's roster."""
    _read(project_file)  # what is wrong before is not the new participant's fault
    text = with_participant(project_file.read_text(encoding="utf-8"), _entry(name, given), str(project_file))
    drawn = draw(Source.parse(text.encode(), str(project_file)))
    changes = update(drawn, out, lock_for(drawn.project, out, key_file, passphrase))
    replace_file(project_file, text.encode(), project_file.stat().st_mode & 0o777)
    _show(changes, out)


@main.command()
@click.argument("name")
@click.option("--project", required=True, help="The project's name.")
@click.option("--type", "role", type=click.Choice(["client", "relay", "server", "admin"]), default="client")
@click.option("--listen", is_flag=True, help="Make a key to listen with, for a client with a listening_host.")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), required=True, help="A folder for the keys.")
def request(name: str, project: str, role: str, listen: bool, out: Path) -> None:
    """Ask for a kit, at the site: make the keys of NAME in DIR, where they stay, and a file to send to the project.

    The kit that comes back has no keys: put these into its startup folder.
    """
    data, keys = Enrolment.make(Identity(project, role, name), listens=listen)
    file = out / f"{name}.request"
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stem, key in keys.items():
            write_file(out / f"{stem}.key", key_pem(key), 0o600)
        write_file(file, data, 0o644)
    except OSError as error:
        raise ConfigurationError(f"cannot be written: {error.strerror}", str(error.filename or out)) from None
    click.echo(f"send {file} to the project; the fingerprint of its keys is")
    click.echo(Enrolment.read(file).fingerprint)


@main.command()
@_PROJECT
@click.argument("requests", metavar="REQUEST...", nargs=-1, required=True, type=click.Path(path_type=Path))
@OUT
@KEY_FILE
@PASSPHRASE
def sign(project_file: Path, requests: tuple[Path, ...], out: Path, key_file: Path | None, passphrase: bool) -> None:
    """Make the kits of sites that made their keys themselves, from their REQUESTs; the kits have no keys.

    Compare each fingerprint with what the site says: whoever is in between could have sent a request of their own.
    """
    drawn = _read(project_file)
    asked = [Enrolment.read(path) for path in requests]
    changes = update(drawn, out, lock_for(drawn.project, out, key_file, passphrase), asked)
    for one in asked:
        click.echo(f"{one.identity.name}  {one.fingerprint}")
    _show(changes, out)


@main.command("revoke")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@OUT
@KEY_FILE
@PASSPHRASE
def revoke_(names: tuple[str, ...], out: Path, key_file: Path | None, passphrase: bool) -> None:
    """Revoke all certificates of each NAME: no node keeps a link with it once the server has the new list.

    The list is written into the server's kit in DIR. A server that runs from there takes it by itself; else bring
    denied.bin to its startup folder. A new kit for the same name is made by the next cellnet provision.
    """
    drawn = Registry.project_in(out / FOLDER)
    found = revoke(names, out, lock_for(drawn, out, key_file, passphrase))
    for one in found:
        click.echo(f"revoked {one.identity} {one.usage} {one.serial}")
    click.echo(f"{counted(len(found), 'certificate')} of {', '.join(names)}; the list is {out / FOLDER / DENIED}")


@main.command()
@click.argument("kits", metavar="KIT...", nargs=-1, required=True, type=click.Path(path_type=Path))
def migrate(kits: tuple[Path, ...]) -> None:
    """Print a project.yml that says what KITs of NVIDIA FLARE's provisioning say; a folder of kits will do.

    The keys in those kits cannot be used here: kits that can are made from the project.
    """
    found = [read_foreign(path) for path in _foreign_kits(kits)]
    if not found:
        raise ConfigurationError("there is no kit of FLARE's here", str(kits[0]))
    click.echo(project_text_of(found), nl=False)


@main.command()
@click.option("--depth", default=2, show_default=True, help="Tiers of relays; 0: none.")
@click.option("--width", default=2, show_default=True, help="Relays below each node.")
@click.option("--clients", default=3, show_default=True, help="Clients below each lead client of the last tier.")
@click.option("--name", default="tree", show_default=True, help="The project's name.")
@click.option("--scheme", default="grpc", show_default=True, help="Of all links: grpc, tcp or http.")
@click.option("--security", default="mtls", show_default=True, help="Of all links: mtls, tls or clear.")
@click.option("--host", default="localhost", show_default=True, help="Where all nodes listen.")
@click.option("--analyze", "shows", is_flag=True, help="Print what follows from the tree, and not the file.")
@click.option("--json", "as_json", is_flag=True, help="Print the analysis as one JSON object.")
def tree(
    depth: int,
    width: int,
    clients: int,
    name: str,
    scheme: str,
    security: str,
    host: str,
    shows: bool,
    as_json: bool,
) -> None:
    """Print a project.yml with tiers of relays, and with clients whose hierarchy follows them."""
    text = project_text(Shape(depth, width, clients), name=name, scheme=scheme, security=security, host=host)
    if not shows:
        click.echo(text, nl=False)
        return
    found = analyze(draw(Source.parse(text.encode(), "tree")))
    click.echo(json.dumps(found.as_json(), indent=1) if as_json else "\n".join(found.lines()))


@main.command()
def schema() -> None:
    """Print the JSON schema of a project.yml, for editors."""
    click.echo(json.dumps(json_schema(), indent=1))


def _read(project_file: Path) -> Plan:
    """Read a project, and say its warnings."""
    drawn = read_plan(project_file)
    _say(drawn.warnings, "warning: ")
    return drawn


def _foreign_kits(places: Sequence[Path]) -> list[Path]:
    return [path for place in places for path in (place, *sorted(place.glob("*"))) if is_foreign(path)]


def _entry(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a participant as it stands in a project.yml."""
    entry = {"name": name, "type": given["role"], "org": given["org"]}
    if given["host"] or given["port"]:
        entry["listening_host"] = {"default_host": given["host"], "port": given["port"]}
    if given["parent"]:
        entry["parent"] = given["parent"]
    if given["connect_to"]:
        entry["connect_to"] = {"name": given["connect_to"]}
    return entry


def lock_for(project: str, out: Path, key_file: Path | None, passphrase: bool) -> Lock:
    """Find out what opens the keys in *out*, or is to encrypt those that will be there."""
    kind = Registry.lock_of(out / FOLDER)
    if passphrase or (kind == "passphrase" and key_file is None):
        return Lock.of_passphrase(
            click.prompt("Passphrase", hide_input=True, confirmation_prompt=kind is None, err=True)
        )
    path = key_file or default_key_file(project)
    if kind is None and not path.exists():
        click.echo(f"note: the authority's keys are encrypted with {path}: keep a copy of it elsewhere", err=True)
    return Lock.of_file(path, create=kind is None)


def _compare(drawn: Plan, out: Path) -> tuple[Change, ...]:
    records = Registry.records_in(out / FOLDER)
    return compare(drawn, records, out, datetime.datetime.now(datetime.UTC))


def _show(changes: Sequence[Change], out: Path) -> None:
    """Print every change, and how many there are of each kind."""
    for change in changes:
        if change.kind == "removed":
            message = "is no longer in the project: its certificates hold until they expire"
            click.echo(f"warning: {change.name} {message}", err=True)
        elif change.kind != "unchanged":
            why = f"  ({'; '.join(change.reasons)})" if change.reasons else ""
            click.echo(f"{change.kind:<9}  {out / change.name}{why}")
    counts = Counter(change.kind for change in changes)
    click.echo(", ".join(f"{counts[kind]} {kind}" for kind in ("added", "changed", "unchanged", "removed")))


def _say(problems: Sequence[Problem], prefix: str) -> None:
    for problem in problems:
        click.echo(f"{prefix}{problem}", err=True)


def _row(node: Node) -> tuple[str, ...]:
    listen = f"{node.listen.url} {node.listen.security}" if node.listen else "-"
    connect = "-"
    if node.connect:
        ends = [f"{end.parent or 'an ingress'} {end.url} {end.security}" for end in (node.connect, *node.others)]
        connect = ", else ".join(ends)
    return (node.name, node.role, str(node.fqcn or "-"), str(node.fqsn or "-"), listen, connect)
