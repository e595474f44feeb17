"""Payloads: what was put in comes out, arrays bit by bit, and nothing malformed does harm."""

from __future__ import annotations

import os
import random
import sys
import time
import tracemalloc
from collections import OrderedDict
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellnet.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from cellnet.payload import MAX_ARRAYS, Encoding, decode, encode

SEED = int(os.environ.get("CELLNET_FUZZ_SEED", "20261122"))
DTYPES = ("<f2", "<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<c8", "<c16", "|b1")

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.binary(max_size=10)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)


def round_trip(value: object) -> Any:
    packed = encode(value)
    return decode(packed.encoding, packed.joined())


def same(one: Any, two: Any) -> bool:
    """Compare values that may hold arrays, by dtype, shape and every bit."""
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (two.dtype, two.shape, two.tobytes())
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    return type(one) is type(two) and one == two


# What comes out


@given(values)
def test_plain_values_come_out_as_they_went_in(value: object) -> None:
    assert same(round_trip(value), value)


@pytest.mark.parametrize(
    ("value", "encoding", "data"),
    [
        (None, Encoding.NONE, b""),
        (b"raw", Encoding.BYTES, b"raw"),
        (bytearray(b"raw"), Encoding.BYTES, b"raw"),
        (memoryview(b"raw"), Encoding.BYTES, b"raw"),
        ("text", Encoding.VALUE, b"\xa4text"),
        ([1, 2], Encoding.VALUE, b"\x92\x01\x02"),
    ],
)
def test_each_kind_of_payload_has_its_encoding(value: object, encoding: Encoding, data: bytes) -> None:
    packed = encode(value)
    assert (packed.encoding, packed.joined()) == (encoding, data)


def test_a_tuple_comes_out_as_a_list_and_keys_may_be_numbers() -> None:
    assert round_trip({1: (2, (3,))}) == {1: [2, [3]]}


def test_an_ordered_dict_comes_out_as_a_dict_in_its_order() -> None:
    came = round_trip(OrderedDict([("b", 1), ("a", OrderedDict(c=2))]))
    assert (type(came), list(came), came) == (dict, ["b", "a"], {"b": 1, "a": {"c": 2}})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 3), (2, 0, 4), (1, 1, 1, 1)])
def test_arrays_come_out_bit_by_bit(dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    array = rng.integers(0, 2, shape).astype(dtype)
    assert same(round_trip(array), array)
    nested = {"a": [array, 1, array], "b": array}
    assert same(round_trip(nested), nested)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_arrays_that_lie_otherwise_in_memory_come_out_equal(shape: tuple[int, ...]) -> None:
    array = np.arange(6.0)[: int(np.prod(shape))].reshape(shape)
    for view in (array.astype(">f8"), array.T, np.asfortranarray(array), array[..., ::-1] if shape else array):
        out = round_trip(view)
        assert out.dtype == np.dtype("<f8")
        assert out.shape == view.shape
        np.testing.assert_array_equal(out, view)


def test_what_is_no_number_stays_that_bit_by_bit() -> None:
    array = np.array([np.nan, -0.0, np.inf, -np.inf, 5e-324])
    assert same(round_trip(array), array)


def test_a_number_of_numpy_comes_out_as_a_plain_one() -> None:
    assert same(round_trip([np.float32(0.5), np.int64(7), np.bool_(True)]), [0.5, 7, True])


def test_arrays_that_come_out_are_read_only_views_of_what_arrived() -> None:
    data = encode([np.arange(100.0), np.arange(3, dtype="u1"), np.arange(5.0)]).joined()
    for array in decode(Encoding.ARRAYS, data):
        assert not array.flags.writeable
        assert not array.flags.owndata
        assert np.shares_memory(array, np.frombuffer(data, "u1"))
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_buffers_lie_at_multiples_of_64() -> None:
    data = encode([np.arange(3, dtype="u1"), np.arange(5.0), np.arange(2.0)]).joined()
    size = int.from_bytes(data[:4], "big")
    _value, table = msgpack.unpackb(data[4 : 4 + size], strict_map_key=False)
    assert [(dtype, offset, nbytes) for dtype, _shape, offset, nbytes in table] == [
        ("|u1", 0, 3),
        ("<f8", 64, 40),
        ("<f8", 128, 16),
    ]
    assert len(data) % 64 == 0
    start = -(-(4 + size) // 64) * 64
    assert data[start : start + 3] == b"\x00\x01\x02"


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=6), st.sampled_from(DTYPES))
def test_any_number_of_arrays_of_any_shape_comes_out(shapes: list[list[int]], dtype: str) -> None:
    arrays = [np.full(shape, number, dtype) for number, shape in enumerate(shapes)]
    assert same(round_trip(arrays), arrays)


# What cannot be sent


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        1j,
        2**64,
        -(2**63) - 1,
        [[object()]],
        [memoryview(b"every second")[::2]],
        {"a": object()},
        "\ud800",
        np.array(["text"]),
        np.array([object()]),
        np.array(["2026-01-01"], "M8[D]"),
        np.zeros(2, [("a", "f4")]),
        np.clongdouble(1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_neither_plain_nor_an_array_is_the_callers_error(value: object) -> None:
    with pytest.raises(LocalProtocolError, match="a payload cannot hold this"):
        encode(value)


def test_a_payload_without_end_is_the_callers_error() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(LocalProtocolError):
        encode(endless)


def test_a_payload_holds_as_many_arrays_as_it_may_and_no_more() -> None:
    array = np.zeros(0, "u1")
    assert len(round_trip([array] * MAX_ARRAYS)) == MAX_ARRAYS
    with pytest.raises(LocalProtocolError, match="more than 4096 arrays"):
        encode([array] * (MAX_ARRAYS + 1))


# What is malformed


def arrays_of(value: object, table: object, buffers: bytes = bytes(256)) -> bytes:
    head = msgpack.packb([msgpack.packb(value), table])
    head = len(head).to_bytes(4, "big") + head
    return head + bytes(-len(head) % 64) + buffers


REFERENCE = msgpack.ExtType(1, b"\x00\x00")


def test_a_hand_made_payload_of_arrays_is_read() -> None:
    (array,) = decode(Encoding.ARRAYS, arrays_of([REFERENCE], [["<f4", [2, 2], 0, 16]]))
    assert (array.dtype.str, array.shape) == ("<f4", (2, 2))


@pytest.mark.parametrize(
    "table",
    [
        [["<f4", [2], 0, 4]],
        [["<f4", [2], 0, 12]],
        [["<f4", [65], 0, 260]],
        [["<f4", [2], 252, 8]],
        [["<f4", [2], 2**63, 8]],
        [["<f4", [-2], 0, -8]],
        [["<f4", [-1, -2], 0, 8]],
        [["<f4", [2], -4, 8]],
        [["<f4", [2.0], 0, 8]],
        [["<f4", [True], 0, 4]],
        [["<f4", [2], False, 8]],
        [["<f4", [2], 0, 8.0]],
        [["<f4", 2, 0, 8]],
        [["<f4", {}, 0, 4]],
        [["<f4", b"\x02", 0, 8]],
        [["<f4", "", 0, 4]],
        [["<f4", [2**63, 0], 0, 0]],
        [["<f4", [2**64 - 1] * 1000 + [0], 0, 0]],
        [["<f4", [1] * 100, 0, 4]],
        [["|O8", [2], 0, 16]],
        [[">f4", [2], 0, 8]],
        [["f4", [2], 0, 8]],
        [[None, [2], 0, 8]],
        [[["<f4"], [2], 0, 8]],
        [["<f4", [2], 0]],
        [["<f4", [2], 0, 8, 0]],
        [[]],
        [1],
        "text",
        1,
        None,
        {},
        [["<f4", [0], 0, 0]] * (MAX_ARRAYS + 1),
        [],
    ],
    ids=lambda table: repr(table)[:40],
)
def test_an_array_that_does_not_fit_its_buffer_or_cannot_be_is_malformed(table: object) -> None:
    with pytest.raises(RemoteProtocolError, match="a payload is malformed"):
        decode(Encoding.ARRAYS, arrays_of([REFERENCE], table))


@pytest.mark.parametrize(
    "extension",
    [(1, b""), (1, b"\x00"), (1, b"\x00\x01"), (1, b"\x00\x00\x00"), (3, b"\x00\x00"), (0, b""), (127, b"")],
)
def test_an_extension_that_is_no_array_of_the_table_is_malformed(extension: tuple[int, bytes]) -> None:
    value = [msgpack.ExtType(*extension)]
    with pytest.raises(RemoteProtocolError):
        decode(Encoding.ARRAYS, arrays_of(value, [["<f4", [2, 2], 0, 16]]))
    with pytest.raises(RemoteProtocolError):
        decode(Encoding.VALUE, msgpack.packb(value))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01\x01", b"\x91", b"\xa1\xff", b"\x81\x90\x01", b"\x91" * 5000])
def test_a_value_that_is_no_messagepack_is_malformed(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="a payload is malformed"):
        decode(Encoding.VALUE, data)


def test_lists_that_announce_more_than_follows_take_no_memory() -> None:
    data = (b"\xdd" + (60_000).to_bytes(4, "big")) * 1000 + b"\xc0" * 55_000
    head = len(data).to_bytes(4, "big") + data
    for encoding, payload in ((Encoding.VALUE, data), (Encoding.ARRAYS, head), (Encoding.ARRAYS, arrays_of(1, []))):
        tracemalloc.start()
        with suppress(RemoteProtocolError):
            decode(encoding, payload)
        _now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**20


def test_an_array_of_thousands_of_dimensions_is_refused_before_its_size_is_computed() -> None:
    payload = arrays_of([REFERENCE], [["<f4", [2**64 - 1] * 7000, 0, 0]])
    began = time.thread_time()
    with pytest.raises(RemoteProtocolError, match="a shape that is not allowed"):
        decode(Encoding.ARRAYS, payload)
    assert time.thread_time() - began < 0.1


@pytest.mark.parametrize(
    "data", [b"", b"\x00", bytes(4), b"\x00\x00\x00\x09\x90", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\x90" + bytes(99)]
)
def test_arrays_without_a_table_are_malformed(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="a payload is malformed"):
        decode(Encoding.ARRAYS, data)


@pytest.mark.parametrize("encoding", [4, 255, 2**64 - 1])
def test_an_unknown_encoding_is_malformed(encoding: int) -> None:
    with pytest.raises(RemoteProtocolError, match="unknown encoding"):
        decode(encoding, b"")


def test_no_mutated_payload_raises_anything_but_a_protocol_error() -> None:
    rng = random.Random(SEED)
    array = np.arange(12.0).reshape(3, 4)
    values = (
        {"weights": [array, array.astype("f4")], "count": 7, "name": "C1"},
        [np.zeros((2, 0)), np.array(5, "i2")],
        {"a": [1, 2.5, None, True, b"x", "y"], 3: {"b": []}},
        list(range(300)),
    )
    originals = [(packed.encoding, packed.joined()) for packed in map(encode, values)]
    survived = 0
    for number in range(20_000):
        encoding, data = rng.choice(originals)
        changed = bytearray(data)
        behind = 4 if encoding == Encoding.ARRAYS and number % 4 == 0 else 0  # a quarter behind the length
        end = 4 + int.from_bytes(data[:4], "big") if encoding == Encoding.ARRAYS else len(data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(behind, min(end, len(changed)))
            choice = rng.randrange(4)
            if choice == 0:
                changed[at] ^= 1 << rng.randrange(8)
            elif choice == 1:
                changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0x90, 0xC0, 0xC1, 0xC7, 0xCF, 0xD3, 0xD9, 0xDF, 0xFF))
            elif choice == 2 and not behind:
                del changed[at + 1 : at + rng.randint(1, 4)]
            else:
                changed[at:at] = rng.randbytes(rng.randint(1, 3))
        try:
            decode(encoding, bytes(changed))
            survived += 1
        except ProtocolError:
            pass
        except Exception as error:
            pytest.fail(f"seed {SEED}, input {number}, {encoding!r}, {changed.hex()}: {error!r}")
    assert survived > 1000


def test_tensors_without_torch_are_refused_with_a_word_about_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    value = msgpack.packb(msgpack.ExtType(2, b"\0\0"))
    head = msgpack.packb((value, [["bf16", [2], 0, 4]]))
    with pytest.raises(RemoteProtocolError, match=r"they need torch, as cellnet-fl\[torch\] has it"):
        decode(Encoding.ARRAYS, (len(head).to_bytes(4, "big") + head).ljust(128, b"\0"))
