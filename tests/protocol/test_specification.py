"""docs/protocol.md says what the code does, as far as a program can compare them."""

from __future__ import annotations

import re
from pathlib import Path

import msgpack
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cellnet.fqcn import MAX_HOPS
from cellnet.protocol import connection, endpoint, exchange, frames, handshake, presence, routing, switch
from cellnet.protocol.frames import Frame, Kind
from tests.protocol.conftest import Net, Project, encode_frame

SPECIFICATION = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
MIB = 1 << 20


def table_row(first: str) -> str:
    (row,) = re.findall(rf"^\| {re.escape(first)} \|.*$", SPECIFICATION, re.MULTILINE)
    return str(row)


def test_every_kind_of_frame_has_its_number_there() -> None:
    rows = dict(re.findall(r"^\| ([A-Z]+) \| (\d+) \|", SPECIFICATION, re.MULTILINE))
    assert {name: int(number) for name, number in rows.items()} == {kind.name: int(kind) for kind in Kind}


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("header of a frame", f"{frames.MAX_HEADER:,} bytes"),
        ("body of a frame", f"{frames.MAX_BODY:,} bytes"),
        ("payload", f"{frames.INLINE_LIMIT:,} bytes"),
        ("topic", f"{exchange.MAX_TOPIC} characters"),
        ("text in an introduction", f"{handshake.MAX_FIELD} characters"),
        ("reason in REFUSED, NACK, GOAWAY", f"{connection.MAX_REASON} characters"),
        ("texts of a PRESENCE entry", f"{presence.MAX_ENTRY_BYTES:,} bytes"),
        ("entries of a PRESENCE as sent", f"{presence.ENTRIES_PER_FRAME}"),
        ("destinations in BROADCAST, NACK", f"{exchange.MAX_NAMES}"),
        ("hop", f"{MAX_HOPS}"),
        ("labels on a link, each direction", f"{connection.MAX_LABELS:,}"),
        ("a cell's own routes", f"{switch.MAX_OWN_ROUTES:,}"),
        ("waiting for a child", f"{connection.BUDGET_BYTES // MIB} MiB"),
        ("waiting for the parent", f"{connection.BUDGET_BYTES // MIB} MiB"),
        ("waiting for any neighbour", f"{(connection.BUDGET_BYTES + connection.RESERVE_BYTES) // MIB} MiB"),
        ("answers that a cell waits for", f"{exchange.MAX_PENDING:,}"),
        ("requests that a cell works on", f"{exchange.MAX_INCOMING:,}"),
        ("cells that a cell knows below", f"{routing.MAX_MEMBERS:,}"),
        ("children of a cell", f"{endpoint.MAX_CHILDREN:,}"),
        ("handshake", f"{connection.HANDSHAKE_SECONDS:.0f} seconds"),
    ],
)
def test_every_limit_is_the_one_there(what: str, limit: str) -> None:
    assert table_row(what).split(" | ")[1] == limit


def test_other_numbers_are_those_there() -> None:
    assert f"sent for {connection.KEEPALIVE_SECONDS:.0f} seconds" in SPECIFICATION
    assert f"no byte came for {connection.DEAD_SECONDS:.0f} seconds" in SPECIFICATION
    assert f"{connection.FRAME_OVERHEAD_BYTES} bytes a frame" in SPECIFICATION
    assert f"{handshake.NONCE_BYTES} random bytes" in SPECIFICATION


def test_every_refusal_has_its_code_there() -> None:
    package = Path(handshake.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in package.glob("*.py")]
    codes = {code for text in sources for code in re.findall(r'"([a-z]+-[a-z]+|version|full|protocol)"[,)]', text)}
    listed = set(re.findall(r"`([a-z-]+)`", SPECIFICATION[SPECIFICATION.index("| code of REFUSED |") :]))
    assert codes - listed == set()
    assert {"bad-placement", "wrong-parent", "full", "protocol"} <= codes


def transcript(context: bytes, *fields: bytes) -> bytes:
    """Return what is signed, as the specification says it and without the code's own help."""
    signed = b""
    for part in (context, *fields):
        signed += len(part).to_bytes(4, "big") + part
    return signed


def test_signatures_are_over_the_bytes_that_are_specified() -> None:
    project = Project()
    server, relay = project.server(), project.relay("R1")
    seen: dict[Kind, Frame] = {}

    def listen(frame: Frame) -> bytes:
        seen[frame.kind] = frame
        return encode_frame(frame.kind, frame.header, frame.body)

    net = Net()
    net.add("server"), net.add("R1")
    net.connect("R1", credentials=(server, relay), roles=("server", "relay")).tamper = listen
    net.run()
    hello, join, welcome = seen[Kind.HELLO], seen[Kind.JOIN], seen[Kind.WELCOME]
    algorithm = ec.ECDSA(hashes.SHA256())
    signed = transcript(b"cellnet join 1", hello.header, join.header)
    relay.key.public_key().verify(join.body, signed, algorithm)
    signed = transcript(b"cellnet welcome 1", hello.header, join.header, welcome.header)
    server.key.public_key().verify(welcome.body, signed, algorithm)
    assert msgpack.unpackb(welcome.header) == ["R1"]
    placement, delegation = msgpack.unpackb(join.header)[9:]
    body, signature = msgpack.unpackb(placement)
    project.authority.key.public_key().verify(signature, transcript(b"cellnet placement 1", body), algorithm)
    assert msgpack.unpackb(body) == ["mobile", "relay", "R1", ["server"], "R1"]
    assert delegation == b""
    signed_delegation = server.delegate("j", "job", net.wall).delegation
    assert signed_delegation is not None
    body, signature = msgpack.unpackb(signed_delegation.signed)
    server.key.public_key().verify(signature, transcript(b"cellnet delegation 1", body), algorithm)
    assert msgpack.unpackb(body)[:3] == ["fl.example.com", "j", "job"]
    assert len(msgpack.unpackb(body)[3]) == 65
