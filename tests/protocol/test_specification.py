"""docs/protocol.md says what the code does, as far as a program can compare them."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cellnet.fqcn import FQCN, MAX_HOPS
from cellnet.protocol import (
    answering,
    askers,
    asking,
    chunks,
    connection,
    endpoint,
    envelope,
    feed,
    fetch,
    frames,
    gathering,
    handshake,
    lanes,
    offer,
    passage,
    plane,
    presence,
    records,
    routing,
    sealing,
    session,
    sessions,
    shared,
    switch,
    want,
)
from cellnet.protocol.events import Message
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
        ("elements of an array in MessagePack, but for payloads", f"{frames.MAX_LIST}"),
        ("payload", f"{frames.INLINE_LIMIT:,} bytes"),
        ("topic", f"{envelope.MAX_TOPIC} characters"),
        ("ordering key", f"{envelope.MAX_KEY} bytes"),
        ("text in an introduction", f"{handshake.MAX_FIELD} characters"),
        ("reason in REFUSED, NACK, GOAWAY", f"{connection.MAX_REASON} characters"),
        ("texts of a PRESENCE entry", f"{presence.MAX_ENTRY_BYTES:,} bytes"),
        ("entries of a PRESENCE as sent", f"{presence.ENTRIES_PER_FRAME}"),
        ("entries in BROADCAST, NACK", f"{envelope.MAX_ENTRIES}"),
        ("hop", f"{MAX_HOPS}"),
        ("labels on a link, each direction", f"{connection.MAX_LABELS:,}"),
        ("a cell's own routes", f"{switch.MAX_OWN_ROUTES:,}"),
        ("waiting for a child", f"{connection.BUDGET_BYTES // MIB} MiB"),
        ("waiting for the parent", f"{connection.BUDGET_BYTES // MIB} MiB"),
        ("waiting for any neighbour", f"{(connection.BUDGET_BYTES + connection.RESERVE_BYTES) // MIB} MiB"),
        ("answers that a cell waits for, events that wait for a session", f"{asking.MAX_PENDING:,}"),
        ("cells that a cell has sessions with, as asker", f"{sessions.MAX_SESSIONS:,}"),
        ("cells that a cell has sessions with, as answerer", f"{askers.MAX_ASKERS:,}"),
        ("requests that a cell works on", f"{answering.MAX_INCOMING:,}"),
        ("records of one asker, and ranges of settled sequences", f"{answering.MAX_RECORDS:,}"),
        (f"replies in all records, {answering.RECORD_BYTES} bytes each more", f"{answering.CACHE_BYTES // MIB} MiB"),
        ("messages of one asker that wait for their turn", f"{lanes.MAX_HELD:,}"),
        ("places of one asker's requests that expired before their turn", f"{answering.MAX_RECORDS:,}"),
        ("ranges in SETTLED, DRAINED", f"{envelope.MAX_RANGES}"),
        ("counters below the highest", f"{sealing.WINDOW:,}"),
        ("cells that a cell knows below", f"{routing.MAX_MEMBERS:,}"),
        ("children of a cell", f"{endpoint.MAX_CHILDREN:,}"),
        ("handshake", f"{connection.HANDSHAKE_SECONDS:.0f} seconds"),
        ("code and reason in ABORT", f"{connection.MAX_REASON} characters"),
        ("contents that a cell holds", f"{plane.MAX_CONTENTS:,}"),
        ("contents that a cell wants for itself", f"{plane.MAX_CONTENTS:,}"),
        ("contents that pass through a cell", f"{plane.MAX_CONTENTS:,}"),
        ("contents that one neighbour wants", f"{plane.MAX_SUPPLIES:,}"),
        ("a content's bytes in one DATA", f"{frames.MAX_DATA:,} bytes"),
        ("the same, where contents share a link", f"{frames.FRAME_BYTES:,} bytes"),
        ("wanted of one content, and not come", f"{want.MAX_WINDOW_BYTES // MIB} MiB"),
        ("contents that were reset, of which it is known why", f"{plane.MAX_RESETS:,}"),
        ("wanted by a cell for others, and not left again", f"{passage.TRANSIT_BYTES // MIB} MiB"),
        ("objects that pass through a cell", f"{plane.MAX_OBJECTS:,}"),
        ("runs through objects, each towards some that are at the same place", f"{shared.MAX_PULLS:,}"),
        ("bytes of an object", f"{chunks.MAX_OBJECT_BYTES // MIB // 1024} GiB"),
    ],
)
def test_every_limit_is_the_one_there(what: str, limit: str) -> None:
    assert table_row(what).split(" | ")[1] == limit


def test_other_numbers_are_those_there() -> None:
    assert f"sent for {connection.KEEPALIVE_SECONDS:.0f} seconds" in SPECIFICATION
    assert f"no byte came for {connection.DEAD_SECONDS:.0f} seconds" in SPECIFICATION
    assert f"{connection.FRAME_OVERHEAD_BYTES} bytes a frame" in SPECIFICATION
    assert f"{handshake.NONCE_BYTES} random bytes" in SPECIFICATION


@pytest.mark.parametrize(
    "said",
    [
        f"pause of {session.PAUSE_SECONDS * 1000:.0f} ms, which doubles",
        f"each time up to {session.MAX_PAUSE_SECONDS:.0f} second;",
        f"a pause that begins with {session.PAUSE_SECONDS * 2000:.0f} ms",
        f"after {session.SILENCE_SECONDS:.0f} seconds, which double each time",
        f"up to {session.MAX_SILENCE_SECONDS:.0f} seconds;",
        f"after status 3: after {session.MAX_SILENCE_SECONDS:.0f} seconds",
        f"waits for them, for {gathering.GATHER_SECONDS} seconds at most",
        f"SETTLED: {asking.SETTLE_SECONDS:.0f} seconds after an answer",
        f"after answers of {asking.MANY_BYTES // MIB} MiB",
        f"not more than {sessions.CLOCK_MARGIN} times",
        f"at most {envelope.MAX_RANGES} ranges",
        f"for {answering.HOLD_SECONDS * 1000:.0f} ms at most",
        f"OPENED, CLOSED and DRAINED have {answering.NOTICE_SECONDS:.0f} seconds",
        f"{answering.NOTICE_SECONDS:.0f} seconds, SETTLED {session.MAX_SILENCE_SECONDS:.0f}.",
        f"none that is {sealing.WINDOW:,} or more below the highest",
        f"at most {envelope.MAX_ENTRIES} entries",
    ],
)
def test_how_requests_are_repeated_and_settled_is_said_there(said: str) -> None:
    assert said in " ".join(SPECIFICATION.split())


@pytest.mark.parametrize(
    "said",
    [
        f"The header is the offset of its first byte, in {feed.OFFSET.size} bytes; the body has from 1 to",
        f"{plane.CONTENT_BYTES} random bytes, or the",
        f"a name of a content that has neither {plane.CONTENT_BYTES} bytes nor {chunks.DIGEST_BYTES};",
        f"or the {chunks.DIGEST_BYTES} bytes that name an object",
        f"of {chunks.MIN_CHUNK_BYTES:,} to {chunks.MAX_CHUNK_BYTES:,} bytes, and there",
        f"there are at most {chunks.MAX_CHUNKS:,}.",
        f"what is left of the {passage.TRANSIT_BYTES // MIB} MiB",
        f"a number above 2^{plane.MAX_OFFSET.bit_length()} - 1 in WANT",
        f"begins with {fetch.PAUSE_SECONDS * 1000:.0f} ms and doubles up to {fetch.MAX_PAUSE_SECONDS:.0f} seconds",
        f"gives up. So it does after {fetch.NO_PROGRESS_SECONDS:.0f} seconds without a byte",
        f"After {fetch.SILENCE_SECONDS:.0f} seconds without a byte it says ABORT",
        f"at least {offer.HOLD_SECONDS:.0f} seconds after it was last said to be wanted",
        f"said again every {plane.LOOK_SECONDS:.0f} seconds, on every link",
        f"did not hear a label for {plane.FORGET_SECONDS:.0f} seconds forgets it",
        f"or {want.MAX_STEP_BYTES // MIB} MiB more, or more than is still to come",
        f"All records of a payload but the last have {records.TEXT_BYTES + 4 + sealing.OVERHEAD:,} bytes in all",
        f"After {fetch.MAX_ALTERED} times it gives up",
    ],
)
def test_how_contents_are_wanted_is_said_there(said: str) -> None:
    assert said in " ".join(SPECIFICATION.split())


def test_every_code_that_ends_a_content_is_there() -> None:
    section = SPECIFICATION[SPECIFICATION.index("| code of ABORT |") :]
    listed = set(re.findall(r"^\| `([a-z]+)` \|", section[: section.index("\n\n")], re.MULTILINE))
    package = Path(plane.__file__).parent
    text = "".join(
        (package / f"{name}.py").read_text(encoding="utf-8") for name in ("plane", "fetch", "offer", "want", "pull")
    )
    said = set(re.findall(r'(?:_stop|_fail|_drop|broken|_later|withdraw|return)\((?:supply, )?"([a-z]+)"', text))
    said |= set(re.findall(r'return "([a-z]+)", ', text)) | want.TEMPORARY
    assert said == listed


def test_every_status_is_there() -> None:
    section = SPECIFICATION[SPECIFICATION.index("| status |") :]
    rows = re.findall(r"^\| (\d) \|", section[: section.index("\n\n")], re.MULTILINE)
    assert [int(row) for row in rows] == [int(status) for status in envelope.Status]


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
    placement, delegation, names = msgpack.unpackb(join.header)[9:]
    assert names == []
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


def parts(body: bytes) -> tuple[list[Any], bytes]:
    """Return an array that its length goes before, and the rest."""
    length = int.from_bytes(body[:2], "big")
    return msgpack.unpackb(body[2 : 2 + length]), body[2 + length :]


def test_messages_are_the_bytes_that_are_specified() -> None:
    net = Net.tree("A", "B")
    seen: list[Frame] = []

    def listen(frame: Frame) -> bytes:
        seen.append(frame)
        return encode_frame(*frame[:1], *frame[4:], hop=frame.hop, label=frame.label, remaining_ms=frame.remaining_ms)

    def take(*kinds: Kind) -> list[tuple[list[object], bytes]]:
        found = [frame for frame in seen if frame.kind is not Kind.BIND and frame.kind is not Kind.PING]
        seen.clear()
        assert tuple(frame.kind for frame in found) == kinds
        return [(msgpack.unpackb(frame.header), frame.body) for frame in found]

    net.links["A"].tamper = listen
    net.request("server", "A", payload=b"first")
    net.run()
    (open_, open_body), (opened, opened_body), (reply, reply_body) = take(Kind.OPEN, Kind.OPENED, Kind.REPLY)
    assert open_ == [0, 1]
    (statement, signature), request = parts(open_body)
    order, content = parts(request)
    assert msgpack.unpackb(statement)[:5] == [1, "", "server", "A", 1]
    assert order == [1, 1, "", 0, 60_000, False]
    assert parts(content) == (["echo", 1], b"first")
    assert opened == [1, 0]
    granted, countersignature = msgpack.unpackb(opened_body)
    version, project, source, destination, epoch, nonce, *proof, number, digest = msgpack.unpackb(granted)
    assert [version, project, source, destination, epoch] == [1, "", "A", "server", 1]
    assert len(nonce) == 32
    assert [*proof, signature, countersignature] == [b"", [], b"", b"", b""]
    assert 0 < number < 2**63
    assert digest == sha256(msgpack.packb([statement, signature])).digest()
    assert reply == [number, 1]
    assert parts(reply_body) == ([1, 0, 0, 1], b"first")

    net.request("server", "A", payload=b"second", key="k")
    net.request("server", "A", topic="hold", payload=b"third", key="k")
    net["server"].send(FQCN("A"), "news", 1, b"!", deadline=net.now + 1, now=net.now, key="n")
    net.run()
    one, two, event, answer = take(Kind.REQUEST, Kind.REQUEST, Kind.EVENT, Kind.REPLY)
    assert [one[0], two[0], event[0], answer[0]] == [[number, 1], [number, 2], [number, 3], [number, 2]]
    assert [parts(body)[0] for _header, body in (one, two, event)] == [
        [2, 2, "k", 0, 60_000, False],
        [3, 2, "k", 2, 60_000, False],
        [0, 2, "n", 0, 1_000, False],
    ]
    assert parts(parts(event[1])[1]) == (["news", 1], b"!")
    assert parts(answer[1]) == ([2, 1, 0, 1], b"second")

    call = net.request("server", "A", "B", topic="hold", payload=b"fourth")
    net.run()
    ((entries,), body) = take(Kind.BROADCAST)[0]
    ((name, *rest),) = entries  # type: ignore[attr-defined]
    assert (name, rest[:2], msgpack.unpackb(rest[2])) == ("A", [number, 4], [4, 3, "", 0, 60_000, False])
    assert parts(body) == (["hold", 1], b"fourth")

    net["server"].give_up(call, net.now)
    net.run()
    ((settled, ranges),) = take(Kind.SETTLED)
    assert (settled, msgpack.unpackb(ranges)) == ([number, 5], [[[1, 3], [4, 5]], []])

    net.tick(2)
    (repeated,) = [header for header, body in take(Kind.REQUEST, Kind.REPLY)[:1]]
    assert repeated == [number, 6]
    assert [message.payload for message in net.received("A", Message)] == [
        b"first",
        b"second",
        b"!",
        b"third",
        b"fourth",
    ]
