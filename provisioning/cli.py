"""The commands that read a project.yml."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cellnet.errors import ConfigurationError
from provisioning import ProjectError, provision, read_plan
from provisioning.schema import json_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioning.plan import Node, Plan
    from provisioning.problems import Problem

__all__ = ["main"]

_PROJECT = click.argument("project_file", metavar="PROJECT.YML", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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
        count = f"{_count(len(errors), 'error')}, {_count(len(warnings), 'warning')}"
        click.echo(f"{project_file}: {count}" + (f", {len(plan.nodes)} participants" if plan else ""))
    sys.exit(1 if failed else 0)


@main.command()
@_PROJECT
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(project_file: Path, as_json: bool) -> None:
    """Show what every participant is called in both hierarchies, and how it is reached; nothing is written."""
    drawn = _read(project_file)
    if as_json:
        click.echo(json.dumps(drawn.as_json(), indent=1))
        return
    titles = ("NAME", "TYPE", "FQCN", "FQSN", "LISTENS AT", "CONNECTS TO")
    rows = [titles, *(_row(node) for node in drawn.nodes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@main.command("provision")
@_PROJECT
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), required=True, help="The folder for the kits.")
def provision_(project_file: Path, out: Path) -> None:
    """Write a startup kit for every participant of a project into DIR, beside the project's authority.

    A second run into the same DIR keeps the authority, and replaces the certificates of every kit.
    """
    try:
        done = provision(project_file, out)
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    _say(done.plan.warnings, "warning: ")
    for name in done.obsolete:
        message = f"is no longer in {project_file}: its certificates hold until they expire"
        click.echo(f"warning: {out / name}: {message}", err=True)
    width = max(len(node.name) for node in done.plan.nodes)
    for node in done.plan.nodes:
        names = f"{node.fqcn or '-'!s:<24} {node.fqsn or '-'!s:<24}"
        click.echo(f"{node.name:<{width}}  {node.role:<7} {names} {out / node.name}")
    click.echo(f"{len(done.plan.nodes)} kits of project {done.plan.project}; {out / 'authority'} stays here")


@main.command()
def schema() -> None:
    """Print the JSON schema of a project.yml, for editors."""
    click.echo(json.dumps(json_schema(), indent=1))


def _read(project_file: Path) -> Plan:
    """Read a project, say its warnings, and end the command if it has errors."""
    try:
        drawn = read_plan(project_file)
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    _say(drawn.warnings, "warning: ")
    return drawn


def _say(problems: Sequence[Problem], prefix: str) -> None:
    for problem in problems:
        click.echo(f"{prefix}{problem}", err=True)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _row(node: Node) -> tuple[str, ...]:
    listen = f"{node.listen.url} {node.listen.security}" if node.listen else "-"
    connect = "-"
    if node.connect:
        connect = f"{node.connect.parent or 'an ingress'} {node.connect.url} {node.connect.security}"
    return (node.name, node.role, str(node.fqcn or "-"), str(node.fqsn or "-"), listen, connect)
