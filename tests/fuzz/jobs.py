"""Targets: bundles, what a job's process is told, and what the cells of a job say to each other."""

from __future__ import annotations

import asyncio
import io
import os
import sqlite3
import stat
import struct
import zipfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import msgpack
import numpy as np

from cellnet.cell import Cell
from cellnet.errors import InvalidName, JobError, LocalProtocolError, RemoteProtocolError
from cellnet.fqcn import FQCN, FQSN
from cellnet.jobs.assignment import MAX_ASSIGNMENT_BYTES, Assignment, Placed, Start, receive
from cellnet.jobs.bundle import Bundle
from cellnet.jobs.collective import Order
from cellnet.jobs.coordinator import Coordinator
from cellnet.jobs.host import Ended, JobHost
from cellnet.jobs.opaque import packed as opaque
from cellnet.jobs.opaque import unpacked
from cellnet.jobs.operator import present_page
from cellnet.jobs.record import Record
from cellnet.jobs.reduction import Partial, weighted_mean
from cellnet.jobs.submission import Run, Submission
from cellnet.jobs.tree import JobTree
from cellnet.journal import Transaction
from cellnet.message import Durable, DurableRequest, Request
from cellnet.payload import Encoding, decode, encode
from cellnet.protocol.routing import Member
from tests.fuzz.mutation import vary_packed
from tests.fuzz.target import Target
from tests.protocol.test_fuzz import mutate

if TYPE_CHECKING:
    import random

    from tests.fuzz.target import Lab

__all__ = ["bundles", "job_messages", "partials", "starts"]

ENTRY = b"async def server(job):\n    return 1\n" * 20
ASSIGNMENT = Assignment(
    "job-1",
    FQSN("C1"),
    FQCN("server.job-1"),
    (Placed(FQSN("C1.C11"), FQCN("R1.C11.job-1")), Placed(FQSN("C1.C12"), FQCN("R1.C12.job-1"))),
    opaque({"rounds": 3}),
    (FQSN("C1"), FQSN("C1.C11")),
)


def _archive(method: int, *, large: bool = False, far: bool = False, content: bytes = ENTRY) -> bytes:
    """Return a bundle as some other program may pack it.

    :param far: whether the second file is said to lie beyond anything that a file can be long
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        with archive.open("job.py", "w", force_zip64=large) as stream:
            stream.write(content)
        other = zipfile.ZipInfo("lib/model.py")
        other.external_attr = stat.S_IFREG << 16
        other.extra = struct.pack("<HHQ", 1, 8, 2**64 - 1) if far else b""
        archive.writestr(other, b"x = 1\n")
    data = bytearray(buffer.getvalue())
    if far:
        at = data.rindex(b"PK\x01\x02")
        data[at + 42 : at + 46] = b"\xff" * 4
    return bytes(data)


def bundles(_lab: Lab) -> Target:
    valid = (
        *[Bundle({"job.py": ENTRY, "lib/model.py": b"x = 1\n"}).pack()] * 4,
        _archive(zipfile.ZIP_STORED),
        _archive(zipfile.ZIP_DEFLATED, large=True),
        _archive(zipfile.ZIP_DEFLATED, far=True),
        _archive(zipfile.ZIP_BZIP2),
        _archive(zipfile.ZIP_LZMA),
        _archive(zipfile.ZIP_DEFLATED, content=bytes(1 << 20)),
        _archive(zipfile.ZIP_BZIP2, content=bytes(100 << 20)),
    )
    marks = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07")

    def make(rng: random.Random) -> bytes:
        data = rng.choice(valid)
        found = [at for mark in marks for at in (data.find(mark), data.rfind(mark)) if at >= 0]
        if rng.random() < 0.3:
            return mutate(rng, data)
        start = rng.choice(found)  # what is said of a file decides more than what is in it
        return data[:start] + mutate(rng, data[start : start + 60]) + data[start + 60 :]

    return Target(make, Bundle.unpack, (JobError,))


def starts(lab: Lab) -> Target:
    """Mutate what a job process reads from the descriptor that it inherits."""
    start = Start(ASSIGNMENT, "unix:///run/cell.sock", Path("/run/jobs/bundle"), "asyncio", bytes(900))
    valid = start.pack()[4:]
    path = lab.folder / "descriptor"

    def make(rng: random.Random) -> bytes:
        body = vary_packed(rng, valid)
        length = len(body) if rng.random() < 0.9 else rng.choice((0, 1, MAX_ASSIGNMENT_BYTES + 1, 2**32 - 1))
        return length.to_bytes(4, "big") + body

    def take(data: bytes) -> None:
        path.write_bytes(data)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            receive(descriptor)
        finally:
            os.close(descriptor)

    return Target(make, take, (JobError,))


def partials(_lab: Lab) -> Target:
    """Mutate what travels in a round: the order down the tree, and a partial result up it."""
    sums = {"w": np.ones((2, 3)), "b": np.zeros(3)}
    own = Partial(sums, 2.0, 1)
    values: tuple[Any, ...] = (
        {"task": "train", "value": {"lr": 0.1}, "combine": "weighted_mean"},
        {"sums": {"w": [1.0]}, "weight": 1.5, "count": 2},
        {"sums": {}, "weight": 0.0, "count": 1},
    )
    valid = [encode(value).joined() for value in values]
    arrays = opaque(own.to_value())

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return mutate(rng, arrays)
        return bytes([Encoding.VALUE]) + vary_packed(rng, rng.choice(valid))

    def take(data: bytes) -> None:
        try:
            Order.unpack(data)
        except JobError:
            part = Partial.from_value(unpacked(data))
            with np.errstate(all="ignore"):  # sums may overflow; that is the job's affair
                weighted_mean.finish(weighted_mean.add([("C1", own), ("C2", part)]))

    return Target(make, take, (JobError, RemoteProtocolError))


class Jobs:
    """A server with one job under way, and a site; each is told and asked what a cell of the network may say."""

    OPERATOR, LEADER, SITE = FQCN("o"), FQCN("server.job-1"), FQCN("R1.C1")

    def __init__(self, lab: Lab) -> None:
        runner = lab.stack.enter_context(asyncio.Runner())
        self._do = runner.run
        self._host = JobHost(FQSN("C1"), cast("Any", None), lab.folder / "jobs", "unix:///run/cell.sock")
        self._host._tasks = cast("Any", self)
        self._coordinator = Coordinator([FQSN("C1"), FQSN("C1.C11")], self._host)
        self._coordinator._cell = cast("Cell", self)
        self._database = lab.stack.enter_context(closing(sqlite3.connect(":memory:")))
        self._news: Any = None
        self._cell = Cell("server")
        for member in self.members():
            self._cell._endpoint.router.join(member, cast("Any", self))

    def members(self) -> list[Member]:
        """Return who is present, as the server's cell does."""
        return [
            Member(self.OPERATOR, "operator", "", 1, "unix", "clear"),
            Member(self.SITE, "client", "C1", 1, "tcp", "mtls"),
        ]

    def start_soon(self, *_what: object) -> None:
        """Start no process."""
        self._host._hosted.clear()

    async def request(self, *_what: object, **_how: object) -> Any:
        """Return what the server tells of a job, as the operator's cell does."""
        return self._news

    async def take(self, topic: str, origin: FQCN, value: Any) -> None:
        """Let the cell that has a topic take a message on it."""
        if topic == "news":
            self._news = value
            run = Run("job-1", cast("Cell", self))
            await run._follow()
            return
        if topic == "ended":
            Ended.from_value(value)
            return
        if topic == "cellnet.members":
            await self._cell._directory.answer(Request(origin, topic, value, 0.0))
            return
        if topic == "cells.present":
            present_page(cast("Cell", self), Request(origin, topic, value, 0.0))
            return
        submission = Submission(b"", b"", None, flat=False)
        sites = JobTree([FQSN("C1")])
        placed = {"C1": Placed(FQSN("C1"), FQCN("R1.C1.job-1"))}
        record = Record("job-1", self.OPERATOR, submission, sites, placed)
        record.finish({"error": "over"})
        self._coordinator._records = {"job-1": record}
        handler = {**self._coordinator.handlers, **self._host.handlers}[topic]
        deadline = anyio.current_time() + 60
        if isinstance(handler, Durable):
            await handler.handler(DurableRequest(origin, topic, value, deadline, Transaction(self._execute)))
        else:
            await handler(Request(origin, topic, value, deadline))

    async def _execute(self, sql: str, parameters: Any) -> list[tuple[Any, ...]]:
        return self._database.execute(sql, parameters).fetchall()

    def run(self, topic: str, origin: FQCN, value: Any) -> None:
        """Do so on an event loop."""
        self._do(self.take(topic, origin, value))


def job_messages(lab: Lab) -> Target:
    jobs = Jobs(lab)
    bundle = Bundle({"job.py": ENTRY}).pack()
    deployment = {"assignment": ASSIGNMENT.to_value(), "bundle": bundle}
    outcome = {"value": opaque([1, 2]), "messages": 3, "bytes": 400, "sites": ["C1"]}
    messages: tuple[tuple[str, FQCN, Any], ...] = (
        ("jobs.submit", jobs.OPERATOR, Submission(bundle, opaque({"a": 1}), ("C1", "C11"), flat=False).to_value()),
        ("jobs.follow", jobs.OPERATOR, {"job": "job-1", "next": 1}),
        ("jobs.cancel", jobs.OPERATOR, "job-1"),
        ("jobs.report", jobs.LEADER, opaque({"round": 1, "loss": 0.5})),
        ("jobs.ended", jobs.LEADER, {"value": b"\x00", "messages": 1, "bytes": 2}),
        ("jobs.ended", jobs.LEADER, {"site": "C1", "reason": "it failed"}),
        ("jobs.gone", jobs.SITE, "job-1"),
        ("jobs.deploy", FQCN("server"), deployment),
        ("jobs.start", FQCN("server"), "job-1"),
        ("jobs.joined", FQCN("server"), "job-1"),
        ("jobs.stop", FQCN("server"), "job-1"),
        ("jobs.lease", FQCN("server"), "job-1"),
        ("news", FQCN("server"), {"reports": [opaque({"round": 1})], "next": 1, "outcome": None}),
        ("news", FQCN("server"), {"reports": [], "next": 1, "outcome": outcome}),
        ("news", FQCN("server"), {"reports": [], "next": 1, "outcome": {"error": "it failed"}}),
        ("cells.present", jobs.OPERATOR, "R1.C1"),
        ("cellnet.members", jobs.SITE, ["R1.*", "R1.C1"]),
        ("ended", FQCN("server"), Ended(1, "a traceback").to_value()),
    )
    valid = [msgpack.packb(value) for _topic, _origin, value in messages]

    def make(rng: random.Random) -> bytes:
        at = rng.randrange(len(valid))
        return bytes([at]) + vary_packed(rng, valid[at])

    def take(data: bytes) -> None:
        topic, origin, _value = messages[data[0]]
        jobs.run(topic, origin, decode(Encoding.VALUE, data[1:]))

    return Target(make, take, (JobError, InvalidName, LocalProtocolError, RemoteProtocolError))
