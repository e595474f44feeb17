"""What a node's process frees is kept for what it takes next."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ROUNDS = 100
PAGES = 128
"""Of half a MiB, where a page has 4 KiB."""
PROGRAM = f"""
import resource, sys, threading
from cellnet.node import run_until_signalled

def turn_over():
    first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({ROUNDS}):
        messages = [bytes([1]) * (512 * 1024) for _ in range(8)]
        del messages
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)

async def node(*, stop, task_status):
    thread = threading.Thread(target=turn_over)
    thread.start()
    thread.join()
    task_status.started("ready")

run_until_signalled(node)
"""

pytestmark = pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="another C library")


def test_a_node_does_not_have_its_memory_cleared_again_for_each_message() -> None:
    assert faults({}) < 2 * 8 * PAGES


def test_what_an_operator_has_set_by_the_environment_stays_as_it_is() -> None:
    assert faults({"MALLOC_MMAP_THRESHOLD_": "65536"}) > ROUNDS * 8 * PAGES / 2


def faults(environment: dict[str, str]) -> int:
    """Return how many pages a node's process was given while it took and freed half a MiB, eight at a time."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_"))}
    program = [sys.executable, "-c", PROGRAM]
    ran = subprocess.run(program, env=clean | environment, capture_output=True, text=True, timeout=60, check=True)
    return int(ran.stdout.split()[0])
