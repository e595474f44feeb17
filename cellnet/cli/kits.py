"""The commands that look at startup kits."""

from __future__ import annotations

import datetime
import json
import os
import sys
from pathlib import Path

import click

from cellnet.archive import MAX_ARCHIVE_BYTES
from cellnet.archive import pack as pack_kit
from cellnet.archive import unpack as unpack_kit
from cellnet.errors import ConfigurationError
from cellnet.inspection import certificates_below, describe, fingerprint, verify_kit
from cellnet.kit import Kit

__all__ = ["check", "expiry", "inspect", "pack", "unpack", "verify"]

_KIT = click.argument("kit", metavar="KIT", type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command()
@_KIT
@_JSON
def inspect(kit: Path, as_json: bool) -> None:
    """Show what the startup kit in the folder KIT says: who the node is, where it connects, what its keys are for."""
    found = describe(Kit.load(kit), datetime.datetime.now(datetime.UTC))
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    rows = [("project", found["project"]), ("node", f"{found['role']} {found['name']}")]
    if found["listen"]:
        rows.append(("listens at", f"{found['listen']['url']} {found['listen']['security']}"))
    if found["connect_to"]:
        rows.append(("connects to", f"{found['connect_to']['url']} {found['connect_to']['security']}"))
        rows.append(("joins", " or ".join(found["parents"]) or "whoever is behind the ingress"))
    if found["fqsn"]:
        rows.append(("FQSN", found["fqsn"]))
    if found["roster"]:
        rows.append(("roster", f"{len(found['roster'])} members"))
    for one in found["certificates"]:
        hosts = f", at {', '.join(one['hosts'])}" if one["hosts"] else ""
        rows.append(("certificate", f"{one['usage']}{hosts}; until {one['not_after'][:10]} ({one['days_left']} days)"))
    rows.extend(("root", root) for root in found["roots"])
    for title, text in rows:
        click.echo(f"{title:<12} {text}")


@click.command()
@click.argument("kits", metavar="KIT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--root", metavar="SHA256", help="What the root's fingerprint must be, as the project told you.")
def verify(kits: tuple[Path, ...], root: str | None) -> None:
    """See that each KIT is whole and unaltered, and that its certificates hold; the exit code is 1 if one is not.

    A kit is checked against the root in it. That it is your project's root, only its fingerprint can tell: it is shown
    by cellnet provision and cellnet inspect, and given with --root.
    """
    now = datetime.datetime.now(datetime.UTC)
    failed = False
    for path in kits:
        try:
            kit = Kit.load(path)
            verify_kit(kit, now)
            _compare(kit, root)
        except ConfigurationError as error:
            click.echo(str(error), err=True)
            failed = True
        else:
            end = certificates_below([path])[0]
            click.echo(f"{path}: {kit.role} {kit.name} is whole; its certificates hold for {end.days_left(now)} days")
    sys.exit(1 if failed else 0)


@click.command()
@_KIT
@_JSON
def check(kit: Path, as_json: bool) -> None:
    """Find out, on its machine, whether the node of KIT would work, and else what is wrong; the exit code says so too.

    The node joins its parent for a moment. If it runs, its parent says so, and nothing happens to it.
    """
    import anyio

    from cellnet.checkup import check_kit

    async def run() -> bool:
        fine = True
        async for finding in check_kit(kit):
            fine = finding.is_fine
            found.append({"step": finding.step, "ok": finding.is_fine, "message": finding.text})
            if not as_json:
                click.echo(f"{'ok' if finding.is_fine else 'WRONG':<6} {finding.step}: {finding.text}")
        return fine

    found: list[dict[str, object]] = []
    fine = anyio.run(run)
    if as_json:
        click.echo(json.dumps({"ok": fine, "steps": found}, indent=1))
    sys.exit(0 if fine else 1)


@click.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--days", default=30, show_default=True, help="Fail if a certificate holds for fewer days than these.")
@_JSON
def expiry(folders: tuple[Path, ...], days: int, as_json: bool) -> None:
    """List the certificates of all kits in each DIR by when they end; the exit code is 1 if one ends soon."""
    now = datetime.datetime.now(datetime.UTC)
    found = certificates_below(folders)
    if as_json:
        click.echo(json.dumps({"certificates": [one.as_json(now) for one in found]}, indent=1))
    else:
        rows = [("DAYS", "EXPIRES", "NAME", "USE", "FILE")]
        rows += [
            (f"{one.days_left(now)}", f"{one.not_after:%Y-%m-%d}", one.name, one.usage, str(one.path)) for one in found
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.exit(1 if found[0].days_left(now) < days else 0)


@click.command()
@click.argument("kits", metavar="KIT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), required=True, help="Where the archives go.")
@click.option("--encrypt-to", "recipients", metavar="AGE1...", multiple=True, help="A site's public key (age).")
def pack(kits: tuple[Path, ...], out: Path, recipients: tuple[str, ...]) -> None:
    """Make one zip file of each KIT, the same bytes every time; encrypted to a site's public key, if one is given.

    Without --encrypt-to, whoever gets hold of the file has the keys.
    """
    for path in kits:
        kit = Kit.load(path)
        archive = out / f"{path.name}.zip{'.age' if recipients else ''}"
        data = pack_kit(kit.path, recipients)
        try:
            out.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        except OSError as error:
            raise ConfigurationError(f"cannot be written: {error.strerror}", str(archive)) from None
        click.echo(archive)


@click.command()
@click.argument("archive", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), required=True, help="Where the kit goes.")
@click.option(
    "--identity", metavar="FILE", type=click.Path(path_type=Path), help="The file with your secret key (age)."
)
def unpack(archive: Path, out: Path, identity: Path | None) -> None:
    """Take the kit out of an archive that cellnet pack made, with the modes that its files must have."""
    try:
        with archive.open("rb") as file:
            data = file.read(MAX_ARCHIVE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", str(archive)) from None
    path = unpack_kit(data, out, identity)
    kit = Kit.load(path)
    click.echo(f"{path}: {kit.role} {kit.name}")


def _compare(kit: Kit, root: str | None) -> None:
    found = list(map(fingerprint, kit.credentials.roots))
    if root is not None and root.replace(":", "").lower() not in [one.replace(":", "") for one in found]:
        raise ConfigurationError(f"is of another project: its root is {' or '.join(found)}", str(kit.path))
