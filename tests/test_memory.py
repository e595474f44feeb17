"""Where a payload's bytes go: what they cost before they come, and what they are afterwards."""

from __future__ import annotations

import itertools
import mmap
import time
from typing import ClassVar

import numpy as np
import psutil
import pytest

from cellnet.memory import DEAR_SECONDS, LARGE_BYTES, STEP_BYTES, ArrayMemory, Memory, memory_for
from cellnet.payload import Encoding, decode, encode


def test_bytes_and_small_arrays_come_as_bytes() -> None:
    assert isinstance(memory_for(1 << 30, is_arrays=False), Memory)
    assert isinstance(memory_for(LARGE_BYTES - 1, is_arrays=True), Memory)
    assert isinstance(memory_for(LARGE_BYTES, is_arrays=True), ArrayMemory)


def test_what_is_written_in_pieces_comes_out_whole() -> None:
    value = {"weights": np.arange(LARGE_BYTES // 4, dtype="<f4"), "step": 7}
    data = b"".join(encode(value).buffers)
    memory = memory_for(len(data), is_arrays=True)
    for start in range(0, len(data), 1_000_003):
        memory.write(data[start : start + 1_000_003])
    found = decode(Encoding.ARRAYS, memory.finish())
    assert found["step"] == 7
    np.testing.assert_array_equal(found["weights"], value["weights"])
    assert not found["weights"].flags.writeable
    assert isinstance(memory, ArrayMemory)


def test_what_was_announced_takes_no_memory_until_it_comes() -> None:
    before = psutil.Process().memory_info().rss
    memory = ArrayMemory(4 << 30)
    memory.write(bytes(1 << 20))
    assert psutil.Process().memory_info().rss - before < 16 << 20


def test_arrays_live_as_long_as_they_are_used_and_no_longer() -> None:
    memory = ArrayMemory(64 << 20)
    memory.write(b"\1" * (64 << 20))
    array = np.frombuffer(memory.finish(), "u1")
    memory.discard()
    assert array.sum() == 64 << 20
    used = psutil.Process().memory_info().rss
    del array
    assert used - psutil.Process().memory_info().rss > 60 << 20


def test_more_than_the_system_has_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="Cannot allocate memory"):
        ArrayMemory(1 << 62).write(b"!")


def test_large_pages_are_given_up_where_they_are_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pages(mmap.mmap):
        advice: ClassVar[list[int]] = []

        def madvise(self, option: int, *_range: int) -> None:
            self.advice.append(option)

    ticks = itertools.count()
    pace = 1e-6
    monkeypatch.setattr(mmap, "mmap", Pages)
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks) * pace)
    cheap = ArrayMemory(4 * STEP_BYTES)
    for _ in range(64):
        cheap.write(bytes(1 << 20))
    assert Pages.advice == [mmap.MADV_HUGEPAGE]
    pace = 2 * DEAR_SECONDS / 16
    dear = ArrayMemory(4 * STEP_BYTES)
    for _ in range(16):
        dear.write(bytes(1 << 20))
    assert Pages.advice == [mmap.MADV_HUGEPAGE, mmap.MADV_HUGEPAGE, mmap.MADV_NOHUGEPAGE]


def test_a_system_without_large_pages_does_with_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 12345, raising=False)  # which is refused, as where there are none
    memory = ArrayMemory(LARGE_BYTES)
    memory.write(b"abc")
    assert bytes(memory.finish()[:3]) == b"abc"
