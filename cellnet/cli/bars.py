"""What people see of a large model on its way: on a terminal, a bar for each site; anywhere else, nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from rich.console import Console
    from rich.progress import TaskID

    from cellnet.jobs.progress import SiteProgress

__all__ = ["Bars"]


class Bars:
    """A bar for each of some sites, below what else is printed."""

    def __init__(self, console: Console, sites: Iterable[str]) -> None:
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
        )
        # a file or a pipe gets the lines only; so does whoever asked for JSON, for whom the lines are on stderr
        self._shown = Progress(*columns, console=console, disable=console.stderr or not console.is_terminal)
        self._bars: dict[str, TaskID] = {
            site: self._shown.add_task(site, start=False, total=None) for site in sorted(sites)
        }

    def __enter__(self) -> Self:
        self._shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._shown.stop()

    def take(self, progress: SiteProgress) -> None:
        """Show how much has come to a site; what is less than before is the next round's."""
        bar = self._bars.get(progress.site)
        if bar is None:
            return
        (task,) = (one for one in self._shown.tasks if one.id == bar)
        if task.total is None or task.finished or progress.received < task.completed:
            self._shown.reset(bar, total=progress.size)
        self._shown.update(bar, completed=progress.received)
