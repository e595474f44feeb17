"""What a node's process frees is kept for what it takes next."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cellnet.heap import KEPT_BYTES

ROUNDS = 100
PAGES = 128
"""Of half a MiB, where a page has 4 KiB."""
MUCH = 400
"""Messages: 200 MiB."""
PROGRAM = f"""
import resource, sys, threading
from cellnet.node import run_until_signalled

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def turn_over():
    first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({ROUNDS}):
        messages = [bytes([1]) * (512 * 1024) for _ in range(8)]
        del messages
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)
    first = resident()
    messages = [None] * {MUCH}
    for number in range({MUCH}):
        messages[number] = bytes([1]) * (512 * 1024)
    messages.clear()
    print(resident() - first)

async def node(*, stop, task_status):
    thread = threading.Thread(target=turn_over)
    thread.start()
    thread.join()
    task_status.started("ready")

run_until_signalled(node)
"""

pytestmark = pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="only the GNU C library can be told"
)


def test_a_node_does_not_have_its_memory_cleared_again_for_each_message() -> None:
    faults, *_ = ran({})
    assert faults < 2 * 8 * PAGES


def test_a_node_gives_back_what_is_more_than_it_may_keep() -> None:
    _, kept = ran({})
    assert kept <= KEPT_BYTES


def test_what_an_operator_has_set_by_the_environment_stays_as_it_is() -> None:
    faults, *_ = ran({"MALLOC_MMAP_THRESHOLD_": "65536"})
    assert faults > ROUNDS * 8 * PAGES / 2


def ran(environment: dict[str, str]) -> list[int]:
    """Run a node's process; return how many pages it was given while it took and freed half a MiB, eight at a time.

    And how many bytes it kept of what was much more than it may keep, when all of that was freed.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    program = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(program, env=clean | environment, capture_output=True, text=True, timeout=60, check=True)
    return [int(number) for number in done.stdout.split()[:2]]
