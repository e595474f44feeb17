"""The command ``python -P -m provisioning project.yml --out DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cellnet.errors import ConfigurationError
from provisioning import provision


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("project_file", metavar="PROJECT.YML", type=click.Path(path_type=Path))
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), required=True, help="The folder for the kits.")
def main(project_file: Path, out: Path) -> None:
    """Write a startup kit for every participant of a project into DIR, beside the project's authority.

    A second run into the same DIR keeps the authority, and replaces the certificates of every kit.
    """
    try:
        done = provision(project_file, out)
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    for warning in done.plan.warnings:
        click.echo(f"warning: {warning}", err=True)
    for name in done.obsolete:
        message = f"is no longer in {project_file}: its certificates hold until they expire"
        click.echo(f"warning: {out / name}: {message}", err=True)
    width = max(len(node.name) for node in done.plan.nodes)
    for node in done.plan.nodes:
        names = f"{node.fqcn or '-'!s:<24} {node.fqsn or '-'!s:<24}"
        click.echo(f"{node.name:<{width}}  {node.role:<7} {names} {out / node.name}")
    click.echo(f"{len(done.plan.nodes)} kits of project {done.plan.project}; {out / 'authority'} stays here")


if __name__ == "__main__":
    main(prog_name="python -m provisioning")
