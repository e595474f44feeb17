"""The steps of the demo: provision, start, wait until all are present, train hierarchically, train flat, compare."""

from __future__ import annotations

import time
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from cellnet.cli.bars import Bars
from cellnet.cli.example import example_project, with_free_ports, with_settings
from cellnet.cli.federation import NodeFailed, federation, log_tail
from cellnet.cli.summary import CellRow, RunFigures, Summary
from cellnet.errors import ConfigurationError, ConnectError, JobError
from cellnet.fqcn import FQCN, ROOT
from cellnet.jobs.operator import present_cells
from cellnet.jobs.submission import submitted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import Console

    from cellnet.cli.federation import Node
    from cellnet.jobs.operator import PresentCell
    from cellnet.jobs.submission import Run
    from provisioning import Plan

__all__ = ["show"]

PRESENT_SECONDS = 30.0
POLL_SECONDS = 0.1
NEWS_SECONDS = 60.0
"""How long the job may stay silent: starting its processes takes seconds, a round takes a fraction of one."""
NEWS_SECONDS_PER_MIB = 2.0
"""As much longer for each MiB of ballast: a round takes it to six sites and back, over three links each."""


async def show(
    console: Console,
    folder: Path,
    training: Mapping[str, int],
    *,
    project: Path | None,
    settings: Mapping[str, str],
    started: float,
) -> Summary:
    """Do all of it in *folder*, and tell *console* about it.

    :param training: what the digits job is given: the number of ``rounds``, and ``ballast_mib``
    :param settings: what to say in the project file in place of what it says itself
    :raises CellError: if the project file is wrong, a node fails or the job fails
    """
    plan = await anyio.to_thread.run_sync(_provision, project, settings, folder)
    # parents first: who starts before its parent listens must dial twice
    places = sorted((node.fqcn.depth, node.base_name, node.name) for node in plan.nodes if node.fqcn is not None)
    kits = {base_name: folder / "kits" / name for _, base_name, name in places}
    console.print(f"Project {plan.project}: {len(kits)} kits. Starting their nodes, each a process of its own ...")
    logs = folder / "logs"
    logs.mkdir()
    async with federation(kits, logs) as nodes:
        cells = await wait_all_present(kits[ROOT], nodes)
        console.print(f"All {len(cells)} cells are present after {time.monotonic() - started:.1f} s.")
        sites = [cell.fqsn for cell in cells if cell.fqsn and cell.fqsn != ROOT]
        hierarchical, model = await _train(console, kits[ROOT], sites, training, flat=False)
        flat, flat_model = await _train(console, kits[ROOT], sites, training, flat=True)
    # only here: numpy takes its time to load, and the nodes needed the processor more
    from cellnet.jobs.digits.model import difference

    return Summary(
        cells=cells,
        rounds=training["rounds"],
        hierarchical=hierarchical,
        flat=flat,
        weights_difference=difference(model, flat_model),
        seconds=time.monotonic() - started,
    )


def _provision(project: Path | None, settings: Mapping[str, str], folder: Path) -> Plan:
    """Provision a copy of the project, whose ports are free on this machine, into ``kits``."""
    # the command line may import provisioning, and only here it is needed
    from provisioning import Lock, provision

    original = project or example_project()
    copy = folder / "project.yml"
    try:
        copy.write_bytes(with_settings(with_free_ports(original.read_bytes()), settings))
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", str(original)) from None
    try:
        return provision(copy, folder / "kits", Lock.of_file(folder / "authority.key", create=True)).plan
    except ConfigurationError as error:
        # the lines are those of the original: name it, as the copy is about to vanish
        raise ConfigurationError(str(error).replace(str(copy), str(original))) from None


async def wait_all_present(server: Path, nodes: Sequence[Node]) -> tuple[CellRow, ...]:
    """Wait until the server sees every node, and return what it sees.

    :raises NodeFailed: if one stays away
    """
    expected = {node.name for node in nodes} - {ROOT}
    seen: dict[str, PresentCell] = {}
    with anyio.move_on_after(PRESENT_SECONDS):
        while not expected <= seen.keys():
            await anyio.sleep(POLL_SECONDS)
            with suppress(ConnectError):  # the server itself is not up yet
                seen = {FQCN(cell.fqcn).base_name: cell for cell in await present_cells(server)}
        return _rows([seen[name] for name in expected])
    missing = [node for node in nodes if node.name in expected - seen.keys()]
    if len(missing) == len(expected):
        missing = [node for node in nodes if node.name == ROOT]
    names = ", ".join(node.name for node in missing)
    first = missing[0]  # the nearest to the server: what stopped it is why those below it are missing too
    raise NodeFailed(
        f"not present after {PRESENT_SECONDS:g} s: {names}; the last lines of {first.name}:{log_tail(first.log)}"
    )


def _rows(cells: Iterable[PresentCell]) -> tuple[CellRow, ...]:
    """Sort the cells as a tree reads. A link is measured by the parent that accepted it; the server has only those."""
    below = sorted(cells, key=lambda cell: FQCN(cell.fqcn))
    own = [cell for cell in below if FQCN(cell.fqcn).parent == FQCN(ROOT)]
    drivers, securities = ({cell.driver for cell in own}, {cell.security for cell in own})
    root = CellRow(ROOT, ROOT, "+".join(sorted(drivers)), "+".join(sorted(securities)))
    return (root, *(CellRow(cell.fqcn, cell.fqsn or None, cell.driver, cell.security) for cell in below))


async def _train(
    console: Console, server: Path, sites: Iterable[str], training: Mapping[str, int], *, flat: bool
) -> tuple[RunFigures, Mapping[str, Any]]:
    """Run the digits job, print its rounds as they come, and return its figures and its model."""
    way = "Flat: every result goes to the server." if flat else "Hierarchical: results are combined on the way up."
    console.print(way)
    started = time.monotonic()
    bundle = Path(str(resources.files("cellnet.jobs.digits"))) / "bundle"
    silence = NEWS_SECONDS + NEWS_SECONDS_PER_MIB * training["ballast_mib"]
    bars = Bars(console, sites if training["ballast_mib"] else ())
    async with submitted(server, bundle, flat=flat, config=training, progress=bars.take) as run:
        with bars:
            while (report := await _next(run, silence)) is not None:
                console.print(
                    f"  round {report['round']:>3}   accuracy {report['accuracy']:.3f}   loss {report['loss']:.3f}"
                )
    result = run.result
    seconds = time.monotonic() - started
    value = result.value
    return RunFigures(value["accuracy"], value["loss"], result.messages, result.bytes, seconds), value["model"]


async def _next(run: Run, seconds: float) -> Mapping[str, Any] | None:
    with anyio.move_on_after(seconds):
        return await anext(run, None)
    raise JobError(f"job {run.job} has not reported for {seconds:g} s")
