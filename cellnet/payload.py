"""What a message carries: plain values, and arrays inside them, as bytes.

::

    NONE    nothing
    BYTES   the bytes themselves
    VALUE   MessagePack of None, bool, int, float, str, bytes, lists and dicts
    ARRAYS  u32 length of a table | the table | padding | raw buffers, each at a multiple of 64

The table is ``[value, [[dtype, shape, offset, bytes], ...]]``; in the value, an array stands as extension type 1 with
its index. The layout is that of safetensors in spirit: dtype, shape, raw little-endian buffers, and no code.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import msgpack

from cellnet.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

__all__ = ["Encoding", "decode", "encode"]

MAX_ARRAYS = 4096
MAX_DIMENSIONS = 64
"""Of an array; numpy has no more."""
_ALIGNMENT = 64
_SMALL = 1024
"""Bytes in which nothing can be announced that takes much memory."""
_ARRAY = 1
_DTYPES = frozenset(f"<{letter}" for letter in ("f2", "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8", "c8", "c16")) | {
    "|i1",
    "|u1",
    "|b1",
}


class Encoding(IntEnum):
    """How a payload's bytes are to be read."""

    NONE = 0
    BYTES = 1
    VALUE = 2
    ARRAYS = 3


def encode(value: object) -> tuple[Encoding, bytes]:
    """Return *value* as bytes.

    :raises LocalProtocolError: if it holds something that is neither a plain value nor an array
    """
    if value is None:
        return Encoding.NONE, b""
    if isinstance(value, bytes | bytearray | memoryview):
        return Encoding.BYTES, bytes(value)
    arrays: list[np.ndarray[Any, Any]] = []
    try:
        packed = msgpack.packb(value, default=lambda found: _reference(found, arrays), strict_types=True)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(f"a payload cannot hold this: {error}") from None
    if not arrays:
        return Encoding.VALUE, packed
    return Encoding.ARRAYS, _with_buffers(packed, arrays)


def decode(encoding: int, data: bytes) -> Any:
    """Return the value that :func:`encode` was given; arrays are read-only views of *data*.

    :raises RemoteProtocolError: if the bytes are malformed
    """
    if encoding == Encoding.NONE:
        return None
    if encoding == Encoding.BYTES:
        return data
    try:
        if encoding == Encoding.VALUE:
            return _unpack(data, _no_extension)
        if encoding == Encoding.ARRAYS:
            return _decode_arrays(data)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"a payload is malformed: {error}") from None
    raise RemoteProtocolError(f"a payload has the unknown encoding {encoding}")


def _reference(found: object, arrays: list[np.ndarray[Any, Any]]) -> object:
    """Stand in for an array; msgpack asks for everything that is not a plain value."""
    if isinstance(found, tuple):
        return list(found)
    if hasattr(found, "__array_interface__"):
        import numpy as np

        if isinstance(found, np.generic):
            return found.item()
        array = np.asarray(found)
        if array.dtype.str.startswith(">") or not array.flags.c_contiguous:
            array = array.astype(array.dtype.newbyteorder("<"), order="C")
        if array.dtype.str not in _DTYPES:
            raise TypeError(f"arrays of dtype {array.dtype} cannot be sent")
        if len(arrays) >= MAX_ARRAYS:
            raise ValueError(f"more than {MAX_ARRAYS} arrays")
        arrays.append(array)
        return msgpack.ExtType(_ARRAY, (len(arrays) - 1).to_bytes(2, "big"))
    raise TypeError(f"a {type(found).__name__} is neither a plain value nor an array")


def _with_buffers(packed: bytes, arrays: list[np.ndarray[Any, Any]]) -> bytes:
    table = []
    offset = 0
    for array in arrays:
        table.append([array.dtype.str, list(array.shape), offset, array.nbytes])
        offset += _padded(array.nbytes)
    head = msgpack.packb([packed, table])
    parts = [len(head).to_bytes(4, "big"), head, bytes(_padded(4 + len(head)) - 4 - len(head))]
    for array in arrays:
        parts += [array.tobytes(), bytes(_padded(array.nbytes) - array.nbytes)]
    return b"".join(parts)


def _decode_arrays(data: bytes) -> Any:
    import numpy as np

    size = int.from_bytes(data[:4], "big")
    packed, table = _unpack(data[4 : 4 + size], _no_extension)
    start = _padded(4 + size)
    if len(table) > MAX_ARRAYS:
        raise ValueError("too many arrays")
    arrays = []
    for dtype, shape, offset, nbytes in table:
        if dtype not in _DTYPES or type(shape) is not list or len(shape) > MAX_DIMENSIONS:
            raise ValueError("an array has a dtype or a shape that is not allowed")
        if not all(type(n) is int and n >= 0 for n in (*shape, offset, nbytes)):
            raise ValueError("an array has a dtype or a shape that is not allowed")
        kind = np.dtype(dtype)
        if math.prod(shape) * kind.itemsize != nbytes or start + offset + nbytes > len(data):
            raise ValueError("an array does not fit its buffer")
        arrays.append(np.frombuffer(data, kind, math.prod(shape), start + offset).reshape(shape))

    def restore(code: int, index: bytes) -> np.ndarray[Any, Any]:
        if code != _ARRAY or len(index) != 2 or int.from_bytes(index, "big") >= len(arrays):
            raise ValueError("an array is missing")
        return arrays[int.from_bytes(index, "big")]

    return _unpack(packed, restore)


def _unpack(data: bytes, ext_hook: Callable[[int, bytes], Any]) -> Any:
    # A list takes its memory when its length is read. Of lists in lists that announce more than follows, 64 KiB would
    # take half a gigabyte, so it is first seen whether all is there.
    if len(data) > _SMALL:
        unpacker = msgpack.Unpacker(max_buffer_size=len(data))
        unpacker.feed(data)
        unpacker.skip()
    return msgpack.unpackb(data, ext_hook=ext_hook, strict_map_key=False)


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _no_extension(code: int, _data: bytes) -> Any:
    raise ValueError(f"extension type {code} is not allowed")
