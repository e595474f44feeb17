"""The commands that look after a project's root."""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Any

import click

from cellnet.inspection import fingerprint
from provisioning.authority import name_of
from provisioning.cli import KEY_FILE, OUT, PASSPHRASE, lock_for
from provisioning.registry import FOLDER, Registry
from provisioning.rotation import Rotation, Step, rotate

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509

__all__ = ["ca"]


@click.group()
def ca() -> None:
    """Look after the root that all nodes of a project trust, and change it."""


@ca.command()
@OUT
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(out: Path, as_json: bool) -> None:
    """Show which roots the nodes of the project in DIR trust, who issues, until when, and how to change the root."""
    folder, now = out / FOLDER, datetime.datetime.now(datetime.UTC)
    Registry.project_in(folder)  # which says what is wrong, if there is nothing at all
    roots, issuer = Registry.roots_in(folder), Registry.issuer_in(folder)
    rotation = Rotation.of(roots, issuer, Registry.records_in(folder), now)
    if as_json:
        shown = {"roots": list(map(_as_json, roots)), "issuer": _as_json(issuer)}
        step = {"next_step": rotation.step.name.lower(), "waits_for": list(rotation.waits_for)}
        click.echo(json.dumps({**shown, **step}, indent=1))
        return
    for root in roots:
        click.echo(f"root      {name_of(root)}, until {_day(root)}, {fingerprint(root)}")
    below = next(name_of(root) for root in roots if root.subject == issuer.issuer)
    click.echo(f"issuer    {name_of(issuer)}, until {_day(issuer)}, below {below}")
    _say_next(rotation)


@ca.command("rotate")
@OUT
@KEY_FILE
@PASSPHRASE
def rotate_(out: Path, key_file: Path | None, passphrase: bool) -> None:
    """Do the next step of changing the root of the project in DIR, while its nodes run.

    There are three: a new root is trusted beside the old one; certificates are issued below the new one; the new one
    alone is trusted. Between them every node is renewed once, by cellnet issuer or with a new kit. A step that comes
    too early is refused, and nothing changes. Where the server's node does not run from DIR, bring roster.bin and
    denied.bin to its startup folder after the second step.
    """
    lock = lock_for(Registry.project_in(out / FOLDER), out, key_file, passphrase)
    before = Registry.roots_in(out / FOLDER)
    rotation = rotate(out, lock)
    for root in Registry.roots_in(out / FOLDER):
        news = "" if root in before else "  (new: tell it to whoever compares fingerprints)"
        click.echo(f"trusted   {name_of(root)}, {fingerprint(root)}{news}")
    _say_next(rotation)


def _say_next(rotation: Rotation) -> None:
    if rotation.step is Step.ADD:
        return
    waits = f", once these are renewed, or have a new kit: {', '.join(rotation.waits_for)}" if rotation.until else ""
    click.echo(f"next      {rotation.step}{waits}")


def _day(certificate: x509.Certificate) -> str:
    return f"{certificate.not_valid_after_utc:%Y-%m-%d}"


def _as_json(certificate: x509.Certificate) -> dict[str, Any]:
    return {
        "name": name_of(certificate),
        "fingerprint": fingerprint(certificate),
        "not_after": certificate.not_valid_after_utc.isoformat(),
    }
