"""Tensors of torch as payloads: what was sent comes out, bit by bit, from its own memory and into one that is its own.

`make torch` runs these; where torch is not installed, they are skipped.
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
import pytest

from cellnet import Cell, Request
from cellnet.errors import LocalProtocolError, RemoteProtocolError
from cellnet.payload import Encoding, decode, encode
from cellnet.tensors import _NAMES

torch = pytest.importorskip("torch", reason="torch is not installed: `make torch` does so")


def round_trip(value: object) -> Any:
    packed = encode(value)
    return decode(packed.encoding, packed.joined())


def raw(tensor: Any) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def made(dtype: str, *shape: int) -> Any:
    count = int(np.prod(shape, dtype=int))
    kind = getattr(torch, dtype)
    data = np.random.default_rng(7).integers(0, 2, count * kind.itemsize, "u1")  # of bool, any other is none
    return torch.frombuffer(bytearray(data), dtype=kind).reshape(shape) if count else torch.empty(shape, dtype=kind)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (70, 90)])
@pytest.mark.parametrize("dtype", list(_NAMES))
def test_a_tensor_comes_out_with_its_dtype_and_shape_and_every_bit(dtype: str, shape: tuple[int, ...]) -> None:
    tensor = made(dtype, *shape)
    came = round_trip({"w": [tensor, np.arange(3)]})["w"]
    assert (type(came[0]), came[0].dtype, came[0].shape) == (torch.Tensor, tensor.dtype, tensor.shape)
    assert raw(came[0]) == raw(tensor)
    assert isinstance(came[1], np.ndarray)


def test_a_contiguous_tensor_is_sent_from_its_own_memory() -> None:
    tensor = torch.zeros(100, 100, dtype=torch.bfloat16)
    (_table, buffer) = encode(tensor).buffers[:2]
    assert np.frombuffer(buffer, "u1").ctypes.data == tensor.data_ptr()


@pytest.mark.parametrize(
    "change",
    [lambda t: t.T, lambda t: t[::2], lambda t: t.conj(), lambda t: t.conj().imag, lambda t: t.expand(3, *t.shape)],
    ids=["transposed", "every second", "conjugate", "negative", "expanded"],
)
def test_a_tensor_that_lies_otherwise_comes_out_equal(change: Any) -> None:
    tensor = change(torch.randn(80, 70, dtype=torch.complex64))
    assert torch.equal(round_trip(tensor), tensor)


def test_what_came_may_be_changed_and_changes_nothing_else() -> None:
    packed = encode([torch.ones(5000)])
    data = packed.joined()
    first, second = decode(packed.encoding, data)[0], decode(packed.encoding, data)[0]
    first += 1
    assert torch.equal(second, torch.ones(5000))


def test_a_module_s_parameters_arrive_as_plain_tensors() -> None:
    module = torch.nn.Linear(40, 30)
    came = round_trip(dict(module.named_parameters()))
    assert not came["weight"].requires_grad
    module.load_state_dict(round_trip(module.state_dict()))
    assert torch.equal(came["weight"], module.weight.detach())


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (lambda: torch.eye(3).to_sparse(), "layout torch.sparse_coo"),
        (lambda: torch.empty(3, device="meta"), "on device meta cannot be sent"),
        (lambda: torch.zeros(3, dtype=torch.complex32), "dtype torch.complex32"),
        (lambda: torch.nn.Buffer(torch.zeros(3)).as_subclass(type("Own", (torch.Tensor,), {})), "a Own of layout"),
    ],
    ids=["sparse", "meta", "dtype", "subclass"],
)
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
def test_what_would_lose_something_is_refused(tensor: Any, said: str) -> None:
    with pytest.raises(LocalProtocolError, match=said):
        encode({"w": tensor()})


def forged(table: list[object], *references: tuple[int, int], body: int = 4096) -> bytes:
    value = msgpack.packb([msgpack.ExtType(code, index.to_bytes(2, "big")) for code, index in references])
    head = msgpack.packb((value, table))
    return (len(head).to_bytes(4, "big") + head).ljust(-(-(4 + len(head)) // 64) * 64, b"\0") + bytes(body)


def test_a_tensor_that_is_named_a_thousand_times_is_copied_once() -> None:
    came = decode(Encoding.ARRAYS, forged([["<f4", [1024], 0, 4096]], *[(2, 0)] * 1000))
    assert len({tensor.data_ptr() for tensor in came}) == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (forged([["bf16", [2048], 0, 4096]], (1, 0)), "only tensors have"),
        (forged([["|u1", [4096], 0, 4096]] * 3, (2, 0), (2, 1), (2, 2)), "buffers in common"),
        (forged([["bf16", [2048], 0, 4095]], (2, 0)), "does not fit"),
        (forged([["f8", [4096], 0, 4096]], (2, 0)), "not allowed"),
        (forged([["bf16", [2048], 0, 4096]], (3, 0)), "missing"),
        (forged([["bf16", [2**40, 2**40, 0], 0, 0]], (2, 0)), "no such tensor"),
        (forged([["bf16", [2**63, 0], 0, 0]], (2, 0)), "malformed"),
    ],
)
def test_malformed_tensors_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(RemoteProtocolError, match=said):
        decode(Encoding.ARRAYS, data)


def test_no_mutated_tensor_raises_anything_but_a_protocol_error() -> None:
    rng = random.Random(20261129)
    data = encode([torch.ones(3, 4, dtype=torch.bfloat16), torch.zeros(0, 5), torch.ones(70)]).joined()
    opened = 0
    for _ in range(20_000):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(160)] = rng.randrange(256)  # where the table is
        with suppress(RemoteProtocolError):
            decode(Encoding.ARRAYS, bytes(changed))
            opened += 1
    assert 100 < opened < 19_000


@pytest.mark.anyio
async def test_a_model_goes_to_a_cell_and_comes_back_changed() -> None:
    async def train(request: Request) -> object:
        return {name: tensor + 1 for name, tensor in request.payload.items()}

    model = {"large": torch.zeros(1 << 20), "half": torch.zeros(8, dtype=torch.bfloat16)}
    async with Cell("server") as server, Cell("C1", handlers={"train": train}) as client:
        await client.connect(await server.listen("tcp://127.0.0.1:0"))
        came = await server.request("C1", "train", model)
    assert torch.equal(came["large"], torch.ones(1 << 20))
    assert came["half"].dtype is torch.bfloat16
