"""NVFlare's CellNet in a contest: the parts of its server, relays and clients, with either kind of its cells.

``CoreCell`` sends a message as one frame; ``Cell`` is what its applications use, and streams each payload of theirs.
Both take the same calls here, as a ``Cell`` looks at the keyword ``channel`` to know whether it streams.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply, new_cell_message
from nvflare.fuel.f3.communicator import load_comm_drivers
from nvflare.fuel.f3.drivers.driver_params import DriverParams
from nvflare.fuel.utils.config_service import ConfigService

from part import KITS, Part, hear, part, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nvflare.fuel.f3.cellnet.cell import Cell
    from nvflare.fuel.f3.cellnet.core_cell import CoreCell
    from nvflare.fuel.f3.message import Message

    Kind = type[CoreCell] | type[Cell]

HOST = "127.0.0.1"
SERVER = "server"
"""What CellNet calls the root of the tree."""
CHANNEL = "contest"
ECHO = "echo"
LENGTH = "length"

BROADCAST_CLIENTS = 2
"""Processes of clients in a broadcast, each below a relay of its own."""
MOST_RELAYS = 100
PATIENCE = 300.0
"""Seconds until a request, or cells that connect, are given up."""
WARM_REQUESTS = 200
WARM_BYTES = 1 << 20


def play(kind: Kind) -> None:
    """Play the part of this process with cells of this kind; the process ends with its standard input."""
    status = 1
    try:
        # Without a folder of its own it reads any comm_config.json somewhere below the current one.
        ConfigService.initialize(section_files={}, config_path=[str(Path(__file__).parent)])
        load_comm_drivers()  # the first cell imports them all, which is no part of any figure
        mine = part()
        ROLES[mine.role](kind, mine)
        while hear():
            pass
        status = 0
    except BaseException:  # whatever it is, nobody else says it before the process ends
        traceback.print_exc()
    finally:
        os._exit(status)  # its threads outlive the main one, and to stop a cell takes it half a second


def serve(kind: Kind, mine: Part) -> None:
    """Be the server, which measures a broadcast itself."""
    url = f"{mine.driver}://{HOST}:{_free_port()}"
    cell = kind(fqcn=SERVER, root_url=url, **_security(mine, _below_server(mine)))
    _answer(cell)
    cell.start()
    _wait_until_it_listens(url)
    say(urls=[f"{url}#{SERVER}"])
    if mine.bench == "broadcast" and hear():
        say(seconds=_broadcast(cell, mine))


def relay(kind: Kind, mine: Part) -> None:
    """Be a relay, or all the relays of ``scale``."""
    numbers = range(1, mine.cells + 1) if mine.bench == "scale" else [mine.number]
    cells = [_join(kind, mine, f"R{number}", mine.urls[0]) for number in numbers]
    for cell in cells:
        cell.start()
        resources = {"host": HOST, "port": _free_port(), "connection_security": mine.security}
        cell.make_internal_listener(scheme=mine.driver, resources=resources)
    _wait_until_connected(cells)
    say(urls=[f"{cell.get_internal_listener_url()}#{cell.get_fqcn()}" for cell in cells])


def client(kind: Kind, mine: Part) -> None:
    """Be a client which measures, or one whose cells only answer a broadcast."""
    if mine.bench == "broadcast":
        _client_cells(kind, mine)
        say()
    elif mine.bench == "scale":
        say()
        if hear():
            say(seconds=_scale(kind, mine))
    else:
        (cell,) = _client_cells(kind, mine)
        MEASURES[mine.bench](cell, mine)


ROLES: dict[str, Callable[[Kind, Part], None]] = {"server": serve, "relay": relay, "client": client}


# What is measured.


def _rtt(cell: Any, mine: Part) -> None:
    payload = _payload(mine.size)
    _ask_often(cell, payload, WARM_REQUESTS)
    say()
    if hear():
        took = []
        for _ in range(mine.count):
            begun = time.perf_counter()
            _ask(cell, ECHO, payload)
            took.append(time.perf_counter() - begun)
        took.sort()
        say(p50_us=took[len(took) // 2] * 1e6, p99_us=took[len(took) * 99 // 100] * 1e6)


def _requests(cell: Any, mine: Part) -> None:
    payload = _payload(mine.size)
    with ThreadPoolExecutor(mine.in_flight) as threads:

        def ask_all(count: int) -> float:
            shares = [(count + number) // mine.in_flight for number in range(mine.in_flight)]
            begun = time.perf_counter()
            list(threads.map(lambda share: _ask_often(cell, payload, share), shares))
            return time.perf_counter() - begun

        ask_all(WARM_REQUESTS)
        say()
        if hear():
            say(seconds=ask_all(mine.count))


def _bulk(cell: Any, mine: Part) -> None:
    payload = _payload(mine.size)
    _ask(cell, LENGTH, _payload(WARM_BYTES))
    say()
    if hear():
        begun = time.perf_counter()
        for _ in range(mine.count):
            _ask(cell, LENGTH, payload)
        say(seconds=time.perf_counter() - begun)


MEASURES: dict[str, Callable[[Any, Part], None]] = {"rtt": _rtt, "requests": _requests, "bulk": _bulk}


def _broadcast(server: Any, mine: Part) -> float:
    payload = _payload(mine.size)
    clients = range(1, BROADCAST_CLIENTS + 1)
    targets = [f"R{number}.C{cell}" for number in clients for cell in range(1, mine.cells + 1)]
    begun = time.perf_counter()
    for _ in range(mine.count):
        request = new_cell_message({}, payload)
        replies = server.broadcast_request(
            channel=CHANNEL, topic=LENGTH, targets=targets, request=request, timeout=PATIENCE
        )
        for target in targets:
            _check(replies[target], LENGTH, mine.size)
    return time.perf_counter() - begun


def _scale(kind: Kind, mine: Part) -> float:
    begun = time.perf_counter()
    cells = []
    for number in range(mine.cells):
        cell = _join(kind, mine, f"C{number + 1}", mine.urls[number % len(mine.urls)])
        cell.start()
        cells.append(cell)
    _wait_until_connected(cells)
    return time.perf_counter() - begun


# Requests and what answers them.


def _answer(cell: Any) -> None:
    cell.register_request_cb(channel=CHANNEL, topic=ECHO, cb=_echo)
    cell.register_request_cb(channel=CHANNEL, topic=LENGTH, cb=_length)


def _echo(request: Message) -> Message:
    return make_reply(ReturnCode.OK, body=request.payload)


def _length(request: Message) -> Message:
    return make_reply(ReturnCode.OK, body=len(request.payload))


def _ask_often(cell: Any, payload: bytes, count: int) -> None:
    for _ in range(count):
        _ask(cell, ECHO, payload)


def _ask(cell: Any, topic: str, payload: bytes) -> None:
    request = new_cell_message({}, payload)
    reply = cell.send_request(channel=CHANNEL, topic=topic, target=SERVER, request=request, timeout=PATIENCE)
    _check(reply, topic, len(payload))


def _check(reply: Message, topic: str, size: int) -> None:
    code = reply.get_header(MessageHeaderKey.RETURN_CODE, ReturnCode.OK)
    if code != ReturnCode.OK:
        raise RuntimeError(f"a request was answered with {code}")
    got = len(reply.payload) if topic == ECHO else reply.payload
    if got != size:
        raise RuntimeError(f"a payload of {size} bytes was answered with {got}")


def _payload(size: int) -> bytes:
    return b"\x5a" * size  # not zeros, whose pages would all be one


# Cells and how they connect.


def _client_cells(kind: Kind, mine: Part) -> list[Any]:
    """Connect the cells of a client below its one parent, each with a first request answered."""
    numbers = range(1, mine.cells + 1) if mine.bench == "broadcast" else [mine.number]
    cells = [_join(kind, mine, f"C{number}", mine.urls[0]) for number in numbers]
    for cell in cells:
        _answer(cell)
        cell.start()
    _wait_until_connected(cells)
    for cell in cells:
        _ask(cell, ECHO, b"first")
    return cells


def _join(kind: Kind, mine: Part, name: str, url: str) -> Any:
    """Make a cell of this name below the one whose URL it is, which ends in ``#`` and that one's name."""
    address, _, parent = url.partition("#")
    if parent == SERVER:
        # A relay expects its children's own names in their certificates, unless its name stands for all below it.
        peers = {SERVER: _common_name(mine, "server"), name: _common_name(mine, "client")}
        return kind(fqcn=name, root_url=address, **_security(mine, peers))
    # Without a URL of the server, a cell connects to its relay only, as a client's kit has it.
    peers = {parent: _common_name(mine, "relay")}
    return kind(fqcn=f"{parent}.{name}", root_url=None, parent_url=address, **_security(mine, peers))


def _security(mine: Part, peers: dict[str, str | None]) -> dict[str, Any]:
    """Return how a cell secures its connections, and the common name in the certificate of each who may connect."""
    if mine.security == "clear":
        return {"secure": False, "credentials": {}}
    (certificate, key), (own_certificate, own_key) = mine.pair("server"), mine.pair("client")
    files = {
        DriverParams.CA_CERT.value: mine.roots,
        DriverParams.SERVER_CERT.value: certificate,
        DriverParams.SERVER_KEY.value: key,
        DriverParams.CLIENT_CERT.value: own_certificate,
        DriverParams.CLIENT_KEY.value: own_key,
    }
    credentials = {parameter: str(path) for parameter, path in files.items() if path.exists()}
    return {"secure": True, "credentials": credentials, "auth_identity_map": peers}


def _below_server(mine: Part) -> dict[str, str | None]:
    relays = {f"R{number}": _common_name(mine, "relay") for number in range(1, MOST_RELAYS + 1)}
    return {"C1": _common_name(mine, "client"), **relays}


def _common_name(mine: Part, role: str) -> str | None:
    if mine.security == "clear":
        return None
    return KITS[role]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_listens(url: str) -> None:
    """Wait for the listener, which starts in a thread: a child that finds none tries again only after a second."""
    port = int(url.rpartition(":")[2])
    _wait(lambda: not _refused(port))


def _refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def _wait_until_connected(cells: Iterable[Any]) -> None:
    for cell in cells:
        _wait(cell.is_backbone_ready)


def _wait(done: Callable[[], bool]) -> None:
    """Wait, but no longer than the standard input lasts, on which nothing is said meanwhile."""
    limit = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > limit:
            raise TimeoutError(f"not connected after {PATIENCE} s")
        if select.select([sys.stdin], [], [], 0.005)[0]:
            raise EOFError("not connected when the standard input ended")
