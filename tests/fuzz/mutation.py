"""Mutations of values, for what a mutation of bytes reaches too seldom: another type, a limit, a depth, a length."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgpack

from tests.protocol.test_fuzz import mutate

if TYPE_CHECKING:
    import random

__all__ = ["LONGEST", "Raw", "packed", "vary", "vary_packed"]

MAX_CHANGES = 3
LONGEST = 65535


class Raw(bytes):
    """MessagePack that stands in a value as it is, although no packer would write it."""


def _announcing(size: int) -> Raw:
    """Return lists in lists, each of which announces more than will follow: memory is taken for what never comes."""
    return Raw((b"\xdd" + size.to_bytes(4, "big")) * 1000 + b"\xc0" * (size - 5000))


PLAIN: tuple[Any, ...] = (
    *(None, False, True, 0, 1, -1, 2, 63, 64, 127, 128, 255, 4096, 65535, 65536),
    *(2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63)),
    *(0.0, 1.5, -1.0, 1e308, math.nan, math.inf),
    *("", "a", "server", "server.j", "R1.C1", "..", "\x00", "\u2028", "a" * 64, "a" * 256, "\u00e9" * 300),
    *(b"", b"\x00", b"\x90", bytes(32), b"\xff" * 32, bytes(300), b"\xc1" * 2000),
    *([], {}, [[]], [None] * 65, [0] * 300, {1: 2}, {"": None}, {b"": []}),
)
STRANGE: tuple[Raw, ...] = (
    Raw(msgpack.packb(msgpack.Timestamp(0))),
    Raw(msgpack.packb(msgpack.ExtType(1, b"\x00\x00"))),
    Raw(msgpack.packb(msgpack.ExtType(127, b""))),
    Raw(b"\xd5\xff\x00\x00"),  # a timestamp of a size that does not exist
    Raw(b"\xc7\x0c\xff" + b"\xff" * 12),
    Raw(b"\xa2\xff\xfe"),  # no UTF-8
    Raw(b"\xa3\xed\xa0\x80"),  # half a character
    Raw(b"\x81\x90\xc0"),  # a key that has no hash
    Raw(b"\x82\x01\xc0\x01\xc0"),  # the same key twice
    Raw(b"\xc1"),
    Raw(b"\xdd\xff\xff\xff\xff"),
    Raw(b"\xc6\xff\xff\xff\xff"),
    Raw(b"\x91" * 500 + b"\xc0"),
    Raw(b"\x91" * 1000 + b"\xc0"),  # deeper than Python's recursion limit, not deeper than the unpacker's
    Raw(b"\x91" * 5000 + b"\xc0"),
    Raw(b"\x81\xa0" * 1000 + b"\xc0"),
)
HEAVY: tuple[Raw, ...] = (
    _announcing(60_000),
    Raw(b"\xdc\x1b\x58" + b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff" * 7000),  # numbers, of which a product is endless
    Raw(b"\xdb" + (60_000).to_bytes(4, "big") + b"a." * 30_000),
    Raw(b"\xdd" + (60_000).to_bytes(4, "big") + b"\x90" * 60_000),
)
"""What is as long as a message may be."""


def vary(rng: random.Random, value: Any) -> Any:
    """Return *value* with a few changes somewhere inside; it may hold :class:`Raw` then."""
    for _ in range(rng.randint(1, MAX_CHANGES)):
        value = _changed(rng, value)
    return value


def vary_packed(rng: random.Random, data: bytes) -> bytes:
    """Return MessagePack with changes of its value, or of its bytes; no longer than anything that travels."""
    if rng.random() < 0.3:
        return mutate(rng, data)[:LONGEST]
    return packed(vary(rng, msgpack.unpackb(data, strict_map_key=False)))[:LONGEST]


def packed(value: Any) -> bytes:
    """Return *value* as MessagePack, and what is :class:`Raw` in it as it is."""
    packer = msgpack.Packer()
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, list | tuple):
        return packer.pack_array_header(len(value)) + b"".join(map(packed, value))
    if isinstance(value, dict):
        pairs = [packed(key) + packed(one) for key, one in value.items()]
        return packer.pack_map_header(len(pairs)) + b"".join(pairs)
    return packer.pack(value)


def _changed(rng: random.Random, value: Any) -> Any:
    if isinstance(value, list | tuple) and value:
        return _changed_list(rng, list(value))
    if isinstance(value, dict) and value:
        return _changed_dict(rng, dict(value))
    if rng.random() < 0.4 and not isinstance(value, Raw):
        if isinstance(value, bytes):
            return mutate(rng, value)
        if isinstance(value, str):
            return mutate(rng, value.encode()).decode(errors="replace")
        if isinstance(value, int):
            return (value + rng.choice((-1, 1))) % 2**64
    return _anything(rng)


def _changed_list(rng: random.Random, value: list[Any]) -> Any:
    at = rng.randrange(len(value))
    choice = rng.random()
    if choice < 0.8:
        value[at] = _changed(rng, value[at])
    elif choice < 0.85:
        del value[at]
    elif choice < 0.9:
        value.insert(at, _anything(rng))
    elif choice < 0.94:
        value[at:at] = [value[at]] * (1 if isinstance(value[at], Raw) else rng.choice((1, 2, 100)))
    elif choice < 0.98:
        other = rng.randrange(len(value))
        value[at], value[other] = value[other], value[at]
    else:
        return _anything(rng)
    return value


def _changed_dict(rng: random.Random, value: dict[Any, Any]) -> Any:
    key = rng.choice(list(value))
    choice = rng.random()
    if choice < 0.85:
        value[key] = _changed(rng, value[key])
    elif choice < 0.9:
        del value[key]
    elif choice < 0.95:
        value[rng.choice(("", "a", 0, b"", None))] = _anything(rng)
    else:
        return _anything(rng)
    return value


def _anything(rng: random.Random) -> Any:
    choice = rng.random()
    return rng.choice(PLAIN if choice < 0.8 else STRANGE if choice < 0.995 else HEAVY)
