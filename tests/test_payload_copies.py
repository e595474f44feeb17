"""Payloads of any size: what is copied on the way out and in, and what is not."""

from __future__ import annotations

import math
import time
import tracemalloc
import weakref
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from cellnet.errors import LocalProtocolError, RemoteProtocolError
from cellnet.payload import MIN_BUFFER_BYTES, Encoding, Packed, decode, encode
from tests.pace import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 2**20
DTYPES = ("<f2", "<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<c8", "<c16", "|b1")
LAYOUTS: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "in C order": lambda array: array,
    "in Fortran order": lambda array: array.copy(order="F"),
    "transposed": lambda array: array.T,
    "backwards": lambda array: array[..., ::-1] if array.ndim else array,
    "every second item": lambda array: np.repeat(array, 2, -1)[..., ::2] if array.ndim else array,
    "one item many times": lambda array: np.broadcast_to(array, (3, *array.shape)),
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "big-endian and transposed": lambda array: array.astype(array.dtype.newbyteorder(">")).T,
    "not aligned": lambda array: np.frombuffer(b"x" + array.tobytes(), array.dtype, offset=1).reshape(array.shape),
}


def address(buffer: object) -> int:
    return np.frombuffer(buffer, "u1").ctypes.data


def peak_of(call: Callable[[], object]) -> int:
    """Return how many bytes a call had at once, beyond what was there before."""
    call()  # what is imported and kept the first time is none of its own
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def best_of(runs: int, call: Callable[[], object]) -> float:
    """Return the seconds of processor time of the fastest run, at the usual pace of the machine."""

    def once() -> float:
        began = time.thread_time()
        call()
        return time.thread_time() - began

    pace = Stopwatch()
    best = min(once() for _ in range(runs))
    pace.lap()
    return best / max(1.0, pace.slowness)


def model() -> dict[str, Any]:
    """Make 150 arrays of 64 MiB in all."""
    return {f"layer{number}.weight": np.zeros((64, 64 * MIB // 150 // 256), "f4") for number in range(150)}


# What goes out


@given(
    numpy_strategies.arrays(
        st.sampled_from(DTYPES), numpy_strategies.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
    ),
    st.sampled_from(sorted(LAYOUTS)),
    st.integers(0, 2),
)
def test_an_array_comes_out_equal_and_read_only_however_it_lies_in_memory(
    array: np.ndarray[Any, Any], layout: str, others: int
) -> None:
    sent = LAYOUTS[layout](array)
    packed = encode([np.zeros(3, "u1")] * others + [sent] + [np.ones(MIN_BUFFER_BYTES)] * others)
    received = decode(packed.encoding, packed.joined())[others]
    assert packed.size == len(packed.joined())
    assert (received.dtype, received.shape) == (array.dtype, sent.shape)
    assert received.tobytes() == sent.astype(array.dtype).tobytes()
    assert not received.flags.writeable
    assert received.flags.c_contiguous


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5000,), (50, 100), (2, 50, 1, 50)])
def test_a_contiguous_array_is_sent_from_its_own_memory(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype)
    array.flags.writeable = False
    _table, buffer = encode(array).buffers[:2]
    assert isinstance(buffer, memoryview)
    assert (buffer.format, buffer.ndim, buffer.nbytes) == ("B", 1, array.nbytes)
    assert buffer.c_contiguous
    assert address(buffer) == array.ctypes.data


@pytest.mark.parametrize(
    "layout", ["in Fortran order", "backwards", "every second item", "big-endian", "big-endian and transposed"]
)
def test_an_array_that_lies_otherwise_costs_one_copy(layout: str) -> None:
    array = LAYOUTS[layout](np.zeros((1024, 1024)))
    assert array.nbytes <= peak_of(lambda: encode(array)) < array.nbytes + MIB


def test_encoding_and_decoding_64_mib_of_arrays_takes_no_memory_worth_mentioning() -> None:
    arrays = model()
    data = encode(arrays).joined()
    assert len(data) > 63 * MIB
    assert peak_of(lambda: encode(arrays)) < MIB // 2
    assert peak_of(lambda: decode(Encoding.ARRAYS, data)) < MIB // 2


def test_an_array_of_more_than_two_gib_is_only_referred_to() -> None:
    array = np.zeros((5, 2**29), "u1")  # the kernel gives no memory for it before it is written
    head, buffer = encode({"w": array}).buffers
    assert len(buffer) == 5 * 2**29
    assert address(buffer) == array.ctypes.data
    _value, table = msgpack.unpackb(head[4 : 4 + int.from_bytes(head[:4], "big")])
    assert table == [["|u1", [5, 2**29], 0, 5 * 2**29]]


def test_what_was_encoded_lives_as_long_as_its_buffers() -> None:
    class Memory(bytearray):
        pass

    memory = Memory(8 * MIN_BUFFER_BYTES)
    gone = weakref.ref(memory)
    packed = encode([np.frombuffer(memory, "u1")])
    del memory
    assert packed.buffers[1] == bytes(8 * MIN_BUFFER_BYTES)
    del packed
    assert gone() is None


def test_two_thousand_small_arrays_leave_as_one_buffer() -> None:
    arrays = [np.full(64, number, "f8") for number in range(2000)]
    (buffer,) = encode(arrays).buffers
    assert isinstance(buffer, bytes)


def test_an_array_has_a_buffer_of_its_own_from_4096_bytes_and_small_ones_between_are_joined() -> None:
    small, large = np.ones(4095, "u1"), np.ones(4096, "u1")
    assert [len(buffer) for buffer in encode([small, small, large, large, small, small, large]).buffers[1:]] == [
        4096,
        4096,
        2 * 4096,
        4096,
    ]


def test_buffers_lie_at_multiples_of_64_among_large_ones_too() -> None:
    arrays = [np.full(size, 7, "u1") for size in (5001, 1, 4097, 6000, 64, 4160)]
    data = encode(arrays).joined()
    size = int.from_bytes(data[:4], "big")
    start = -(-(4 + size) // 64) * 64
    offsets = [offset for _dtype, _shape, offset, _bytes in msgpack.unpackb(data[4 : 4 + size])[1]]
    assert offsets == [0, 5056, 5120, 9280, 15296, 15360]
    assert [data[start + offset : start + offset + 1] for offset in offsets] == [b"\x07"] * 6
    assert len(data) % 64 == 0


def test_bytes_are_the_very_object() -> None:
    data = bytes(100)
    packed = encode(data)
    assert packed.buffers[0] is data
    assert packed.joined() is data


def test_bytes_of_a_subclass_are_plain_ones() -> None:
    (buffer,) = encode(np.bytes_(b"text")).buffers
    assert type(buffer) is bytes


@pytest.mark.parametrize(
    "value",
    [
        bytearray(100),
        memoryview(bytearray(100))[10:],
        memoryview(np.zeros((3, 4), "c16")),
        memoryview(np.zeros((3, 4), ">i4")),
        memoryview(np.zeros(())),
    ],
)
def test_memory_is_sent_as_flat_bytes_from_where_it_is(value: bytearray | memoryview) -> None:
    packed = encode(value)
    (buffer,) = packed.buffers
    assert isinstance(buffer, memoryview)
    assert (buffer.format, buffer.ndim, buffer.nbytes, packed.size) == ("B", 1, *[memoryview(value).nbytes] * 2)
    assert address(buffer) == address(value)
    assert packed.joined() == bytes(value)


@pytest.mark.parametrize(
    "value",
    [memoryview(b"0123456789")[::2], memoryview(np.arange(6).reshape(2, 3).T), memoryview(np.zeros((2, 0)))],
    ids=["every second", "transposed", "empty"],
)
def test_memory_that_is_not_contiguous_or_empty_is_copied(value: memoryview) -> None:
    packed = encode(value)
    assert (packed.size, packed.joined()) == (value.nbytes, value.tobytes())
    assert all(isinstance(buffer, bytes) for buffer in packed.buffers)


def test_memory_that_was_released_is_the_callers_error() -> None:
    memory = memoryview(b"gone")
    memory.release()
    for value in (memory, [memory]):
        with pytest.raises(LocalProtocolError, match="released"):
            encode(value)


def test_nothing_has_no_buffers() -> None:
    assert encode(None) == Packed(Encoding.NONE, ())
    assert (encode(None).size, encode(None).joined()) == (0, b"")


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.ma.masked_array([1, 2], [True, False]), "MaskedArray"),
        (np.ma.masked, "MaskedConstant"),
        (np.rec.array([(1, 2)], dtype=[("a", "i4"), ("b", "i4")]), "recarray"),
        (np.zeros(2).view(type("Metres", (np.ndarray,), {})), "Metres"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_an_array_that_is_more_than_an_array_is_refused_with_advice(array: object, kind: str) -> None:
    with pytest.raises(LocalProtocolError, match=rf"a {kind} would arrive as a plain array; numpy.asarray\(\)"):
        encode({"w": array})


@pytest.mark.parametrize(
    ("dtype", "name"),
    [("O", "object"), ("V2", r"\|V2"), ("U3", "<U3"), ("M8[s]", "datetime64"), ([("a", "<f4")], "a"), ("g", "float")],
    ids=str,
)
def test_an_array_of_another_dtype_is_refused_by_its_name(dtype: Any, name: str) -> None:
    with pytest.raises(LocalProtocolError, match=f"arrays of dtype .*{name}.* cannot be sent"):
        encode([np.zeros(2, dtype)])


@pytest.mark.parametrize("letter", "?bBhHiIlLqQefdFD")
def test_an_array_is_sent_by_what_it_is_and_not_by_what_c_calls_it(letter: str) -> None:
    packed = encode(np.ones(3, letter))
    received = decode(packed.encoding, packed.joined())
    assert received.dtype == np.dtype(letter)


# What comes in


def test_arrays_refer_to_the_bytes_that_came() -> None:
    arrays = [np.arange(size, dtype="f4") for size in (3, 5000, 0, 700_000)]
    data = encode(arrays).joined()
    received = decode(Encoding.ARRAYS, data)
    start = -(-(4 + int.from_bytes(data[:4], "big")) // 64) * 64
    sizes = [-(-array.nbytes // 64) * 64 for array in arrays]
    for number, array in enumerate(received):
        assert array.ctypes.data == address(data) + start + sum(sizes[:number])
        assert not array.flags.owndata
        with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
            array.flags.writeable = True


def test_a_large_value_is_checked_without_a_copy_of_it() -> None:
    data = msgpack.packb([b"x" * 1000] * 16_000)
    assert peak_of(lambda: decode(Encoding.VALUE, data)) < 1.25 * len(data)


def test_large_lists_that_announce_more_than_follows_take_no_memory() -> None:
    announced = 4 * MIB
    lists = (b"\xdd" + announced.to_bytes(4, "big")) * 200
    data = lists + b"\xc0" * (announced - 1000)

    def refused() -> None:
        with pytest.raises(RemoteProtocolError, match="a payload is malformed"):
            decode(Encoding.VALUE, data)

    assert peak_of(refused) < MIB


@pytest.mark.parametrize("cut", [1, 4096, 70_000])
def test_a_large_value_whose_end_is_missing_is_malformed(cut: int) -> None:
    data = encode([b"x" * 1000] * 1000).joined()
    with pytest.raises(RemoteProtocolError, match="a payload is malformed"):
        decode(Encoding.VALUE, data[:-cut])


@pytest.mark.parametrize("value", [["x" * 300_000], [b"y" * 70_000, "z" * 200_000, {"a": b"" * 65_536}]])
def test_a_text_longer_than_a_piece_of_the_check_comes_out(value: object) -> None:
    assert decode(Encoding.VALUE, encode(value).joined()) == value


# How long it takes


@pytest.mark.measured
def test_64_mib_in_150_arrays_are_encoded_and_decoded_in_a_millisecond_each() -> None:
    arrays = model()
    data = encode(arrays).joined()
    assert best_of(100, lambda: encode(arrays)) < 0.001
    assert best_of(100, lambda: decode(Encoding.ARRAYS, data)) < 0.001


@pytest.mark.measured
def test_two_thousand_small_arrays_are_encoded_and_decoded_in_ten_milliseconds_each() -> None:
    arrays = {f"layer{number}.bias": np.ones(128, "f4") for number in range(2000)}
    data = encode(arrays).joined()
    assert math.isclose(len(data), MIB, rel_tol=0.1)
    assert best_of(20, lambda: encode(arrays)) < 0.01
    assert best_of(20, lambda: decode(Encoding.ARRAYS, data)) < 0.01
