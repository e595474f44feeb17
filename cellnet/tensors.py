"""Tensors of torch in payloads. Torch is imported by whoever has some to send, and when the first one comes."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from cellnet.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

__all__ = ["ITEM_BYTES", "is_tensor", "memory", "tensor"]

_NAMES = {
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
    "int8": "|i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "uint8": "|u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "complex64": "<c8",
    "complex128": "<c16",
    "bool": "|b1",
    "bfloat16": "bf16",
    "float8_e4m3fn": "f8e4m3",
    "float8_e5m2": "f8e5m2",
}
ITEM_BYTES = {"bf16": 2, "f8e4m3": 1, "f8e5m2": 1}
"""The size of an item, of each dtype that only tensors have."""


def is_tensor(found: object) -> bool:
    """Whether this is a tensor."""
    torch: Any = sys.modules.get("torch")  # without it, there is none
    return torch is not None and isinstance(found, torch.Tensor)


def memory(found: torch.Tensor) -> tuple[str, tuple[int, ...], np.ndarray[Any, Any]]:
    """Return the dtype, the shape and the bytes of a tensor: its own memory, if that is contiguous and of this machine.

    :raises TypeError: if it cannot be sent
    """
    import torch

    if type(found) not in (torch.Tensor, torch.nn.Parameter) or found.layout is not torch.strided:
        raise TypeError(f"a {type(found).__name__} of layout {found.layout} would arrive as a plain tensor")
    name = _dtypes().get(found.dtype)
    if name is None or found.is_meta:
        raise TypeError(f"tensors of dtype {found.dtype} on device {found.device} cannot be sent")
    whole = found.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return name, tuple(found.shape), whole.reshape(-1).view(torch.uint8).numpy()


def tensor(dtype: str, shape: Sequence[int], data: memoryview) -> torch.Tensor:
    """Return a tensor of these bytes. It is a copy, as it may be changed.

    :raises RemoteProtocolError: if torch is not installed here
    :raises ValueError: if torch has no such dtype or shape
    """
    try:
        import torch
    except ImportError:
        raise RemoteProtocolError("a payload has tensors: they need torch, as cellnet-fl[torch] has it") from None
    for kind, name in _dtypes().items():
        if name == dtype:
            # Of no bytes, torch makes nothing.
            flat = torch.frombuffer(bytearray(data), dtype=kind) if data else torch.empty(0, dtype=kind)
            try:
                return flat.reshape(tuple(shape))
            except RuntimeError as error:  # as of sides that are too long in all, though one of them is 0
                raise ValueError(f"torch has no such tensor: {error}") from None
    raise ValueError(f"torch has no dtype {dtype} here")


@cache
def _dtypes() -> dict[torch.dtype, str]:
    import torch

    return {getattr(torch, own): name for own, name in _NAMES.items() if hasattr(torch, own)}
