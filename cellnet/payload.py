"""What a message carries: plain values, and arrays inside them, as bytes.

::

    NONE    nothing
    BYTES   the bytes themselves
    VALUE   MessagePack of None, bool, int, float, str, bytes, lists and dicts
    ARRAYS  u32 length of a table | the table | padding | raw buffers, each at a multiple of 64
    FILE    the bytes of a file, which are never in the message itself

The table is ``[value, [[dtype, shape, offset, bytes], ...]]``; in the value, an array stands as extension type 1 with
its index, and a tensor of torch as type 2. The layout is that of safetensors in spirit: dtype, shape, raw little-endian
buffers, and no code.

Arrays may be most of what a machine can hold, so none but small ones are copied: what was encoded refers to the memory
of the arrays, and what was decoded to the bytes that came. Only tensors are copied where they come, as torch has none
that are read-only.
"""

from __future__ import annotations

import io
import math
from collections import OrderedDict
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, partial
from itertools import chain
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgpack

from cellnet.errors import LocalProtocolError, RemoteProtocolError
from cellnet.files import LocalFile
from cellnet.tensors import ITEM_BYTES, is_tensor, memory, tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch

    Array: TypeAlias = np.ndarray[Any, Any]
    _Outgoing: TypeAlias = tuple[str, tuple[int, ...], Array]  # what it is called, its shape, its items in their order

__all__ = ["Encoding", "Packed", "decode", "encode"]

MAX_ARRAYS = 4096
MAX_DIMENSIONS = 64
"""Of an array; numpy has no more."""
MIN_BUFFER_BYTES = 4096
"""Arrays below it are joined: to copy one costs less than to hand a buffer of its own to the kernel."""
_ALIGNMENT = 64
_SMALL = 1024
"""Bytes in which nothing can be announced that takes much memory."""
_PIECE = 65536
_ARRAY, _TENSOR = 1, 2
_DTYPES = ("<f2", "<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<c8", "<c16", "|b1")


class Encoding(IntEnum):
    """How a payload's bytes are to be read."""

    NONE = 0
    BYTES = 1
    VALUE = 2
    ARRAYS = 3
    REFERENCE = 4
    """The bytes are elsewhere, in one of the other encodings: see :mod:`cellnet.contents`."""
    FILE = 5
    """Those of a file. They are always elsewhere."""


@dataclass(frozen=True, slots=True)
class Packed:
    """An encoded value, whose bytes are where they were.

    Its buffers are the memory of the arrays, the ``bytearray`` or the ``memoryview`` that was encoded, and keep it
    alive. Whoever changes what was encoded before the bytes have left sends a mixture of old and new.
    """

    encoding: Encoding
    buffers: tuple[bytes | memoryview, ...]
    """The bytes, in their order. Views are flat: contiguous, of one dimension, each item a byte."""
    path: Path | None = None
    """Of a file, which has the bytes instead."""

    @property
    def size(self) -> int:
        """The number of bytes in all; of a file, those that it has now."""
        return sum(map(len, self.buffers)) if self.path is None else self.path.stat().st_size

    def joined(self) -> bytes:
        """Return all bytes as one object: a copy, unless they are one already."""
        match self.buffers:
            case (bytes() as data,):
                return data
        return b"".join(self.buffers)


def encode(value: object) -> Packed:
    """Return *value* as bytes, without a copy of what is large.

    What is sent must not be changed until the call that sends it ends: arrays, and a ``bytearray`` or ``memoryview``
    that is the whole payload, are read where they are. Arrays that are not contiguous or not little-endian cost one
    copy, and so does a view of bytes that is not contiguous.

    :param value: what was encoded before is returned as it is
    :raises LocalProtocolError: if it holds something that is neither a plain value nor an array
    """
    if value is None:
        return Packed(Encoding.NONE, ())
    if isinstance(value, Packed):
        return value
    if isinstance(value, Path):
        if not value.is_file():
            raise LocalProtocolError(f"{value} cannot be sent: it is no file")
        return Packed(Encoding.FILE, (), value)
    arrays: list[_Outgoing] = []
    try:
        if isinstance(value, bytes):
            return Packed(Encoding.BYTES, (bytes(value),))  # the very object, unless it is of a subclass
        if isinstance(value, bytearray | memoryview):
            return Packed(Encoding.BYTES, (_flat(memoryview(value)),))
        packed = msgpack.packb(value, default=partial(_reference, arrays), strict_types=True)
    except (TypeError, ValueError, OverflowError, BufferError, RecursionError) as error:
        raise LocalProtocolError(f"a payload cannot hold this: {error}") from None
    if not arrays:
        return Packed(Encoding.VALUE, (packed,))
    return Packed(Encoding.ARRAYS, _with_buffers(packed, arrays))


def decode(encoding: int, data: bytes) -> Any:
    """Return the value that :func:`encode` was given; arrays are read-only views of *data*, and keep all of it alive.

    :raises RemoteProtocolError: if the bytes are malformed
    """
    if encoding == Encoding.NONE:
        return None
    if encoding == Encoding.BYTES:
        return data
    if encoding == Encoding.FILE and isinstance(data, LocalFile):
        return data.path
    try:
        if encoding == Encoding.VALUE:
            return _unpack(data, _no_extension)
        if encoding == Encoding.ARRAYS:
            return _decode_arrays(data)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"a payload is malformed: {error}") from None
    raise RemoteProtocolError(f"a payload has the unknown encoding {encoding}")


def _flat(view: memoryview) -> bytes | memoryview:
    if view.nbytes and view.c_contiguous:  # what has no items cannot be cast
        return view.cast("B")
    return view.tobytes()


def _reference(arrays: list[_Outgoing], found: object) -> object:
    """Stand in for an array; msgpack asks for everything that is not a plain value."""
    code = _ARRAY
    if hasattr(type(found), "__array_interface__"):
        import numpy as np

        if isinstance(found, np.generic):
            return found.item()
        if type(found) is not np.ndarray:  # its mask, or whatever else it has, would be lost without a word
            raise TypeError(f"a {type(found).__name__} would arrive as a plain array; numpy.asarray() makes it one")
        names, dtype = _numpy_dtypes(), found.dtype
        if dtype not in names and (dtype := dtype.newbyteorder("<")) not in names:
            raise TypeError(f"arrays of dtype {found.dtype} cannot be sent")
        # the array itself, if it lies so already
        outgoing = names[dtype], found.shape, found.astype(dtype, order="C", copy=False)
    elif isinstance(found, tuple):
        return list(found)
    elif type(found) is OrderedDict:  # as a state_dict of torch is
        return dict(found)
    elif is_tensor(found):
        code, outgoing = _TENSOR, memory(cast("torch.Tensor", found))
    else:
        raise TypeError(f"a {type(found).__name__} is neither a plain value nor an array")
    if len(arrays) >= MAX_ARRAYS:
        raise ValueError(f"more than {MAX_ARRAYS} arrays")
    arrays.append(outgoing)
    return msgpack.ExtType(code, (len(arrays) - 1).to_bytes(2, "big"))


@cache
def _numpy_dtypes() -> dict[np.dtype[Any], str]:
    """Return what may be sent, and what it is called.

    What is not of numpy, such as bfloat16, may bear such a name, but is not equal.
    """
    import numpy as np  # there are cells without it

    return {np.dtype(name): name for name in _DTYPES}


def _with_buffers(packed: bytes, arrays: list[_Outgoing]) -> tuple[bytes | memoryview, ...]:
    table = []
    offset = 0
    for dtype, shape, data in arrays:
        table.append((dtype, shape, offset, data.nbytes))
        offset += _padded(data.nbytes)
    head = msgpack.packb((packed, table))
    buffers: list[bytes | memoryview] = []
    small = [len(head).to_bytes(4, "big"), head, bytes(-(4 + len(head)) % _ALIGNMENT)]
    for _dtype, _shape, data in arrays:
        if data.nbytes < MIN_BUFFER_BYTES:
            small.append(data.tobytes())
        else:
            if small:
                buffers.append(b"".join(small))
                small = []
            buffers.append(data.ravel().view("u1").data)
        if padding := -data.nbytes % _ALIGNMENT:
            small.append(bytes(padding))
    if small:
        buffers.append(b"".join(small))
    return tuple(buffers)


def _decode_arrays(data: bytes) -> Any:
    import numpy as np

    kinds = {name: dtype for dtype, name in _numpy_dtypes().items()}
    size = int.from_bytes(data[:4], "big")
    packed, table = _unpack(data[4 : 4 + size], _no_extension)
    start = _padded(4 + size)
    _check(table, {name: dtype.itemsize for name, dtype in kinds.items()} | ITEM_BYTES, len(data) - start)
    arrays = [
        np.ndarray(shape, kinds[dtype], data, start + offset) if dtype in kinds else None
        for dtype, shape, offset, _size in table
    ]
    tensors: dict[int, object] = {}

    def restore(code: int, index: bytes) -> object:
        number = int.from_bytes(index, "big")
        if code not in (_ARRAY, _TENSOR) or len(index) != 2 or number >= len(table):
            raise ValueError("an array is missing")
        if code == _ARRAY:
            if (array := arrays[number]) is None:
                raise ValueError("an array has a dtype that only tensors have")
            return array
        if number not in tensors:  # a copy, and but one, however often it is referred to
            dtype, shape, offset, nbytes = table[number]
            begin = start + offset
            tensors[number] = tensor(dtype, shape, memoryview(data)[begin : begin + nbytes])
        return tensors[number]

    return _unpack(packed, restore)


def _check(table: list[Any], item_bytes: dict[str, int], room: int) -> None:
    """Raise ValueError unless each of the rows is an array that lies within so many bytes.

    There may be thousands, so it goes by columns, each of which takes a call or two.
    """
    if len(table) > MAX_ARRAYS:
        raise ValueError("too many arrays")
    if not table:
        return
    dtypes, shapes, offsets, sizes = zip(*table, strict=True)
    known = item_bytes.keys() >= set(dtypes) and set(map(type, shapes)) == {list}
    if not known or max(map(len, shapes)) > MAX_DIMENSIONS:
        raise ValueError("an array has a dtype or a shape that is not allowed")
    numbers = [*chain.from_iterable(shapes), *offsets, *sizes]
    if set(map(type, numbers)) != {int} or min(numbers) < 0:
        raise ValueError("an array has a dtype or a shape that is not allowed")
    needed = tuple(math.prod(shape) * item_bytes[dtype] for dtype, shape in zip(dtypes, shapes, strict=True))
    if needed != sizes or max(map(add, offsets, sizes)) > room:
        raise ValueError("an array does not fit its buffer")
    if sum(sizes) > room:  # tensors are copied, and each byte but once
        raise ValueError("arrays have buffers in common")


def _unpack(data: bytes, ext_hook: Callable[[int, bytes], Any]) -> Any:
    # A list takes its memory when its length is read. Of lists in lists that announce more than follows, 64 KiB would
    # take half a gigabyte, so it is first seen whether all is there.
    if len(data) > _SMALL:
        # It copies what it reads, until it is past it: so a piece at a time, or the longest text or bytes in it.
        piece = min(len(data), _PIECE)
        msgpack.Unpacker(io.BytesIO(data), read_size=piece, max_buffer_size=len(data)).skip()
    return msgpack.unpackb(data, ext_hook=ext_hook, strict_map_key=False)


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _no_extension(code: int, _data: bytes) -> Any:
    raise ValueError(f"extension type {code} is not allowed")
