"""The streams of one cell: those that it opens, and those that others open to it."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from cellnet.errors import CellError, LocalProtocolError, RemoteProtocolError
from cellnet.incoming import Incoming
from cellnet.outgoing import Outgoing
from cellnet.protocol.plane import CONTENT_BYTES
from cellnet.protocol.sealing import KEY_BYTES
from cellnet.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import TaskGroup

    from cellnet.fqcn import FQCN
    from cellnet.message import Request
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.protocol.offer import Offer

__all__ = ["STREAM_TOPIC", "StreamHandler", "Streams"]

STREAM_TOPIC = "cellnet.stream"

StreamHandler = Callable[[Stream], Awaitable[None]]
"""Gets a stream that another cell opened. It is closed when the handler returns, and reset when it raises."""

logger = logging.getLogger("cellnet.cell")


class Streams:
    """Opens streams and accepts them. Its tasks belong to the cell's task group."""

    def __init__(
        self,
        endpoint: Endpoint,
        handlers: Mapping[str, StreamHandler],
        request: Callable[[FQCN, str, object], Awaitable[object]],
        tasks: TaskGroup,
        changed: Callable[[], None],
    ) -> None:
        """Begin with none.

        :param request: asks another cell
        :param changed: called when the endpoint may have something to send
        """
        self._endpoint = endpoint
        self._handlers = handlers
        self._request = request
        self._tasks = tasks
        self._changed = changed

    def open(self, peer: FQCN, topic: str) -> Stream:
        """Return a stream to another cell. Its first use opens it there."""
        our_key, their_key = self._key(), self._key()

        def announce(stream: Stream, first: bytes) -> None:
            fields: list[object] = [topic, self._hold(stream).content, our_key, their_key, first]
            self._tasks.start_soon(self._open, stream, fields)

        return self._stream(peer, topic, our_key, their_key, announce)

    async def accept(self, request: Request) -> bytes:
        """Take a stream that another cell opens; its handler runs on when this has returned.

        :returns: the name of the content that comes back
        :raises LocalProtocolError: if there is no handler for it
        :raises RemoteProtocolError: if what is said of it is malformed
        :raises Busy: if there are too many contents
        """
        match request.payload:
            case [str(topic), bytes(content), bytes(their_key), bytes(our_key), bytes(first)]:
                pass
            case _:
                raise RemoteProtocolError("a stream is opened by something else than five fields")
        if len(content) != CONTENT_BYTES or {len(their_key), len(our_key)} - {0, KEY_BYTES}:
            raise RemoteProtocolError("a stream is opened by fields that cannot be")
        handler = self._handlers.get(topic)
        if handler is None:
            known = ", ".join(sorted(self._handlers)) or "none"
            raise LocalProtocolError(f"no stream handler for {topic[:80]!r} (there are: {known})")
        stream = self._stream(request.origin, topic, our_key, their_key, first=first)
        offer = self._hold(stream)
        self._fetch(stream, content)
        self._tasks.start_soon(self._serve, handler, stream)
        return offer.content

    async def _open(self, stream: Stream, fields: list[object]) -> None:
        try:
            content = await self._request(stream.peer, STREAM_TOPIC, fields)
            if type(content) is not bytes or len(content) != CONTENT_BYTES:
                raise RemoteProtocolError(f"{stream.peer} opened a stream, and named no content")
            self._fetch(stream, content)
        except CellError as error:
            stream.fail(str(error))

    async def _serve(self, handler: StreamHandler, stream: Stream) -> None:
        try:
            async with stream:
                await handler(stream)
        except anyio.BrokenResourceError as error:
            logger.info("a stream %s of %s broke: %s", stream.topic, stream.peer, error)
        except Exception:  # the other side was told that it failed
            logger.info("the handler of a stream %s of %s raised", stream.topic, stream.peer, exc_info=True)

    def _stream(
        self,
        peer: FQCN,
        topic: str,
        our_key: bytes,
        their_key: bytes,
        opened: Callable[[Stream, bytes], None] | None = None,
        *,
        first: bytes = b"",
    ) -> Stream:
        stream: Stream

        def room() -> None:
            stream.room()

        outgoing, incoming = Outgoing(our_key, room), Incoming(their_key, first)
        stream = Stream(peer, topic, outgoing, incoming, changed=self._changed, opened=opened)
        return stream

    def _hold(self, stream: Stream) -> Offer:
        def withdrawn(code: str) -> None:
            stream.outgoing.forget()
            stream.withdrawn(code)

        stream.offer = self._endpoint.plane.offer(
            stream.outgoing, now=anyio.current_time(), is_for_one=True, withdrawn=withdrawn
        )
        return stream.offer

    def _fetch(self, stream: Stream, content: bytes) -> None:
        """Let what the other side sends come; if nobody reads any more, tell it so."""
        fetch = self._endpoint.plane.fetch(stream.peer, content, stream.incoming, anyio.current_time())
        if stream.is_closed:
            fetch.cancel()
        else:
            stream.fetch = fetch
        self._changed()

    def _key(self) -> bytes:
        return os.urandom(KEY_BYTES) if self._endpoint.credentials is not None else b""
