"""The bars of the demo: one for each site on a terminal, and nothing anywhere else."""

from __future__ import annotations

import io

from rich.console import Console

from cellnet.cli.bars import Bars
from cellnet.jobs.progress import SiteProgress

MIB = 1024 * 1024
SITES = ("C2", "C1", "C1.C11")


def shown(*come: SiteProgress, terminal: bool = True, stderr: bool = False) -> str:
    """Return what is written, with one line of the demo in the middle of it."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, color_system=None, width=100)
    console.stderr = stderr
    with Bars(console, SITES) as bars:
        console.print("  round   1")
        for each in come:
            bars.take(each)
    return file.getvalue()


def last_bars(text: str) -> list[list[str]]:
    """Return the words beside the last bars that were drawn."""
    lines = [line.split() for line in text.splitlines() if "MiB" in line or "bytes" in line][-len(SITES) :]
    return [[word for word in line if set(word) - set("\u2501\u2578\u257a")] for line in lines]


def test_every_site_has_a_bar_in_the_order_of_their_names() -> None:
    bars = last_bars(shown(SiteProgress("C1", 3 * MIB, 4 * MIB), SiteProgress("C2", 4 * MIB, 4 * MIB)))
    assert "C1 3.0/4.0 MiB" in " ".join(bars[0])
    assert "C1.C11 0/? bytes" in " ".join(bars[1])
    assert "C2 4.0/4.0 MiB" in " ".join(bars[2])


def test_a_bar_begins_anew_with_the_next_round() -> None:
    whole, next_one = SiteProgress("C1", 4 * MIB, 4 * MIB), SiteProgress("C1", MIB, 5 * MIB)
    assert "C1 1.0/5.0 MiB" in " ".join(last_bars(shown(whole, next_one))[0])


def test_a_site_that_nobody_knows_has_no_bar() -> None:
    assert "C9" not in shown(SiteProgress("C9", 1, 2))


def test_a_file_and_the_lines_beside_json_get_no_bars() -> None:
    come = SiteProgress("C1", MIB, 4 * MIB)
    assert shown(come, terminal=False) == "  round   1\n"
    assert shown(come, stderr=True) == "  round   1\n"
