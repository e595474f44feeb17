"""Memory for large payloads: it is there when the bytes come, and not before."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from cellnet.errors import PayloadTooLarge
from cellnet.mapped import HUGE_PAGE, SMALL_BYTES, Mapped
from cellnet.payload import Encoding, decode, encode

MIB = 1 << 20
PIECE = b"\x07" * (MIB // 4)


def resident() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


def test_arrays_are_read_where_they_came() -> None:
    packed = encode([np.arange(1_000_000), "x"]).joined()
    target = Mapped(len(packed))
    for start in range(0, len(packed), 100_000):
        target.write(memoryview(packed)[start : start + 100_000])
    assert target.size == len(packed)
    array, text = decode(Encoding.ARRAYS, target.finish())
    del target
    assert (array == np.arange(1_000_000)).all()
    assert text == "x"
    assert not array.flags.writeable


def test_what_was_only_announced_takes_nothing() -> None:
    before = resident()
    targets = [Mapped(256 * MIB) for _ in range(20)]
    for target in targets:
        target.write(b"x")
        target.discard()
    assert resident() - before < 2 * MIB


def test_what_has_come_takes_little_more_than_itself() -> None:
    target, before = Mapped(64 * MIB), resident()
    while target.size < SMALL_BYTES - len(PIECE):
        target.write(PIECE)
        assert resident() - before < target.size + MIB
    while target.size < 32 * MIB:
        target.write(PIECE)
        assert resident() - before < target.size + HUGE_PAGE + MIB


def test_a_size_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(PayloadTooLarge, match="no memory here for a payload of"):
        Mapped(1 << 62)


def test_it_works_where_there_are_no_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    target = Mapped(8 * MIB)
    for _ in range(32):
        target.write(PIECE)
    assert bytes(target.finish()) == PIECE * 32
